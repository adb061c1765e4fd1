//! Invalid and unusual input: each gets a precise error, and the server keeps running.

use http_body_util::Full;
use hyper_util::{client::legacy, rt::TokioExecutor};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tonic::{Code, Status};

use crate::support::app::{LIMIT, SMALL, TestApp, details, request, run, vectors};

/// An answer to a well-formed call, after whatever was done to the server.
async fn check_alive(app: &TestApp) {
    let response = app.client().await.embed(request(["still here"])).await.expect("vectors").into_inner();
    assert_eq!(vectors(&response)[0].len(), 128);
}

#[test]
fn a_too_large_text_error_has_its_size_and_the_limit() {
    let app = TestApp::serving(SMALL);
    run(async {
        let texts = ["fine".to_owned(), "x".repeat(1 << 20)];
        let status = app.client().await.embed(request(texts)).await.expect_err("a refusal");
        assert_eq!(status.code(), Code::InvalidArgument);
        let details = details(&status);
        assert_eq!(details.fields, ["inputs[1]"]);
        assert!(details.descriptions[0].contains("1048576") && details.descriptions[0].contains("131072"));
        check_alive(&app).await;
    });
}

#[test]
fn a_64_megabyte_message_is_rejected_unread() {
    let app = TestApp::serving(SMALL);
    run(async {
        let texts = vec!["x".repeat(1 << 20); 64];
        let status = app.client().await.embed(request(texts)).await.expect_err("a refusal");
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
        assert_eq!(details(&status).fields, ["message"]);
        check_alive(&app).await;
    });
}

#[test]
fn unusual_valid_characters_have_embeddings() {
    let app = TestApp::serving(SMALL);
    run(async {
        let texts = [
            "\0",
            "a\0b",
            "\u{fffd}",
            "\u{200d}",
            "\u{10ffff}",
            "\n\t\r",
            "e\u{301}\u{301}\u{301}",
            "\u{202e}abc",
        ];
        let response = app.client().await.embed(request(texts)).await.expect("vectors").into_inner();
        assert!(vectors(&response).iter().flat_map(|vector| vector.iter()).all(|x| x.is_finite()));
    });
}

#[test]
fn undecodable_bytes_are_an_invalid_argument() {
    let app = TestApp::serving(SMALL);
    run(async {
        for (what, message) in [
            ("a lone surrogate", b"\x0a\x03\xed\xa0\x80".to_vec()),
            ("not UTF-8", b"\x0a\x02\xff\xfe".to_vec()),
            ("a field cut short", b"\x0a\x7fabc".to_vec()),
            ("a wire type that is none", b"\x0f".to_vec()),
        ] {
            let status = post(&app, &message).await;
            assert_eq!(status.code(), Code::InvalidArgument, "{what}: {status:?}");
            assert_eq!(details(&status).fields, ["message"], "{what}");
        }
        check_alive(&app).await;
    });
}

/// Sends `message` as the only one of an Embed call.
async fn post(app: &TestApp, message: &[u8]) -> Status {
    let length = u32::try_from(message.len()).expect("it is short").to_be_bytes();
    let framed = [&[0][..], &length, message].concat();
    let request = http::Request::post(format!("{}/assay.v1.EmbeddingService/Embed", app.url()))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Full::new(bytes::Bytes::from(framed)))
        .expect("a request");
    let client = legacy::Client::builder(TokioExecutor::new()).http2_only(true).build_http();
    let response = client.request(request).await.expect("an answer");
    Status::from_header_map(response.headers()).expect("a status")
}

#[test]
fn garbage_on_the_port_closes_only_its_connection() {
    let app = TestApp::serving(SMALL);
    let address = app.address();
    run(async {
        for garbage in [
            &b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"[..],
            &[0xff; 4096],
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff\xff\xff\xff\xff",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        ] {
            let mut connection = tokio::net::TcpStream::connect(address).await.expect("a connection");
            connection.write_all(garbage).await.expect("the bytes leave");
            let mut answer = Vec::new();
            // Closed cleanly or reset: either way it ends.
            let ended = tokio::time::timeout(LIMIT, connection.read_to_end(&mut answer)).await;
            assert!(ended.is_ok(), "the connection stays open");
        }
        check_alive(&app).await;
    });
}
