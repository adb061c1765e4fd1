//! Embed under load and before the model is ready: queues, deadlines, cancellation and readiness.

use std::time::{Duration, Instant};

use assay::proto::TokenizeRequest;
use tonic::{Code, Request, Status};

use crate::{
    embed_rpc::{embed, refused},
    support::{
        app::{LARGE, SMALL, TestApp, details, request, run, until},
        random_model::write_random_model,
    },
};

/// Inputs of [`keep_busy`].
const BUSY_INPUTS: usize = 6;

/// 512 tokens of [`LARGE`].
fn page() -> String {
    "的".repeat(510)
}

/// A server whose only compute thread takes four pages at a time.
fn slow_server(change: impl FnOnce(&mut assay::app::AppSettings)) -> TestApp {
    TestApp::serving_with(LARGE, |settings| {
        settings.embed.batch_tokens = 2048;
        change(settings);
    })
}

/// Two long forward passes, of which the first has begun when this returns.
async fn keep_busy(app: &TestApp) -> tokio::task::JoinHandle<Result<usize, Status>> {
    let mut client = app.client().await;
    let call = tokio::spawn(async move {
        let response = client.embed(request(vec![page(); BUSY_INPUTS])).await?;
        Ok(response.get_ref().embeddings.len())
    });
    until("the first pass", async || (1..BUSY_INPUTS).contains(&app.queue_depth().0)).await;
    call
}

#[test]
fn a_full_queue_rejects_immediately_with_a_retry_delay() {
    // 4,096 tokens for calls, of which the busy one holds 3,072.
    let app = slow_server(|settings| settings.embed.queue_tokens = 8192);
    run(async {
        let busy = keep_busy(&app).await;
        let mut client = app.client().await;
        let status = refused(&mut client, request(vec![page(); 3])).await;
        assert!(!busy.is_finished());
        let details = details(&status);
        assert_eq!((status.code(), details.reason.as_str()), (Code::ResourceExhausted, "QUEUE_FULL"));
        let retry_in = details.retry_in.expect("RetryInfo");
        assert_eq!(details.pushback_ms, Some(retry_in.as_millis() as i64));
        assert_eq!(app.metric("assay_queue_refusals_total", "").await, 1.0);
        assert_eq!(busy.await.expect("no panic").expect("vectors"), BUSY_INPUTS);
        assert_eq!(embed(&mut client, request(vec![page(); 3])).await.embeddings.len(), 3);
    });
}

#[test]
fn underestimated_tokens_are_corrected() {
    // 4,096 tokens for calls, of which the busy one holds 3,072.
    let app = slow_server(|settings| settings.embed.queue_tokens = 8192);
    run(async {
        let busy = keep_busy(&app).await;
        // Three bytes are taken for a token; here each is one. 4 times 502 tokens, where 672 are expected.
        let dense = request(vec!["!".repeat(500); 4]);
        let mut client = app.client().await;
        let dense = tokio::spawn(async move { client.embed(dense).await });
        app.until_metric("assay_queue_inputs", "", |inputs| inputs >= 5.0).await;
        let mut client = app.client().await;
        let status = refused(&mut client, request(["x"])).await;
        assert!(!busy.is_finished());
        assert_eq!(details(&status).reason, "QUEUE_FULL");
        busy.await.expect("no panic").expect("vectors");
        dense.await.expect("no panic").expect("vectors");
        assert_eq!(embed(&mut client, request(["x"])).await.embeddings.len(), 1);
        assert_eq!(app.metric("assay_admitted_call_tokens", "").await, 0.0);
    });
}

#[test]
fn a_request_above_the_queue_limit_is_an_invalid_argument() {
    let app = slow_server(|settings| settings.embed.queue_tokens = 8192);
    run(async {
        let status = refused(&mut app.client().await, request(vec![page(); 9])).await;
        let details = details(&status);
        assert_eq!((status.code(), details.retry_in), (Code::InvalidArgument, None));
        assert_eq!(details.fields, ["inputs"]);
        assert!(details.descriptions[0].contains("4096"), "{:?}", details.descriptions);
    });
}

#[test]
fn a_deadline_in_the_queue_is_reported_and_cancels_the_work() {
    let app = slow_server(|_| ());
    run(async {
        let busy = keep_busy(&app).await;
        let mut late = Request::new(request(["too late"]));
        late.set_timeout(Duration::from_millis(50));
        let status = app.bare_client().embed(late).await.expect_err("too late");
        assert!(!busy.is_finished());
        assert_eq!(
            (status.code(), details(&status).reason.as_str()),
            (Code::DeadlineExceeded, "DEADLINE_EXCEEDED")
        );
        busy.await.expect("no panic").expect("vectors");
        app.until_metric("assay_dropped_total", "phase=\"compute\"", |dropped| dropped == 1.0).await;
        assert_eq!(app.metric("assay_embedded_inputs_total", "").await, BUSY_INPUTS as f64);
    });
}

#[test]
fn a_deadline_is_never_reported_as_a_cancellation() {
    let app = slow_server(|_| ());
    run(async {
        let busy = keep_busy(&app).await;
        let client = app.bare_client();
        let calls = (0..40_u64).map(|call| {
            let mut client = client.clone();
            async move {
                let mut late = Request::new(request(["too late"]));
                late.set_timeout(Duration::from_micros(100 + call * 250));
                client.embed(late).await.expect_err("too late").code()
            }
        });
        let codes = futures::future::join_all(calls).await;
        assert!(codes.iter().all(|&code| code == Code::DeadlineExceeded), "{codes:?}");
        busy.abort();
    });
}

#[test]
fn a_deadline_during_the_request_is_reported() {
    use http_body_util::StreamBody;
    use hyper_util::{client::legacy, rt::TokioExecutor};

    let app = TestApp::serving(SMALL);
    run(async {
        let client = legacy::Client::builder(TokioExecutor::new()).http2_only(true).build_http();
        let never = futures::stream::pending::<Result<http_body::Frame<bytes::Bytes>, Status>>();
        let request = http::Request::post(format!("{}/assay.v1.EmbeddingService/Embed", app.url()))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("grpc-timeout", "100m")
            .body(tonic::body::Body::new(StreamBody::new(never)))
            .expect("a request");
        let response = client.request(request).await.expect("an answer");
        let status = Status::from_header_map(response.headers()).expect("a status");
        assert_eq!(status.code(), Code::DeadlineExceeded);
    });
}

#[test]
fn a_cancelled_caller_costs_no_forward_pass() {
    let app = slow_server(|_| ());
    run(async {
        let busy = keep_busy(&app).await;
        let mut client = app.client().await;
        let leaving = tokio::spawn(async move { client.embed(request(vec!["leaves"; 5])).await });
        until("five more", async || app.queue_depth().0 > 5).await;
        leaving.abort();
        let open = "method=\"assay.v1.EmbeddingService/Embed\"";
        app.until_metric("assay_rpc_open", open, |open| open == 1.0).await;
        assert!(!busy.is_finished());
        busy.await.expect("no panic").expect("vectors");
        app.until_metric("assay_dropped_total", "phase=\"compute\"", |dropped| dropped == 5.0).await;
        assert_eq!(app.metric("assay_embedded_inputs_total", "").await, BUSY_INPUTS as f64);
    });
}

#[test]
fn a_request_id_is_echoed_or_generated() {
    let app = TestApp::serving(SMALL);
    run(async {
        let mut client = app.client().await;
        let with_id = |inputs: &[&str]| {
            let mut request = Request::new(request(inputs.iter().copied()));
            request.metadata_mut().insert("x-request-id", "of-the-caller".parse().expect("ASCII"));
            request
        };
        let response = client.embed(with_id(&["fine"])).await.expect("vectors");
        assert_eq!(response.metadata().get("x-request-id").expect("an id"), "of-the-caller");
        let status = client.embed(with_id(&[])).await.expect_err("no inputs");
        assert_eq!(status.metadata().get("x-request-id").expect("an id"), "of-the-caller");
        let mut made = Vec::new();
        for _ in 0..2 {
            let response = client.embed(request(["fine"])).await.expect("vectors");
            made.push(response.metadata().get("x-request-id").expect("an id").clone());
        }
        assert!(made[0] != made[1] && !made[0].is_empty());
    });
}

#[test]
fn a_call_before_the_model_is_ready_fails_immediately() {
    let (app, _dir) = TestApp::without_model();
    run(async {
        let began = Instant::now();
        let mut client = app.client().await;
        let statuses = [
            refused(&mut client, request(["x"])).await,
            client.tokenize(TokenizeRequest::default()).await.expect_err("not ready"),
        ];
        for status in statuses {
            let details = details(&status);
            assert_eq!((status.code(), details.reason.as_str()), (Code::Unavailable, "NOT_READY"));
            let retry_in = details.retry_in.expect("RetryInfo");
            assert_eq!(details.pushback_ms, Some(retry_in.as_millis() as i64));
        }
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    });
}

#[test]
fn a_call_with_wait_for_ready_is_served_once_ready() {
    let (app, dir) = TestApp::without_model();
    run(async {
        let mut client = app.client().await;
        let mut waits = Request::new(request(["x"]));
        waits.metadata_mut().insert("assay-wait-for-ready", "true".parse().expect("ASCII"));
        let waiting = tokio::spawn(async move { client.embed(waits).await });
        let embed = "method=\"assay.v1.EmbeddingService/Embed\"";
        app.until_metric("assay_rpc_open", embed, |open| open == 1.0).await;
        write_random_model(SMALL, dir.path());
        let response = waiting.await.expect("no panic").expect("vectors");
        assert_eq!(response.get_ref().embeddings.len(), 1);
    });
}

#[test]
fn waiting_for_the_model_ends_with_the_deadline() {
    let (app, _dir) = TestApp::without_model();
    run(async {
        let mut waits = Request::new(request(["x"]));
        waits.metadata_mut().insert("assay-wait-for-ready", "true".parse().expect("ASCII"));
        waits.set_timeout(Duration::from_millis(100));
        let status = app.bare_client().embed(waits).await.expect_err("no model");
        assert_eq!(status.code(), Code::DeadlineExceeded);
    });
}
