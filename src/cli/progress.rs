//! Progress bars on standard error. They are hidden if standard error is no terminal.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// Creates the bar of a download.
pub(super) fn bytes() -> ProgressBar {
    styled("{spinner} {msg} {bytes}/{total_bytes} {bytes_per_sec} {eta}")
}

/// Creates the bar of processed inputs of an unknown total.
pub(super) fn inputs() -> ProgressBar {
    styled("{spinner} {human_pos} inputs, {per_sec}, {elapsed} {msg}")
}

fn styled(template: &str) -> ProgressBar {
    let bar = ProgressBar::new(0);
    bar.set_style(ProgressStyle::with_template(template).expect("the template is valid"));
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}
