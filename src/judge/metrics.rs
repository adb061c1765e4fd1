//! Prometheus metrics of judges.

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

use super::{breaker::BreakerState, wire::TokenUsage};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct JudgeLabel {
    judge: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabel {
    judge: String,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabel {
    judge: String,
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ParameterLabel {
    judge: String,
    parameter: &'static str,
}

type Histograms = Family<JudgeLabel, Histogram, fn() -> Histogram>;

/// Metric families of all judges, distinguished by the label `judge`.
#[derive(Clone)]
pub(super) struct JudgeMetricFamilies {
    attempts: Family<OutcomeLabel, Counter>,
    attempt: Histograms,
    tokens: Family<KindLabel, Counter>,
    retries: Family<JudgeLabel, Counter>,
    reasks: Family<JudgeLabel, Counter>,
    cache_hits: Family<JudgeLabel, Counter>,
    refused: Family<JudgeLabel, Counter>,
    degradations: Family<ParameterLabel, Counter>,
    breaker_open: Family<JudgeLabel, Gauge>,
    concurrency_limit: Family<JudgeLabel, Gauge>,
    in_flight: Family<JudgeLabel, Gauge>,
    waiting: Family<JudgeLabel, Gauge>,
}

/// Metrics of one judge.
#[derive(Clone)]
pub(super) struct JudgeMetrics(Arc<JudgeMetricsInner>);

struct JudgeMetricsInner {
    judge: String,
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

impl JudgeMetricFamilies {
    pub fn register(registry: &mut Registry) -> JudgeMetricFamilies {
        let histogram: fn() -> Histogram = || Histogram::new(exponential_buckets(0.01, 2.0, 15));
        let families = JudgeMetricFamilies {
            attempts: Family::default(),
            attempt: Family::new_with_constructor(histogram),
            tokens: Family::default(),
            retries: Family::default(),
            reasks: Family::default(),
            cache_hits: Family::default(),
            refused: Family::default(),
            degradations: Family::default(),
            breaker_open: Family::default(),
            concurrency_limit: Family::default(),
            in_flight: Family::default(),
            waiting: Family::default(),
        };
        families.register_in(registry.sub_registry_with_prefix("assay_judge"));
        families
    }

    fn register_in(&self, registry: &mut Registry) {
        registry.register("attempts", "HTTP requests to the judge, by outcome", self.attempts.clone());
        registry.register("attempt_seconds", "Duration of HTTP requests to the judge", self.attempt.clone());
        registry.register("tokens", "Tokens as reported by the endpoint, by kind", self.tokens.clone());
        registry.register("retries", "Requests that were retried after a failure", self.retries.clone());
        registry.register(
            "reasks",
            "Questions repeated because the answer held no valid verdict",
            self.reasks.clone(),
        );
        registry.register(
            "cache_hits",
            "Questions answered from the cache, a recording or another caller's request",
            self.cache_hits.clone(),
        );
        registry.register(
            "queue_refusals",
            "Requests rejected because the queue was full",
            self.refused.clone(),
        );
        registry.register(
            "degradations",
            "Request parameters dropped because the endpoint rejected them",
            self.degradations.clone(),
        );
        registry.register(
            "breaker_open",
            "1 while the circuit breaker is open or half-open, else 0",
            self.breaker_open.clone(),
        );
        registry.register(
            "concurrency_limit",
            "Maximum number of concurrent requests at present",
            self.concurrency_limit.clone(),
        );
        registry.register("in_flight_requests", "Requests in flight", self.in_flight.clone());
        registry.register("queued_requests", "Requests in the queue", self.waiting.clone());
    }

    /// Metrics of the judge with this name.
    pub fn for_judge(&self, judge: &str) -> JudgeMetrics {
        let label = JudgeLabel { judge: judge.to_owned() };
        let counter = |family: &Family<JudgeLabel, Counter>| family.get_or_create(&label).clone();
        let gauge = |family: &Family<JudgeLabel, Gauge>| family.get_or_create(&label).clone();
        JudgeMetrics(Arc::new(JudgeMetricsInner {
            attempts: self.attempts.clone(),
            attempt: self.attempt.get_or_create(&label).clone(),
            tokens: self.tokens.clone(),
            retries: counter(&self.retries),
            reasks: counter(&self.reasks),
            cache_hits: counter(&self.cache_hits),
            refused: counter(&self.refused),
            degradations: self.degradations.clone(),
            breaker_open: gauge(&self.breaker_open),
            concurrency_limit: gauge(&self.concurrency_limit),
            in_flight: gauge(&self.in_flight),
            waiting: gauge(&self.waiting),
            judge: judge.to_owned(),
        }))
    }
}

impl JudgeMetrics {
    pub fn attempt(&self, outcome: &'static str, took: Duration) {
        self.0.attempts.get_or_create(&OutcomeLabel { judge: self.0.judge.clone(), outcome }).inc();
        self.0.attempt.observe(took.as_secs_f64());
    }

    pub fn tokens(&self, usage: &TokenUsage) {
        for (kind, tokens) in [
            ("prompt", usage.prompt_tokens),
            ("cached_prompt", usage.cached_tokens),
            ("completion", usage.completion_tokens),
            ("reasoning", usage.reasoning_tokens),
        ] {
            self.0.tokens.get_or_create(&KindLabel { judge: self.0.judge.clone(), kind }).inc_by(tokens);
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
        self.0.degradations.get_or_create(&ParameterLabel { judge: self.0.judge.clone(), parameter }).inc();
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_are_registered_once_and_labelled_by_judge() {
        let mut registry = Registry::default();
        let families = JudgeMetricFamilies::register(&mut registry);
        let (one, other) = (families.for_judge("one"), families.for_judge("other"));
        one.attempt("ok", Duration::from_millis(20));
        other.retry();
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).expect("metrics");
        let mut types: Vec<&str> = text.lines().filter(|line| line.starts_with("# TYPE")).collect();
        let all = types.len();
        types.sort_unstable();
        types.dedup();
        // All but tokens and degradations, of which there are none yet.
        assert_eq!((all, types.len()), (10, 10), "{text}");
        for line in [
            "assay_judge_attempts_total{judge=\"one\",outcome=\"ok\"} 1",
            "assay_judge_retries_total{judge=\"one\"} 0",
            "assay_judge_retries_total{judge=\"other\"} 1",
        ] {
            assert!(text.contains(line), "{line} is not in:\n{text}");
        }
    }
}
