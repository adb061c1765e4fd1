//! The embedding cache over the network: cache hits equal computed embeddings.

use std::time::Duration;

use assay::proto::{
    EmbedOptions, EmbedResponse, Embedding, Encoding, InputType, Timings, Truncation,
    embed_stream_response::Result as ItemResult,
};
use futures::{StreamExt, stream};
use tonic::Code;

use crate::{
    embed_rpc::{Client, embed, refused},
    evaluate_rpc,
    support::app::{LARGE, SMALL, TestApp, details, item, request, request_with, run, until},
};

const HITS: &str = "assay_embed_cache_hits_total";
const MISSES: &str = "assay_embed_cache_misses_total";
const JOINED: &str = "assay_embed_cache_joined_total";
const COMPUTED: &str = "assay_embedded_inputs_total";

const CACHE_BYTES: usize = 16 << 20;

/// Inputs of [`keep_busy`].
const BUSY_INPUTS: usize = 6;

fn cached(model: &str) -> TestApp {
    TestApp::serving_with(model, |settings| settings.embed.cache_bytes = CACHE_BYTES)
}

/// 512 tokens of [`LARGE`], another text for each number.
fn page(number: usize) -> String {
    format!("{}{}", "的".repeat(510 - number), "一".repeat(number))
}

/// 4,096 tokens for calls, of which a busy one holds 3,072.
fn slow_server() -> TestApp {
    TestApp::serving_with(LARGE, |settings| {
        settings.embed.batch_tokens = 2048;
        settings.embed.queue_tokens = 8192;
        settings.embed.cache_bytes = CACHE_BYTES;
    })
}

/// Two long forward passes, of which the first has begun when this returns.
async fn keep_busy(app: &TestApp) -> tokio::task::JoinHandle<EmbedResponse> {
    let mut client = app.client().await;
    let pages = request((0..BUSY_INPUTS).map(page));
    let call = tokio::spawn(async move { embed(&mut client, pages).await });
    until("the first pass", async || (1..BUSY_INPUTS).contains(&app.queue_depth().0)).await;
    call
}

fn all_options() -> Vec<EmbedOptions> {
    let encodings = [
        Encoding::Float32Values,
        Encoding::Float32Bytes,
        Encoding::Float16Bytes,
        Encoding::Int8Bytes,
        Encoding::BinaryBytes,
    ];
    let encodings =
        encodings.map(|encoding| EmbedOptions { encoding: encoding as i32, ..Default::default() });
    let others = [
        EmbedOptions { dimensions: Some(32), ..Default::default() },
        EmbedOptions { normalize: Some(false), ..Default::default() },
    ];
    encodings.into_iter().chain(others).collect()
}

async fn one(client: &mut Client, input: &str, options: &EmbedOptions) -> (Embedding, Timings) {
    let mut response = embed(client, request_with([input], options.clone())).await;
    (response.embeddings.remove(0), response.timings.expect("timings"))
}

fn is_zero(timings: &Timings) -> bool {
    let Timings { tokenize, queue, compute } = timings;
    [tokenize, queue, compute].iter().all(|time| **time == Some(Default::default()))
}

#[test]
fn a_cache_hit_equals_the_computed_embedding_bit_for_bit() {
    let (plain, app) = (TestApp::serving(SMALL), cached(SMALL));
    run(async {
        let (mut plain, mut client) = (plain.client().await, app.client().await);
        let forms = all_options();
        for (index, options) in forms.iter().enumerate() {
            let (computed, timings) = one(&mut plain, "a text", options).await;
            assert!(!is_zero(&timings));
            let (from_memory, timings) = one(&mut client, "a text", options).await;
            assert_eq!((from_memory, is_zero(&timings)), (computed, index > 0));
        }
        let hits = forms.len() as f64 - 1.0;
        assert_eq!((app.metric(HITS, "").await, app.metric(MISSES, "").await), (hits, 1.0));
        assert_eq!((app.metric(COMPUTED, "").await, app.metric(JOINED, "").await), (1.0, 0.0));
    });
}

#[test]
fn options_that_change_values_have_separate_entries() {
    let app = cached(SMALL);
    run(async {
        let mut client = app.client().await;
        let query = EmbedOptions { input_type: InputType::Query as i32, ..Default::default() };
        let end = EmbedOptions { truncation: Truncation::End as i32, ..Default::default() };
        for options in [EmbedOptions::default(), query, end] {
            one(&mut client, "a text", &options).await;
        }
        assert_eq!((app.metric(MISSES, "").await, app.metric(HITS, "").await), (3.0, 0.0));
    });
}

#[test]
fn equal_inputs_of_a_call_are_computed_once() {
    let app = cached(SMALL);
    run(async {
        let response = embed(&mut app.client().await, request(["one", "two", "one", "one"])).await;
        assert_eq!(response.embeddings[0], response.embeddings[2]);
        assert_eq!(response.embeddings[0], response.embeddings[3]);
        assert_ne!(response.embeddings[0], response.embeddings[1]);
        assert_eq!((app.metric(COMPUTED, "").await, app.metric(JOINED, "").await), (2.0, 2.0));
    });
}

#[test]
fn calls_streams_and_evaluations_share_the_cache() {
    let app = cached(SMALL);
    run(async {
        let called = embed(&mut app.client().await, request(["a text"])).await.embeddings.remove(0);
        let items = stream::iter([item("a", "a text")]);
        let answers = app.client().await.embed_stream(items).await.expect("a stream").into_inner();
        let answers: Vec<_> = answers.collect().await;
        let streamed = answers.into_iter().map(|answer| answer.expect("an answer").result);
        assert_eq!(streamed.collect::<Vec<_>>(), [Some(ItemResult::Embedding(called))]);
        assert_eq!((app.metric(HITS, "").await, app.metric(COMPUTED, "").await), (1.0, 1.0));
        let mut similarity = Vec::new();
        for _ in 0..2 {
            let request = evaluate_rpc::request(evaluate_rpc::sample(), &["semantic_similarity"]);
            let response = app.evaluation_client().await.evaluate(request).await.expect("results");
            similarity.push(response.get_ref().results[0].score);
        }
        assert!(similarity[0].is_some() && similarity[0] == similarity[1], "{similarity:?}");
        assert_eq!((app.metric(HITS, "").await, app.metric(COMPUTED, "").await), (3.0, 3.0));
    });
}

#[test]
fn cache_hits_are_served_while_the_queue_is_full() {
    let app = slow_server();
    run(async {
        let mut client = app.client().await;
        let known: Vec<String> = (100..103).map(page).collect();
        let first = embed(&mut client, request(known.clone())).await;
        let busy = keep_busy(&app).await;
        let status = refused(&mut client, request((200..203).map(page))).await;
        assert_eq!(
            (status.code(), details(&status).reason.as_str()),
            (Code::ResourceExhausted, "QUEUE_FULL")
        );
        let again = embed(&mut client, request(known.clone())).await;
        assert!(!busy.is_finished());
        assert_eq!(again.embeddings, first.embeddings);
        // Room is needed for what is new alone.
        let partly = embed(&mut client, request(known.into_iter().chain(["new".into()]))).await;
        assert_eq!(partly.embeddings[..3], first.embeddings);
        assert_eq!(busy.await.expect("no panic").embeddings.len(), BUSY_INPUTS);
        assert_eq!(app.metric("assay_queue_refusals_total", "").await, 1.0);
    });
}

#[test]
fn a_cancelled_call_does_not_fail_its_single_flight() {
    let app = slow_server();
    run(async {
        let busy = keep_busy(&app).await;
        let waiting = app.queue_depth().0;
        let mut late = tonic::Request::new(request(["the same"]));
        late.set_timeout(Duration::from_millis(50));
        let mut bare = app.bare_client();
        let late = tokio::spawn(async move { bare.embed(late).await.expect_err("too late").code() });
        until("its input", async || app.queue_depth().0 > waiting).await;
        let [leaving, staying] = [app.client().await, app.client().await]
            .map(|mut client| tokio::spawn(async move { embed(&mut client, request(["the same"])).await }));
        let open = "method=\"assay.v1.EmbeddingService/Embed\"";
        app.until_metric("assay_rpc_open", open, |open| open >= 3.0).await;
        leaving.abort();
        assert_eq!(late.await.expect("no panic"), Code::DeadlineExceeded);
        assert_eq!(staying.await.expect("no panic").embeddings.len(), 1);
        busy.await.expect("no panic");
        assert_eq!(app.metric(COMPUTED, "").await, BUSY_INPUTS as f64 + 1.0);
        assert_eq!(app.metric("assay_admitted_call_tokens", "").await, 0.0);
    });
}

#[test]
fn a_too_long_input_is_rejected_each_time() {
    let app = cached(SMALL);
    run(async {
        let mut client = app.client().await;
        let long = "word ".repeat(2000);
        for _ in 0..2 {
            let status = refused(&mut client, request(["fine", &long, &long])).await;
            assert_eq!(status.code(), Code::InvalidArgument);
            assert_eq!(details(&status).fields, ["inputs[1]", "inputs[2]"]);
        }
        assert_eq!(app.metric(COMPUTED, "").await, 0.0);
    });
}

#[test]
fn the_cache_stays_within_its_reported_limit() {
    let bound = 32 << 10;
    let app = TestApp::serving_with(SMALL, |settings| settings.embed.cache_bytes = bound);
    run(async {
        let mut client = app.client().await;
        for call in 0..4 {
            embed(&mut client, request((0..50).map(|input| format!("{call} {input}")))).await;
        }
        let held = app.metric("assay_embed_cache_bytes", "").await;
        let entries = app.metric("assay_embed_cache_entries", "").await;
        assert!(entries >= 1.0 && held <= bound as f64, "{entries} entries of {held} bytes");
        assert_eq!(app.metric("assay_embed_cache_evictions_total", "").await, 200.0 - entries);
        assert_eq!(app.metric("assay_embed_cache_limit_bytes", "").await, bound as f64);
        assert_eq!(app.info().await.limits.expect("limits").embed_cache_bytes, bound as u64);
    });
}

#[test]
fn without_a_cache_everything_is_computed_each_time() {
    let app = TestApp::serving(SMALL);
    run(async {
        let mut client = app.client().await;
        for _ in 0..2 {
            embed(&mut client, request(["a text", "a text"])).await;
        }
        assert_eq!(app.metric(COMPUTED, "").await, 4.0);
        assert_eq!([app.metric(HITS, "").await, app.metric(MISSES, "").await], [0.0; 2]);
        let (_, metrics) = app.get("/metrics").await;
        assert!(!metrics.contains("assay_embed_cache_bytes"));
    });
}
