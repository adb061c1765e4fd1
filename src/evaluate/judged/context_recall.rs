//! Context recall: the share of the reference's claims that the retrieved contexts support.
//!
//! Range 0 to 1, higher is better. Source: RAGAS, context recall with a reference.

use crate::evaluate::{
    metric::Definition,
    sample::Field::{Reference, RetrievedContexts, UserInput},
    score::{Estimate, share},
};

pub const DEFINITION: Definition = Definition {
    name: "context_recall",
    needs: &[UserInput, RetrievedContexts, Reference],
    judge_calls: 2,
    formula: "claims of the reference that the contexts support / claims of the reference",
    source: "RAGAS, LLMContextRecall",
    differs: "The claims are self-contained statements, shared with the other metrics, where RAGAS has sentences. A \
              reference without claims is NOT_APPLICABLE.",
    ..Definition::JUDGED
};

/// `supported` has one verdict for each claim of the reference.
pub fn score(supported: &[Option<bool>]) -> Estimate {
    if supported.is_empty() {
        return Estimate::NotApplicable("the reference makes no claims");
    }
    Estimate::rising(supported, share)
}
