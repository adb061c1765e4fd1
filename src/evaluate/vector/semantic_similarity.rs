//! Semantic similarity: the cosine of the vectors of response and reference.
//!
//! Range -1 to 1, or 0 and 1 with a threshold; higher is better. Source: RAGAS, semantic similarity.

use super::cosine;
use crate::evaluate::{
    definition::Definition,
    finding::{Computation, Finding, Found},
    metric::MetricType,
    options::OptionReader,
    sample::Field::{Reference, Response},
    score::Estimate,
    steps::{Ledger, Steps},
};
use crate::proto::metric_selection::Options;

/// The cosine of response and reference.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SemanticSimilarity {
    /// The cosine from which on the score is 1, and 0 below it; None for the cosine itself.
    pub threshold: Option<f64>,
}

/// Computes the score from the vectors of response and reference.
pub fn score(response: &[f32], reference: &[f32], options: &SemanticSimilarity) -> Estimate {
    let similarity = cosine(response, reference);
    let reached = |threshold: f64| f64::from(u8::from(similarity >= threshold));
    Estimate::Exact(options.threshold.map_or(similarity, reached))
}

impl MetricType for SemanticSimilarity {
    const DEFINITION: &Definition = &Definition {
        name: "semantic_similarity",
        needs: &[Response, Reference],
        lowest: -1.0,
        options_field: "semantic_similarity",
        formula: "cosine of the vectors of response and reference; with a threshold 1 where the cosine reaches it, else 0",
        source: "RAGAS, SemanticSimilarity",
        differs: "The model is the server's. Text that the model cannot hold is cut at the end, and the reason says so.",
        ..Definition::VECTOR
    };

    fn read(options: Options, reader: &mut OptionReader<'_>) -> Option<SemanticSimilarity> {
        let Options::SemanticSimilarity(options) = options else { return None };
        let field = "semantic_similarity.threshold";
        let threshold =
            options.threshold.map(|threshold| reader.number(field, Some(threshold), 0.0, -1.0..=1.0));
        Some(SemanticSimilarity { threshold })
    }

    async fn find(&self, steps: &Steps<'_>, _: &mut Ledger) -> Found {
        let (vectors, options) = (steps.answer_rows().await?, self.clone());
        Ok(Computation::of(move || {
            let estimate = score(vectors.rows.row(0), vectors.rows.row(1), &options);
            Finding::of(estimate, "").noting_truncation(vectors.cut)
        }))
    }
}
