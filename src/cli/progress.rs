//! Progress on standard error: a bar on a terminal, nothing elsewhere, where the log tells.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// Bytes of a model on their way.
pub(super) fn bytes() -> ProgressBar {
    styled("{spinner} {msg} {bytes}/{total_bytes} {bytes_per_sec} {eta}")
}

/// Inputs that are done, of an unknown number.
pub(super) fn inputs() -> ProgressBar {
    styled("{spinner} {human_pos} inputs, {per_sec}, {elapsed} {msg}")
}

fn styled(template: &str) -> ProgressBar {
    let bar = ProgressBar::new(0);
    bar.set_style(ProgressStyle::with_template(template).expect("the template is valid"));
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}
