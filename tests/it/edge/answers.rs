//! Responses that the client does not read.

use tonic_health::pb::HealthCheckRequest;

use super::EMBED;
use crate::support::{
    app::{SMALL, TestApp, request, run},
    raw_http2::{DATA, Peer, frame, headers, message, window_setting},
};

/// Opens calls whose answers have no window to be sent in.
async fn unread(app: &TestApp, calls: u32, further: &[(&str, &str)]) -> Peer {
    let mut peer = Peer::open(app.address(), &window_setting(0)).await;
    // One input: "a".
    let body = message(&[0x0a, 1, b'a']);
    for stream in (0..calls).map(|n| 2 * n + 1) {
        let call = [headers(stream, EMBED, further), frame(DATA, 1, stream, &body)].concat();
        peer.send(&call).await.expect("sent");
    }
    peer
}

#[test]
fn an_unread_response_ends_after_the_deadline() {
    let app = TestApp::serving(SMALL);
    run(async {
        let _peer = unread(&app, 10, &[("grpc-timeout", "500m")]).await;
        app.until_metric("assay_rpc_started_total", "EmbeddingService/Embed\"", |started| started == 10.0)
            .await;
        app.until_metric("assay_rpc_open", "", |open| open == 0.0).await;
        app.client().await.embed(request(["a"])).await.expect("others are served");
    });
}

#[test]
fn unread_responses_do_not_delay_the_shutdown() {
    let mut app = TestApp::serving(SMALL);
    run(async {
        let _peer = unread(&app, 10, &[]).await;
        app.until_metric("assay_rpc_open", "", |open| open == 10.0).await;
        app.health().await.check(HealthCheckRequest::default()).await.expect("it serves");
        assert!(app.drain().await, "the drain limit cut something off");
    });
}
