//! Context precision and recall by ids: sets of what was retrieved and of what should have been. 0 to 1, higher is
//! better.
//!
//! Precision is the share of the retrieved ids that are reference ids, recall the share of the reference ids that were
//! retrieved; an id counts once. Source: RAGAS's IDBasedContextPrecision and IDBasedContextRecall, which give NaN where
//! there is `None` here.

use super::compare;
use crate::evaluate::{
    definition::Definition,
    finding::Found,
    metric::MetricType,
    steps::{Ledger, Steps},
};
use crate::evaluate::{
    pool::Length,
    sample::Field::{ReferenceContextIds, RetrievedContextIds},
};

use super::{Retrieval, ngrams::ratio};
use std::collections::HashSet;

/// The share of the retrieved ids that are reference ids.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct IdContextPrecision;

/// The share of the reference ids that were retrieved.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct IdContextRecall;

/// EvaluatorState ids / retrieved ids; `None` if nothing was retrieved.
pub fn precision(ids: Retrieval<'_>) -> Option<f64> {
    share(ids.retrieved, ids.reference)
}

/// EvaluatorState ids / reference ids; `None` if there is no reference id.
pub fn recall(ids: Retrieval<'_>) -> Option<f64> {
    share(ids.reference, ids.retrieved)
}

fn share(of: &[&str], found_in: &[&str]) -> Option<f64> {
    let [of, found_in] = [of, found_in].map(|ids| ids.iter().collect::<HashSet<_>>());
    (!of.is_empty()).then(|| ratio(of.intersection(&found_in).count(), of.len()))
}

const IDS: Definition =
    Definition { needs: &[RetrievedContextIds, ReferenceContextIds], ..Definition::LEXICAL };

impl MetricType for IdContextPrecision {
    const DEFINITION: &Definition = &Definition {
        name: "id_context_precision",
        formula: "retrieved ids that are reference ids / retrieved ids, as sets",
        source: "RAGAS, IDBasedContextPrecision",
        ..IDS
    };

    async fn find(&self, steps: &Steps<'_>, _: &mut Ledger) -> Found {
        compare(steps, Length::Short, |texts, _| Ok(texts.retrieval(|context| &context.id, precision)))
    }
}

impl MetricType for IdContextRecall {
    const DEFINITION: &Definition = &Definition {
        name: "id_context_recall",
        formula: "reference ids that were retrieved / reference ids, as sets",
        source: "RAGAS, IDBasedContextRecall",
        ..IDS
    };

    async fn find(&self, steps: &Steps<'_>, _: &mut Ledger) -> Found {
        compare(steps, Length::Short, |texts, _| Ok(texts.retrieval(|context| &context.id, recall)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(retrieved: &[&str], reference: &[&str], expected: [Option<f64>; 2]) {
        let ids = Retrieval { retrieved, reference };
        assert_eq!([precision(ids), recall(ids)], expected, "{retrieved:?} {reference:?}");
    }

    #[test]
    fn ids_are_sets() {
        check(&["a", "b", "b", "c"], &["b", "d"], [Some(1.0 / 3.0), Some(0.5)]);
        check(&["甲", "乙"], &["乙", "甲"], [Some(1.0), Some(1.0)]);
        check(&["a"], &[], [Some(0.0), None]);
        check(&[], &["a"], [None, Some(0.0)]);
        check(&[], &[], [None, None]);
    }
}
