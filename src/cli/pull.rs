//! `assay pull`: the model into the cache, checked as far as serving it would.

use tokio_util::sync::CancellationToken;

use super::progress;
use crate::{
    config::Config,
    model::{Model, source},
};

#[expect(clippy::print_stdout, reason = "the directory is what a script wants to know")]
pub(super) fn run(config: Config) -> anyhow::Result<bool> {
    let settings = config.app.embed;
    let bar = progress::bytes();
    let files = source::locate(&settings.source, &CancellationToken::new(), &|progress| {
        if let Some((fetched, total)) = progress.bytes() {
            bar.set_length(total);
            bar.set_position(fetched);
        }
        bar.set_message(progress.to_string());
    });
    let files = files.inspect_err(|_| bar.finish_and_clear())?;
    bar.set_message("checking the weights");
    let model = Model::load(&files, &settings.model, &|read, total| {
        bar.set_length(total);
        bar.set_position(read);
    });
    bar.finish_and_clear();
    let info = model?.info;
    tracing::info!(
        model = info.id,
        revision = info.revision.as_deref().unwrap_or_default(),
        sha256 = info.sha256,
        dimensions = info.dimensions,
        max_tokens = info.max_tokens,
        "the model is complete"
    );
    println!("{}", files.dir.display());
    Ok(true)
}
