//! Embedding groundedness: how near the response's sentences are to sentences of the contexts.
//!
//! Range 0 to 1, higher is better. An approximation for use without a judge: nearness is not support, and a
//! sentence that contradicts a context is near to it. Source: the definition is Assay's, after the precision of BERTScore,
//! arXiv:1904.09675, on sentences.

use crate::evaluate::{
    metric::Definition,
    sample::Field::{Response, RetrievedContexts},
    score::Estimate,
};

pub const DEFINITION: Definition = Definition {
    name: "embedding_groundedness",
    needs: &[Response, RetrievedContexts],
    formula: "approximate: mean over the response's sentences of the highest cosine with a sentence of the contexts, \
              each from 0",
    source: "the definition is Assay's, after BERTScore, arXiv:1904.09675",
    ..Definition::VECTOR
};

/// `best` has for each sentence of the response the highest cosine with a sentence of the contexts.
pub fn score(best: &[f64], context_sentences: usize) -> Estimate {
    if best.is_empty() || context_sentences == 0 {
        return Estimate::NotApplicable("there are no sentences to compare");
    }
    Estimate::Exact(best.iter().sum::<f64>() / best.len() as f64)
}
