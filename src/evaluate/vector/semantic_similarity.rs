//! Semantic similarity: the cosine of the vectors of response and reference.
//!
//! Range -1 to 1, or 0 and 1 with a threshold; higher is better. Source: RAGAS, semantic similarity.

use super::cosine;
use crate::evaluate::{
    metric::Definition,
    sample::Field::{Reference, Response},
    score::Estimate,
};

pub const DEFINITION: Definition = Definition {
    name: "semantic_similarity",
    needs: &[Response, Reference],
    lowest: -1.0,
    options_field: "semantic_similarity",
    formula: "cosine of the vectors of response and reference; with a threshold 1 where the cosine reaches it, else 0",
    source: "RAGAS, SemanticSimilarity",
    differs: "The model is the server's. Text that the model cannot hold is cut at the end, and the reason says so.",
    ..Definition::VECTOR
};

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Options {
    pub threshold: Option<f64>,
}

/// From the two vectors.
pub fn score(response: &[f32], reference: &[f32], options: &Options) -> Estimate {
    let similarity = cosine(response, reference);
    let reached = |threshold: f64| f64::from(u8::from(similarity >= threshold));
    Estimate::Exact(options.threshold.map_or(similarity, reached))
}
