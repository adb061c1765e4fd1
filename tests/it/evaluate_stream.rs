//! EvaluateStream over the network: events, results, the summary and the end of streams.

use assay::proto::{
    EvaluateStreamRequest, EvaluateStreamResponse, MetricStatus, Sample, StreamSummary,
    evaluate_stream_response::Event,
};
use futures::stream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming};

use crate::{
    evaluate_rpc::{request, sample},
    support::{
        app::{SMALL, TestApp, run, until},
        judge::StandIn,
    },
};

const STREAMS: &str = "method=\"assay.v1.EvaluationService/EvaluateStream\"";

fn item(id: impl ToString, sample: Sample, metrics: &[&str]) -> EvaluateStreamRequest {
    EvaluateStreamRequest { id: id.to_string(), request: Some(request(sample, metrics)) }
}

/// Nothing of it is answered from another sample's questions.
fn unique(n: usize) -> EvaluateStreamRequest {
    let sample = Sample { response: format!("There are {n} red foxes."), ..sample() };
    item(n, sample, &["refusal"])
}

/// All events up to a good end.
async fn events_of(app: &TestApp, items: Vec<EvaluateStreamRequest>) -> Vec<(String, Event)> {
    let answers = app.evaluation_client().await.evaluate_stream(stream::iter(items)).await;
    rest(answers.expect("a stream").into_inner()).await
}

async fn rest(mut answers: Streaming<EvaluateStreamResponse>) -> Vec<(String, Event)> {
    let mut all = Vec::new();
    while let Some(answer) = answers.message().await.expect("a good end") {
        all.push((answer.id, answer.event.expect("an event")));
    }
    all
}

/// Takes the last event away, which is the summary.
fn summary(events: &mut Vec<(String, Event)>) -> StreamSummary {
    match events.pop() {
        Some((id, Event::Summary(summary))) if id.is_empty() => summary,
        other => panic!("the last event is {other:?}"),
    }
}

#[test]
fn metric_events_precede_the_sample_and_the_summary_is_last() {
    let app = TestApp::serving(SMALL);
    let metrics = ["bleu", "exact_match", "semantic_similarity", "faithfulness"];
    let items = (0..40).map(|n| item(n, sample(), &metrics)).collect();
    let mut events = run(events_of(&app, items));
    let summary = summary(&mut events);
    for n in 0..40 {
        let of_sample: Vec<&Event> =
            events.iter().filter(|(id, _)| *id == n.to_string()).map(|(_, event)| event).collect();
        let (last, before) = of_sample.split_last().expect("events");
        let Event::Sample(response) = last else { panic!("{last:?}") };
        assert_eq!((response.id.as_str(), before.len()), ("fox", metrics.len()));
        assert!(response.results.iter().map(|result| result.metric.as_str()).eq(metrics));
        for event in before {
            let Event::Result(result) = event else { panic!("{event:?}") };
            assert!(response.results.contains(result));
        }
    }
    assert_eq!((summary.samples, summary.refused, summary.metrics.len()), (40, 0, metrics.len()));
    for of_metric in &summary.metrics {
        if of_metric.metric == "faithfulness" {
            assert_eq!((of_metric.failed, of_metric.mean, of_metric.coverage), (40, None, Some(0.0)));
        } else {
            assert_eq!((of_metric.scored, of_metric.coverage), (40, Some(1.0)), "{of_metric:?}");
            assert!(of_metric.mean.is_some() && of_metric.mean_lower <= of_metric.mean, "{of_metric:?}");
        }
    }
}

#[test]
fn an_invalid_sample_gets_an_error_and_the_stream_continues() {
    let app = TestApp::serving(SMALL);
    let bare = Sample { id: "its own".into(), response: "Foxes.".into(), ..Sample::default() };
    let items = vec![
        item("first", sample(), &["bleu"]),
        item("", bare, &["bleu"]),
        EvaluateStreamRequest { id: "empty".into(), request: None },
        item("i".repeat(300), sample(), &["bleu"]),
        item("last", sample(), &["bleu"]),
    ];
    let mut events = run(events_of(&app, items));
    let summary = summary(&mut events);
    assert_eq!((summary.samples, summary.refused), (2, 3));
    let error = |id: &str| match events.iter().find(|(of, _)| of == id) {
        Some((_, Event::Error(error))) => (Code::from(error.code), error.message.clone()),
        other => panic!("{id}: {other:?}"),
    };
    for (id, field) in [("its own", "sample.reference"), ("empty", "sample"), (&"i".repeat(256), "id")] {
        let (code, message) = error(id);
        assert!(code == Code::InvalidArgument && message.starts_with(field), "{id}: {message}");
    }
    for id in ["first", "last"] {
        assert!(events.iter().any(|(of, event)| of == id && matches!(event, Event::Sample(_))), "{id}");
    }
}

#[test]
fn a_stream_without_samples_has_an_empty_summary() {
    let app = TestApp::serving(SMALL);
    let mut events = run(events_of(&app, Vec::new()));
    assert_eq!(summary(&mut events).samples, 0);
    assert!(events.is_empty());
}

#[test]
fn samples_in_flight_are_limited_and_cancelled_with_the_call() {
    let judge = StandIn::start();
    judge.hold();
    let app = TestApp::serving_with(SMALL, |settings| {
        settings.judges = vec![judge.settings()];
        settings.rpc.limits.stream_samples = 3;
    });
    run(async {
        let (sender, items) = mpsc::channel(100);
        for n in 0..20 {
            sender.send(unique(n)).await.expect("there is room");
        }
        let stream = ReceiverStream::new(items);
        let answers = app.evaluation_client().await.evaluate_stream(stream).await.expect("a stream");
        until("three samples are asked about", async || judge.in_flight() == 3).await;
        assert_eq!(judge.count(), 3);
        drop((sender, answers));
        app.until_metric("assay_rpc_open", STREAMS, |open| open == 0.0).await;
        until("the judge is left alone", async || judge.in_flight() == 0).await;
        assert_eq!(judge.count(), 3);
    });
    judge.release();
}

#[test]
fn a_drain_finishes_the_samples_in_flight() {
    let judge = StandIn::start();
    judge.hold();
    let mut app = TestApp::serving_with(SMALL, |settings| settings.judges = vec![judge.settings()]);
    run(async {
        let items = stream::iter((0..3).map(unique));
        let answers = app.evaluation_client().await.evaluate_stream(items).await.expect("a stream");
        let events = tokio::spawn(rest(answers.into_inner()));
        until("the judge is asked", async || judge.in_flight() == 3).await;
        let (drained, ()) = futures::join!(app.drain(), async { judge.release() });
        assert!(drained, "the drain limit cut something off");
        let mut events = events.await.expect("no panic");
        let summary = summary(&mut events);
        assert_eq!((summary.samples, summary.metrics[0].scored), (3, 3));
        let is_ok = |event: &Event| match event {
            Event::Result(result) => result.status() == MetricStatus::Ok,
            _ => true,
        };
        assert!(events.iter().all(|(_, event)| is_ok(event)));
    });
}
