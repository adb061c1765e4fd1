//! Connections that are silent, flood the server with frames, or exceed a limit.

use std::time::Duration;

use tonic::Code;
use tonic_health::pb::HealthCheckRequest;

use super::{EMBED, ENHANCE_YOUR_CALM};
use crate::support::{
    app::{SMALL, TestApp, details, request, run, until},
    raw_http2::{DATA, PING, PREFACE, Peer, SETTINGS, WINDOW_UPDATE, frame, goaway, headers, window_setting},
};

#[test]
fn a_silent_connection_is_closed() {
    let app = TestApp::serving_with(SMALL, |settings| {
        settings.rpc.connections.handshake = Duration::from_millis(200);
    });
    run(async {
        for said in [&b""[..], &PREFACE[..10], PREFACE] {
            let mut peer = Peer::silent(app.address()).await;
            peer.send(said).await.expect("sent");
            peer.receive_all().await;
        }
        let closed = app.metric("assay_connections_refused_total", "reason=\"handshake_timeout\"").await;
        assert_eq!(closed, 3.0);
        // One that has spoken stays.
        let mut client = app.client().await;
        client.embed(request(["a"])).await.expect("vectors");
    });
}

#[test]
fn silent_connections_are_evicted_for_active_ones() {
    let app = TestApp::serving_with(SMALL, |settings| {
        settings.rpc.connections.limits.all = 8;
        settings.rpc.connections.limits.per_address = 8;
    });
    run(async {
        let mut silent = Vec::new();
        for _ in 0..50 {
            silent.push(Peer::silent(app.address()).await);
        }
        // All of them have been taken in: each above the limit has cost one before it its place.
        app.until_metric("assay_connections_refused_total", "reason=\"evicted\"", |evicted| evicted >= 42.0)
            .await;
        for _ in 0..4 {
            app.client().await.embed(request(["a"])).await.expect("vectors");
        }
        assert!(app.metric("assay_connections_open", "").await <= 9.0);
        assert!(app.metric("assay_connections_refused_total", "reason=\"evicted\"").await >= 42.0);
    });
}

#[test]
fn idle_connections_are_evicted_for_new_ones() {
    let app = TestApp::serving_with(SMALL, |settings| {
        settings.rpc.connections.limits.all = 4;
        settings.rpc.connections.limits.per_address = 4;
    });
    run(async {
        let mut idle = Vec::new();
        for _ in 0..20 {
            let mut peer = Peer::open(app.address(), &[]).await;
            peer.receive().await.expect("the server's settings");
            idle.push(peer);
        }
        app.client().await.embed(request(["a"])).await.expect("vectors");
        assert!(app.metric("assay_connections_refused_total", "reason=\"evicted\"").await >= 16.0);
        assert_eq!(app.metric("assay_connections_refused_total", "reason=\"address_limit\"").await, 0.0);
    });
}

#[test]
fn a_connection_above_the_limit_gets_the_reason() {
    for (all, per_address, expected) in [(3, 3, "address"), (3, 10, "max-connections 3"), (10, 3, "address")]
    {
        let app = TestApp::serving_with(SMALL, |settings| {
            settings.rpc.connections.limits.all = all;
            settings.rpc.connections.limits.per_address = per_address;
        });
        run(async {
            let mut open = Vec::new();
            for _ in 0..3 {
                let mut peer = Peer::open(app.address(), &[]).await;
                peer.send(&headers(1, EMBED, &[])).await.expect("sent");
                open.push(peer);
            }
            until("all to have a call", async || app.metric("assay_rpc_open", "").await == 3.0).await;
            let told = Peer::open(app.address(), &[]).await.receive_all().await;
            let (code, reason) = goaway(&told).expect("a GOAWAY");
            assert_eq!(code, ENHANCE_YOUR_CALM);
            assert!(reason.contains(expected), "{reason}");
            drop(open);
            app.until_metric("assay_connections_open", "", |open| open == 0.0).await;
            app.client().await.embed(request(["a"])).await.expect("there is room again");
        });
    }
}

#[test]
fn an_idle_connection_is_closed_and_a_busy_one_is_not() {
    let app = TestApp::serving_with(SMALL, |settings| {
        settings.rpc.connections.idle = Duration::from_millis(200);
    });
    run(async {
        // A watch is a call.
        let mut health = app.health().await;
        let mut watch = health.watch(HealthCheckRequest::default()).await.expect("a watch").into_inner();
        watch.message().await.expect("an answer");
        let mut idle = Peer::open(app.address(), &[]).await;
        let (code, _) = goaway(&idle.receive_all().await).expect("a GOAWAY");
        assert_eq!(code, 0, "no error");
        assert!(app.metric("assay_connections_refused_total", "reason=\"idle\"").await >= 1.0);
        assert_eq!(app.metric("assay_connections_open", "").await, 1.0);
        health.check(HealthCheckRequest::default()).await.expect("the watched connection is open");
    });
}

/// Opens streams that wait, then sends `flood` again and again until the server ends the connection.
async fn check_flood_ends(app: &TestApp, flood: &[u8]) {
    let mut peer = Peer::open(app.address(), &window_setting(0)).await;
    for n in 0..20 {
        peer.send(&headers(2 * n + 1, EMBED, &[])).await.expect("sent");
    }
    let many = flood.repeat(100);
    for _ in 0..1000 {
        if peer.send(&many).await.is_err() {
            break;
        }
    }
    let told = peer.receive_all().await;
    let (code, _) = goaway(&told).expect("a GOAWAY");
    assert_eq!(code, ENHANCE_YOUR_CALM);
}

#[test]
fn a_control_frame_flood_closes_only_its_connection() {
    let app = TestApp::serving(SMALL);
    run(async {
        let mut client = app.client().await;
        let settings = [1_u32, 65_535].map(|bytes| frame(SETTINGS, 0, 0, &window_setting(bytes))).concat();
        for flood in [
            settings,
            frame(PING, 0, 0, &[0; 8]),
            frame(0x2a, 0, 0, b"unknown"),
            frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]),
            frame(DATA, 0, 1, &[]),
        ] {
            check_flood_ends(&app, &flood).await;
            client.embed(request(["a"])).await.expect("others are served");
        }
        let floods = app.metric("assay_connections_refused_total", "reason=\"control_frames\"").await;
        // h2 itself ends some of them.
        assert!(floods >= 3.0, "{floods}");
    });
}

#[test]
fn a_call_above_the_limit_is_rejected_but_not_health() {
    let app = TestApp::serving_with(SMALL, |settings| settings.rpc.limits.calls = 4);
    run(async {
        let mut peer = Peer::open(app.address(), &[]).await;
        for n in 0..4 {
            peer.send(&headers(2 * n + 1, EMBED, &[])).await.expect("sent");
        }
        app.until_metric("assay_rpc_open", "", |open| open == 4.0).await;
        let refused = app.client().await.embed(request(["a"])).await.expect_err("refused");
        assert_eq!((refused.code(), &*details(&refused).reason), (Code::ResourceExhausted, "CALLS_FULL"));
        assert!(details(&refused).retry_in.is_some());
        app.health().await.check(HealthCheckRequest::default()).await.expect("health has places of its own");
        drop(peer);
        app.until_metric("assay_rpc_open", "", |open| open == 0.0).await;
        app.client().await.embed(request(["a"])).await.expect("there is room again");
    });
}

#[test]
fn silent_connections_do_not_block_admin_probes() {
    let app = TestApp::serving(SMALL);
    run(async {
        let address = app.app.admin_address().expect("an admin port");
        let mut silent = Vec::new();
        for _ in 0..300 {
            silent.push(Peer::silent(address).await);
        }
        assert_eq!(app.get("/livez").await.0, 200);
        assert_eq!(app.get("/readyz").await.0, 200);
        app.admin_health().await.check(HealthCheckRequest::default()).await.expect("health by gRPC");
        assert!(app.metric("assay_admin_connections_open", "").await <= 65.0);
    });
}
