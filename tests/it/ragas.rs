//! RAGAS's own numbers, found again: tests/fixtures/README.md says how ragas.json was made.
//!
//! Verdicts go through a stand-in judge, so that prompts, reading, matching by id and arithmetic are all in it. Where
//! RAGAS was given vectors, the arithmetic alone is held to its number, as a model's vectors can't be scripted.

mod case;
mod script;

use assay::evaluate::result::{MetricResult, Status};

use crate::support::{app::run, evaluator::Bench};
use case::{Case, cases};

/// By a judge that follows the script of the case.
async fn result(bench: &Bench, case: &Case) -> MetricResult {
    let script = script::Script::of(case);
    bench.judge.set_brain(move |asked| script.answer(asked));
    bench.result(case.sample(), case.metric()).await
}

#[test]
fn the_same_verdicts_give_the_scores_of_ragas() {
    let bench = Bench::start();
    let cases: Vec<Case> = cases().into_iter().filter(|case| !case.needs_vectors()).collect();
    // A field that is missing is told, and no 0.
    let agreeing = cases.iter().filter(|case| case.differs.is_none() && case.is_complete());
    let agreeing: Vec<&Case> = agreeing.collect();
    assert!(agreeing.len() > 300, "{} cases", agreeing.len());
    let mut different = Vec::new();
    run(async {
        for case in agreeing {
            let result = result(&bench, case).await;
            let expected = case.expected();
            let agrees = match result.score {
                Some(score) => (score.value() - expected).abs() <= case.tolerance(),
                // Without a quotation RAGAS gives 1.
                None => case.metric == "quoted_spans" && result.status == Status::NotApplicable,
            };
            if !agrees {
                let (score, status, reason) = (result.score, result.status, result.reason);
                different.push(format!(
                    "{} {}: {status:?} {score:?} {reason}, RAGAS has {expected}",
                    case.metric, case.case
                ));
            }
        }
    });
    assert!(different.is_empty(), "{}", different.join("\n"));
}

#[test]
fn where_ragas_gives_nan_or_raises_there_is_a_status_and_no_score() {
    let bench = Bench::start();
    let nans: Vec<Case> =
        cases().into_iter().filter(|case| !case.needs_vectors() && case.score.is_none()).collect();
    assert!(nans.len() > 10, "{} cases", nans.len());
    run(async {
        for case in &nans {
            let result = result(&bench, case).await;
            let name = format!("{} {}: {:?} {}", case.metric, case.case, result.status, result.reason);
            match result.score {
                // Without claims in the reference no context is relevant, so that noise is what RAGAS can't tell.
                Some(score) => assert!(case.metric == "noise_sensitivity" && score.value() <= 1.0, "{name}"),
                None => assert!(!result.reason.is_empty() && result.status != Status::Ok, "{name}"),
            }
        }
    });
}

#[test]
fn what_lacks_a_field_has_no_score_and_costs_no_call() {
    let bench = Bench::start();
    let lacks = |case: &Case| !case.metric().definition().missing(&case.sample()).is_empty();
    let cases: Vec<Case> = cases().into_iter().filter(lacks).collect();
    assert!(!cases.is_empty());
    run(async {
        for case in &cases {
            let result = result(&bench, case).await;
            assert_eq!((result.status, result.score), (Status::NotApplicable, None), "{}", case.case);
        }
    });
    assert_eq!(bench.judge.count(), 0);
}

#[test]
fn the_arithmetic_over_vectors_gives_the_scores_of_ragas() {
    let cases: Vec<Case> = cases().into_iter().filter(Case::needs_vectors).collect();
    assert!(cases.iter().filter(|case| case.differs.is_none()).count() > 50);
    for case in cases.iter().filter(|case| case.differs.is_none()) {
        let (score, expected) = (case.score_of_vectors(), case.expected());
        let difference = (score - expected).abs();
        assert!(difference <= 1e-7, "{} {}: {score}, RAGAS has {expected}", case.metric, case.case);
    }
}
