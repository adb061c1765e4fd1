//! The same texts through `assay::embed` in this process, as the baseline for serving.

use std::{path::Path, time::Duration};

use assay::{
    config::Config,
    deadline::Deadline,
    embed::{Embedder, InputOptions, VectorEncoding, VectorOptions},
    model::Truncation,
};
use prometheus_client::registry::Registry;

use super::{
    Error,
    load::{Answered, Seen, Window, closed, one_after_another},
    workload::Workload,
};

const PATIENCE: Duration = Duration::from_secs(600);

/// A warm model in this process, which is stopped when it is dropped.
pub struct InProcess(Embedder);

impl InProcess {
    /// Starts the embedder with the settings of the server.
    pub async fn start(model: &Path, settings: &[String]) -> Result<InProcess, Error> {
        let flags = ["assay".into(), "--model".into(), model.display().to_string()];
        let flags = assay::cli::command().try_get_matches_from(flags.iter().chain(settings))?;
        let config = Config::read(&flags).map_err(|mistakes| mistakes.to_string())?;
        let embedder = Embedder::start(config.app.embed, &mut Registry::default())?;
        embedder.wait_until_ready(Deadline::after(PATIENCE)).await?;
        Ok(InProcess(embedder))
    }

    /// One text per call, from `callers` callers.
    pub async fn one_by_one(&self, workload: &Workload, callers: usize, window: Window) -> Seen {
        let texts = &workload.texts;
        let call = async |number: usize| self.embed(vec![texts[number % texts.len()].clone()]).await;
        if callers == 1 { one_after_another(window, call).await } else { closed(callers, window, call).await }
    }

    /// All texts in one call, in sequential calls.
    pub async fn all_at_once(&self, workload: &Workload, window: Window) -> Seen {
        one_after_another(window, async |_| self.embed(workload.texts.clone()).await).await
    }

    async fn embed(&self, texts: Vec<String>) -> Result<Answered, Error> {
        let engine = self.0.ready()?;
        let vector = VectorOptions {
            dimensions: engine.model().dimensions,
            normalize: engine.model().normalizes,
            encoding: VectorEncoding::Float32Values,
        };
        let options = InputOptions { prompt: "".into(), truncation: Truncation::End, vector };
        let embedded = engine.embed(texts, options, Deadline::after(PATIENCE)).await?;
        let tokens = embedded.inputs.iter().map(|input| input.tokens as u64).sum();
        Ok(Answered { texts: embedded.inputs.len() as u64, tokens })
    }
}

impl Drop for InProcess {
    fn drop(&mut self) {
        self.0.stop();
    }
}
