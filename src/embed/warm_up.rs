//! Warm-up of the model on its own thread: locate, load and run it, with retries until it succeeds.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;

use super::{
    EmbedSettings, Engine,
    compute_threads::panic_message,
    metrics::EmbedMetrics,
    status::{Phase, StatusHandle},
};
use crate::model::{
    Model, ModelError, Packed, Team, Truncation,
    source::{self, FetchProgress, ModelFiles, SourceError},
};

/// One warm-up.
pub(super) struct WarmUp {
    pub settings: EmbedSettings,
    pub status: StatusHandle,
    pub metrics: EmbedMetrics,
    pub cancel: CancellationToken,
}

#[derive(Debug, thiserror::Error)]
enum WarmUpError {
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error(transparent)]
    Model(#[from] ModelError),
    #[error("cannot start a thread: {0}; raise the limit of threads of the process")]
    Threads(#[from] io::Error),
    #[error("the first forward pass failed: {0}; check the model files, or set precision to f32")]
    Forward(String),
    #[error("the warm-up panicked: {0}; this is a bug, please report it")]
    Panic(String),
}

impl WarmUpError {
    /// Returns true if a retry succeeds only after the operator has changed something.
    fn is_permanent(&self) -> bool {
        match self {
            WarmUpError::Source(error) => error.is_permanent(),
            WarmUpError::Model(_) | WarmUpError::Forward(_) | WarmUpError::Panic(_) => true,
            WarmUpError::Threads(_) => false,
        }
    }
}

/// Starts the warm-up thread. Calls `ready` once, after the first forward passes.
///
/// # Errors
/// An [`io::Error`] if the operating system cannot start the thread.
pub(super) fn spawn(
    context: WarmUp,
    ready: impl FnOnce(Engine) + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name("assay-warm-up".into()).spawn(move || {
        if let Some(engine) = context.until_ready() {
            ready(engine.clone());
            // An embedder that was stopped just before did not know this engine.
            if context.cancel.is_cancelled() {
                engine.stop();
            } else {
                context.announce(engine.model());
            }
        }
    })
}

impl WarmUp {
    /// Repeats attempts until one succeeds. Returns `None` if the warm-up was cancelled.
    fn until_ready(&self) -> Option<Engine> {
        for attempt in 1_u32.. {
            let pause = pause_after(attempt, self.settings.retry_pause);
            self.metrics.warm_up_attempt();
            self.status.update(|status| {
                status.attempt = attempt;
                status.fetched_bytes = 0;
                status.retry_at = None;
            });
            let result = catch_unwind(AssertUnwindSafe(|| self.attempt()))
                .unwrap_or_else(|panic| Err(WarmUpError::Panic(panic_message(&*panic).to_owned())));
            match result {
                Ok(engine) => return Some(engine),
                Err(_) if self.cancel.is_cancelled() => return None,
                Err(error) => self.failed(&error, attempt, pause),
            }
            if self.cancelled_within(pause) {
                return None;
            }
        }
        None
    }

    fn attempt(&self) -> Result<Engine, WarmUpError> {
        self.status.enter(Phase::Fetching, format!("locating the model {}", self.settings.source.model));
        let files =
            source::locate(&self.settings.source, &self.cancel, &|progress| self.fetching(&progress))?;
        let model = Arc::new(self.load(&files)?);
        self.status.enter(Phase::Warming, "running the first forward passes");
        warm(&model)?;
        Ok(Engine::start(&self.settings, model, &self.status, &self.metrics)?)
    }

    fn fetching(&self, progress: &FetchProgress) {
        self.status.update(|status| {
            status.detail = progress.to_string();
            if let Some((fetched, total)) = progress.bytes() {
                status.fetched_bytes = fetched;
                status.total_bytes = total;
                self.metrics.fetched(fetched);
            }
        });
    }

    fn load(&self, files: &ModelFiles) -> Result<Model, WarmUpError> {
        let directory = files.dir.display();
        self.status.enter(Phase::Loading, format!("reading {directory}"));
        let progress = |read: u64, total: u64| {
            self.status
                .update(|status| status.detail = format!("reading {directory}: {read} of {total} bytes"));
        };
        Ok(Model::load(files, &self.settings.model, &progress)?)
    }

    fn failed(&self, error: &WarmUpError, attempt: u32, pause: Duration) {
        if error.is_permanent() {
            tracing::error!(%error, attempt, ?pause, "the model cannot be loaded until the operator fixes this; retrying after the pause");
        } else {
            tracing::warn!(%error, attempt, ?pause, "loading the model failed; retrying after the pause");
        }
        self.status.update(|status| {
            status.phase = Phase::Retrying;
            status.detail = format!("attempt {attempt} failed: {error}");
            status.last_error = Some(error.to_string());
            status.retry_at = Some(Instant::now() + pause);
        });
    }

    fn announce(&self, model: &crate::model::ModelInfo) {
        self.status.update(|status| {
            let took = status.started.elapsed();
            self.metrics.warm_up_done(took);
            tracing::info!(
                model = model.id,
                revision = model.revision.as_deref().unwrap_or_default(),
                sha256 = model.sha256,
                dimensions = model.dimensions,
                max_tokens = model.max_tokens,
                pooling = ?model.pooling,
                kernel = model.kernel,
                precision = model.precision.name(),
                cosine = model.cosine,
                ?took,
                "serving"
            );
            // If a compute thread is already unhealthy, its recovery sets the phase.
            if status.failed_workers() == 0 {
                status.phase = Phase::Ready;
                status.detail = "serving".into();
            }
            status.took = Some(took);
            status.retry_at = None;
        });
    }

    fn cancelled_within(&self, pause: Duration) -> bool {
        let end = Instant::now() + pause;
        while !self.cancel.is_cancelled() {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            // Cancellation unparks the thread.
            std::thread::park_timeout(left);
        }
        true
    }
}

/// Pause after an attempt: 1 s after the first, doubling up to `longest`.
fn pause_after(attempt: u32, longest: Duration) -> Duration {
    Duration::from_secs(1_u64.checked_shl(attempt - 1).unwrap_or(u64::MAX)).min(longest)
}

/// Runs a short and a full-length forward pass, so that memory is allocated and lazily initialised before the first request.
fn warm(model: &Model) -> Result<(), WarmUpError> {
    let ids = model.tokenizer.encode("", "warm-up", Truncation::End);
    let ids = ids.map_err(|error| WarmUpError::Forward(error.to_string()))?.ids;
    for repeats in [1, (model.info.max_tokens / ids.len()).max(1)] {
        let mut batch = Packed::new();
        batch.push(&ids.repeat(repeats));
        let states = model.encode(&batch, &Team::alone(), &|| {});
        if !states.iter().all(|x| x.is_finite()) {
            return Err(WarmUpError::Forward("the vectors have values that are not finite".into()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_maximum() {
        let longest = Duration::from_secs(60);
        for (attempt, seconds) in [(1, 1), (2, 2), (6, 32), (7, 60), (64, 60), (65, 60), (u32::MAX, 60)] {
            assert_eq!(pause_after(attempt, longest), Duration::from_secs(seconds), "{attempt}");
        }
    }
}
