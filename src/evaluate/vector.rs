//! Metrics that compare vectors of the server's own model.

pub mod embedding_groundedness;
pub mod embedding_relevance;
mod rows;
pub mod semantic_similarity;

use std::{ops::Range, sync::Arc};

use super::{
    cancellation::{Cancellation, Cancelled},
    finding::{Computation, Finding},
    result::Failure,
    score::Estimate,
    steps::{Sentences, Steps},
};

pub use rows::{BestOf, VectorRows};

/// The sentences of the sample, or, where they are more than may be compared, the finding that says so.
async fn few_sentences(steps: &Steps<'_>) -> Result<Result<Arc<Sentences>, Computation>, Failure> {
    let (sentences, limit) = (steps.sentences().await?, steps.shared.sentences);
    if sentences.count <= limit {
        return Ok(Ok(sentences));
    }
    let reason =
        format!("the sample has {} sentences; the limit is {limit} (max-sentences)", sentences.count);
    Ok(Err(Computation::done(Finding::of(Estimate::NotApplicable(""), reason))))
}

/// Returns for each row of `left` the highest cosine with a row of `right` within `range`.
fn best_of(
    left: &VectorRows,
    right: &VectorRows,
    range: Range<usize>,
    cancellation: Cancellation<'_>,
) -> Result<Vec<f64>, Cancelled> {
    let mut best = BestOf::default();
    loop {
        cancellation.check()?;
        if let Some(best) = best.compare_more(left, right, range.clone()) {
            return Ok(best.to_vec());
        }
    }
}

/// Cosine of two vectors of the same length; 0 where one of them is all zeros.
pub fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>();
    let lengths = (dot(a, a) * dot(b, b)).sqrt();
    // Rounding may carry it over the edge by the last bit.
    if lengths > 0.0 { (dot(a, b) / lengths).clamp(-1.0, 1.0) } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cosine_is_finite_and_within_its_range() {
        assert_eq!(cosine(&[0.0, 0.0], &[1.0, 0.0]), 0.0);
        assert_eq!(cosine(&[3.0, 4.0], &[3.0, 4.0]), 1.0);
        assert_eq!(cosine(&[1.0, 0.0], &[-2.0, 0.0]), -1.0);
    }
}
