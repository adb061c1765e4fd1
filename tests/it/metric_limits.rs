//! Every metric with the largest samples that the default limits allow, of every hostile shape, on one reactor thread:
//! the answer comes by its deadline, and nobody beside it notices.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use assay::{
    evaluate::{self, metric::Metric, metrics::*, result::Status},
    proto::{
        Context, CriterionOptions, DiscreteOptions, EvaluateRequest, EvaluateResponse, EvaluateStreamRequest,
        MetricSelection, MetricStatus, NumericOptions, RankingOptions, Sample,
        evaluate_stream_response::Event, evaluation_service_client::EvaluationServiceClient,
        metric_selection::Options,
    },
};
use hyper_util::{client::legacy, rt::TokioExecutor};
use serde_json::json;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Request;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus};

use crate::{
    evaluate_rpc::{metric, result},
    support::{
        app::{self, SMALL, TestApp, item, run},
        evaluator::{self, Bench},
        judge::{StandIn, honest},
        random_model::splitmix64,
    },
};

/// The default limits of a text and of a sample.
const TEXT_BYTES: usize = 128 << 10;
const SAMPLE_BYTES: usize = 1 << 20;
/// Deadline of one call, which only its headers carry: the server answers what comes late.
const DEADLINE: Duration = Duration::from_secs(3);

/// One metric of the table with the options that it cannot do without. Others are refused without theirs.
fn selection(of: &Metric) -> MetricSelection {
    let words = || "Is it short?".to_owned();
    let name = of.definition().name;
    let options = match name {
        "aspect_critic" | "simple_criteria" => {
            Some(Options::Criterion(CriterionOptions { definition: words(), ..Default::default() }))
        }
        "discrete" => {
            let values = vec!["yes".into(), "no".into()];
            Some(Options::Discrete(DiscreteOptions { instruction: words(), values, ..Default::default() }))
        }
        "numeric" => Some(Options::Numeric(NumericOptions { instruction: words(), ..Default::default() })),
        "ranking" => {
            let candidates = vec!["a fox".into(), "a hare".into()];
            Some(Options::Ranking(RankingOptions { instruction: words(), candidates }))
        }
        _ => None,
    };
    MetricSelection { options, ..metric(name) }
}

fn all_metrics() -> Vec<MetricSelection> {
    Metric::all().iter().map(selection).collect()
}

/// As many of the pieces as fit.
fn filled(bytes: usize, mut piece: impl FnMut(usize) -> String) -> String {
    let mut text = String::with_capacity(bytes);
    for n in 0.. {
        let piece = piece(n);
        if text.len() + piece.len() > bytes {
            return text;
        }
        text.push_str(&piece);
    }
    text
}

/// `contexts` on either side, in a sample that is as large as may be and has all that any metric needs.
fn sample(contexts: usize, text: impl Fn(usize, u64) -> String) -> Sample {
    let each = ((SAMPLE_BYTES - 2 * TEXT_BYTES - 1024) / (2 * contexts)).min(TEXT_BYTES);
    let side = |from: u64| -> Vec<Context> {
        let context = |n: usize| Context { text: text(each, from + n as u64), id: format!("d{n}") };
        (0..contexts).map(context).collect()
    };
    Sample {
        user_input: "What is there to see?".into(),
        response: text(TEXT_BYTES, 1),
        reference: text(TEXT_BYTES, 2),
        retrieved_contexts: side(1000),
        reference_contexts: side(2000),
        rubrics: [("1".to_owned(), "wrong".to_owned()), ("2".to_owned(), "right".to_owned())].into(),
        ..Sample::default()
    }
}

fn repeated(unit: &str) -> impl Fn(usize, u64) -> String {
    move |bytes, _| filled(bytes, |_| unit.to_owned())
}

/// Letters without an order, so that no two texts are alike; a space after so many of them.
fn random(word: usize) -> impl Fn(usize, u64) -> String {
    move |bytes, seed| {
        let mut numbers = splitmix64(seed);
        filled(bytes, |n| {
            let letter = (b'a' + (numbers.next().expect("it is endless") % 26) as u8) as char;
            if n % word == word - 1 { " ".into() } else { letter.to_string() }
        })
    }
}

/// As many sentences as may be compared, all different.
fn sentences(bytes: usize, seed: u64) -> String {
    let count = evaluate::EvaluatorSettings::SENTENCES / if bytes == TEXT_BYTES { 4 } else { 16 };
    (0..count).map(|n| format!("Fox {n} of {seed} is red. ")).collect()
}

fn shapes() -> Vec<(&'static str, Sample)> {
    vec![
        ("one character", sample(4, repeated("a"))),
        ("no spaces", sample(4, random(usize::MAX))),
        ("words without an order", sample(4, random(7))),
        ("250,000 sentences", sample(4, repeated("Ok. "))),
        ("as many sentences as may be compared", sample(4, sentences)),
        ("128 contexts", sample(128, random(7))),
        ("emoji", sample(4, repeated("🎉👩‍👩‍👧"))),
        ("right to left", sample(4, repeated("مرحبا بالعالم. שלום עולם! "))),
        ("Chinese without an end", sample(4, repeated("红狐生活在欧洲和亚洲"))),
        ("one word", sample(1, |bytes, seed| if seed < 1000 { "w".repeat(bytes) } else { "A word.".into() })),
        ("marks behind a full stop", sample(4, |bytes, _| format!(".{}", "(".repeat(bytes - 1)))),
        ("combining marks", sample(4, repeated(" \u{301}"))),
        ("quotations", sample(4, |bytes, seed| filled(bytes, |n| format!("\"a {n} {seed}\" ")))),
    ]
}

/// Asks with a deadline that the server alone keeps.
fn with_deadline<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    let timeout = format!("{}m", DEADLINE.as_millis()).parse().expect("ASCII");
    request.metadata_mut().insert("grpc-timeout", timeout);
    request
}

async fn evaluate(app: &TestApp, sample: Sample) -> EvaluateResponse {
    let http = legacy::Client::builder(TokioExecutor::new()).http2_only(true).build_http();
    let mut client = EvaluationServiceClient::with_origin(http, app.url().parse().expect("a URL"));
    let request = EvaluateRequest { sample: Some(sample), metrics: all_metrics(), options: None };
    client.evaluate(with_deadline(request)).await.expect("what is known by the deadline").into_inner()
}

/// Asks for the health and embeds short texts in a stream until `is_over`; how often both were answered.
async fn neighbour(app: &TestApp, is_over: &AtomicBool) -> usize {
    let (inputs, stream) = mpsc::channel(1);
    inputs.send(item("0", "a short text")).await.expect("there is room");
    let answers = app.client().await.embed_stream(ReceiverStream::new(stream)).await;
    let (mut answers, mut health) = (answers.expect("a stream").into_inner(), app.health().await);
    for round in 1.. {
        let request = HealthCheckRequest { service: String::new() };
        let status = health.check(request).await.expect("it answers at all times").into_inner().status();
        assert_eq!(status, ServingStatus::Serving);
        let answer = answers.message().await.expect("a good stream").expect("an answer");
        let is_embedding =
            matches!(answer.result, Some(assay::proto::embed_stream_response::Result::Embedding(_)));
        assert!(is_embedding, "{answer:?}");
        if is_over.load(Ordering::Relaxed) {
            return round;
        }
        inputs.send(item(round, format!("a short text {round}"))).await.expect("the stream is open");
    }
    unreachable!("it ends with the evaluation")
}

fn start(judge: &StandIn) -> TestApp {
    let dir = app::random_model(SMALL);
    let mut settings = app::settings(dir.path().to_string_lossy());
    settings.reactor_threads = 1;
    settings.judges = vec![judge.settings()];
    let app = TestApp::start_alone(settings);
    run(app.until_serving());
    app
}

#[test]
fn no_metric_holds_up_its_neighbours_or_its_answer_with_any_sample_within_the_limits() {
    let judge = StandIn::start();
    let app = start(&judge);
    for (name, sample) in shapes() {
        let over = AtomicBool::new(false);
        let (response, rounds) = run(async {
            let evaluation = async {
                let response = evaluate(&app, sample).await;
                over.store(true, Ordering::Relaxed);
                response
            };
            tokio::join!(evaluation, neighbour(&app, &over))
        });
        let told: Vec<(&str, MetricStatus)> =
            response.results.iter().map(|result| (result.metric.as_str(), result.status())).collect();
        println!("{name}: {rounds} rounds of the neighbour; {told:?}");
        assert!(told.iter().map(|(metric, _)| *metric).eq(Metric::all().iter().map(|m| m.definition().name)));
        assert!(told.iter().all(|(_, status)| *status != MetricStatus::Unspecified), "{name}: {told:?}");
        let without_judge = response.results.iter().filter(|result| {
            Metric::named(&result.metric).is_some_and(|metric| metric.definition().judge_calls == 0)
        });
        for result in without_judge {
            assert_ne!(result.status(), MetricStatus::Failed, "{name}: {result:?}");
        }
        let stalls = run(app.info()).reactor.expect("the reactor").stalls;
        assert_eq!(stalls, 0, "{name}");
    }
}

#[test]
fn a_stream_is_told_of_a_sample_by_its_deadline_and_too_many_sentences_have_a_reason() {
    let judge = StandIn::start();
    judge.hold();
    let app = start(&judge);
    let sample = sample(4, repeated("Ok. "));
    let request = EvaluateRequest { sample: Some(sample), metrics: all_metrics(), options: None };
    let message = EvaluateStreamRequest { id: "one".into(), request: Some(request) };
    run(async {
        let http = legacy::Client::builder(TokioExecutor::new()).http2_only(true).build_http();
        let mut client = EvaluationServiceClient::with_origin(http, app.url().parse().expect("a URL"));
        let answers = client.evaluate_stream(with_deadline(tokio_stream::iter([message]))).await;
        let mut answers = answers.expect("a stream").into_inner();
        let response = loop {
            let answer = answers.message().await.expect("its sample comes before the deadline");
            if let Some(Event::Sample(response)) = answer.expect("its sample").event {
                break response;
            }
        };
        assert_eq!(result(&response, "faithfulness").status(), MetricStatus::Deadline);
        assert_eq!(result(&response, "exact_match").status(), MetricStatus::Ok);
        for name in ["embedding_groundedness", "embedding_relevance"] {
            let result = result(&response, name);
            assert_eq!(result.status(), MetricStatus::NotApplicable, "{result:?}");
            assert!(result.reason.ends_with("sentences; the limit is 2048 (max-sentences)"), "{result:?}");
        }
    });
    judge.release();
}

#[tokio::test]
async fn a_judge_that_lists_more_than_anybody_wants_is_unreadable() {
    let bench = Bench::start();
    let asked = || evaluator::sample("The fox is red.", &["The fox is red."], "The fox is red.");
    for (list, name) in [("claims", "claims"), ("verdicts", "verification"), ("entities", "entities")] {
        bench.judge.set_brain(move |asked| match asked.verdict.as_deref() {
            Some(verdict) if verdict == name => match list {
                "verdicts" => {
                    let verdict = |n: usize| json!({ "id": format!("c{n}"), "supported": true });
                    json!({ "verdicts": (0..20_000).map(verdict).collect::<Vec<_>>() })
                }
                _ => json!({ list: (0..20_000).map(|n| format!("{n} foxes")).collect::<Vec<_>>() }),
            },
            _ => honest(asked),
        });
        let metric =
            if list == "entities" { Metric::from(ContextEntityRecall) } else { Metric::from(Faithfulness) };
        let before = bench.judge.count();
        let result = bench.result(asked(), metric).await;
        assert_eq!(result.status, Status::JudgeUnreadable, "{result:?}");
        assert!(result.reason.contains(&format!("20000 {list}; the limit is 1024")), "{}", result.reason);
        assert!(bench.judge.count() - before <= 2, "{}", bench.judge.count());
    }
}
