//! Faithfulness: the share of the response's claims that the retrieved contexts support.
//!
//! Range 0 to 1, higher is better. Source: RAGAS, arXiv:2309.15217, section 3. A response without claims, such as a
//! refusal, is not applicable, where RAGAS gives NaN.

use super::claims::share_of;
use crate::evaluate::{
    definition::Definition,
    finding::{Computation, Found},
    metric::MetricType,
    sample::Field::{Response, RetrievedContexts, UserInput},
    score::{Estimate, share},
    steps::{Ledger, Side, Steps},
};

/// The share of the response's claims that the retrieved contexts support.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Faithfulness;

/// `supported` has one verdict for each claim of the response.
pub fn score(supported: &[Option<bool>]) -> Estimate {
    if supported.is_empty() {
        return Estimate::NotApplicable("the response makes no claims");
    }
    Estimate::rising(supported, share)
}

impl MetricType for Faithfulness {
    const DEFINITION: &Definition = &Definition {
        name: "faithfulness",
        needs: &[UserInput, Response, RetrievedContexts],
        judge_calls: 2,
        formula: "claims of the response that the contexts support / claims of the response",
        source: "RAGAS, arXiv:2309.15217, section 3",
        differs: "A response without claims is NOT_APPLICABLE, where RAGAS gives NaN. A claim without a verdict is asked \
                  for again and, still without one, makes the result PARTIAL, where RAGAS leaves it out of both counts.",
        ..Definition::JUDGED
    };

    async fn find(&self, steps: &Steps<'_>, ledger: &mut Ledger) -> Found {
        let table = ledger.take(steps.by_contexts(Side::Response).await)?;
        Ok(Computation::of(move || {
            share_of(&table, score(&table.supported()), Side::Response, "the contexts")
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_verdicts_widen_the_score_instead_of_raising_it() {
        assert_eq!(score(&[Some(true), Some(false)]), Estimate::Exact(0.5));
        assert_eq!(score(&[Some(true), None, None, None]), Estimate::Between(0.25, 1.0));
        assert!(matches!(score(&[]), Estimate::NotApplicable(_)));
    }
}
