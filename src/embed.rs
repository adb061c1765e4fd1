//! Embedding of texts: admission, tokenization, batching, computation and the warm-up of the model.
//!
//! An [`Embedder`] exists as soon as the process starts. It loads the model in the background, and
//! [`Embedder::ready`] returns the [`Engine`] once the model is warm. A request passes through three stages:
//! admission, which bounds the tokens in flight; the text threads, which tokenize; and the compute threads, which
//! run forward passes.

mod admission;
mod cache;
mod compute_threads;
mod engine;
mod error;
mod fair_queue;
mod gather;
mod metrics;
mod request;
mod spans;
mod status;
mod text_threads;
mod token_semaphore;
mod tokenize;
mod vector;
mod warm_up;
mod work_queue;

use std::{
    io,
    sync::{Arc, OnceLock},
    thread::JoinHandle,
    time::Duration,
};

use parking_lot::Mutex;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, gauge::ConstGauge},
    registry::Registry,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    deadline::Deadline,
    model::{self, KernelMeasurement, ModelInfo},
};

pub use engine::Engine;
pub use error::{EmbedError, TooLong};
pub use request::{Embedded, EmbeddedInput, Flow, InputOptions};
pub use status::{EmbedderStatus, Phase};
pub use vector::{Vector, VectorEncoding, VectorOptions};

use metrics::EmbedMetrics;
use status::StatusHandle;

/// Settings of an [`Embedder`].
#[derive(Clone, Debug)]
pub struct EmbedSettings {
    /// Location of the model files.
    pub source: model::source::SourceSettings,
    /// Settings that override those of the model files.
    pub model: model::ModelSettings,
    /// Number of compute threads.
    pub threads: usize,
    /// Number of threads that tokenize for Embed, and as many again for Tokenize.
    pub text_threads: usize,
    /// Maximum tokens per forward pass.
    pub batch_tokens: usize,
    /// Maximum tokens in flight, queued or being computed.
    ///
    /// One half is reserved for unary calls, which are rejected when it is full, and the other half for streams, which
    /// wait, so that neither can starve the other. Tokenize requests have a limit of the same size as one half.
    /// Evaluations have a smaller limit: a few forward passes per compute thread.
    pub queue_tokens: usize,
    /// Maximum memory of the cache of vectors, in bytes. 0 disables the cache.
    pub cache_bytes: usize,
    /// Maximum pause between two attempts to load the model.
    pub retry_pause: Duration,
}

/// A cloneable handle to the model and its threads.
///
/// The model loads in the background, so the handle exists before the model can be used. All clones share one model.
///
/// # Examples
///
/// ```no_run
/// use std::time::Duration;
///
/// use assay::{
///     deadline::Deadline,
///     embed::{EmbedSettings, Embedder},
///     model::{ModelSettings, source::SourceSettings},
/// };
/// use prometheus_client::registry::Registry;
///
/// # async fn start() -> Result<(), Box<dyn std::error::Error>> {
/// let settings = EmbedSettings {
///     source: SourceSettings::new("sentence-transformers/all-MiniLM-L6-v2", "/var/cache/huggingface/hub"),
///     model: ModelSettings::default(),
///     threads: 2,
///     text_threads: 1,
///     batch_tokens: 256,
///     queue_tokens: 1 << 18,
///     cache_bytes: 64 << 20,
///     retry_pause: Duration::from_secs(60),
/// };
/// let embedder = Embedder::start(settings, &mut Registry::default())?;
/// let engine = embedder.wait_until_ready(Deadline::after(Duration::from_secs(300))).await?;
/// println!("{} has {} dimensions", engine.model().id, engine.model().dimensions);
/// embedder.stop();
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Embedder(Arc<EmbedderInner>);

struct EmbedderInner {
    engine: OnceLock<Engine>,
    status: StatusHandle,
    metrics: EmbedMetrics,
    cancel: CancellationToken,
    warm_up: Mutex<Option<JoinHandle<()>>>,
    compute_threads: usize,
}

impl Embedder {
    /// Starts the warm-up on its own thread and returns immediately. Metrics are added to `registry`.
    ///
    /// # Errors
    /// An [`io::Error`] if the operating system cannot start the warm-up thread.
    pub fn start(settings: EmbedSettings, registry: &mut Registry) -> io::Result<Embedder> {
        let shared = Arc::new(EmbedderInner::new(settings.threads, registry));
        let context = warm_up::WarmUp {
            settings,
            status: shared.status.clone(),
            metrics: shared.metrics.clone(),
            cancel: shared.cancel.clone(),
        };
        registry.register_collector(Box::new(EmbedderGauges(Arc::downgrade(&shared))));
        let filled = Arc::clone(&shared);
        let thread = warm_up::spawn(context, move |engine| {
            // Only the warm-up sets the engine, once.
            let _ = filled.engine.set(engine);
        })?;
        *shared.warm_up.lock() = Some(thread);
        Ok(Embedder(shared))
    }

    /// An embedder without a model. Every call returns [`EmbedError::NotReady`].
    pub fn without_model(registry: &mut Registry) -> Embedder {
        Embedder(Arc::new(EmbedderInner::new(1, registry)))
    }

    /// Returns the engine if the model is warm.
    ///
    /// # Errors
    /// [`EmbedError::NotReady`] while the model is not warm, or while no compute thread is healthy.
    pub fn ready(&self) -> Result<&Engine, EmbedError> {
        let status = self.0.status.subscribe();
        let status = status.borrow();
        let broken = status.failed_workers() >= self.0.compute_threads;
        self.0.engine.get().filter(|_| !broken).ok_or_else(|| EmbedError::NotReady {
            detail: status.detail.clone(),
            retry_in: status.retry_in(),
        })
    }

    /// Waits until the model is warm, at most until `deadline`, and returns the engine.
    ///
    /// # Errors
    /// [`EmbedError::NotReady`] if the model is not warm at `deadline`.
    pub async fn wait_until_ready(&self, deadline: Deadline) -> Result<&Engine, EmbedError> {
        let mut status = self.status();
        // `ready` returns the error if the deadline passed first.
        let _ =
            tokio::time::timeout_at(deadline.instant().into(), status.wait_for(EmbedderStatus::is_serving))
                .await;
        self.ready()
    }

    /// Description of the model, or `None` until it is loaded.
    pub fn model(&self) -> Option<&ModelInfo> {
        self.0.engine.get().map(Engine::model)
    }

    /// Subscribes to the progress of the warm-up and the health of the compute threads.
    pub fn status(&self) -> watch::Receiver<EmbedderStatus> {
        self.0.status.subscribe()
    }

    /// Cancels the warm-up and stops all threads. Blocks until queued work is done. Does not wait for a warm-up thread
    /// that is blocked on the file system.
    pub fn stop(&self) {
        self.0.cancel.cancel();
        if let Some(engine) = self.0.engine.get() {
            engine.stop();
        }
        let thread = self.0.warm_up.lock().take();
        // The thread may be parked between two attempts.
        thread.iter().for_each(|thread| thread.thread().unpark());
        if let Some(thread) = thread.filter(JoinHandle::is_finished) {
            // A panic was already logged.
            let _ = thread.join();
        }
    }
}

impl EmbedderInner {
    fn new(compute_threads: usize, registry: &mut Registry) -> EmbedderInner {
        EmbedderInner {
            engine: OnceLock::new(),
            status: StatusHandle::new(),
            metrics: EmbedMetrics::register(registry),
            cancel: CancellationToken::new(),
            warm_up: Mutex::default(),
            compute_threads,
        }
    }
}

/// Gauges that are computed when metrics are scraped. The reference is weak because the registry outlives the embedder.
#[derive(Debug)]
struct EmbedderGauges(std::sync::Weak<EmbedderInner>);

impl Collector for EmbedderGauges {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> std::fmt::Result {
        let Some(shared) = self.0.upgrade() else { return Ok(()) };
        let ready = ConstGauge::new(i64::from(shared.status.subscribe().borrow().is_serving()));
        let help = "Whether the model is ready to serve: 1 or 0";
        ready.encode(encoder.encode_descriptor("assay_model_ready", help, None, ready.metric_type())?)?;
        let Some(engine) = shared.engine.get() else { return Ok(()) };
        let (inputs, tokens) = engine.queue_depth();
        let admitted = engine.admitted();
        for (name, help, value) in [
            ("assay_queue_inputs", "Inputs waiting for a compute thread", inputs),
            ("assay_queue_tokens", "Tokens waiting for a compute thread", tokens),
            (
                "assay_admitted_call_tokens",
                "Tokens in flight of unary calls, queued or being computed",
                admitted.calls,
            ),
            (
                "assay_admitted_stream_tokens",
                "Tokens in flight of streams, queued or being computed",
                admitted.streams,
            ),
            (
                "assay_admitted_evaluation_tokens",
                "Tokens in flight of evaluations, queued or being computed",
                admitted.evaluations,
            ),
            ("assay_admitted_tokenize_tokens", "Tokens in flight of Tokenize requests", admitted.tokenize),
            (
                "assay_admission_limit_tokens",
                "Maximum tokens in flight of unary calls, of streams and of Tokenize requests, each",
                admitted.limit,
            ),
        ] {
            encode(&mut encoder, name, help, value as u64)?;
        }
        encode_kernels(&mut encoder, &engine.model().kernels)?;
        let Some(cached) = engine.cached() else { return Ok(()) };
        for (name, help, value) in [
            ("assay_embed_cache_entries", "Vectors in the cache", cached.entries),
            ("assay_embed_cache_bytes", "Approximate memory used by the cache, in bytes", cached.bytes),
            ("assay_embed_cache_limit_bytes", "Maximum memory of the cache, in bytes", cached.limit_bytes),
        ] {
            encode(&mut encoder, name, help, value)?;
        }
        Ok(())
    }
}

/// Gauges of what the automatic selection measured.
fn encode_kernels(encoder: &mut DescriptorEncoder<'_>, kernels: &[KernelMeasurement]) -> std::fmt::Result {
    type Value = fn(&KernelMeasurement) -> Option<f64>;
    let families: [(&str, &str, Value); 3] = [
        ("assay_kernel_layer_seconds", "Time of one layer over 140 tokens on one thread", |kernel| {
            Some(kernel.time.as_secs_f64())
        }),
        ("assay_kernel_cosine", "Lowest cosine similarity to f32 over the built-in texts", |kernel| {
            kernel.cosine.map(f64::from)
        }),
        (
            "assay_kernel_recall",
            "Share of neighbours among the built-in texts that are those of f32",
            |kernel| kernel.recall.map(f64::from),
        ),
    ];
    for (name, help, value) in families {
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for kernel in kernels {
            let Some(value) = value(kernel) else { continue };
            let labels = [
                ("kernel", kernel.kernel.name),
                ("precision", kernel.kernel.precision.name()),
                ("selected", if kernel.selected { "true" } else { "false" }),
            ];
            ConstGauge::new(value).encode(family.encode_family(&labels)?)?;
        }
    }
    Ok(())
}

fn encode(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: u64) -> std::fmt::Result {
    let gauge = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
    gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)
}

impl std::fmt::Debug for EmbedderInner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EmbedderInner").finish_non_exhaustive()
    }
}
