//! Embedding relevance: how near the contexts are to the user's input.
//!
//! Range 0 to 1, higher is better. An approximation for use without a judge: a context that is near to a question
//! need not answer it. Source: the definition is Assay's.

use crate::evaluate::{
    metric::Definition,
    sample::Field::{RetrievedContexts, UserInput},
    score::Estimate,
};

pub const DEFINITION: Definition = Definition {
    name: "embedding_relevance",
    needs: &[UserInput, RetrievedContexts],
    formula: "approximate: mean over the contexts of the highest cosine of one of their sentences with the user's \
              input, from 0",
    source: "the definition is Assay's",
    ..Definition::VECTOR
};

/// `best` has for each context with sentences the highest cosine of one of them with the input.
pub fn score(best: &[f64]) -> Estimate {
    if best.is_empty() {
        return Estimate::NotApplicable("there are no sentences to compare");
    }
    Estimate::Exact(best.iter().sum::<f64>() / best.len() as f64)
}
