//! Metrics of calls. Label values come from the table of methods, never from a client.

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

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct MethodLabel {
    pub method: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct RpcLabel {
    pub method: &'static str,
    pub code: &'static str,
}

#[derive(Clone)]
pub(super) struct RpcMetrics {
    pub started: Family<MethodLabel, Counter>,
    pub open: Family<MethodLabel, Gauge>,
    pub seconds: Family<RpcLabel, Histogram, fn() -> Histogram>,
}

impl RpcMetrics {
    pub fn register(registry: &mut Registry) -> RpcMetrics {
        let seconds: fn() -> Histogram = || Histogram::new(exponential_buckets(0.000_25, 2.0, 18));
        let metrics = RpcMetrics {
            started: Family::default(),
            open: Family::default(),
            seconds: Family::new_with_constructor(seconds),
        };
        let registry = registry.sub_registry_with_prefix("assay_rpc");
        registry.register("started", "Calls started, by method", metrics.started.clone());
        registry.register("open", "Calls in flight, by method", metrics.open.clone());
        registry.register(
            "seconds",
            "Time from the arrival of a call to its end, by method and gRPC code",
            metrics.seconds.clone(),
        );
        metrics
    }
}
