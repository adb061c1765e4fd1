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
    string_similarity::{Measure, similarity},
};
use crate::evaluate::progress::{Progress, Stopped};

/// When two contexts are the same.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// How similarity is measured.
    pub measure: Measure,
    /// The similarity from which on they are; 0.5 as a rule.
    pub threshold: f64,
}

impl Default for Options {
    fn default() -> Options {
        Options { measure: Measure::Levenshtein, threshold: 0.5 }
    }
}

/// Average precision over the retrieved contexts; `None` without retrieved or reference contexts.
pub fn precision(contexts: Retrieval<'_>, options: &Options) -> Option<f64> {
    precision_of(&Similarities::of(contexts, options.measure), options.threshold)
}

/// Share of the reference contexts that were retrieved; `None` if there is none.
pub fn recall(contexts: Retrieval<'_>, options: &Options) -> Option<f64> {
    recall_of(&Similarities::of(contexts, options.measure), options.threshold)
}

/// As [`precision`].
pub fn precision_of(similarities: &Similarities, threshold: f64) -> Option<f64> {
    if similarities.retrieved == 0 || similarities.reference == 0 {
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

/// As [`recall`].
pub fn recall_of(similarities: &Similarities, threshold: f64) -> Option<f64> {
    let found = similarities.of_reference().filter(|similarity| *similarity > threshold).count();
    (similarities.reference > 0).then(|| ratio(found, similarities.reference))
}

/// The similarity of each retrieved context to each reference context: what precision and recall are made of.
#[derive(Clone, Debug)]
pub struct Similarities {
    retrieved: usize,
    reference: usize,
    /// Row by row, one row for each retrieved context.
    values: Vec<f64>,
}

impl Similarities {
    pub fn of(contexts: Retrieval<'_>, measure: Measure) -> Similarities {
        let mut similarities = Similarities::before(contexts);
        while !Progress::unlimited(|progress| similarities.compare_more(contexts, measure, progress)) {}
        similarities
    }

    /// Before any two contexts are compared.
    pub fn before(contexts: Retrieval<'_>) -> Similarities {
        let (retrieved, reference) = (contexts.retrieved.len(), contexts.reference.len());
        Similarities { retrieved, reference, values: Vec::with_capacity(retrieved * reference) }
    }

    /// Compares the next two of the same contexts; true once all are compared.
    ///
    /// # Errors
    /// [`Stopped`] if nobody waits any more.
    pub fn compare_more(
        &mut self,
        contexts: Retrieval<'_>,
        measure: Measure,
        progress: Progress<'_>,
    ) -> Result<bool, Stopped> {
        let (next, all) = (self.values.len(), self.retrieved * self.reference);
        if next < all {
            let (row, column) = (next / self.reference, next % self.reference);
            let (retrieved, reference) = (contexts.retrieved[row], contexts.reference[column]);
            self.values.push(similarity(reference, retrieved, measure, progress)?);
        }
        Ok(self.values.len() == all)
    }

    /// For each retrieved context the similarity to the reference context closest to it.
    fn of_retrieved(&self) -> impl Iterator<Item = f64> {
        self.values.chunks(self.reference.max(1)).map(|row| highest(row.iter().copied()))
    }

    /// For each reference context the similarity to the retrieved context closest to it.
    fn of_reference(&self) -> impl Iterator<Item = f64> {
        let column = |column| self.values.iter().skip(column).step_by(self.reference).copied();
        (0..self.reference).map(move |index| highest(column(index)))
    }
}

/// Below any threshold if there is none.
fn highest(similarities: impl Iterator<Item = f64>) -> f64 {
    similarities.fold(f64::NEG_INFINITY, f64::max)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(retrieved: &[&str], reference: &[&str], expected: [Option<f64>; 2]) {
        let contexts = Retrieval { retrieved, reference };
        let options = Options::default();
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
            let options = Options { threshold, ..Options::default() };
            let contexts = Retrieval { retrieved: &a, reference: &b };
            for score in [precision(contexts, &options), recall(contexts, &options)].into_iter().flatten() {
                prop_assert!((0.0..=1.0).contains(&score), "{}", score);
            }
            let options = Options { threshold: below_one, ..Options::default() };
            let same = Retrieval { retrieved: &a, reference: &a };
            let expected = (!a.is_empty()).then_some(1.0);
            prop_assert_eq!((precision(same, &options), recall(same, &options)), (expected, expected));
        }
    }
}
