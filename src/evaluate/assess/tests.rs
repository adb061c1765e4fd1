#![expect(clippy::disallowed_methods, reason = "a test waits for its futures")]

use std::time::Duration;

use prometheus_client::registry::Registry;

use super::*;
use crate::{
    deadline::Deadline,
    embed::Embedder,
    evaluate::{
        Evaluator, EvaluatorSettings,
        judged::{factual_correctness::FactualCorrectness, refusal::Refusal},
        lexical::{string_similarity::StringMeasure, text_context::TextContextRecall, token_f1::TokenF1},
        sample::{Context, Fields, Sample, TextAnalysis},
        steps::JudgeRequest,
    },
    judge::{Budget, Call, TraceHeaders},
};

const SOON: Duration = Duration::from_secs(60);

fn evaluator() -> Evaluator {
    let embedder = Embedder::without_model(&mut Registry::default());
    let settings = EvaluatorSettings { threads: 1, evaluations: 1, sentences: EvaluatorSettings::SENTENCES };
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

fn steps(evaluator: &Evaluator, analysis: Result<TextAnalysis, Failure>) -> Steps<'_> {
    let (sample, deadline) = (Arc::new(sample()), Deadline::after(SOON));
    let call = Call {
        deadline,
        budget: Budget::unlimited(),
        caller: 0,
        use_cache: false,
        trace: TraceHeaders::default(),
    };
    let request = JudgeRequest { judge: None, call, reason_language: None };
    let fields = Ok(Fields::of(&sample));
    Steps::new(&evaluator.0, sample, (fields, analysis), request, deadline.later(SOON))
}

#[tokio::test]
async fn texts_that_could_not_be_read_fail_the_metrics_that_need_them() {
    let evaluator = evaluator();
    for (failure, expected) in
        [(Failure::Defect, Status::Failed), (Failure::DeadlineExceeded, Status::Deadline)]
    {
        let steps = steps(&evaluator, Err(failure));
        let reads = [Metric::from(Refusal), FactualCorrectness::default().into(), TokenF1::default().into()];
        for metric in reads {
            let selection = Arc::new(Selection::of(metric));
            let (result, ()) = result_of(&steps, &selection, |_| ()).await;
            assert_eq!((result.status, result.score), (expected, None), "{result:?}");
        }
        let reads_nothing = Arc::new(Selection::of(TextContextRecall::default().into()));
        let (result, ()) = result_of(&steps, &reads_nothing, |_| ()).await;
        assert_eq!(result.status, Status::Ok, "{result:?}");
    }
}

#[tokio::test]
async fn contexts_are_compared_once_for_all_metrics_of_a_measure() {
    let evaluator = evaluator();
    let steps = steps(&evaluator, Ok(TextAnalysis::default()));
    let table = async |measure| steps.similarities(measure).await.expect("a table");
    let (first, again) = futures::join!(table(StringMeasure::Levenshtein), table(StringMeasure::Levenshtein));
    assert!(Arc::ptr_eq(&first, &again));
    assert!(!Arc::ptr_eq(&first, &table(StringMeasure::Jaro).await));
}

#[tokio::test]
async fn a_metric_that_is_still_being_computed_does_not_hold_the_answer_up() {
    let evaluator = evaluator();
    let mut steps = steps(&evaluator, Ok(TextAnalysis::default()));
    let (hold, held) = std::sync::mpsc::channel::<()>();
    let busy = evaluator.off_reactor(7, Deadline::after(SOON), move || held.recv());
    let by = Deadline::after(Duration::from_millis(50));
    steps.set_answer_by(by);
    let selection = Arc::new(Selection::of(TextContextRecall::default().into()));
    let answer = async {
        let (result, ()) = result_of(&steps, &selection, |_| ()).await;
        assert_eq!(result.status, Status::Deadline, "{result:?}");
        drop(hold);
    };
    futures::join!(busy, answer);
    assert!(by.has_passed());
}
