//! Hallucination: the share of the response's claims that neither the contexts nor the reference support.
//!
//! Range 0 to 1, lower is better. Source: RAGChecker, arXiv:2408.08067, section 3.

use super::claims::{claims, first_failure};
use crate::evaluate::{
    definition::Definition,
    finding::{Computation, Finding, Found},
    metric::MetricType,
    sample::Field::{Reference, Response, RetrievedContexts},
    score::{Estimate, share},
    steps::{ClaimTable, Ledger, Side, Steps},
};
use futures::future::join;

/// The share of the response's claims that neither the contexts nor the reference support.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Hallucination;

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

/// Returns whether a claim is made up; None where the missing verdict decides.
pub fn is_made_up(by_contexts: Option<bool>, by_reference: Option<bool>) -> Option<bool> {
    match (by_contexts, by_reference) {
        (Some(true), _) | (_, Some(true)) => Some(false),
        (Some(false), Some(false)) => Some(true),
        _ => None,
    }
}

impl MetricType for Hallucination {
    const DEFINITION: &Definition = &Definition {
        name: "hallucination",
        needs: &[Response, RetrievedContexts, Reference],
        higher_is_better: Some(false),
        judge_calls: 3,
        formula: "claims of the response that neither the contexts nor the reference support / claims of the response",
        source: "RAGChecker, arXiv:2408.08067, section 3",
        ..Definition::JUDGED
    };

    async fn find(&self, steps: &Steps<'_>, ledger: &mut Ledger) -> Found {
        let tables = join(steps.by_contexts(Side::Response), steps.by_other(Side::Response)).await;
        let (contexts, reference) = (ledger.take(tables.0), ledger.take(tables.1));
        let (contexts, reference) = (contexts?, reference?);
        Ok(Computation::of(move || made_up(&contexts, &reference)))
    }
}

/// Claims of the response that neither the contexts nor the reference support.
fn made_up(contexts: &ClaimTable, reference: &ClaimTable) -> Finding {
    let (by_contexts, by_reference) = (contexts.supported(), reference.supported());
    let made_up: Vec<Option<bool>> =
        by_contexts.iter().zip(&by_reference).map(|(&c, &r)| is_made_up(c, r)).collect();
    let mut claims = claims(contexts, Side::Response);
    for ((claim, row), made_up) in claims.iter_mut().zip(&reference.rows).zip(&made_up) {
        claim.verdict = *made_up;
        claim.evidence.extend(row.opinion.iter().flat_map(|opinion| opinion.evidence.clone()));
    }
    let yes = made_up.iter().filter(|verdict| **verdict == Some(true)).count();
    let reason = format!("{yes} of {} claims are supported by neither contexts nor reference", made_up.len());
    let finding = Finding::of(score(&by_contexts, &by_reference), reason);
    let finding = finding.counting(&by_contexts).counting(&by_reference);
    Finding { claims, missing: first_failure(&[contexts, reference]), ..finding }
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
