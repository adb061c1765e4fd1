//! Embedding relevance: how near the contexts are to the user's input.
//!
//! Range 0 to 1, higher is better. An approximation for use without a judge: a context that is near to a question
//! need not answer it. Source: the definition is Assay's.

use super::{best_of, few_sentences};
use crate::evaluate::{
    definition::Definition,
    finding::{Computation, Finding, Found},
    metric::MetricType,
    sample::Field::{RetrievedContexts, UserInput},
    score::Estimate,
    steps::{Ledger, Steps},
};

/// The mean nearness of the contexts to the user's input.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EmbeddingRelevance;

/// `best` has for each context with sentences the highest cosine of one of them with the input.
pub fn score(best: &[f64]) -> Estimate {
    if best.is_empty() {
        return Estimate::NotApplicable("there are no sentences to compare");
    }
    Estimate::Exact(best.iter().sum::<f64>() / best.len() as f64)
}

impl MetricType for EmbeddingRelevance {
    const DEFINITION: &Definition = &Definition {
        name: "embedding_relevance",
        needs: &[UserInput, RetrievedContexts],
        formula: "approximate: mean over the contexts of the highest cosine of one of their sentences with the user's \
                  input, from 0",
        source: "the definition is Assay's",
        ..Definition::VECTOR
    };

    async fn find(&self, steps: &Steps<'_>, _: &mut Ledger) -> Found {
        let sentences = match few_sentences(steps).await? {
            Ok(sentences) => sentences,
            Err(too_many) => return Ok(too_many),
        };
        let input = steps.vectors(std::iter::once(steps.sample.user_input.clone())).await?;
        let contexts = steps.context_rows(&sentences).await?;
        let ranges = sentences.by_context();
        Ok(Computation::sliced(move |cancellation| {
            let mut best = Vec::with_capacity(ranges.len());
            for range in ranges.into_iter().filter(|range| !range.is_empty()) {
                best.extend(best_of(&input.rows, &contexts.rows, range, cancellation)?);
            }
            Ok(Finding::of(score(&best), "").noting_truncation(input.cut || contexts.cut))
        }))
    }
}
