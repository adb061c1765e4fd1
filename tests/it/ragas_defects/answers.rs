//! Answers that hold more than their verdict, and numbers as judges write them.

use assay::evaluate::{
    judged::aspect_critic::Criterion,
    metric::Metric,
    metrics::*,
    result::{MetricResult, Status},
};
use serde_json::json;

use super::*;
use crate::support::{
    evaluator::score,
    judge::{Fault, Wrap},
};

#[tokio::test]
async fn the_last_json_is_the_answer_and_not_the_first() {
    // Everything before it says the opposite.
    for wrap in [Wrap::TwoObjects, Wrap::Think, Wrap::ThinkWithoutEnd, Wrap::ThinkWithoutStart] {
        let bench = bench();
        bench.judge.fail_always(Fault::Wrapped(wrap));
        let result = bench.result(told_sample(), Metric::from(Faithfulness)).await;
        assert_eq!((result.status, score(&result)), (Status::Ok, Some(2.0 / 3.0)), "{wrap:?}");
        assert_eq!(bench.judge.count(), 2, "{wrap:?}");
    }
}

#[tokio::test]
async fn the_answer_to_a_second_question_is_read_like_the_first() {
    for wrap in [Wrap::Fence, Wrap::Prose, Wrap::TwoObjects, Wrap::Think, Wrap::TrailingComma] {
        let bench = bench();
        bench.judge.fail_when(|asked| asked.again.is_none(), Fault::Says("I would rather talk about it."));
        bench.judge.fail_when(|asked| asked.again.is_some(), Fault::Wrapped(wrap));
        let result = bench.result(told_sample(), Metric::from(Faithfulness)).await;
        assert_eq!((result.status, score(&result)), (Status::Ok, Some(2.0 / 3.0)), "{wrap:?}");
        assert_eq!(bench.judge.count(), 4, "{wrap:?}");
    }
}

#[tokio::test]
async fn bleu_is_of_the_whole_text() {
    let bench = Bench::start();
    let bleu = async |response: &str, reference: &str| {
        let metric = Metric::from(Bleu::default());
        score(&bench.result(sample(response, &[], reference), metric).await).expect("a score")
    };
    for (reference, first_alone, rest_is_other, rest_is_near) in [
        (
            "The sky is blue today. Grass is green and tall here.",
            "The sky is blue today.",
            "The sky is blue today. Cats sleep on warm old stones.",
            "The sky is blue today. Grass is green and tall there.",
        ),
        (
            "今天的天空是蓝色的。这里的草又绿又高。",
            "今天的天空是蓝色的。",
            "今天的天空是蓝色的。猫睡在石头上面了。",
            "今天的天空是蓝色的。那里的草又绿又高。",
        ),
    ] {
        assert_eq!(bleu(reference, reference).await, 1.0);
        let (alone, other, near) = (
            bleu(first_alone, reference).await,
            bleu(rest_is_other, reference).await,
            bleu(rest_is_near, reference).await,
        );
        assert!(alone < 0.8 && other < 0.8 && other < near && near < 1.0, "{alone} {other} {near}");
    }
}

async fn check_rating(metric: Metric, written: &'static str, expected: Option<f64>) {
    let bench = Bench::start();
    bench.judge.set_brain(move |_| json!({ "reason": "", "rating": written, "score": written }));
    let result: MetricResult = bench.result(told_sample(), metric).await;
    let status = if expected.is_some() { Status::Ok } else { Status::JudgeUnreadable };
    let name = result.metric.definition().name;
    assert_eq!((result.status, score(&result)), (status, expected), "{name} {written}: {}", result.reason);
}

#[tokio::test]
async fn a_rating_is_the_whole_number_that_was_written_or_unreadable() {
    for (written, of_accuracy, of_criteria) in [
        ("4.0", Some(1.0), Some(4.0)),
        (" 4 ", Some(1.0), Some(4.0)),
        ("４", Some(1.0), Some(4.0)),
        ("0", Some(0.0), Some(0.0)),
        ("10", None, Some(10.0)),
        ("4 (0 to 4)", None, None),
        ("4 of 10", None, None),
        ("4.5", None, None),
        ("44", None, None),
        ("-4", None, None),
        ("", None, None),
    ] {
        let criterion =
            Criterion { definition: "How clear is it?".to_owned(), highest: 10, ..Criterion::default() };
        check_rating(Metric::from(AnswerAccuracy), written, of_accuracy).await;
        check_rating(Metric::from(SimpleCriteria(criterion)), written, of_criteria).await;
    }
}
