//! Assay as a library: all texts in one call, through admission, text threads, queue and compute threads.

use std::{path::Path, time::Duration};

use assay::{
    deadline::Deadline,
    embed::{EmbedSettings, EmbeddedInput, Embedder, InputOptions, Vector, VectorEncoding, VectorOptions},
    model::{self, KernelSelection, Precision, Truncation, source},
};
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::{Error, protocol::Engine};

const NO_HURRY: Duration = Duration::from_secs(3600);

pub struct InProcessEngine {
    runtime: Runtime,
    kernel_selection: KernelSelection,
    embedder: Option<Embedder>,
}

impl InProcessEngine {
    /// Creates the engine with a precision; `None` selects it like the server.
    pub fn new(precision: Option<&str>) -> Result<InProcessEngine, Error> {
        let precision = match precision {
            None | Some("auto") => None,
            Some("f32") => Some(Precision::F32),
            Some("bf16") => Some(Precision::Bf16),
            Some("f16") => Some(Precision::F16),
            Some("int8") => Some(Precision::Int8),
            Some(other) => return Err(format!("no precision {other:?}").into()),
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(InProcessEngine {
            runtime,
            kernel_selection: KernelSelection { precision, ..Default::default() },
            embedder: None,
        })
    }
}

impl Engine for InProcessEngine {
    #[expect(clippy::disallowed_methods, reason = "nothing waits beside it")]
    fn load(&mut self, model: &Path, threads: usize) -> Result<Value, Error> {
        let directory = model.to_str().ok_or("the path is not UTF-8")?;
        let settings = EmbedSettings {
            source: source::SourceSettings {
                offline: true,
                ..source::SourceSettings::new(directory, "unused")
            },
            model: model::ModelSettings {
                kernel_selection: self.kernel_selection.clone(),
                ..model::ModelSettings::default()
            },
            threads,
            text_threads: (threads / 2).max(1),
            batch_tokens: 256,
            queue_tokens: 1 << 26,
            cache_bytes: 0,
            retry_pause: NO_HURRY,
        };
        let embedder = Embedder::start(settings, &mut Registry::default())?;
        let dimensions = self.runtime.block_on(async {
            let mut status = embedder.status();
            let warm = status.wait_for(|now| now.is_serving() || now.last_error.is_some()).await?;
            if let Some(error) = &warm.last_error {
                return Err(Error::from(error.to_string()));
            }
            drop(warm);
            Ok(embedder.ready()?.model().dimensions)
        })?;
        self.embedder = Some(embedder);
        Ok(json!({ "dimensions": dimensions, "version": env!("CARGO_PKG_VERSION"), "policies": ["whole"] }))
    }

    #[expect(clippy::disallowed_methods, reason = "nothing waits beside it")]
    fn embed(&mut self, texts: &[String], _policy: &str) -> Result<Vec<f32>, Error> {
        let engine = self.embedder.as_ref().ok_or("no model is loaded")?.ready()?;
        let dimensions = engine.model().dimensions;
        let vector = VectorOptions { dimensions, normalize: true, encoding: VectorEncoding::Float32Values };
        let options = InputOptions { prompt: "".into(), truncation: Truncation::End, vector };
        let call = engine.embed(texts.to_vec(), options, Deadline::after(NO_HURRY));
        let embedded = self.runtime.block_on(call)?;
        let mut vectors = Vec::with_capacity(texts.len() * dimensions);
        for EmbeddedInput { vector, .. } in embedded.inputs {
            let Vector::Values(values) = vector else { return Err("the vector has another encoding".into()) };
            vectors.extend(values);
        }
        Ok(vectors)
    }
}

impl Drop for InProcessEngine {
    fn drop(&mut self) {
        if let Some(embedder) = self.embedder.take() {
            embedder.stop();
        }
    }
}
