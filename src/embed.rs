//! Text to vectors: admission, tokenizing, batching, compute, and the warm-up before any of it.
//!
//! [`Embedder`] exists from the first millisecond; [`Embedder::ready`] gives the [`Engine`] once the model is
//! warm. A call passes three hand-offs: admission by permits counted in tokens, text threads, compute threads.

mod admission;
mod cache;
mod compute_threads;
mod engine;
mod error;
mod fair_queue;
mod gather;
mod metrics;
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

pub use engine::{Embedded, EmbeddedInput, Engine, Flow, InputOptions};
pub use error::{EmbedError, TooLong};
pub use status::{EmbedderStatus, Phase};
pub use vector::{Vector, VectorEncoding, VectorOptions};

use metrics::EmbedMetrics;
use status::StatusHandle;

#[derive(Clone, Debug)]
pub struct EmbedSettings {
    pub source: model::source::SourceSettings,
    pub model: model::ModelSettings,
    /// Compute threads.
    pub threads: usize,
    /// Threads that cut texts into tokens.
    pub text_threads: usize,
    /// The most tokens of one forward pass.
    pub batch_tokens: usize,
    /// Maximum tokens that wait or are computed. Half is for calls, which are refused when it is full, half for
    /// streams, which wait; so neither can lock the other out. Tokenize has as much as either, evaluations a few
    /// forward passes.
    pub queue_tokens: usize,
    /// Memory for what texts that come again were computed to; 0 for none.
    pub cache_bytes: usize,
    /// The longest pause between attempts to load the model.
    pub retry_pause: Duration,
}

/// Cloneable handle to the model and the threads behind it.
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
    /// Starts the warm-up on a thread of its own and returns at once.
    ///
    /// # Errors
    /// If the operating system gives no thread.
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
            // Only the warm-up sets it, and it does so once.
            let _ = filled.engine.set(engine);
        })?;
        *shared.warm_up.lock() = Some(thread);
        Ok(Embedder(shared))
    }

    /// That never becomes ready, for whoever needs no vectors.
    pub fn without_model(registry: &mut Registry) -> Embedder {
        Embedder(Arc::new(EmbedderInner::new(1, registry)))
    }

    /// The engine, once the model is warm.
    ///
    /// # Errors
    /// [`EmbedError::NotReady`] before, and while every compute thread is broken.
    pub fn ready(&self) -> Result<&Engine, EmbedError> {
        let status = self.0.status.subscribe();
        let status = status.borrow();
        let broken = status.failed_workers() >= self.0.compute_threads;
        self.0.engine.get().filter(|_| !broken).ok_or_else(|| EmbedError::NotReady {
            detail: status.detail.clone(),
            retry_in: status.retry_in(),
        })
    }

    /// As [`Embedder::ready`], but waits for it until `deadline`.
    pub async fn wait_until_ready(&self, deadline: Deadline) -> Result<&Engine, EmbedError> {
        let mut status = self.status();
        // Whether it became ready or the deadline passed, `ready` tells.
        let _ =
            tokio::time::timeout_at(deadline.instant().into(), status.wait_for(EmbedderStatus::is_serving))
                .await;
        self.ready()
    }

    /// What the model is, once it is loaded.
    pub fn model(&self) -> Option<&ModelInfo> {
        self.0.engine.get().map(Engine::model)
    }

    pub fn status(&self) -> watch::Receiver<EmbedderStatus> {
        self.0.status.subscribe()
    }

    /// Ends the warm-up and all threads. Blocks until they are done; a file system that hangs under the warm-up
    /// is not waited for.
    pub fn stop(&self) {
        self.0.cancel.cancel();
        if let Some(engine) = self.0.engine.get() {
            engine.stop();
        }
        let thread = self.0.warm_up.lock().take();
        // It may pause between two attempts.
        thread.iter().for_each(|thread| thread.thread().unpark());
        if let Some(thread) = thread.filter(JoinHandle::is_finished) {
            // A panic was logged where it happened.
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

/// Read when metrics are asked for. Weak, as the registry outlives the embedder.
#[derive(Debug)]
struct EmbedderGauges(std::sync::Weak<EmbedderInner>);

impl Collector for EmbedderGauges {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> std::fmt::Result {
        let Some(shared) = self.0.upgrade() else { return Ok(()) };
        let ready = ConstGauge::new(i64::from(shared.status.subscribe().borrow().is_serving()));
        let help = "1 while the model serves";
        ready.encode(encoder.encode_descriptor("assay_model_ready", help, None, ready.metric_type())?)?;
        let Some(engine) = shared.engine.get() else { return Ok(()) };
        let (inputs, tokens) = engine.queue_depth();
        let admitted = engine.admitted();
        for (name, help, value) in [
            ("assay_queue_inputs", "Inputs that wait for a compute thread", inputs),
            ("assay_queue_tokens", "Tokens that wait for a compute thread", tokens),
            ("assay_admitted_call_tokens", "Tokens of calls that wait or are computed", admitted.calls),
            ("assay_admitted_stream_tokens", "Tokens of streams that wait or are computed", admitted.streams),
            (
                "assay_admitted_evaluation_tokens",
                "Tokens of evaluations that wait or are computed",
                admitted.evaluations,
            ),
            ("assay_admitted_tokenize_tokens", "Tokens of Tokenize that are being made", admitted.tokenize),
            (
                "assay_admission_limit_tokens",
                "Maximum tokens of calls, of streams, and of Tokenize",
                admitted.limit,
            ),
        ] {
            encode(&mut encoder, name, help, value as u64)?;
        }
        encode_kernels(&mut encoder, &engine.model().kernels)?;
        let Some(cached) = engine.cached() else { return Ok(()) };
        for (name, help, value) in [
            ("assay_embed_cache_entries", "Inputs whose vectors are in memory", cached.entries),
            ("assay_embed_cache_bytes", "Memory that these take, about", cached.bytes),
            ("assay_embed_cache_limit_bytes", "The most memory that they may take", cached.limit_bytes),
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
                ("kernel", kernel.kernel),
                ("precision", kernel.precision.name()),
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
