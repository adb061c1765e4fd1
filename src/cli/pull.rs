//! `assay pull`: downloads a model into the cache, and verifies it by loading it like the server does.

use indicatif::ProgressBar;
use tokio_util::sync::CancellationToken;

use super::progress;
use crate::{
    config::Config,
    embed,
    model::{
        Model, ModelInfo,
        source::{self, FetchProgress, ModelFiles, SourceError},
    },
};

#[expect(clippy::print_stdout, reason = "scripts read the directory")]
pub(super) fn run(config: Config) -> anyhow::Result<bool> {
    let bar = progress::bytes();
    let pulled = pull(&config.app.embed, &bar);
    bar.finish_and_clear();
    let (files, info) = pulled?;
    tracing::info!(
        model = info.id,
        revision = info.revision.as_deref().unwrap_or_default(),
        sha256 = info.sha256,
        dimensions = info.dimensions,
        max_tokens = info.max_tokens,
        "the model is complete and valid"
    );
    println!("{}", files.dir.display());
    Ok(true)
}

fn pull(settings: &embed::EmbedSettings, bar: &ProgressBar) -> anyhow::Result<(ModelFiles, ModelInfo)> {
    let files = match verified(&settings.source, bar) {
        // The damaged file has been removed, so the second attempt downloads it.
        Err(error @ SourceError::Damaged { .. }) => {
            tracing::warn!(%error, "the cached model is damaged; downloading it again");
            verified(&settings.source, bar)?
        }
        files => files?,
    };
    bar.set_message("loading the tensors");
    let model = Model::load(&files, &settings.model, &|read, total| {
        bar.set_length(total);
        bar.set_position(read);
    })?;
    Ok((files, model.info))
}

fn verified(settings: &source::SourceSettings, bar: &ProgressBar) -> Result<ModelFiles, SourceError> {
    let show = |progress: FetchProgress| {
        if let Some((fetched, total)) = progress.bytes() {
            bar.set_length(total);
            bar.set_position(fetched);
        }
        bar.set_message(progress.to_string());
    };
    let never = CancellationToken::new();
    let files = source::locate(settings, &never, &show)?;
    source::verify(&files, &never, &show)?;
    Ok(files)
}
