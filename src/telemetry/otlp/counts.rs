//! What became of what was to be sent.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signal {
    Traces,
    Events,
    Metrics,
}

impl Signal {
    pub fn name(self) -> &'static str {
        match self {
            Signal::Traces => "traces",
            Signal::Events => "events",
            Signal::Metrics => "metrics",
        }
    }
}

/// Why something was not delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Loss {
    QueueFull,
    /// No try came through.
    Failed,
    /// The collector took the request, but not these.
    Rejected,
    /// The process ended before.
    Stopped,
}

impl Loss {
    fn name(self) -> &'static str {
        match self {
            Loss::QueueFull => "queue_full",
            Loss::Failed => "failed",
            Loss::Rejected => "rejected",
            Loss::Stopped => "stopped",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SignalLabel {
    signal: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LossLabel {
    signal: &'static str,
    reason: &'static str,
}

#[derive(Clone)]
pub(super) struct Counts {
    sent: Family<SignalLabel, Counter>,
    lost: Family<LossLabel, Counter>,
}

impl Counts {
    pub fn register(registry: &mut Registry) -> Counts {
        let counts = Counts { sent: Family::default(), lost: Family::default() };
        let registry = registry.sub_registry_with_prefix("assay_otlp");
        registry.register("sent", "Spans, events and points that the collector took", counts.sent.clone());
        registry.register("dropped", "Those that it did not get, by reason", counts.lost.clone());
        counts
    }

    pub fn sent(&self, signal: Signal, count: u64) {
        self.sent.get_or_create(&SignalLabel { signal: signal.name() }).inc_by(count);
    }

    pub fn lost(&self, signal: Signal, why: Loss, count: u64) {
        self.lost.get_or_create(&LossLabel { signal: signal.name(), reason: why.name() }).inc_by(count);
    }
}
