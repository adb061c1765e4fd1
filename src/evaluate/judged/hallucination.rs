//! Hallucination: the share of the response's claims that neither the contexts nor the reference support.
//!
//! Range 0 to 1, lower is better. Source: RAGChecker, arXiv:2408.08067, section 3.

use crate::evaluate::{
    metric::Definition,
    sample::Field::{Reference, Response, RetrievedContexts},
    score::{Estimate, share},
};

pub const DEFINITION: Definition = Definition {
    name: "hallucination",
    needs: &[Response, RetrievedContexts, Reference],
    higher_is_better: Some(false),
    judge_calls: 3,
    formula: "claims of the response that neither the contexts nor the reference support / claims of the response",
    source: "RAGChecker, arXiv:2408.08067, section 3",
    ..Definition::JUDGED
};

/// Verdicts for each claim of the response, in either list.
pub fn score(by_contexts: &[Option<bool>], by_reference: &[Option<bool>]) -> Estimate {
    if by_contexts.is_empty() {
        return Estimate::NotApplicable("the response makes no claims");
    }
    let verdicts: Vec<Option<bool>> = by_contexts
        .iter()
        .zip(by_reference)
        .map(|(&contexts, &reference)| is_made_up(contexts, reference))
        .collect();
    Estimate::rising(&verdicts, share)
}

/// None where the verdict that is missing decides.
pub fn is_made_up(by_contexts: Option<bool>, by_reference: Option<bool>) -> Option<bool> {
    match (by_contexts, by_reference) {
        (Some(true), _) | (_, Some(true)) => Some(false),
        (Some(false), Some(false)) => Some(true),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_source_is_enough() {
        let (yes, no) = (Some(true), Some(false));
        assert_eq!(score(&[yes, no, no, None], &[no, yes, no, yes]), Estimate::Exact(0.25));
        assert_eq!(score(&[no, None], &[no, no]), Estimate::Between(0.5, 1.0));
    }
}
