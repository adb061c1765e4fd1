//! Embedding groundedness: how near the response's sentences are to sentences of the contexts.
//!
//! Range 0 to 1, higher is better. An approximation for use without a judge: nearness is not support, and a
//! sentence that contradicts a context is near to it. Source: the definition is Assay's, after the precision of BERTScore,
//! arXiv:1904.09675, on sentences.

use super::{best_of, few_sentences};
use crate::evaluate::{
    definition::Definition,
    finding::{Computation, Finding, Found},
    metric::MetricType,
    sample::Field::{Response, RetrievedContexts},
    score::Estimate,
    steps::{Ledger, Steps},
};

/// The mean nearness of the response's sentences to those of the contexts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EmbeddingGroundedness;

/// `best` has for each sentence of the response the highest cosine with a sentence of the contexts.
pub fn score(best: &[f64], context_sentences: usize) -> Estimate {
    if best.is_empty() || context_sentences == 0 {
        return Estimate::NotApplicable("there are no sentences to compare");
    }
    Estimate::Exact(best.iter().sum::<f64>() / best.len() as f64)
}

impl MetricType for EmbeddingGroundedness {
    const DEFINITION: &Definition = &Definition {
        name: "embedding_groundedness",
        needs: &[Response, RetrievedContexts],
        formula: "approximate: mean over the response's sentences of the highest cosine with a sentence of the contexts, \
                  each from 0",
        source: "the definition is Assay's, after BERTScore, arXiv:1904.09675",
        ..Definition::VECTOR
    };

    async fn find(&self, steps: &Steps<'_>, _: &mut Ledger) -> Found {
        let sentences = match few_sentences(steps).await? {
            Ok(sentences) => sentences,
            Err(too_many) => return Ok(too_many),
        };
        let response = steps.response_rows(&sentences).await?;
        let contexts = steps.context_rows(&sentences).await?;
        Ok(Computation::sliced(move |cancellation| {
            let best = best_of(&response.rows, &contexts.rows, 0..contexts.rows.len(), cancellation)?;
            let finding = Finding::of(score(&best, contexts.rows.len()), "");
            Ok(finding.noting_truncation(response.cut || contexts.cut))
        }))
    }
}
