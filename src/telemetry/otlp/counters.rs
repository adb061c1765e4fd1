//! What became of what was to be sent.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OtlpSignal {
    Traces,
    Events,
    Metrics,
}

impl OtlpSignal {
    pub fn name(self) -> &'static str {
        match self {
            OtlpSignal::Traces => "traces",
            OtlpSignal::Events => "events",
            OtlpSignal::Metrics => "metrics",
        }
    }
}

/// Why something was not delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DropReason {
    QueueFull,
    /// No try came through.
    Failed,
    /// The collector took the request, but not these.
    Rejected,
    /// The process ended before.
    Stopped,
}

impl DropReason {
    fn name(self) -> &'static str {
        match self {
            DropReason::QueueFull => "queue_full",
            DropReason::Failed => "failed",
            DropReason::Rejected => "rejected",
            DropReason::Stopped => "stopped",
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
pub(super) struct ExportCounters {
    sent: Family<SignalLabel, Counter>,
    lost: Family<LossLabel, Counter>,
}

impl ExportCounters {
    pub fn register(registry: &mut Registry) -> ExportCounters {
        let counts = ExportCounters { sent: Family::default(), lost: Family::default() };
        let registry = registry.sub_registry_with_prefix("assay_otlp");
        registry.register("sent", "Spans, events and points that the collector took", counts.sent.clone());
        registry.register("dropped", "Those that it did not get, by reason", counts.lost.clone());
        counts
    }

    pub fn sent(&self, signal: OtlpSignal, count: u64) {
        self.sent.get_or_create(&SignalLabel { signal: signal.name() }).inc_by(count);
    }

    pub fn dropped(&self, signal: OtlpSignal, why: DropReason, count: u64) {
        self.lost.get_or_create(&LossLabel { signal: signal.name(), reason: why.name() }).inc_by(count);
    }
}
