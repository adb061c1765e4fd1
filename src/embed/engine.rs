//! The path of a request through a warm model: cache, admission, text threads, compute threads.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use super::{
    EmbedSettings,
    admission::{Admission, AdmissionClass, AdmissionLimits, AdmittedTokens},
    cache::{CacheStats, VectorCache},
    compute_threads::{self, ComputeDefect, ComputeThreads, ComputedVector, EmbedJob},
    error::{EmbedError, TooLong},
    fair_queue::FlowId,
    gather::{CancelOnDrop, EmbedCaller, Gather},
    metrics::EmbedMetrics,
    request::{EVALUATIONS, Embedded, EmbeddedInput, Flow, InputOptions, RequestScheduling},
    spans,
    status::StatusHandle,
    text_threads::TextThreads,
    token_semaphore::TokenPermit,
    vector::VectorOptions,
};
use crate::{
    deadline::Deadline,
    log_limit::{LogLimit, Site},
    model::{self, Encoded, Model, ModelInfo, Team, TokenizeError, Truncation},
    priority::Priority,
    trace::{KeyValue, Scope, Span},
};
use futures::FutureExt;

/// A warm model and its threads. Cloning it is cheap.
///
/// # Examples
///
/// ```no_run
/// use std::time::Duration;
///
/// use assay::{
///     deadline::Deadline,
///     embed::{Embedder, InputOptions, Vector, VectorEncoding, VectorOptions},
///     model::Truncation,
/// };
///
/// # async fn embed(embedder: Embedder) -> Result<(), Box<dyn std::error::Error>> {
/// let engine = embedder.ready()?;
/// let options = InputOptions {
///     prompt: "".into(),
///     truncation: Truncation::End,
///     vector: VectorOptions {
///         dimensions: engine.model().dimensions,
///         normalize: true,
///         encoding: VectorEncoding::Float32Values,
///     },
/// };
/// let texts = vec!["What is a sidecar?".to_owned(), "A helper process.".to_owned()];
/// let embedded = engine.embed(texts, options, Deadline::after(Duration::from_secs(5))).await?;
/// for input in embedded.inputs {
///     if let Vector::Values(values) = input.vector {
///         println!("{} tokens, {} dimensions", input.tokens, values.len());
///     }
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Engine(pub(super) Arc<EngineInner>);

pub(super) struct EngineInner {
    pub(super) model: Arc<Model>,
    text: TextThreads,
    /// Separate threads for Tokenize, which takes up to 7 µs per byte, so that Embed requests never wait for it.
    pub(super) tokenize: TextThreads,
    compute: ComputeThreads,
    pub(super) admission: Admission,
    cache: Option<VectorCache>,
    /// Identifier of the next flow.
    flows: AtomicU64,
    metrics: EmbedMetrics,
}

impl Engine {
    pub(super) fn start(
        settings: &EmbedSettings,
        model: Arc<Model>,
        status: &StatusHandle,
        metrics: &EmbedMetrics,
    ) -> io::Result<Engine> {
        let probe = model.tokenizer.encode("", "probe", Truncation::End);
        let probe = probe.map_err(|error| io::Error::other(error.to_string()))?;
        let compute = compute_threads::ComputeSettings {
            threads: settings.threads,
            batch_tokens: settings.batch_tokens,
            probe: probe.ids,
        };
        let encoder = Arc::clone(&model);
        let forward = Arc::new(move |batch: &model::Packed, team: &Team, between_layers: &dyn Fn()| {
            Ok(encoder.encode(batch, team, between_layers))
        });
        Ok(Engine(Arc::new(EngineInner {
            text: TextThreads::start("assay-text", settings.text_threads, Priority::Text, metrics)?,
            tokenize: TextThreads::start("assay-token", settings.text_threads, Priority::Compute, metrics)?,
            compute: ComputeThreads::start(&compute, forward, status, metrics)?,
            admission: Admission::new(
                AdmissionLimits::from_settings(settings),
                model.info.max_tokens,
                metrics,
            ),
            cache: VectorCache::new(settings.cache_bytes, &model.info, metrics),
            model,
            flows: AtomicU64::new(EVALUATIONS.0 + 1),
            metrics: metrics.clone(),
        })))
    }

    /// Description of the model.
    pub fn model(&self) -> &ModelInfo {
        &self.0.model.info
    }

    /// Creates a flow for one stream.
    pub fn stream_flow(&self) -> Flow {
        self.flow(AdmissionClass::Stream)
    }

    /// Creates a flow for one sample of an evaluation. In the compute queue all evaluations share one flow.
    pub fn evaluation_flow(&self) -> Flow {
        self.flow(AdmissionClass::Evaluation)
    }

    pub(super) fn flow(&self, class: AdmissionClass) -> Flow {
        Flow { class, id: FlowId(self.0.flows.fetch_add(1, Ordering::Relaxed)) }
    }

    /// Number of inputs that wait for a compute thread, and their tokens.
    pub fn queue_depth(&self) -> (usize, usize) {
        self.0.compute.depth()
    }

    /// Embeds the texts of one unary call. Returns vectors for all texts or an error.
    ///
    /// Texts that are not cached need room in the queue; the call is rejected immediately if there is none.
    ///
    /// # Errors
    /// [`EmbedError::QueueFull`] or [`EmbedError::TooLarge`] if the request is not admitted, [`EmbedError::TooLong`] with
    /// every input that is too long, [`EmbedError::DeadlineExceeded`], [`EmbedError::Stopping`] or
    /// [`EmbedError::Defect`].
    pub async fn embed(
        &self,
        texts: Vec<String>,
        options: InputOptions,
        deadline: Deadline,
    ) -> Result<Embedded, EmbedError> {
        let scheduling = RequestScheduling { flow: self.flow(AdmissionClass::Call), deadline };
        with_deadline(deadline, self.embed_texts(scheduling, texts, options)).await
    }

    /// Embeds one text of a stream or an evaluation. Waits while the limit of its class is reached.
    ///
    /// # Errors
    /// The errors of [`Engine::embed`], except that the text is never rejected because the queue is full.
    pub async fn embed_in_stream(
        &self,
        flow: Flow,
        text: String,
        options: InputOptions,
        deadline: Deadline,
    ) -> Result<EmbeddedInput, EmbedError> {
        let scheduling = RequestScheduling { flow, deadline };
        let mut embedded = with_deadline(deadline, self.embed_texts(scheduling, vec![text], options)).await?;
        embedded.inputs.pop().ok_or(EmbedError::Defect)
    }

    /// Tokens in flight, by class of request.
    pub(super) fn admitted(&self) -> AdmittedTokens {
        self.0.admission.held()
    }

    /// Size of the cache, or `None` if it is disabled.
    pub(super) fn cached(&self) -> Option<CacheStats> {
        self.0.cache.as_ref().map(VectorCache::stats)
    }

    /// Stops the threads and waits for them.
    pub(super) fn stop(&self) {
        self.0.text.stop();
        self.0.tokenize.stop();
        self.0.compute.stop();
    }

    async fn embed_texts(
        &self,
        scheduling: RequestScheduling,
        texts: Vec<String>,
        options: InputOptions,
    ) -> Result<Embedded, EmbedError> {
        let Some(cache) = &self.0.cache else {
            let tokens = self.estimated_tokens(texts.iter().map(String::as_str), &options.prompt);
            let permit = self.admit(scheduling, tokens).await?;
            return self.run(scheduling, permit, texts, options).await;
        };
        let mut lookup = cache.look_up(texts, &options).await;
        loop {
            let tokens = self.estimated_tokens(lookup.missing(), &options.prompt);
            if tokens > 0 {
                // Only streams and evaluations wait here. Each has a single text, so a waiting request never owns a
                // shared computation that others wait for.
                let permit = self.admit(scheduling, tokens).await?;
                lookup.compute(|texts| self.run_shared(scheduling, permit, texts, &options).boxed());
            }
            if let Some(embedded) = lookup.results().await? {
                return Ok(embedded);
            }
        }
    }

    pub(super) async fn admit(
        &self,
        scheduling: RequestScheduling,
        tokens: usize,
    ) -> Result<TokenPermit, EmbedError> {
        let Flow { class, id } = scheduling.flow;
        let span = match class {
            AdmissionClass::Call => Span::default(),
            AdmissionClass::Stream | AdmissionClass::Evaluation | AdmissionClass::Tokenize => {
                Scope::current().child(|| "admission")
            }
        };
        let permit = self.0.admission.admit(class, id, tokens).await;
        span.end_with(&permit, EmbedError::kind);
        permit
    }

    /// Computes unchanged pooled states that several requests may share. Each request has its own deadline, so this
    /// computation has none; it is cancelled when its last waiter goes away.
    fn run_shared(
        &self,
        scheduling: RequestScheduling,
        permit: TokenPermit,
        texts: Vec<String>,
        options: &InputOptions,
    ) -> impl Future<Output = Result<Embedded, EmbedError>> + use<> {
        let engine = self.clone();
        let scheduling = RequestScheduling { deadline: Deadline::after(Duration::MAX), ..scheduling };
        let vector = VectorOptions::unchanged(engine.model().dimensions);
        let options = InputOptions { vector, ..options.clone() };
        Scope::current().around(async move { engine.run(scheduling, permit, texts, options).await })
    }

    /// Estimates the tokens of texts before they are tokenized: one per three bytes, at most the limit of the model.
    fn estimated_tokens<'a>(&self, texts: impl Iterator<Item = &'a str>, prompt: &str) -> usize {
        let max_tokens = self.0.model.tokenizer.max_tokens();
        texts.map(|text| ((prompt.len() + text.len()) / 3 + 2).min(max_tokens)).sum()
    }

    async fn run(
        &self,
        RequestScheduling { flow, deadline, .. }: RequestScheduling,
        permit: TokenPermit,
        texts: Vec<String>,
        options: InputOptions,
    ) -> Result<Embedded, EmbedError> {
        let started = Instant::now();
        let caller = EmbedCaller::new(deadline);
        let _leave = CancelOnDrop(Arc::clone(&caller));
        let scope = Scope::current();
        let mut span = scope.child(|| "tokenize");
        span.describe(|| [KeyValue::new("assay.inputs", spans::to_attribute(texts.len()))]);
        let encoded = self.encode(flow, &caller, texts, &options).await;
        span.end_with(&encoded, EmbedError::kind);
        let encoded = encoded?;
        let tokenize = started.elapsed();
        self.0.metrics.tokenized(tokenize);
        let sizes: Vec<(usize, bool)> = encoded.iter().map(|e| (e.ids.len(), e.truncated)).collect();
        let waiting = scope.child(|| "queue");
        let computed = self.compute(flow, &caller, permit, encoded, options.vector).await;
        let computed = spans::record_compute_spans(&scope, waiting, computed)?;
        let longest = |of: fn(&ComputedVector) -> Duration| computed.iter().map(of).max().unwrap_or_default();
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
        caller: &Arc<EmbedCaller>,
        texts: Vec<String>,
        options: &InputOptions,
    ) -> Result<Vec<Encoded>, EmbedError> {
        let (model, prompt, truncation) =
            (Arc::clone(&self.0.model), Arc::clone(&options.prompt), options.truncation);
        let encoded = match model.tokenizer.encode_at_once(&prompt, &texts, truncation) {
            Some(encoded) => encoded,
            None => {
                let encode = move |text: &str| model.tokenizer.encode(&prompt, text, truncation);
                let encoded = self.0.text.map(flow.compute_flow(), caller, texts, encode);
                encoded.await.map_err(|_| EmbedError::Defect)?
            }
        };
        let too_long: Vec<TooLong> = encoded.iter().enumerate().filter_map(too_long).collect();
        if !too_long.is_empty() {
            return Err(EmbedError::TooLong(too_long));
        }
        encoded.into_iter().collect::<Result<_, _>>().map_err(|error| {
            static LINES: LogLimit = LogLimit::new(Site::Tokenize);
            if LINES.admits() {
                tracing::error!(%error, "tokenizing an input failed; its request fails with INTERNAL");
            }
            EmbedError::Defect
        })
    }

    async fn compute(
        &self,
        flow: Flow,
        caller: &Arc<EmbedCaller>,
        mut permit: TokenPermit,
        encoded: Vec<Encoded>,
        options: VectorOptions,
    ) -> Result<Vec<ComputedVector>, EmbedError> {
        let (answers, receiver) = Gather::<Result<ComputedVector, ComputeDefect>>::new(encoded.len());
        let queued = Instant::now();
        // The exact number of tokens replaces the estimate.
        permit.resize(encoded.iter().map(|encoded| encoded.ids.len()).sum());
        let jobs = encoded.into_iter().enumerate().map(|(index, encoded)| {
            let permit = permit.split(encoded.ids.len());
            let (answers, caller) = (Arc::clone(&answers), Arc::clone(caller));
            EmbedJob { ids: encoded.ids, options, index, answers, caller, queued, permit }
        });
        let jobs = jobs.collect();
        drop(answers);
        self.0.compute.push(flow.compute_flow(), jobs);
        let computed = receiver.await.map_err(|_| EmbedError::Stopping)?;
        computed.into_iter().collect::<Result<_, _>>().map_err(|ComputeDefect| EmbedError::Defect)
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

/// Runs `work` until `deadline`.
///
/// # Errors
/// [`EmbedError::DeadlineExceeded`] if the deadline passes first, otherwise the error of `work`.
pub(super) async fn with_deadline<T>(
    deadline: Deadline,
    work: impl Future<Output = Result<T, EmbedError>>,
) -> Result<T, EmbedError> {
    let embed_texts = tokio::time::timeout_at(deadline.instant().into(), work).await;
    // The threads drop expired work on their own, possibly before this timer fires.
    match embed_texts.unwrap_or(Err(EmbedError::DeadlineExceeded)) {
        Err(EmbedError::Defect | EmbedError::Stopping) if deadline.has_passed() => {
            Err(EmbedError::DeadlineExceeded)
        }
        embed_texts => embed_texts,
    }
}
