//! Context precision and recall by string similarity, without a judge. 0 to 1, higher is better.
//!
//! A retrieved context is relevant if its similarity to some reference context is at least the threshold; precision is
//! the average precision over the ranks: Σ P@i · vᵢ / Σ vᵢ, 0 if none is relevant. Recall is the share of reference
//! contexts whose similarity to some retrieved context is above the threshold. Source: RAGAS's
//! NonLLMContextPrecisionWithReference, which adds 1e-10 to the divisor, and NonLLMContextRecall. A similarity equal to
//! the threshold counts in the first alone, as it does there.

use super::{
    Retrieval,
    ngrams::ratio,
    similarities::Similarities,
    string_similarity::{StringMeasure, read_measure},
};
use crate::evaluate::{
    definition::Definition,
    finding::{Computation, Finding, Found},
    metric::MetricType,
    options::OptionReader,
    sample::Field::{ReferenceContexts, RetrievedContexts},
    score::Estimate,
    steps::{Ledger, Steps},
};
use crate::proto::metric_selection::Options;

/// When two contexts are the same.
#[derive(Clone, Debug, PartialEq)]
pub struct ContextMatch {
    /// The measure of similarity.
    pub measure: StringMeasure,
    /// The similarity from which on they are; 0.5 as a rule.
    pub threshold: f64,
}

impl Default for ContextMatch {
    fn default() -> ContextMatch {
        ContextMatch { measure: StringMeasure::Levenshtein, threshold: 0.5 }
    }
}

/// Average precision of the retrieved contexts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TextContextPrecision(pub ContextMatch);

/// The share of the reference contexts that were retrieved.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TextContextRecall(pub ContextMatch);

/// Average precision over the retrieved contexts; `None` without retrieved or reference contexts.
pub fn precision(contexts: Retrieval<'_>, options: &ContextMatch) -> Option<f64> {
    precision_of(&Similarities::of(contexts, options.measure), options.threshold)
}

/// Share of the reference contexts that were retrieved; `None` if there is none.
pub fn recall(contexts: Retrieval<'_>, options: &ContextMatch) -> Option<f64> {
    recall_of(&Similarities::of(contexts, options.measure), options.threshold)
}

/// Computes [`precision`] from similarities.
pub fn precision_of(similarities: &Similarities, threshold: f64) -> Option<f64> {
    if similarities.is_empty() {
        return None;
    }
    let mut relevant = 0;
    let mut precisions = 0.0;
    for (rank, similarity) in similarities.of_retrieved().enumerate() {
        if similarity >= threshold {
            relevant += 1;
            precisions += ratio(relevant, rank + 1);
        }
    }
    Some(if relevant == 0 { 0.0 } else { precisions / relevant as f64 })
}

/// Computes [`recall`] from similarities.
pub fn recall_of(similarities: &Similarities, threshold: f64) -> Option<f64> {
    let found = similarities.of_reference().filter(|similarity| *similarity > threshold).count();
    let reference = similarities.reference();
    (reference > 0).then(|| ratio(found, reference))
}

const CONTEXTS: Definition = Definition {
    needs: &[RetrievedContexts, ReferenceContexts],
    options_field: "context_match",
    ..Definition::LEXICAL
};

impl ContextMatch {
    fn read(options: Options, reader: &mut OptionReader<'_>) -> Option<ContextMatch> {
        let Options::ContextMatch(options) = options else { return None };
        let measure = read_measure(reader, "context_match.measure", options.measure);
        let threshold = reader.number("context_match.threshold", options.threshold, 0.5, 0.0..=1.0);
        Some(ContextMatch { measure, threshold })
    }

    /// `score` takes the similarities and the threshold.
    async fn find(&self, steps: &Steps<'_>, score: fn(&Similarities, f64) -> Option<f64>) -> Found {
        let similarities = steps.similarities(self.measure).await?;
        let threshold = self.threshold;
        Ok(Computation::of(move || {
            let nothing = Estimate::NotApplicable("there is nothing to compare");
            Finding::of(score(&similarities, threshold).map_or(nothing, Estimate::Exact), "")
        }))
    }
}

impl MetricType for TextContextPrecision {
    const DEFINITION: &Definition = &Definition {
        name: "text_context_precision",
        formula: "average precision of the ranked contexts; one is relevant if its similarity to a reference context is \
                  at least 0.5",
        source: "RAGAS, NonLLMContextPrecisionWithReference",
        differs: "RAGAS adds 1e-10 to the divisor.",
        ..CONTEXTS
    };

    fn read(options: Options, reader: &mut OptionReader<'_>) -> Option<TextContextPrecision> {
        ContextMatch::read(options, reader).map(TextContextPrecision)
    }

    async fn find(&self, steps: &Steps<'_>, _: &mut Ledger) -> Found {
        self.0.find(steps, precision_of).await
    }
}

impl MetricType for TextContextRecall {
    const DEFINITION: &Definition = &Definition {
        name: "text_context_recall",
        formula: "reference contexts whose similarity to a retrieved context is above 0.5 / reference contexts",
        source: "RAGAS, NonLLMContextRecall",
        ..CONTEXTS
    };

    fn read(options: Options, reader: &mut OptionReader<'_>) -> Option<TextContextRecall> {
        ContextMatch::read(options, reader).map(TextContextRecall)
    }

    async fn find(&self, steps: &Steps<'_>, _: &mut Ledger) -> Found {
        self.0.find(steps, recall_of).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(retrieved: &[&str], reference: &[&str], expected: [Option<f64>; 2]) {
        let contexts = Retrieval { retrieved, reference };
        let options = ContextMatch::default();
        assert_eq!(
            [precision(contexts, &options), recall(contexts, &options)],
            expected,
            "{retrieved:?} {reference:?}"
        );
    }

    #[test]
    fn relevant_contexts_weigh_more_the_higher_they_rank() {
        check(&["abcd", "xxxx"], &["abce"], [Some(1.0), Some(1.0)]);
        check(&["xxxx", "abcd"], &["abce"], [Some(0.5), Some(1.0)]);
        check(
            &["法国首都", "甲乙丙丁", "德国首都"],
            &["德国首都", "完全不同"],
            [Some((1.0 + 2.0 / 3.0) / 2.0), Some(0.5)],
        );
        check(&["xxxx"], &["abcd"], [Some(0.0), Some(0.0)]);
    }

    #[test]
    fn the_threshold_itself_counts_for_precision_alone() {
        check(&["abxx"], &["abcd"], [Some(1.0), Some(0.0)]);
    }

    #[test]
    fn no_contexts_have_no_score() {
        check(&[], &["a"], [None, Some(0.0)]);
        check(&["a"], &[], [None, None]);
    }

    proptest! {
        #[test]
        fn scores_are_shares_and_one_for_the_same_contexts(
            a in prop::collection::vec("[ab你好]{0,6}", 0..5), b in prop::collection::vec("[ab你好]{0,6}", 0..5), threshold in any::<f64>(), below_one in 0.0..1.0,
        ) {
            let a: Vec<&str> = a.iter().map(String::as_str).collect();
            let b: Vec<&str> = b.iter().map(String::as_str).collect();
            let options = ContextMatch { threshold, ..ContextMatch::default() };
            let contexts = Retrieval { retrieved: &a, reference: &b };
            for score in [precision(contexts, &options), recall(contexts, &options)].into_iter().flatten() {
                prop_assert!((0.0..=1.0).contains(&score), "{}", score);
            }
            let options = ContextMatch { threshold: below_one, ..ContextMatch::default() };
            let same = Retrieval { retrieved: &a, reference: &a };
            let expected = (!a.is_empty()).then_some(1.0);
            prop_assert_eq!((precision(same, &options), recall(same, &options)), (expected, expected));
        }
    }
}
