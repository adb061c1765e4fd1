//! Verdicts that are missing, out of range, outvoted or cut off.

use assay::evaluate::{
    judged::aspect_critic::Criterion,
    metric::Metric,
    metrics::*,
    result::{MetricResult, Status},
};
use serde_json::{Value, json};

use super::*;
use crate::support::{
    evaluator::{bounds, score},
    judge::{Fault, Twist, honest},
};

fn check_not_applicable(result: &MetricResult) {
    assert_eq!((result.status, score(result)), (Status::NotApplicable, None), "{result:?}");
    assert!(!result.reason.is_empty());
}

#[tokio::test]
async fn a_refusal_is_not_applicable_with_a_reason_and_costs_no_call() {
    let bench = bench();
    for refusal in ["I'm sorry, I don't know.", "抱歉，我无法回答这个问题。"] {
        let refused = sample(refusal, &["The sky is blue."], "The sky is blue.");
        check_not_applicable(&bench.result(refused, Metric::from(Faithfulness)).await);
        let reference = sample("The sky is blue.", &["The sky is blue."], refusal);
        check_not_applicable(&bench.result(reference, Metric::from(ContextRecall)).await);
    }
    assert_eq!(bench.judge.count(), 0);
    // In words that only the judge knows as a refusal.
    let unknown = sample("Ask somebody else.", &["The sky is blue."], "The sky is blue.");
    check_not_applicable(&bench.result(unknown, Metric::from(Faithfulness)).await);
    assert_eq!(bench.judge.count(), 1);
}

#[tokio::test]
async fn claims_without_a_verdict_are_asked_again_and_they_alone() {
    let bench = Bench::start();
    bench.judge.set_brain(|asked| {
        let answer = comparing(&FACTS)(asked);
        if ids(asked, "claims").len() > 1 { forget(answer, "c2") } else { answer }
    });
    let result = bench.result(told_sample(), Metric::from(Faithfulness)).await;
    assert_eq!((result.status, score(&result)), (Status::Ok, Some(2.0 / 3.0)));
    assert_eq!((result.judged, result.submitted), (3, 3));
    let asked: Vec<_> = bench.judge.requests().iter().map(|logged| ids(&logged.asked, "claims")).collect();
    assert_eq!(asked[1..], [vec!["c1".to_owned(), "c2".to_owned(), "c3".to_owned()], vec!["c2".to_owned()]]);
}

#[tokio::test]
async fn claims_that_stay_without_a_verdict_leave_bounds_and_no_score() {
    let bench = Bench::start();
    bench.judge.set_brain(|asked| {
        let answer = comparing(&FACTS)(asked);
        // Asked for it alone, the judge says nothing.
        match ids(asked, "claims").len() {
            1 => json!({ "verdicts": [] }),
            _ => forget(answer, "c2"),
        }
    });
    let result = bench.result(told_sample(), Metric::from(Faithfulness)).await;
    assert_eq!((result.status, score(&result)), (Status::Partial, None), "{result:?}");
    // c1 is not supported, c3 is, c2 may be.
    assert_eq!(bounds(&result), Some((1.0 / 3.0, 2.0 / 3.0)));
    assert_eq!((result.judged, result.submitted), (2, 3));
    assert_eq!(result.claims[1].verdict, None);
    assert_eq!(bench.judge.count(), 3);
}

#[tokio::test]
async fn a_context_without_a_verdict_leaves_bounds_and_raises_nothing() {
    let bench = Bench::start();
    bench.judge.set_brain(|asked| match ids(asked, "contexts").len() {
        1 => json!({ "verdicts": [] }),
        _ => forget(comparing(&FACTS)(asked), "s2"),
    });
    let result = bench.result(told_sample(), Metric::from(ContextPrecision)).await;
    assert_eq!((result.status, score(&result)), (Status::Partial, None), "{result:?}");
    assert_eq!(bounds(&result), Some((1.0, 1.0)), "the first is useful, the third is not");
    assert_eq!((result.judged, result.submitted), (2, 3));
}

#[tokio::test]
async fn samples_are_votes_whichever_comes_first() {
    let bench = Bench::start();
    let critic = || {
        let definition = "Is it short?".to_owned();
        Metric::from(AspectCritic(Criterion { definition, samples: 3, ..Criterion::default() }))
    };
    for votes in [[true, false, false], [false, true, false], [false, false, true]] {
        let vote = move |asked: &Asked| json!({ "reason": "", "verdict": votes[asked.sample as usize] });
        bench.judge.set_brain(vote);
        let result = bench.result(told_sample(), critic()).await;
        assert_eq!((result.status, score(&result)), (Status::Ok, Some(0.0)), "{votes:?}");
        assert_eq!((result.judged, result.details["votes_for"]), (3, 1.0), "{votes:?}");
    }
}

/// Claims of `count` numbers, of which every third is supported.
fn numbers(asked: &Asked, count: usize) -> Value {
    match asked.verdict.as_deref() {
        Some("claims") => (1..=count).map(|n| format!("Number {n}.")).collect::<Vec<_>>().into(),
        _ => {
            let claims = asked.part("claims").as_array().expect("claims").iter();
            let number = |text: &Value| -> usize {
                let digits: String =
                    text.as_str().expect("a text").chars().filter(char::is_ascii_digit).collect();
                digits.parse().expect("a number")
            };
            let verdict = |claim: &Value| {
                let supported = number(&claim["text"]).is_multiple_of(3);
                json!({ "id": claim["id"], "reason": "", "quote": "", "sources": ["s1"], "supported": supported })
            };
            json!({ "verdicts": claims.map(verdict).collect::<Vec<_>>() })
        }
    }
}

#[tokio::test]
async fn long_lists_of_verdicts_are_split_where_the_judge_cuts_them() {
    const MOST: usize = 7;
    let bench = Bench::start();
    bench.judge.set_brain(|asked| match numbers(asked, 60) {
        Value::Array(claims) => json!({ "claims": claims }),
        verdicts => verdicts,
    });
    bench.judge.fail_when(|asked| ids(asked, "claims").len() > MOST, Fault::Finish("length"));
    let result = bench.result(told_sample(), Metric::from(Faithfulness)).await;
    assert_eq!((result.status, result.judged, result.submitted), (Status::Ok, 60, 60), "{}", result.reason);
    assert_eq!(score(&result), Some(20.0 / 60.0));
    for (index, claim) in result.claims.iter().enumerate() {
        assert_eq!(claim.verdict, Some((index + 1).is_multiple_of(3)), "{}", claim.text);
    }
}

#[tokio::test]
async fn a_verdict_of_two_lifts_no_score_above_one() {
    let bench = bench();
    let critic = Criterion { definition: "Is it short?".to_owned(), ..Criterion::default() };
    bench.judge.fail_always(Fault::Twisted(Twist::Two));
    for metric in [
        Metric::from(ContextPrecision),
        Metric::from(Faithfulness),
        Metric::from(FactualCorrectness::default()),
        Metric::from(AspectCritic(critic)),
    ] {
        let result = bench.result(told_sample(), metric).await;
        assert_eq!((result.status, score(&result)), (Status::JudgeUnreadable, None), "{result:?}");
    }
    // One claim's verdict among others.
    bench.judge.heal();
    bench.judge.set_brain(|asked| {
        let mut answer = honest(asked);
        if let Some(Value::Array(verdicts)) = answer.get_mut("verdicts") {
            verdicts[0]["supported"] = json!(2);
        }
        answer
    });
    let result = bench.result(told_sample(), Metric::from(Faithfulness)).await;
    assert_eq!((score(&result), bounds(&result)), (None, None), "{result:?}");
    assert_eq!(result.status, Status::JudgeUnreadable);
}
