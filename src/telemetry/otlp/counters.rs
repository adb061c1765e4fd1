//! Counters of exported and dropped items.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};

/// Kind of exported data.
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

/// Reason why an item was not delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DropReason {
    QueueFull,
    /// All attempts failed.
    Failed,
    /// The collector accepted the request but rejected these items.
    Rejected,
    /// The process ended before they were sent.
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
struct DropLabel {
    signal: &'static str,
    reason: &'static str,
}

/// Metrics of the exporter.
#[derive(Clone)]
pub(super) struct ExportCounters {
    sent: Family<SignalLabel, Counter>,
    dropped: Family<DropLabel, Counter>,
}

impl ExportCounters {
    pub fn register(registry: &mut Registry) -> ExportCounters {
        let counters = ExportCounters { sent: Family::default(), dropped: Family::default() };
        let registry = registry.sub_registry_with_prefix("assay_otlp");
        registry.register(
            "sent",
            "Spans, events and data points accepted by the OTLP collector",
            counters.sent.clone(),
        );
        registry.register(
            "dropped",
            "Spans, events and data points that were not delivered, by reason",
            counters.dropped.clone(),
        );
        counters
    }

    pub fn sent(&self, signal: OtlpSignal, count: u64) {
        self.sent.get_or_create(&SignalLabel { signal: signal.name() }).inc_by(count);
    }

    pub fn dropped(&self, signal: OtlpSignal, why: DropReason, count: u64) {
        self.dropped.get_or_create(&DropLabel { signal: signal.name(), reason: why.name() }).inc_by(count);
    }
}
