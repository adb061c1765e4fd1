//! OpenTelemetry spans for queueing and forward passes.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use super::{
    compute_threads::{ComputedVector, ForwardPass},
    error::EmbedError,
};
use crate::trace::{KeyValue, Scope, Span};

/// Ends the span `waiting` at the start of the first forward pass, and adds one span for each forward pass of the request.
/// Returns `computed` unchanged.
pub(super) fn record_compute_spans(
    scope: &Scope,
    waiting: Span,
    computed: Result<Vec<ComputedVector>, EmbedError>,
) -> Result<Vec<ComputedVector>, EmbedError> {
    if !waiting.is_recorded() {
        return computed;
    }
    let mut passes: BTreeMap<Instant, (ForwardPass, Duration, usize)> = BTreeMap::new();
    for ComputedVector { pass, compute, .. } in computed.iter().flatten() {
        passes.entry(pass.started).or_insert((*pass, *compute, 0)).2 += 1;
    }
    match (passes.keys().next(), &computed) {
        (Some(first), Ok(_)) => waiting.end_before(*first),
        _ => waiting.end_with(&computed, EmbedError::kind),
    }
    for (pass, compute, inputs) in passes.into_values() {
        let mut span = scope.child_since("compute", pass.started);
        span.describe(|| {
            [
                KeyValue::new("assay.inputs", to_attribute(inputs)),
                KeyValue::new("assay.pass.number", i64::try_from(pass.number).unwrap_or(i64::MAX)),
                KeyValue::new("assay.pass.inputs", to_attribute(pass.inputs)),
                KeyValue::new("assay.pass.tokens", to_attribute(pass.tokens)),
            ]
        });
        span.end_before(pass.started + compute);
    }
    computed
}

/// Converts a count to the integer type of span attributes.
pub(super) fn to_attribute(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
