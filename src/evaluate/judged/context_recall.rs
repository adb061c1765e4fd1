//! Context recall: the share of the reference's claims that the retrieved contexts support.
//!
//! Range 0 to 1, higher is better. Source: RAGAS, context recall with a reference.

use super::claims::share_of;
use crate::evaluate::{
    definition::Definition,
    finding::{Computation, Found},
    metric::MetricType,
    sample::Field::{Reference, RetrievedContexts, UserInput},
    score::{Estimate, share},
    steps::{Ledger, Side, Steps},
};

/// The share of the reference's claims that the retrieved contexts support.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ContextRecall;

/// `supported` has one verdict for each claim of the reference.
pub fn score(supported: &[Option<bool>]) -> Estimate {
    if supported.is_empty() {
        return Estimate::NotApplicable("the reference makes no claims");
    }
    Estimate::rising(supported, share)
}

impl MetricType for ContextRecall {
    const DEFINITION: &Definition = &Definition {
        name: "context_recall",
        needs: &[UserInput, RetrievedContexts, Reference],
        judge_calls: 2,
        formula: "claims of the reference that the contexts support / claims of the reference",
        source: "RAGAS, LLMContextRecall",
        differs: "The claims are self-contained statements, shared with the other metrics, where RAGAS has sentences. A \
                  reference without claims is NOT_APPLICABLE.",
        ..Definition::JUDGED
    };

    async fn find(&self, steps: &Steps<'_>, ledger: &mut Ledger) -> Found {
        let table = ledger.take(steps.by_contexts(Side::Reference).await)?;
        Ok(Computation::of(move || {
            share_of(&table, score(&table.supported()), Side::Reference, "the contexts")
        }))
    }
}
