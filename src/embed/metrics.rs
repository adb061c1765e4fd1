//! Counters and histograms of the embedder.

use std::{sync::Arc, time::Duration};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};

use crate::model::Packed;

/// Result of the cache lookup of an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CacheOutcome {
    /// The state was in the cache.
    Hit,
    /// The state was computed for this request.
    Miss,
    /// The computation was already in flight for another request or an equal input.
    Joined,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PhaseLabel {
    phase: &'static str,
}

#[derive(Clone)]
pub(super) struct EmbedMetrics(Arc<EmbedMetricsInner>);

struct EmbedMetricsInner {
    inputs: Counter,
    tokens: Counter,
    batch_tokens: Histogram,
    batch_inputs: Histogram,
    tokenize: Histogram,
    queue: Histogram,
    compute: Histogram,
    dropped: Family<PhaseLabel, Counter>,
    refused: Counter,
    preemptions: Counter,
    worker_failures: Counter,
    poisoned_inputs: Counter,
    warm_up_attempts: Counter,
    warm_up_seconds: Gauge<f64, std::sync::atomic::AtomicU64>,
    fetched_bytes: Gauge,
    cache_hits: Counter,
    cache_misses: Counter,
    cache_joined: Counter,
    cache_evictions: Counter,
}

impl EmbedMetrics {
    pub fn register(registry: &mut Registry) -> EmbedMetrics {
        let registry = registry.sub_registry_with_prefix("assay");
        let seconds = || Histogram::new(exponential_buckets(0.000_1, 2.0, 18));
        let inner = EmbedMetricsInner {
            inputs: Counter::default(),
            tokens: Counter::default(),
            batch_tokens: Histogram::new(exponential_buckets(4.0, 2.0, 14)),
            batch_inputs: Histogram::new(exponential_buckets(1.0, 2.0, 12)),
            tokenize: seconds(),
            queue: seconds(),
            compute: seconds(),
            dropped: Family::default(),
            refused: Counter::default(),
            preemptions: Counter::default(),
            worker_failures: Counter::default(),
            poisoned_inputs: Counter::default(),
            warm_up_attempts: Counter::default(),
            warm_up_seconds: Gauge::default(),
            fetched_bytes: Gauge::default(),
            cache_hits: Counter::default(),
            cache_misses: Counter::default(),
            cache_joined: Counter::default(),
            cache_evictions: Counter::default(),
        };
        inner.register(registry);
        EmbedMetrics(Arc::new(inner))
    }

    /// Records a successful forward pass.
    pub fn batch(&self, packed: &Packed, took: Duration) {
        let (inputs, tokens) = (packed.sequences(), packed.ids().len());
        self.0.inputs.inc_by(inputs as u64);
        self.0.tokens.inc_by(tokens as u64);
        self.0.batch_inputs.observe(inputs as f64);
        self.0.batch_tokens.observe(tokens as f64);
        self.0.compute.observe(took.as_secs_f64());
    }

    /// Records the tokenization of a request.
    pub fn tokenized(&self, took: Duration) {
        self.0.tokenize.observe(took.as_secs_f64());
    }

    /// Records the wait of a request for its forward pass.
    pub fn queued(&self, waited: Duration) {
        self.0.queue.observe(waited.as_secs_f64());
    }

    pub fn dropped_before_tokenizing(&self) {
        self.0.dropped.get_or_create(&PhaseLabel { phase: "tokenize" }).inc();
    }

    pub fn dropped_before_compute(&self) {
        self.0.dropped.get_or_create(&PhaseLabel { phase: "compute" }).inc();
    }

    pub fn refused(&self) {
        self.0.refused.inc();
    }

    /// Records the cache lookup of an answered input.
    pub fn looked_up(&self, origin: CacheOutcome) {
        match origin {
            CacheOutcome::Hit => self.0.cache_hits.inc(),
            CacheOutcome::Miss => self.0.cache_misses.inc(),
            CacheOutcome::Joined => self.0.cache_joined.inc(),
        };
    }

    pub fn evicted(&self) {
        self.0.cache_evictions.inc();
    }

    pub fn preempted(&self) {
        self.0.preemptions.inc();
    }

    pub fn worker_failed(&self) {
        self.0.worker_failures.inc();
    }

    /// Records inputs that failed alone on a healthy thread.
    pub fn poisoned(&self, inputs: u64) {
        self.0.poisoned_inputs.inc_by(inputs);
    }

    #[cfg(test)]
    pub fn poisoned_inputs(&self) -> u64 {
        self.0.poisoned_inputs.get()
    }

    pub fn warm_up_attempt(&self) {
        self.0.warm_up_attempts.inc();
    }

    /// Records the duration of the warm-up.
    pub fn warm_up_done(&self, took: Duration) {
        self.0.warm_up_seconds.set(took.as_secs_f64());
    }

    pub fn fetched(&self, bytes: u64) {
        self.0.fetched_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }
}

impl EmbedMetricsInner {
    fn register(&self, registry: &mut Registry) {
        registry.register("embedded_inputs", "Inputs computed by a forward pass", self.inputs.clone());
        registry.register("embedded_tokens", "Tokens computed by a forward pass", self.tokens.clone());
        registry.register("batch_tokens", "Tokens per forward pass", self.batch_tokens.clone());
        registry.register("batch_inputs", "Inputs per forward pass", self.batch_inputs.clone());
        registry.register(
            "tokenize_seconds",
            "Time to tokenize all inputs of a request, in seconds",
            self.tokenize.clone(),
        );
        registry.register(
            "queue_seconds",
            "Longest wait of an input of a request for its forward pass, in seconds",
            self.queue.clone(),
        );
        registry.register("compute_seconds", "Duration of a forward pass, in seconds", self.compute.clone());
        registry.register(
            "dropped",
            "Inputs dropped because their caller went away or its deadline passed, by the phase that was next",
            self.dropped.clone(),
        );
        registry.register(
            "queue_refusals",
            "Unary calls rejected because the queue was full",
            self.refused.clone(),
        );
        registry.register(
            "preemptions",
            "Times that short inputs preempted a longer forward pass between two layers",
            self.preemptions.clone(),
        );
        registry.register("worker_failures", "Forward passes that failed", self.worker_failures.clone());
        registry.register(
            "poisoned_inputs",
            "Inputs that failed when computed alone on a healthy compute thread",
            self.poisoned_inputs.clone(),
        );
        registry.register("warm_up_attempts", "Attempts to load the model", self.warm_up_attempts.clone());
        registry.register(
            "warm_up_seconds",
            "Time from the start of the warm-up until the model was ready, in seconds",
            self.warm_up_seconds.clone(),
        );
        registry.register(
            "model_fetched_bytes",
            "Bytes of model files downloaded in the current attempt",
            self.fetched_bytes.clone(),
        );
        self.register_cache(registry);
    }

    /// Registers the counters of the cache. The hit rate is hits / (hits + misses + joined).
    fn register_cache(&self, registry: &mut Registry) {
        for (name, help, counter) in [
            ("embed_cache_hits", "Inputs answered from the cache", &self.cache_hits),
            ("embed_cache_misses", "Inputs that were not in the cache and were computed", &self.cache_misses),
            (
                "embed_cache_joined",
                "Inputs answered by a computation of the same input that was already in flight",
                &self.cache_joined,
            ),
            (
                "embed_cache_evictions",
                "Vectors evicted from the cache to stay within its limit",
                &self.cache_evictions,
            ),
        ] {
            registry.register(name, help, counter.clone());
        }
    }
}
