//! RAGAS's own numbers, found again: tests/fixtures/README.md says how ragas.json was made.
//!
//! Verdicts go through a stand-in judge, so that prompts, reading, matching by id and arithmetic are all in it. Where
//! RAGAS was given vectors, the arithmetic alone is held to its number, as a model's vectors can't be scripted.

mod case;
mod script;

use std::time::Duration;

use assay::{
    deadline::Deadline,
    embed::Embedder,
    evaluate::{self, Evaluation, Evaluator, Task, metric::Selection, result::Status},
    judge::{Budget, Call, Judge, Trace},
};
use prometheus_client::registry::Registry;

use crate::support::{
    app::{run, settings},
    judge::StandIn,
};
use case::{Case, cases};

/// An evaluator with a judge that follows the script of one case after another, and no embedding model.
struct Scripted {
    judge: StandIn,
    evaluator: Evaluator,
    embedder: Embedder,
}

impl Scripted {
    fn start() -> Scripted {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let judge = StandIn::start();
        let mut registry = Registry::default();
        let embedder = Embedder::start(settings("/nowhere").embed, &mut registry).expect("threads");
        let client = Judge::start(judge.settings(), &mut registry).expect("a judge");
        let evaluate = evaluate::Settings { threads: 1, evaluations: 1 };
        let evaluator = Evaluator::start(&evaluate, embedder.clone(), vec![client]).expect("threads");
        Scripted { judge, evaluator, embedder }
    }

    async fn evaluate(&self, case: &Case) -> Evaluation {
        let script = script::Script::of(case);
        self.judge.set_brain(move |asked| script.answer(asked));
        let call = Call {
            deadline: Deadline::after(Duration::from_secs(30)),
            budget: Budget::unlimited(),
            caller: 0,
            use_cache: false,
            trace: Trace::default(),
        };
        let task = Task {
            sample: case.sample(),
            selections: vec![Selection::of(case.metric())],
            judge: self.evaluator.judge("").cloned(),
            call,
            reason_language: None,
        };
        self.evaluator.evaluate(task, |_| ()).await
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.embedder.stop();
    }
}

#[test]
fn the_same_verdicts_give_the_scores_of_ragas() {
    let scripted = Scripted::start();
    let cases: Vec<Case> = cases().into_iter().filter(|case| !case.needs_vectors()).collect();
    // A field that is missing is told, and no 0.
    let agreeing = cases.iter().filter(|case| case.differs.is_none() && case.is_complete());
    let agreeing: Vec<&Case> = agreeing.collect();
    assert!(agreeing.len() > 300, "{} cases", agreeing.len());
    let mut different = Vec::new();
    run(async {
        for case in agreeing {
            let result = scripted.evaluate(case).await.results.pop().expect("a result");
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
    let scripted = Scripted::start();
    let nans: Vec<Case> =
        cases().into_iter().filter(|case| !case.needs_vectors() && case.score.is_none()).collect();
    assert!(nans.len() > 10, "{} cases", nans.len());
    run(async {
        for case in &nans {
            let result = scripted.evaluate(case).await.results.pop().expect("a result");
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
fn the_arithmetic_over_vectors_gives_the_scores_of_ragas() {
    let cases: Vec<Case> = cases().into_iter().filter(Case::needs_vectors).collect();
    assert!(cases.iter().filter(|case| case.differs.is_none()).count() > 50);
    for case in cases.iter().filter(|case| case.differs.is_none()) {
        let (score, expected) = (case.score_of_vectors(), case.expected());
        let difference = (score - expected).abs();
        assert!(difference <= 1e-7, "{} {}: {score}, RAGAS has {expected}", case.metric, case.case);
    }
}
