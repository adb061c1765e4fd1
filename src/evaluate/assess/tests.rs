#![expect(clippy::disallowed_methods, reason = "a test waits for its futures")]

use std::time::Duration;

use prometheus_client::registry::Registry;

use super::*;
use crate::{
    embed::Embedder,
    evaluate::{Evaluator, Settings, lexical::string_similarity::Measure, sample::Context},
    judge::{Budget, Call, Trace},
};

const SOON: Duration = Duration::from_secs(60);

fn evaluator() -> Evaluator {
    let embedder = Embedder::without_model(&mut Registry::default());
    let settings = Settings { threads: 1, evaluations: 1, sentences: Settings::SENTENCES };
    Evaluator::start(&settings, embedder, Vec::new()).expect("a thread")
}

fn sample() -> Sample {
    let contexts = |text: &str| vec![Context { text: text.to_owned(), id: "a".to_owned() }];
    Sample {
        user_input: "Where do red foxes live?".to_owned(),
        response: "I don't know.".to_owned(),
        reference: "Red foxes live in Europe.".to_owned(),
        retrieved_contexts: contexts("Red foxes live in Europe."),
        reference_contexts: contexts("Red foxes live in Asia."),
        ..Sample::default()
    }
}

fn assessment(evaluator: &Evaluator, reading: Result<Reading, Failure>) -> Assessment<'_> {
    let (sample, deadline) = (Arc::new(sample()), Deadline::after(SOON));
    let call =
        Call { deadline, budget: Budget::unlimited(), caller: 0, use_cache: false, trace: Trace::default() };
    let asked = Asked { judge: None, call, reason_language: None };
    let fields = Ok(Fields::of(&sample));
    Assessment::new(&evaluator.0, sample, (fields, reading), asked, deadline.later(SOON))
}

#[tokio::test]
async fn texts_that_could_not_be_read_fail_the_metrics_that_need_them() {
    let evaluator = evaluator();
    for (failure, expected) in
        [(Failure::Defect, Status::Failed), (Failure::DeadlineExceeded, Status::Deadline)]
    {
        let assessment = assessment(&evaluator, Err(failure));
        let reads = [Metric::Refusal, Metric::FactualCorrectness(Default::default()), Metric::TokenF1];
        for metric in reads {
            let selection = Arc::new(Selection::of(metric));
            let (result, ()) = assessment.result(0, &selection, |_| ()).await;
            assert_eq!((result.status, result.score), (expected, None), "{result:?}");
        }
        let reads_nothing = Arc::new(Selection::of(Metric::TextContextRecall(Default::default())));
        let (result, ()) = assessment.result(1, &reads_nothing, |_| ()).await;
        assert_eq!(result.status, Status::Ok, "{result:?}");
    }
}

#[tokio::test]
async fn contexts_are_compared_once_for_all_metrics_of_a_measure() {
    let evaluator = evaluator();
    let assessment = assessment(&evaluator, Ok(Reading::default()));
    let table = async |measure| assessment.steps.similarities(measure).await.expect("a table");
    let (first, again) = futures::join!(table(Measure::Levenshtein), table(Measure::Levenshtein));
    assert!(Arc::ptr_eq(&first, &again));
    assert!(!Arc::ptr_eq(&first, &table(Measure::Jaro).await));
}

#[tokio::test]
async fn a_metric_that_is_still_being_computed_does_not_hold_the_answer_up() {
    let evaluator = evaluator();
    let mut assessment = assessment(&evaluator, Ok(Reading::default()));
    let (hold, held) = std::sync::mpsc::channel::<()>();
    let busy = evaluator.off_reactor(7, Deadline::after(SOON), move || held.recv());
    let by = Deadline::after(Duration::from_millis(50));
    assessment.answer_by = by;
    let selection = Arc::new(Selection::of(Metric::TextContextRecall(Default::default())));
    let answer = async {
        let (result, ()) = assessment.result(0, &selection, |_| ()).await;
        assert_eq!(result.status, Status::Deadline, "{result:?}");
        drop(hold);
    };
    futures::join!(busy, answer);
    assert!(by.has_passed());
}
