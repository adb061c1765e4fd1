//! What a trace hears of the way of a call through the compute threads.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use super::{
    compute_threads::{ComputedVector, ForwardPass},
    error::EmbedError,
};
use crate::trace::{KeyValue, Scope, Span};

/// Spans of the wait for the first pass, and of each pass with the caller's part in it.
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
                KeyValue::new("assay.inputs", count(inputs)),
                KeyValue::new("assay.pass.number", i64::try_from(pass.number).unwrap_or(i64::MAX)),
                KeyValue::new("assay.pass.inputs", count(pass.inputs)),
                KeyValue::new("assay.pass.tokens", count(pass.tokens)),
            ]
        });
        span.end_before(pass.started + compute);
    }
    computed
}

pub(super) fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
