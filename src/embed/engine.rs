//! The way of a call through a warm model: what is known, admission, text threads, compute threads.

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
    spans,
    status::StatusHandle,
    text_threads::TextThreads,
    token_semaphore::TokenPermit,
    vector::{Vector, VectorOptions},
};
use crate::{
    deadline::Deadline,
    log_limit::{LogLimit, Site},
    model::{self, Encoded, Model, ModelInfo, Team, TokenizeError, Truncation},
    priority::Priority,
    trace::{KeyValue, Scope, Span},
};
use futures::FutureExt;

/// A warm model and its threads.
#[derive(Clone)]
pub struct Engine(pub(super) Arc<EngineInner>);

pub(super) struct EngineInner {
    pub(super) model: Arc<Model>,
    text: TextThreads,
    /// For Tokenize, which takes up to 7 µs a byte: what is embedded never waits for them, nor do compute threads.
    pub(super) tokenize: TextThreads,
    compute: ComputeThreads,
    pub(super) admission: Admission,
    cache: Option<VectorCache>,
    flows: AtomicU64,
    metrics: EmbedMetrics,
}

/// Scheduling identity and deadline of a request.
#[derive(Clone, Copy)]
pub(super) struct RequestScheduling {
    pub flow: Flow,
    pub deadline: Deadline,
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

/// Whose inputs they are, for fairness: one stream is one flow, and so is one sample of an evaluation.
#[derive(Clone, Copy, Debug)]
pub struct Flow {
    pub(super) lane: AdmissionClass,
    pub(super) id: FlowId,
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
            admission: Admission::new(AdmissionLimits::of(settings), model.info.max_tokens, metrics),
            cache: VectorCache::new(settings.cache_bytes, &model.info, metrics),
            model,
            flows: AtomicU64::new(EVALUATIONS.0 + 1),
            metrics: metrics.clone(),
        })))
    }

    pub fn model(&self) -> &ModelInfo {
        &self.0.model.info
    }

    /// A flow for one stream.
    pub fn stream_flow(&self) -> Flow {
        self.flow(AdmissionClass::Stream)
    }

    /// A flow for one sample of an evaluation. Behind admission all evaluations together have the share of one caller.
    pub fn evaluation_flow(&self) -> Flow {
        self.flow(AdmissionClass::Evaluation)
    }

    pub(super) fn flow(&self, lane: AdmissionClass) -> Flow {
        Flow { lane, id: FlowId(self.0.flows.fetch_add(1, Ordering::Relaxed)) }
    }

    /// Inputs and tokens that wait for a compute thread.
    pub fn queue_depth(&self) -> (usize, usize) {
        self.0.compute.depth()
    }

    /// Embeds the texts of one call, all or none; refuses at once where the queue has no room for what is not known.
    ///
    /// # Errors
    /// [`EmbedError`]; [`EmbedError::TooLong`] names every input that is too long.
    pub async fn embed(
        &self,
        texts: Vec<String>,
        options: InputOptions,
        deadline: Deadline,
    ) -> Result<Embedded, EmbedError> {
        let scheduling = RequestScheduling { flow: self.flow(AdmissionClass::Call), deadline };
        with_deadline(deadline, self.embed_texts(scheduling, texts, options)).await
    }

    /// Embeds one text of a stream or an evaluation; waits where their part of the queue is full.
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
        let scheduling = RequestScheduling { flow, deadline };
        let mut embedded = with_deadline(deadline, self.embed_texts(scheduling, vec![text], options)).await?;
        embedded.inputs.pop().ok_or(EmbedError::Defect)
    }

    /// Tokens that are admitted, by kind of call.
    pub(super) fn admitted(&self) -> AdmittedTokens {
        self.0.admission.held()
    }

    /// None where there is no cache.
    pub(super) fn cached(&self) -> Option<CacheStats> {
        self.0.cache.as_ref().map(VectorCache::stats)
    }

    /// Ends the threads and waits for them.
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
                // Only streams wait here, and those ask for one text each: they hold no flight that waits for them.
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
        let Flow { lane, id } = scheduling.flow;
        let span = match lane {
            AdmissionClass::Call => Span::default(),
            AdmissionClass::Stream | AdmissionClass::Evaluation | AdmissionClass::Tokenize => {
                Scope::current().child(|| "admission")
            }
        };
        let permit = self.0.admission.admit(lane, id, tokens).await;
        span.end_with(&permit, EmbedError::kind);
        permit
    }

    /// Whole states for whoever wants them: each has a deadline of its own, and the last that leaves drops this.
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

    /// Tokens before they are counted: about one for three bytes, at most what the model takes.
    fn estimated_tokens<'a>(&self, texts: impl Iterator<Item = &'a str>, prompt: &str) -> usize {
        let most = self.0.model.tokenizer.max_tokens();
        texts.map(|text| ((prompt.len() + text.len()) / 3 + 2).min(most)).sum()
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
        span.describe(|| [KeyValue::new("assay.inputs", spans::count(texts.len()))]);
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
                tracing::error!(%error, "an input could not be tokenized");
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
        // From here on the tokens are counted, not estimated.
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

/// The flow of all evaluations behind admission.
const EVALUATIONS: FlowId = FlowId(0);

impl Flow {
    /// Whoever embeds waits for at most one text of evaluations, however many there are; which evaluation is next was
    /// decided by admission, which lets in little more than the threads compute at a time.
    fn compute_flow(self) -> FlowId {
        match self.lane {
            AdmissionClass::Evaluation => EVALUATIONS,
            AdmissionClass::Call | AdmissionClass::Stream | AdmissionClass::Tokenize => self.id,
        }
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

pub(super) async fn with_deadline<T>(
    deadline: Deadline,
    work: impl Future<Output = Result<T, EmbedError>>,
) -> Result<T, EmbedError> {
    let embed_texts = tokio::time::timeout_at(deadline.instant().into(), work).await;
    // Threads drop what is past its deadline on their own, and the timer may be the later of the two.
    match embed_texts.unwrap_or(Err(EmbedError::DeadlineExceeded)) {
        Err(EmbedError::Defect | EmbedError::Stopping) if deadline.has_passed() => {
            Err(EmbedError::DeadlineExceeded)
        }
        embed_texts => embed_texts,
    }
}
