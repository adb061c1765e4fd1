//! Text to vectors: admission, tokenizing, batching, compute, and the warm-up before any of it.
//!
//! [`Embedder`] exists from the first millisecond; [`Embedder::ready`] gives the [`Engine`] once the model is
//! warm. A call passes three hand-offs: admission by permits counted in tokens, text threads, compute threads.

mod batch;
mod gather;
mod metrics;
mod queue;
mod status;
mod tokenize;
mod vector;
mod warm_up;
mod worker;

use std::{
    io,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::gauge::ConstGauge,
    registry::Registry,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::sync::CancellationToken;

use crate::{
    deadline::Deadline,
    model::{self, Encoded, Model, ModelInfo, Token, TokenizeError, Truncation},
};

pub use status::{Phase, Status};
pub use vector::{Vector, VectorEncoding, VectorOptions};

use batch::FlowId;
use gather::{Caller, Gather, LeaveOnDrop};
use metrics::Metrics;
use status::StatusHandle;
use tokenize::TextThreads;
use worker::{ComputeThreads, Computed, Defect, Job};

#[derive(Clone, Debug)]
pub struct Settings {
    pub source: model::source::Settings,
    pub model: model::Settings,
    /// Compute threads.
    pub threads: usize,
    /// Threads that cut texts into tokens.
    pub text_threads: usize,
    /// The most tokens of one forward pass.
    pub batch_tokens: usize,
    /// The most tokens that may wait or be computed. Half is for calls, which are refused when it is full, half
    /// for streams, which wait; so neither can lock the other out.
    pub queue_tokens: usize,
    /// The longest pause between attempts to load the model.
    pub retry_pause: Duration,
}

/// Cloneable handle to the model and the threads behind it.
#[derive(Clone)]
pub struct Embedder(Arc<Shared>);

struct Shared {
    engine: OnceLock<Engine>,
    status: StatusHandle,
    metrics: Metrics,
    cancel: CancellationToken,
    warm_up: std::sync::Mutex<Option<JoinHandle<()>>>,
    compute_threads: usize,
}

/// A warm model and its threads.
#[derive(Clone)]
pub struct Engine(Arc<EngineParts>);

struct EngineParts {
    model: Arc<Model>,
    text: TextThreads,
    compute: ComputeThreads,
    calls: Arc<Semaphore>,
    streams: Arc<Semaphore>,
    /// Permits of each of the two.
    capacity: usize,
    flows: AtomicU64,
    metrics: Metrics,
}

/// How the inputs of one call are embedded; checked against the model.
#[derive(Clone, Debug)]
pub struct InputOptions {
    /// Put before each text.
    pub prompt: Arc<str>,
    pub truncation: Truncation,
    pub vector: VectorOptions,
}

/// Vectors of one call, and where its time went.
#[derive(Debug)]
pub struct Embedded {
    /// In the order of the inputs.
    pub inputs: Vec<EmbeddedInput>,
    pub tokenize: Duration,
    pub queue: Duration,
    pub compute: Duration,
}

#[derive(Debug)]
pub struct EmbeddedInput {
    pub vector: Vector,
    /// Special tokens included, after truncation.
    pub tokens: usize,
    pub truncated: bool,
}

/// An input that the model does not take.
#[derive(Debug, PartialEq, Eq)]
pub struct TooLong {
    pub index: usize,
    pub tokens: usize,
    pub limit: usize,
}

#[derive(Debug, thiserror::Error)]
pub enum EmbedError {
    #[error("the model is not ready: {detail}")]
    NotReady { detail: String, retry_in: Duration },
    #[error("the queue of {capacity} tokens has no room for {tokens} more")]
    QueueFull { tokens: usize, capacity: usize, retry_in: Duration },
    #[error(
        "the inputs have about {tokens} tokens, the queue holds {capacity} of one kind of call; send fewer at a time"
    )]
    TooLarge { tokens: usize, capacity: usize },
    #[error("{} inputs are too long for the model", .0.len())]
    TooLong(Vec<TooLong>),
    #[error("the deadline passed")]
    DeadlineExceeded,
    #[error("the server is stopping")]
    Stopping,
    #[error("computing failed")]
    Defect,
}

/// Whose inputs they are, for fairness: one stream is one flow.
#[derive(Clone, Copy, Debug)]
pub struct Flow(FlowId);

impl Embedder {
    /// Starts the warm-up on a thread of its own and returns at once.
    ///
    /// # Errors
    /// If the operating system gives no thread.
    pub fn start(settings: Settings, registry: &mut Registry) -> io::Result<Embedder> {
        let shared = Arc::new(Shared {
            engine: OnceLock::new(),
            status: StatusHandle::new(),
            metrics: Metrics::register(registry),
            cancel: CancellationToken::new(),
            warm_up: std::sync::Mutex::default(),
            compute_threads: settings.threads,
        });
        let context = warm_up::Context {
            settings,
            status: shared.status.clone(),
            metrics: shared.metrics.clone(),
            cancel: shared.cancel.clone(),
        };
        registry.register_collector(Box::new(Gauges(Arc::downgrade(&shared))));
        let filled = Arc::clone(&shared);
        let thread = warm_up::spawn(context, move |engine| {
            // Only the warm-up sets it, and it does so once.
            let _ = filled.engine.set(engine);
        })?;
        *shared.warm_up.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(thread);
        Ok(Embedder(shared))
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
        let _ = tokio::time::timeout_at(deadline.instant().into(), status.wait_for(Status::is_serving)).await;
        self.ready()
    }

    /// What the model is, once it is loaded.
    pub fn model(&self) -> Option<&ModelInfo> {
        self.0.engine.get().map(Engine::model)
    }

    pub fn status(&self) -> watch::Receiver<Status> {
        self.0.status.subscribe()
    }

    /// Ends the warm-up and all threads. Blocks until they are done; a file system that hangs under the warm-up
    /// is not waited for.
    pub fn stop(&self) {
        self.0.cancel.cancel();
        if let Some(engine) = self.0.engine.get() {
            engine.0.text.stop();
            engine.0.compute.stop();
        }
        let thread = self.0.warm_up.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        if let Some(thread) = thread.filter(JoinHandle::is_finished) {
            // A panic was logged where it happened.
            let _ = thread.join();
        }
    }
}

impl Engine {
    fn start(
        settings: &Settings,
        model: Arc<Model>,
        status: &StatusHandle,
        metrics: &Metrics,
    ) -> io::Result<Engine> {
        let probe = model.tokenizer.encode("", "probe", Truncation::End);
        let probe = probe.map_err(|error| io::Error::other(error.to_string()))?;
        let compute = worker::Settings {
            threads: settings.threads,
            batch_tokens: settings.batch_tokens,
            probe: probe.ids,
        };
        let encoder = Arc::clone(&model);
        let forward = Arc::new(move |batch: &model::Packed| encoder.encode(batch).map_err(|e| e.to_string()));
        let capacity = capacity(settings.queue_tokens, model.info.max_tokens);
        Ok(Engine(Arc::new(EngineParts {
            model,
            text: TextThreads::start(settings.text_threads, metrics)?,
            compute: ComputeThreads::start(&compute, forward, status, metrics)?,
            calls: Arc::new(Semaphore::new(capacity)),
            streams: Arc::new(Semaphore::new(capacity)),
            capacity,
            flows: AtomicU64::new(0),
            metrics: metrics.clone(),
        })))
    }

    pub fn model(&self) -> &ModelInfo {
        &self.0.model.info
    }

    /// A flow of its own for one call or stream.
    pub fn flow(&self) -> Flow {
        Flow(FlowId(self.0.flows.fetch_add(1, Ordering::Relaxed)))
    }

    /// Inputs and tokens that wait for a compute thread.
    pub fn queue_depth(&self) -> (usize, usize) {
        self.0.compute.depth()
    }

    /// Embeds the texts of one call, all or none; refuses at once where the queue is full.
    ///
    /// # Errors
    /// [`EmbedError`]; [`EmbedError::TooLong`] names every input that is too long.
    pub async fn embed(
        &self,
        texts: Vec<String>,
        options: InputOptions,
        deadline: Deadline,
    ) -> Result<Embedded, EmbedError> {
        let permit = self.admit(self.estimate(&texts, &options.prompt))?;
        within(deadline, self.run(self.flow(), permit, texts, options, deadline)).await
    }

    /// Embeds one text of a stream; waits where the streams' part of the queue is full.
    ///
    /// # Errors
    /// [`EmbedError`]
    pub async fn embed_in_stream(
        &self,
        flow: Flow,
        text: String,
        options: InputOptions,
        deadline: Deadline,
    ) -> Result<EmbeddedInput, EmbedError> {
        let texts = vec![text];
        let tokens = self.estimate(&texts, &options.prompt);
        within(deadline, async {
            let permits = Arc::clone(&self.0.streams).acquire_many_owned(permits(tokens)).await;
            let permit = permits.map_err(|_| EmbedError::Stopping)?;
            let mut embedded = self.run(flow, permit, texts, options, deadline).await?;
            embedded.inputs.pop().ok_or(EmbedError::Defect)
        })
        .await
    }

    /// All tokens of each text, in the order of the texts; nothing is cut off.
    ///
    /// # Errors
    /// [`EmbedError`], but never for a text that is too long for the model.
    pub async fn tokenize(
        &self,
        texts: Vec<String>,
        prompt: Arc<str>,
        deadline: Deadline,
    ) -> Result<Vec<Vec<Token>>, EmbedError> {
        let _permit = self.admit(self.estimate(&texts, &prompt))?;
        let caller = Caller::new(deadline);
        let _leave = LeaveOnDrop(Arc::clone(&caller));
        let model = Arc::clone(&self.0.model);
        let tokens = move |text: &str| model.tokenizer.tokens(&prompt, text);
        let tokens = self.0.text.map(self.flow().0, &caller, texts, tokens);
        let tokens = within(deadline, async { tokens.await.map_err(|_| EmbedError::Defect) }).await?;
        tokens.into_iter().collect::<Result<_, _>>().map_err(|_| EmbedError::Defect)
    }

    fn admit(&self, tokens: usize) -> Result<OwnedSemaphorePermit, EmbedError> {
        let capacity = self.0.capacity;
        if tokens > capacity {
            return Err(EmbedError::TooLarge { tokens, capacity });
        }
        Arc::clone(&self.0.calls).try_acquire_many_owned(permits(tokens)).map_err(|_| {
            self.0.metrics.refused();
            EmbedError::QueueFull { tokens, capacity, retry_in: Duration::from_millis(250) }
        })
    }

    /// Tokens before they are counted: about one for three bytes, at most what the model takes.
    fn estimate(&self, texts: &[String], prompt: &str) -> usize {
        let most = self.0.model.tokenizer.max_tokens();
        texts.iter().map(|text| ((prompt.len() + text.len()) / 3 + 2).min(most)).sum()
    }

    async fn run(
        &self,
        flow: Flow,
        permit: OwnedSemaphorePermit,
        texts: Vec<String>,
        options: InputOptions,
        deadline: Deadline,
    ) -> Result<Embedded, EmbedError> {
        let started = Instant::now();
        let caller = Caller::new(deadline);
        let _leave = LeaveOnDrop(Arc::clone(&caller));
        let encoded = self.encode(flow, &caller, texts, &options).await?;
        let tokenize = started.elapsed();
        self.0.metrics.tokenized(tokenize);
        let sizes: Vec<(usize, bool)> = encoded.iter().map(|e| (e.ids.len(), e.truncated)).collect();
        let computed = self.compute(flow, &caller, permit, encoded, options.vector).await?;
        let longest = |of: fn(&Computed) -> Duration| computed.iter().map(of).max().unwrap_or_default();
        let (queue, compute) = (longest(|c| c.queue), longest(|c| c.compute));
        self.0.metrics.queued(queue);
        let inputs = computed.into_iter().zip(sizes);
        let inputs = inputs
            .map(|(computed, (tokens, truncated))| EmbeddedInput {
                vector: computed.vector,
                tokens,
                truncated,
            })
            .collect();
        Ok(Embedded { inputs, tokenize, queue, compute })
    }

    async fn encode(
        &self,
        flow: Flow,
        caller: &Arc<Caller>,
        texts: Vec<String>,
        options: &InputOptions,
    ) -> Result<Vec<Encoded>, EmbedError> {
        let (model, prompt, truncation) =
            (Arc::clone(&self.0.model), Arc::clone(&options.prompt), options.truncation);
        let encode = move |text: &str| model.tokenizer.encode(&prompt, text, truncation);
        let encoded = self.0.text.map(flow.0, caller, texts, encode);
        let encoded = encoded.await.map_err(|_| EmbedError::Defect)?;
        let too_long: Vec<TooLong> = encoded.iter().enumerate().filter_map(too_long).collect();
        if !too_long.is_empty() {
            return Err(EmbedError::TooLong(too_long));
        }
        encoded.into_iter().collect::<Result<_, _>>().map_err(|error| {
            tracing::error!(%error, "an input could not be cut into tokens");
            EmbedError::Defect
        })
    }

    async fn compute(
        &self,
        flow: Flow,
        caller: &Arc<Caller>,
        mut permit: OwnedSemaphorePermit,
        encoded: Vec<Encoded>,
        options: VectorOptions,
    ) -> Result<Vec<Computed>, EmbedError> {
        let (answers, receiver) = Gather::<Result<Computed, Defect>>::new(encoded.len());
        let queued = Instant::now();
        let jobs = encoded.into_iter().enumerate().map(|(index, encoded)| {
            // Where the estimate was too low, the last jobs hold less than they are.
            let share = encoded.ids.len().min(permit.num_permits());
            let permit = permit.split(share).expect("the share is at most what is held");
            let (answers, caller) = (Arc::clone(&answers), Arc::clone(caller));
            Job { ids: encoded.ids, options, index, answers, caller, queued, permit }
        });
        let jobs = jobs.collect();
        // What the estimate was too high by is free again.
        drop(permit);
        drop(answers);
        self.0.compute.push(flow.0, jobs);
        let computed = receiver.await.map_err(|_| EmbedError::Stopping)?;
        computed.into_iter().collect::<Result<_, _>>().map_err(|Defect| EmbedError::Defect)
    }
}

/// Read when metrics are asked for. Weak, as the registry outlives the embedder.
#[derive(Debug)]
struct Gauges(std::sync::Weak<Shared>);

impl Collector for Gauges {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> std::fmt::Result {
        let Some(shared) = self.0.upgrade() else { return Ok(()) };
        let ready = ConstGauge::new(i64::from(shared.status.subscribe().borrow().is_serving()));
        let help = "1 while the model serves";
        ready.encode(encoder.encode_descriptor("assay_model_ready", help, None, ready.metric_type())?)?;
        let Some(engine) = shared.engine.get() else { return Ok(()) };
        let (inputs, tokens) = engine.queue_depth();
        let engine = &engine.0;
        let held = |permits: &Semaphore| engine.capacity - permits.available_permits().min(engine.capacity);
        for (name, help, value) in [
            ("assay_queue_inputs", "Inputs that wait for a compute thread", inputs),
            ("assay_queue_tokens", "Tokens that wait for a compute thread", tokens),
            ("assay_admitted_call_tokens", "Tokens of calls that wait or are computed", held(&engine.calls)),
            (
                "assay_admitted_stream_tokens",
                "Tokens of streams that wait or are computed",
                held(&engine.streams),
            ),
            (
                "assay_admission_limit_tokens",
                "The most tokens of calls, and as many of streams",
                engine.capacity,
            ),
        ] {
            let gauge = ConstGauge::new(value as i64);
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
        }
        Ok(())
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

fn too_long((index, encoded): (usize, &Result<Encoded, TokenizeError>)) -> Option<TooLong> {
    match encoded {
        Err(TokenizeError::TooLong { tokens, limit }) => {
            Some(TooLong { index, tokens: *tokens, limit: *limit })
        }
        _ => None,
    }
}

/// Half of the queue, but room for one input of any length, or that would wait for ever.
fn capacity(queue_tokens: usize, max_tokens: usize) -> usize {
    let half = queue_tokens / 2;
    if half < max_tokens {
        tracing::warn!(queue_tokens, max_tokens, "the queue is raised to twice the tokens of one input");
    }
    half.max(max_tokens)
}

fn permits(tokens: usize) -> u32 {
    u32::try_from(tokens).unwrap_or(u32::MAX)
}

async fn within<T>(
    deadline: Deadline,
    work: impl Future<Output = Result<T, EmbedError>>,
) -> Result<T, EmbedError> {
    let answer = tokio::time::timeout_at(deadline.instant().into(), work).await;
    // Threads drop what is past its deadline on their own, and the timer may be the later of the two.
    match answer.unwrap_or(Err(EmbedError::DeadlineExceeded)) {
        Err(EmbedError::Defect | EmbedError::Stopping) if deadline.has_passed() => {
            Err(EmbedError::DeadlineExceeded)
        }
        answer => answer,
    }
}
