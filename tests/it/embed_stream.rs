//! EmbedStream over the network: responses, order, backpressure and the end of streams.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use assay::{
    deadline::Deadline,
    embed::{InputOptions, VectorEncoding, VectorOptions},
    model::Truncation,
    proto::{
        EmbedOptions, EmbedStreamRequest, EmbedStreamResponse, Embedding,
        embed_stream_response::Result as ItemResult, embedding_service_client::EmbeddingServiceClient,
    },
};
use futures::{StreamExt, future::join_all, stream};
use prost::Message;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Status, Streaming, transport::Channel};

use crate::support::app::{
    LARGE, LIMIT, SMALL, TestApp, details, item, largest_difference, length, request, run, until,
};

type Answers = Streaming<EmbedStreamResponse>;

const STREAMS: &str = "method=\"assay.v1.EmbeddingService/EmbedStream\"";
const INPUTS: &str = "assay_embedded_inputs_total";

/// An open stream: what is sent into it, and its answers.
async fn open(app: &TestApp) -> (mpsc::Sender<EmbedStreamRequest>, Answers) {
    let (sender, items) = mpsc::channel(1);
    let answers = app.client().await.embed_stream(ReceiverStream::new(items)).await.expect("a stream");
    (sender, answers.into_inner())
}

/// All answers up to a good end.
async fn rest(mut answers: Answers) -> Vec<EmbedStreamResponse> {
    let mut all = Vec::new();
    while let Some(answer) = answers.message().await.expect("a good end") {
        all.push(answer);
    }
    all
}

async fn answers_to(app: &TestApp, items: Vec<EmbedStreamRequest>) -> Vec<EmbedStreamResponse> {
    rest(app.client().await.embed_stream(stream::iter(items)).await.expect("a stream").into_inner()).await
}

fn vector(answer: EmbedStreamResponse) -> Embedding {
    match answer.result {
        Some(ItemResult::Embedding(embedding)) => embedding,
        other => panic!("{} was answered with {other:?}", answer.id),
    }
}

fn error(answer: EmbedStreamResponse) -> Status {
    match answer.result {
        Some(ItemResult::Error(error)) => {
            Status::with_details(error.code.into(), error.message.clone(), error.encode_to_vec().into())
        }
        other => panic!("{} was answered with {other:?}", answer.id),
    }
}

fn words(count: usize) -> String {
    "word ".repeat(count)
}

/// Until the server has embedded at least `least` inputs and goes no further.
async fn until_it_stands_still(app: &TestApp, least: usize) -> f64 {
    app.until_metric(INPUTS, "", |inputs| inputs >= least as f64).await;
    let (mut last, mut since) = (0.0, Instant::now());
    until("a standstill", async || {
        let now = app.metric(INPUTS, "").await;
        if now != last {
            (last, since) = (now, Instant::now());
        }
        since.elapsed() > Duration::from_millis(500)
    })
    .await;
    last
}

#[test]
fn every_id_gets_exactly_one_response_with_its_embedding() {
    let app = TestApp::serving_with(SMALL, |settings| settings.embed.threads = 2);
    run(async {
        let items = (0..300).map(|n| item(n, words(1 + n % 17))).collect();
        let answers = answers_to(&app, items).await;
        let mut by_id: HashMap<usize, Embedding> = HashMap::new();
        for answer in answers {
            let id = answer.id.parse().expect("an id of ours");
            assert!(by_id.insert(id, vector(answer)).is_none(), "{id} came twice");
        }
        assert_eq!(by_id.len(), 300);
        let unary = app.client().await.embed(request((0..17).map(|n| words(1 + n)))).await.expect("vectors");
        for (id, embedding) in by_id {
            let expected = &unary.get_ref().embeddings[id % 17];
            assert_eq!(embedding.token_count, expected.token_count);
            assert!((length(&embedding.values) - 1.0).abs() < 1e-5);
            assert!(largest_difference(&embedding.values, &expected.values) < 1e-5);
        }
    });
}

#[test]
fn responses_with_the_same_id_are_in_input_order() {
    let app = TestApp::serving_with(SMALL, |settings| settings.embed.threads = 2);
    run(async {
        // The later ones are shorter, and so would be the first to finish.
        let items = (0..200).map(|n| item(n % 5, words(1 + (200 - n)))).collect();
        let mut tokens: HashMap<String, Vec<u32>> = HashMap::new();
        for answer in answers_to(&app, items).await {
            tokens.entry(answer.id.clone()).or_default().push(vector(answer).token_count);
        }
        assert_eq!(tokens.len(), 5);
        for (id, tokens) in tokens {
            assert!(tokens.len() == 40 && tokens.is_sorted_by(|a, b| a > b), "{id}: {tokens:?}");
        }
    });
}

#[test]
fn an_invalid_input_gets_an_error_and_the_stream_continues() {
    let app = TestApp::serving(SMALL);
    run(async {
        let (sender, mut answers) = open(&app).await;
        let options = EmbedOptions { encoding: 99, dimensions: Some(0), ..EmbedOptions::default() };
        let strange = EmbedStreamRequest { options: Some(options), ..item("strange", "x") };
        for (bad, fields) in [
            (item("empty", ""), &["input"][..]),
            (item("long", words(3000)), &["input"]),
            (strange, &["options.dimensions", "options.encoding"]),
            (item("i".repeat(300), "x"), &["id"]),
        ] {
            let id: String = bad.id.chars().take(256).collect();
            sender.send(bad).await.expect("an open stream");
            let answer = answers.message().await.expect("an open stream").expect("an answer");
            assert_eq!(answer.id, id);
            let status = error(answer);
            assert_eq!(
                (status.code(), &details(&status).fields[..]),
                (Code::InvalidArgument, &fields.iter().map(|&f| f.to_owned()).collect::<Vec<_>>()[..])
            );
            sender.send(item("good", "x")).await.expect("an open stream");
            vector(answers.message().await.expect("an open stream").expect("an answer"));
        }
    });
}

#[test]
fn a_half_closed_stream_sends_all_responses() {
    let app = TestApp::serving(SMALL);
    run(async {
        let (sender, answers) = open(&app).await;
        for n in 0..60 {
            sender.send(item(n, words(20))).await.expect("an open stream");
        }
        drop(sender);
        assert_eq!(rest(answers).await.into_iter().map(vector).count(), 60);
    });
}

/// A connection that takes few bytes of answers unread.
async fn narrow_client(app: &TestApp) -> EmbeddingServiceClient<Channel> {
    let endpoint = Channel::from_shared(app.url()).expect("a URL").initial_stream_window_size(16 << 10);
    EmbeddingServiceClient::new(endpoint.connect().await.expect("a connection"))
}

#[test]
fn a_slow_reader_is_slowed_down_and_loses_nothing() {
    const ALL: usize = 10_000;
    let app = TestApp::serving(SMALL);
    run(async {
        let sent = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&sent);
        let items = stream::iter(0..ALL).map(move |n| {
            counted.fetch_add(1, Ordering::Relaxed);
            item(n, "x")
        });
        let answers = narrow_client(&app).await.embed_stream(items).await.expect("a stream").into_inner();
        let embedded = until_it_stands_still(&app, 64).await;
        println!("unread: {embedded} embedded, {} sent", sent.load(Ordering::Relaxed));
        // 64 unanswered, and what fits the buffers of both sides: some 32 KiB each, of half a KiB an answer.
        assert!(embedded < 400.0, "{embedded}");
        let mut ids: Vec<usize> = rest(answers).await.iter().map(|a| a.id.parse().expect("an id")).collect();
        ids.sort_unstable();
        assert!(ids.into_iter().eq(0..ALL));
    });
}

#[test]
fn a_slow_reader_does_not_block_other_streams() {
    let app = TestApp::serving_with(SMALL, |settings| {
        settings.embed.queue_tokens = 8192;
        settings.rpc.limits.default_deadline = Duration::from_secs(15);
    });
    run(async {
        let items = stream::iter(0..2000).map(|n| item(n, words(100)));
        let unread = narrow_client(&app).await.embed_stream(items).await.expect("a stream");
        until_it_stands_still(&app, 20).await;
        let (sender, mut answers) = open(&app).await;
        for n in 0..10 {
            sender.send(item(n, words(100))).await.expect("an open stream");
            vector(answers.message().await.expect("an open stream").expect("an answer"));
        }
        drop(unread);
    });
}

#[test]
fn a_short_text_is_not_delayed_by_a_long_queue_of_another() {
    const ALL: usize = 2000;
    // Room for 4,096 tokens of streams, some 66 of the texts; a forward pass takes eight.
    let app = TestApp::serving_with(SMALL, |settings| settings.embed.queue_tokens = 8192);
    let answered = AtomicUsize::new(0);
    run(async {
        let engine = app.app.embedder().ready().expect("it serves");
        let (flow, deadline) = (engine.stream_flow(), Deadline::after(LIMIT));
        let dimensions = engine.model().dimensions;
        let vector = VectorOptions { dimensions, normalize: true, encoding: VectorEncoding::Float32Values };
        let options = InputOptions { prompt: "".into(), truncation: Truncation::End, vector };
        let flood = join_all((0..ALL).map(async |_| {
            engine.embed_in_stream(flow, words(60), options.clone(), deadline).await.expect("a vector");
            answered.fetch_add(1, Ordering::Relaxed);
        }));
        let polite = async {
            let (sender, mut answers) = open(&app).await;
            let vector_of = super::embed_stream::vector;
            let mut waits = Vec::new();
            for n in 0..10 {
                app.until_metric("assay_admitted_stream_tokens", "", |tokens| tokens > 3900.0).await;
                let before = answered.load(Ordering::Relaxed);
                sender.send(item(n, "x")).await.expect("an open stream");
                vector_of(answers.message().await.expect("an open stream").expect("an answer"));
                waits.push(answered.load(Ordering::Relaxed) - before);
            }
            waits
        };
        let (_, mut waits) = futures::join!(flood, polite);
        println!("texts of the flood answered before each: {waits:?} of {ALL}");
        waits.sort_unstable();
        assert!(waits[waits.len() / 2] <= 32, "{waits:?}: more than a few forward passes");
        assert!(waits[waits.len() - 1] < ALL / 4, "{waits:?}");
    });
}

#[test]
fn a_call_is_served_while_64_streams_load_the_server() {
    const ITEMS: usize = 60;
    let app = TestApp::serving_with(SMALL, |settings| settings.embed.threads = 2);
    run(async {
        let answered = Arc::new(AtomicUsize::new(0));
        let streams = join_all((0..64).map(|_| async {
            let items = stream::iter(0..ITEMS).map(|n| item(n, words(60)));
            let answers = app.client().await.embed_stream(items).await.expect("a stream").into_inner();
            let answered = Arc::clone(&answered);
            let count = answers.map(|answer| vector(answer.expect("an answer"))).inspect(move |_| {
                answered.fetch_add(1, Ordering::Relaxed);
            });
            assert_eq!(count.count().await, ITEMS);
        }));
        let calls = async {
            until("all streams at work", async || app.metric("assay_rpc_open", STREAMS).await == 64.0).await;
            let mut client = app.client().await;
            let mut worst = Duration::ZERO;
            for _ in 0..5 {
                let began = Instant::now();
                client.embed(request([words(60)])).await.expect("a vector");
                worst = worst.max(began.elapsed());
            }
            (worst, answered.load(Ordering::Relaxed))
        };
        let (_, (worst, answered)) = futures::join!(streams, calls);
        println!("slowest of 5 calls: {worst:?}, when the streams had {answered} of {} answers", 64 * ITEMS);
        assert!(answered < 64 * ITEMS, "the calls came after the streams");
    });
}

#[test]
fn a_cancelled_stream_costs_no_further_compute() {
    let app = TestApp::serving_with(LARGE, |settings| settings.embed.batch_tokens = 2048);
    run(async {
        let (sender, answers) = open(&app).await;
        for n in 0..64 {
            sender.send(item(n, "的".repeat(510))).await.expect("an open stream");
        }
        until("the first pass", async || app.queue_depth().0 >= 32).await;
        drop((sender, answers));
        app.until_metric("assay_rpc_open", STREAMS, |open| open == 0.0).await;
        until("an empty queue", async || app.queue_depth().0 == 0).await;
        let embedded = until_it_stands_still(&app, 0).await;
        assert!(embedded <= 32.0, "{embedded}");
        let dropped = app.metric("assay_dropped_total", "").await;
        assert!(dropped >= 20.0, "{dropped}");
    });
}

#[test]
fn a_stream_ends_at_its_deadline() {
    let app = TestApp::serving(SMALL);
    run(async {
        let mut opening = Request::new(stream::iter([item("a", "x")]).chain(stream::pending()));
        opening.set_timeout(Duration::from_millis(500));
        let mut answers = app.bare_client().embed_stream(opening).await.expect("a stream").into_inner();
        vector(answers.message().await.expect("an open stream").expect("an answer"));
        let status = answers.message().await.expect_err("its deadline passed");
        assert_eq!(
            (status.code(), details(&status).reason.as_str()),
            (Code::DeadlineExceeded, "DEADLINE_EXCEEDED")
        );
    });
}
