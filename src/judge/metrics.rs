//! What is counted about one judge.

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

use super::{breaker::BreakerState, wire::Usage};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabel {
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ParameterLabel {
    parameter: &'static str,
}

#[derive(Clone)]
pub(super) struct Metrics(Arc<Inner>);

struct Inner {
    attempts: Family<OutcomeLabel, Counter>,
    attempt: Histogram,
    tokens: Family<KindLabel, Counter>,
    retries: Counter,
    reasks: Counter,
    cache_hits: Counter,
    refused: Counter,
    degradations: Family<ParameterLabel, Counter>,
    breaker_open: Gauge,
    concurrency_limit: Gauge,
    in_flight: Gauge,
    waiting: Gauge,
}

impl Metrics {
    /// Each profile has its own, told apart by the label `judge`.
    pub fn register(registry: &mut Registry, name: &str) -> Metrics {
        let registry = registry.sub_registry_with_prefix("assay_judge");
        let registry = registry.sub_registry_with_label(("judge".into(), name.to_owned().into()));
        let inner = Inner {
            attempts: Family::default(),
            attempt: Histogram::new(exponential_buckets(0.01, 2.0, 15)),
            tokens: Family::default(),
            retries: Counter::default(),
            reasks: Counter::default(),
            cache_hits: Counter::default(),
            refused: Counter::default(),
            degradations: Family::default(),
            breaker_open: Gauge::default(),
            concurrency_limit: Gauge::default(),
            in_flight: Gauge::default(),
            waiting: Gauge::default(),
        };
        inner.register(registry);
        Metrics(Arc::new(inner))
    }

    pub fn attempt(&self, outcome: &'static str, took: Duration) {
        self.0.attempts.get_or_create(&OutcomeLabel { outcome }).inc();
        self.0.attempt.observe(took.as_secs_f64());
    }

    pub fn tokens(&self, usage: &Usage) {
        for (kind, tokens) in [
            ("prompt", usage.prompt_tokens),
            ("cached_prompt", usage.cached_tokens),
            ("completion", usage.completion_tokens),
            ("reasoning", usage.reasoning_tokens),
        ] {
            self.0.tokens.get_or_create(&KindLabel { kind }).inc_by(tokens);
        }
    }

    pub fn retry(&self) {
        self.0.retries.inc();
    }

    pub fn reask(&self) {
        self.0.reasks.inc();
    }

    pub fn cache_hit(&self) {
        self.0.cache_hits.inc();
    }

    pub fn refused(&self) {
        self.0.refused.inc();
    }

    pub fn degraded(&self, parameter: &'static str) {
        self.0.degradations.get_or_create(&ParameterLabel { parameter }).inc();
    }

    pub fn breaker(&self, state: BreakerState) {
        self.0.breaker_open.set(i64::from(state != BreakerState::Closed));
    }

    pub fn load(&self, limit: usize, in_flight: usize, waiting: usize) {
        let whole = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.0.concurrency_limit.set(whole(limit));
        self.0.in_flight.set(whole(in_flight));
        self.0.waiting.set(whole(waiting));
    }
}

impl Inner {
    fn register(&self, registry: &mut Registry) {
        registry.register("attempts", "HTTP requests, by how they ended", self.attempts.clone());
        registry.register("attempt_seconds", "Time of one HTTP request", self.attempt.clone());
        registry.register("tokens", "Tokens by the endpoint's count", self.tokens.clone());
        registry.register("retries", "Requests sent again after a failure", self.retries.clone());
        registry.register(
            "reasks",
            "Questions asked again, as no verdict could be read",
            self.reasks.clone(),
        );
        registry.register("cache_hits", "Questions answered without a request", self.cache_hits.clone());
        registry.register("queue_refusals", "Requests refused as the queue was full", self.refused.clone());
        registry.register(
            "degradations",
            "Parameters given up as the endpoint does not take them",
            self.degradations.clone(),
        );
        registry.register("breaker_open", "1 while requests are held back", self.breaker_open.clone());
        registry.register(
            "concurrency_limit",
            "Requests that may be under way at once",
            self.concurrency_limit.clone(),
        );
        registry.register("in_flight_requests", "Requests under way", self.in_flight.clone());
        registry.register("queued_requests", "Requests that wait for their turn", self.waiting.clone());
    }
}
