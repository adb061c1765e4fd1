//! Limits per caller, independent of the number of its connections.

use std::time::Duration;

use assay::{
    proto::{
        GetServerInfoRequest, embedding_service_client::EmbeddingServiceClient,
        server_service_client::ServerServiceClient,
    },
    rpc::CallerLimits,
};
use tonic::{Code, Request, Status, transport::Channel};
use tonic_health::pb::HealthCheckRequest;

use crate::support::{
    app::{TestApp, details, request, run, settings, until},
    certificates::{Authority, Client, Files},
};

fn start(files: &Files, change: impl FnOnce(&mut assay::rpc::guard::Security)) -> TestApp {
    let mut settings = settings(files.dir().to_string_lossy());
    change(&mut settings.rpc.security);
    TestApp::start(settings)
}

async fn info(channel: Channel, token: &str) -> Result<(), Status> {
    let mut request = Request::new(GetServerInfoRequest {});
    if !token.is_empty() {
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().expect("ASCII"));
    }
    ServerServiceClient::new(channel).get_server_info(request).await.map(|_| ())
}

/// Its reason, and when to come again.
fn refused(answer: Result<(), Status>) -> (String, Duration) {
    let status = answer.expect_err("refused");
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    let details = details(&status);
    assert!(details.pushback_ms.is_some_and(|ms| ms >= 0));
    (details.reason, details.retry_in.expect("when to come again"))
}

#[test]
fn concurrent_calls_are_limited_across_connections() {
    let files = Files::empty();
    let app = start(&files, |security| security.caller_limits.calls = Some(2));
    run(async {
        // There is no model to wait for, so they wait for ever.
        let wait = |mut client: EmbeddingServiceClient<Channel>| {
            let mut request = Request::new(request(["a text"]));
            request.metadata_mut().insert("assay-wait-for-ready", "true".parse().expect("ASCII"));
            tokio::spawn(async move { client.embed(request).await.map(|_| ()) })
        };
        let waiting = [wait(app.client().await), wait(app.client().await)];
        let channel = app.channel().await;
        app.until_metric("assay_rpc_open", "EmbeddingService/Embed\"", |open| open == 2.0).await;
        let (reason, retry_in) = refused(info(channel.clone(), "").await);
        assert_eq!((reason.as_str(), retry_in), ("CALLER_CALLS", Duration::from_secs(1)));
        app.health().await.check(HealthCheckRequest::default()).await.expect("health is not limited");
        waiting[0].abort();
        until("the end of one", async || info(channel.clone(), "").await.is_ok()).await;
        waiting[1].abort();
    });
}

#[test]
fn each_token_has_its_own_rate_limit() {
    let files = Files::empty();
    let (one, two) = ("token-one-of-tests", "token-two-of-tests");
    files.write("tokens", &format!("one:{one}\ntwo:{two}\n"));
    let app = start(&files, |security| {
        security.token_file = Some(files.path("tokens"));
        security.caller_limits.requests_per_minute = Some(3);
    });
    run(async {
        for _ in 0..3 {
            info(app.channel().await, one).await.expect("within the limit");
        }
        let (reason, retry_in) = refused(info(app.channel().await, one).await);
        assert_eq!(reason, "CALLER_RATE");
        assert!(!retry_in.is_zero() && retry_in <= Duration::from_secs(20), "{retry_in:?}");
        info(app.channel().await, two).await.expect("the other's minute");
        for _ in 0..5 {
            app.health().await.check(HealthCheckRequest::default()).await.expect("health is not limited");
        }
    });
}

#[test]
fn each_client_certificate_has_its_own_limits() {
    let authority = Authority::new("of all");
    let files = Files::new(&authority.server());
    files.set_client_authority(&authority);
    let mut settings = settings(files.dir().to_string_lossy());
    files.apply(&mut settings);
    settings.rpc.security.caller_limits =
        CallerLimits { requests_per_minute: Some(1), ..CallerLimits::default() };
    let app = TestApp::start(settings);
    run(async {
        let ask = async |uri: &str| {
            let client = Client::new(&authority, Some(&authority.client(uri)));
            info(client.connect(app.address()).await.expect("a connection"), "").await
        };
        ask("spiffe://test/a").await.expect("within the limit");
        ask("spiffe://test/b").await.expect("another caller");
        assert_eq!(
            refused(ask("spiffe://test/a").await).0,
            "CALLER_RATE",
            "a new certificate is no new caller"
        );
    });
}
