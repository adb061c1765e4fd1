//! Messages that are large, compressed, have many fields, or are incomplete.

use std::{io::Write, time::Duration};

use http_body_util::{BodyExt as _, Full};
use hyper_util::{
    client::legacy::{self, connect::HttpConnector},
    rt::TokioExecutor,
};
use tonic::{Code, Status};

use super::{EMBED, EVALUATE};
use crate::support::{
    app::{SMALL, TestApp, details, request, run},
    raw_http2::{DATA, Peer, frame, headers},
};

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(bytes).expect("memory");
    encoder.finish().expect("memory")
}

/// Sends `message` as the only one of a call, with the flag of compression.
async fn post(app: &TestApp, path: &str, encoding: &str, message: &[u8]) -> Status {
    let length = u32::try_from(message.len()).expect("it is short").to_be_bytes();
    let compressed = u8::from(encoding != "identity");
    let framed = [&[compressed][..], &length, message].concat();
    let request = http::Request::post(format!("{}{path}", app.url()))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("grpc-encoding", encoding)
        .body(Full::new(bytes::Bytes::from(framed)))
        .expect("a request");
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    let client = legacy::Client::builder(TokioExecutor::new()).http2_only(true).build(connector);
    let response = client.request(request).await.expect("an answer");
    let (parts, body) = response.into_parts();
    match Status::from_header_map(&parts.headers) {
        Some(status) => status,
        None => {
            let trailers = body.collect().await.expect("an answer").trailers().cloned().expect("trailers");
            Status::from_header_map(&trailers).expect("a status")
        }
    }
}

fn check_invalid(status: &Status, part: &str) {
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    assert!(details(status).descriptions.join("\n").contains(part), "{status:?}");
    assert!(status.details().len() < 4096, "{} bytes of details", status.details().len());
}

/// One field of two bytes, again and again.
fn elements(tag: u8, count: usize) -> Vec<u8> {
    [tag, 0].repeat(count)
}

#[test]
fn a_message_with_too_many_fields_is_rejected_undecoded() {
    const MIB: usize = 1 << 20;
    let app = TestApp::serving(SMALL);
    run(async {
        let before = app.metric("process_resident_memory_bytes", "").await;
        let metrics = elements(0x12, 8 * MIB - 1);
        check_invalid(&post(&app, EVALUATE, "gzip", &gzip(&metrics)).await, "fields");
        check_invalid(&post(&app, EVALUATE, "identity", &metrics).await, "fields");
        let zstd = zstd::encode_all(&metrics[..], 3).expect("memory");
        check_invalid(&post(&app, EVALUATE, "zstd", &zstd).await, "fields");
        check_invalid(&post(&app, EMBED, "identity", &elements(0x0a, 8 * MIB - 1)).await, "fields");
        // A sample of five million empty contexts.
        let contexts = elements(0x22, 5 * MIB);
        let length = contexts.len();
        let prefix = [0x0a, length as u8 & 0x7f | 0x80, (length >> 7) as u8 & 0x7f | 0x80];
        let prefix = [&prefix[..], &[(length >> 14) as u8 & 0x7f | 0x80, (length >> 21) as u8]].concat();
        check_invalid(&post(&app, EVALUATE, "identity", &[prefix, contexts].concat()).await, "fields");
        // Fields that nobody knows count too.
        check_invalid(&post(&app, EMBED, "identity", &elements(0x78, 8 * MIB - 1)).await, "fields");
        let after = app.metric("process_resident_memory_bytes", "").await;
        assert!(after - before < 300e6, "{before} -> {after}");
        assert_eq!(app.metric("assay_reactor_stalls_total", "").await, 0.0);
    });
}

#[test]
fn the_error_for_too_many_metrics_is_short() {
    let app = TestApp::serving(SMALL);
    run(async {
        let status = post(&app, EVALUATE, "gzip", &gzip(&elements(0x12, 30_000))).await;
        check_invalid(&status, "30000 metrics, the limit is 64");
        let details = details(&status);
        assert!(
            details.fields.len() <= 11 && status.message().len() <= 1024,
            "{details:?}",
            details = details.fields
        );
    });
}

#[test]
fn five_hundred_violations_fit_the_metadata_limit() {
    let app = TestApp::serving(SMALL);
    run(async {
        let status = app.client().await.embed(request(vec![""; 512])).await.expect_err("refused");
        check_invalid(&status, "502 more validation errors");
        assert_eq!(details(&status).fields.len(), 11);
    });
}

#[test]
fn too_large_or_corrupt_compressed_messages_are_rejected() {
    let app = TestApp::serving(SMALL);
    run(async {
        let large = vec![0; 17 << 20];
        check_invalid(&post(&app, EMBED, "gzip", &gzip(&large)).await, "decompressed message exceeds");
        let zstd = zstd::encode_all(&large[..], 3).expect("memory");
        check_invalid(&post(&app, EMBED, "zstd", &zstd).await, "decompressed message exceeds");
        check_invalid(&post(&app, EMBED, "gzip", b"not compressed at all").await, "is corrupt");
        check_invalid(&post(&app, EMBED, "gzip", b"").await, "is corrupt");
    });
}

#[test]
fn an_incomplete_message_ends_at_the_body_timeout() {
    let app = TestApp::serving_with(SMALL, |settings| {
        settings.rpc.limits.body_timeout = Duration::from_millis(300)
    });
    run(async {
        for path in [EMBED, "/assay.v1.EmbeddingService/EmbedStream"] {
            let mut peer = Peer::open(app.address(), &[]).await;
            // A message of 100 bytes, of which two arrive.
            let body = frame(DATA, 0, 1, &[0, 0, 0, 0, 100, 10, 98]);
            peer.send(&[headers(1, path, &[]), body].concat()).await.expect("sent");
            let label = format!("method=\"{}\",code=\"DEADLINE_EXCEEDED\"", path.trim_start_matches('/'));
            app.until_metric("assay_rpc_seconds_count", &label, |ended| ended == 1.0).await;
        }
        app.until_metric("assay_rpc_open", "", |open| open == 0.0).await;
    });
}

#[test]
fn incomplete_messages_use_bounded_memory_and_block_nobody() {
    const MESSAGES: u32 = 40;
    const BYTES: u32 = 4 << 20;
    let app = TestApp::serving_with(SMALL, |settings| {
        settings.rpc.limits.message_memory = 32 << 20;
        settings.rpc.limits.body_timeout = Duration::from_secs(5);
    });
    run(async {
        let mut peer = Peer::open(app.address(), &[]).await;
        for stream in (0..MESSAGES).map(|n| 2 * n + 1) {
            let start = [&[0][..], &BYTES.to_be_bytes(), &[0x0a; 100]].concat();
            let call = [headers(stream, EMBED, &[]), frame(DATA, 0, stream, &start)].concat();
            peer.send(&call).await.expect("sent");
        }
        // 16 MiB for requests are four such messages.
        app.until_metric("assay_message_request_bytes", "", |held| held == f64::from(4 * BYTES)).await;
        let mut client = app.client().await;
        for _ in 0..20 {
            client.embed(request(["a short text"])).await.expect("short calls need no share of it");
        }
        assert_eq!(app.metric("assay_message_request_bytes", "").await, f64::from(4 * BYTES));
        drop(peer);
        app.until_metric("assay_message_request_bytes", "", |held| held == 0.0).await;
        client.embed(request(vec!["x".repeat(100 << 10)])).await.expect_err("it is too long for the model");
    });
}

#[test]
fn a_unary_call_takes_one_message() {
    let app = TestApp::serving(SMALL);
    run(async {
        let mut peer = Peer::open(app.address(), &[]).await;
        let twice = [0, 0, 0, 0, 3, 10, 1, 97].repeat(2);
        peer.send(&[headers(1, EMBED, &[]), frame(DATA, 1, 1, &twice)].concat()).await.expect("sent");
        app.until_metric("assay_rpc_seconds_count", "code=\"INVALID_ARGUMENT\"", |ended| ended == 1.0).await;
    });
}
