//! Context precision: average precision of the ranked contexts, by whether each was useful for the answer.
//!
//! Range 0 to 1, higher is better. Source: RAGAS, context precision; Manning et al., Introduction to Information
//! Retrieval, section 8.4.

use super::claims::name;
use crate::evaluate::{
    definition::Definition,
    finding::{Computation, Finding, Found},
    metric::MetricType,
    result::{Claim, ClaimOrigin},
    sample::Field::{self, Reference, Response, RetrievedContexts, UserInput},
    score::Estimate,
    steps::{Ledger, ReasonedVerdicts, Side, Steps},
};

/// Average precision of the ranked contexts, judged by the reference if there is one, else by the response.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ContextPrecision;

/// Average precision of the ranked contexts, judged by the response.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ContextUtilization;

/// `useful` has one verdict for each context, best first.
pub fn score(useful: &[Option<bool>]) -> Estimate {
    if useful.is_empty() {
        return Estimate::NotApplicable("there are no contexts");
    }
    let missing: Vec<usize> = (0..useful.len()).filter(|&i| useful[i].is_none()).collect();
    let filled = |is_useful: &dyn Fn(usize) -> bool| {
        let verdicts: Vec<bool> =
            useful.iter().enumerate().map(|(i, v)| v.unwrap_or_else(|| is_useful(i))).collect();
        average_precision(&verdicts)
    };
    if missing.is_empty() {
        return Estimate::Exact(filled(&|_| false));
    }
    // Of as many useful contexts, the earliest ranks give the most and the latest the least.
    let cuts = || missing.iter().copied().chain([useful.len()]);
    let upper = cuts().map(|cut| filled(&|i| i < cut)).fold(0.0, f64::max);
    let lower = cuts().map(|cut| filled(&|i| i >= cut)).fold(1.0, f64::min);
    Estimate::Between(lower, upper)
}

fn average_precision(useful: &[bool]) -> f64 {
    let (mut hits, mut sum) = (0.0, 0.0);
    for (rank, _) in useful.iter().enumerate().filter(|(_, useful)| **useful) {
        hits += 1.0;
        sum += hits / (rank + 1) as f64;
    }
    if hits > 0.0 { sum / hits } else { 0.0 }
}

impl MetricType for ContextPrecision {
    const DEFINITION: &Definition = &Definition {
        name: "context_precision",
        needs: &[UserInput, RetrievedContexts],
        any_of: &[Reference, Response],
        judge_calls: 1,
        formula: "sum over ranks i of precision@i * v_i / sum of v, where v_i is 1 if the context of rank i was useful \
                  for the reference, or, without one, for the response; 0 if none was",
        source: "RAGAS, LLMContextPrecisionWithReference and LLMContextPrecisionWithoutReference",
        differs: "All contexts are judged in one call where they fit. A context without a verdict makes the result \
                  PARTIAL, where RAGAS raises or drops it. RAGAS adds 1e-10 to the divisor.",
        ..Definition::JUDGED
    };

    async fn find(&self, steps: &Steps<'_>, ledger: &mut Ledger) -> Found {
        let side = if steps.fields()?.has(Field::Reference) { Side::Reference } else { Side::Response };
        precision(steps, ledger, side).await
    }
}

impl MetricType for ContextUtilization {
    const DEFINITION: &Definition = &Definition {
        name: "context_utilization",
        needs: &[UserInput, Response, RetrievedContexts],
        any_of: &[],
        formula: "as context_precision, with contexts judged by their use for the response",
        source: "RAGAS, ContextUtilization",
        ..*ContextPrecision::DEFINITION
    };

    async fn find(&self, steps: &Steps<'_>, ledger: &mut Ledger) -> Found {
        precision(steps, ledger, Side::Response).await
    }
}

async fn precision(steps: &Steps<'_>, ledger: &mut Ledger, side: Side) -> Found {
    let answers = ledger.take(steps.useful(side).await)?;
    Ok(Computation::of(move || usefulness(&answers, side)))
}

fn usefulness(answers: &ReasonedVerdicts, side: Side) -> Finding {
    let useful: Vec<Option<bool>> = answers.iter().map(|answer| answer.as_ref().map(|a| a.verdict)).collect();
    let yes = useful.iter().filter(|verdict| **verdict == Some(true)).count();
    let claims = answers.iter().enumerate().map(|(index, answer)| Claim {
        id: format!("s{}", index + 1),
        origin: ClaimOrigin::Context(index),
        text: String::new(),
        verdict: answer.as_ref().map(|answer| answer.verdict),
        reason: answer.as_ref().map(|answer| answer.reason.clone()).unwrap_or_default(),
        evidence: Vec::new(),
        evidence_unverified: false,
    });
    let reason = format!("{yes} of {} contexts were useful for the {}", useful.len(), name(side));
    let finding = Finding::of(score(&useful), reason).counting(&useful);
    Finding { claims: claims.collect(), ..finding }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ranks_count() {
        assert_eq!(score(&[Some(true), Some(false), Some(true)]), Estimate::Exact((1.0 + 2.0 / 3.0) / 2.0));
        assert_eq!(score(&[Some(false), Some(false)]), Estimate::Exact(0.0));
    }

    proptest! {
        #[test]
        fn bounds_are_the_least_and_the_most_of_all_ways_to_fill_in(
            useful in proptest::collection::vec(proptest::option::of(any::<bool>()), 1..8),
        ) {
            let missing = useful.iter().filter(|v| v.is_none()).count();
            let all: Vec<f64> = (0..1_u32 << missing).map(|bits| {
                let mut next = (0..missing).map(|bit| bits >> bit & 1 == 1);
                let filled: Vec<bool> =
                    useful.iter().map(|v| v.unwrap_or_else(|| next.next().expect("one for each"))).collect();
                average_precision(&filled)
            }).collect();
            let expected = (all.iter().copied().fold(1.0, f64::min), all.iter().copied().fold(0.0, f64::max));
            match score(&useful) {
                Estimate::Exact(exact) => prop_assert_eq!((exact, exact), expected),
                Estimate::Between(lower, upper) => prop_assert_eq!((lower, upper), expected),
                Estimate::NotApplicable(why) => prop_assert!(false, "{}", why),
            }
        }
    }
}
