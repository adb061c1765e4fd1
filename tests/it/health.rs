//! Health on both ports, the HTTP endpoints of the admin port, and reflection.

use futures::StreamExt;
use tonic::{Code, Request, Streaming, transport::Channel};
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse,
    health_check_response::ServingStatus::{self, NotServing, ServiceUnknown, Serving},
    health_client::HealthClient,
};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, ServerReflectionResponse, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};

use crate::support::{
    app::{SMALL, TestApp, connect, run},
    random_model::write_random_model,
};

const READY: [&str; 3] = ["", "assay.v1.EmbeddingService", "assay.v1.ServerService"];

type Client = HealthClient<Channel>;
type Watch = Streaming<HealthCheckResponse>;

fn of(service: &str) -> HealthCheckRequest {
    HealthCheckRequest { service: service.to_owned() }
}

async fn check(client: &mut Client, service: &str) -> ServingStatus {
    client.check(of(service)).await.expect("a known service").get_ref().status()
}

async fn watch(client: &mut Client, service: &str) -> Watch {
    client.watch(of(service)).await.expect("a watch").into_inner()
}

async fn next(watch: &mut Watch) -> ServingStatus {
    watch.message().await.expect("an open watch").expect("a change").status()
}

#[test]
fn health_follows_the_model_and_the_drain() {
    let (mut app, dir) = TestApp::without_model();
    run(async {
        let mut watches = Vec::new();
        for mut client in [app.health().await, app.admin_health().await] {
            for service in READY {
                assert_eq!(check(&mut client, service).await, NotServing, "{service}");
                let mut watch = watch(&mut client, service).await;
                assert_eq!(next(&mut watch).await, NotServing);
                watches.push(watch);
            }
            assert_eq!(check(&mut client, "liveness").await, Serving);
        }
        write_random_model(SMALL, dir.path());
        for watch in &mut watches {
            assert_eq!(next(watch).await, Serving);
        }
        for mut client in [app.health().await, app.admin_health().await] {
            for service in READY {
                assert_eq!(check(&mut client, service).await, Serving, "{service}");
            }
        }
        let mut admin = app.admin_health().await;
        assert!(app.drain().await);
        for watch in &mut watches {
            assert_eq!(next(watch).await, NotServing);
            assert_eq!(watch.message().await.expect_err("watches end").code(), Code::Unavailable);
        }
        // The admin port answers to the end.
        assert_eq!(check(&mut admin, "").await, NotServing);
        assert_eq!(check(&mut admin, "liveness").await, Serving);
    });
}

#[test]
fn an_unknown_service_is_not_found_and_its_watch_stays_open() {
    let app = TestApp::serving(SMALL);
    run(async {
        for mut client in [app.health().await, app.admin_health().await] {
            let status = client.check(of("assay.v1.Nonsense")).await.expect_err("not known");
            assert_eq!(status.code(), Code::NotFound);
            let mut watch = watch(&mut client, "assay.v1.Nonsense").await;
            assert_eq!(next(&mut watch).await, ServiceUnknown);
            assert!(futures::poll!(watch.next()).is_pending());
            assert_eq!(check(&mut client, "").await, Serving);
            assert!(futures::poll!(watch.next()).is_pending());
        }
    });
}

#[test]
fn the_admin_port_serves_liveness_and_readiness_over_http_1() {
    let (mut app, dir) = TestApp::without_model();
    run(async {
        assert_eq!(app.get("/livez").await.0, 200);
        let (code, detail) = app.get("/readyz").await;
        assert_eq!(code, 503, "{detail}");
        write_random_model(SMALL, dir.path());
        app.until_serving().await;
        assert_eq!(app.get("/readyz").await, (200, "serving\n".to_owned()));
        assert_eq!(app.get("/nonsense").await.0, 404);
        assert!(app.drain().await);
        assert_eq!(app.get("/readyz").await, (503, "shutting down\n".to_owned()));
        assert_eq!(app.get("/livez").await.0, 200);
    });
}

#[test]
fn metrics_are_scraped_in_the_openmetrics_format() {
    let app = TestApp::serving(SMALL);
    run(async {
        app.client().await.embed(crate::support::app::request(["one", "two"])).await.expect("vectors");
        let (code, text) = app.get("/metrics").await;
        assert!(code == 200 && text.ends_with("# EOF\n"));
        for name in [
            "assay_build_info",
            "assay_embedded_inputs_total 2",
            "assay_model_ready 1",
            "assay_reactor_lag_seconds_count",
            "assay_reactor_stalls_total",
            "assay_rpc_seconds_bucket",
            "assay_rpc_started_total{method=\"assay.v1.EmbeddingService/Embed\"} 1",
            "assay_warm_up_attempts_total 1",
            "process_resident_memory_bytes",
            "process_start_time_seconds",
        ] {
            assert!(text.lines().any(|line| line.starts_with(name)), "{name} is not in\n{text}");
        }
    });
}

/// Both versions write the same messages; only the path differs.
async fn check_reflection(app: &TestApp, version: &str) {
    let ask = |message| ServerReflectionRequest { host: String::new(), message_request: Some(message) };
    let asked = futures::stream::iter([
        ask(MessageRequest::ListServices(String::new())),
        ask(MessageRequest::FileContainingSymbol("assay.v1.EmbeddingService".to_owned())),
    ]);
    let path = format!("/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo");
    let mut client = tonic::client::Grpc::new(app.channel().await);
    client.ready().await.expect("a connection");
    let codec = tonic_prost::ProstCodec::<ServerReflectionRequest, ServerReflectionResponse>::default();
    let answers = client.streaming(Request::new(asked), path.parse().expect("a path"), codec).await;
    let mut answers = answers.expect("an answer").into_inner();
    let mut answer = async || answers.message().await.expect("an answer").expect("one each").message_response;
    let Some(MessageResponse::ListServicesResponse(services)) = answer().await else { panic!("no list") };
    let names: Vec<String> = services.service.into_iter().map(|service| service.name).collect();
    for name in ["assay.v1.EmbeddingService", "assay.v1.ServerService", "grpc.health.v1.Health"] {
        assert!(names.iter().any(|known| known == name), "{version}: {names:?}");
    }
    let Some(MessageResponse::FileDescriptorResponse(files)) = answer().await else { panic!("no file") };
    assert!(!files.file_descriptor_proto.is_empty());
}

#[test]
fn reflection_lists_the_services_in_both_versions() {
    let app = TestApp::serving(SMALL);
    run(async {
        check_reflection(&app, "v1").await;
        check_reflection(&app, "v1alpha").await;
    });
}

#[test]
fn reflection_can_be_switched_off() {
    let app = TestApp::serving_with(SMALL, |settings| settings.rpc.reflection = false);
    run(async {
        let mut client = ServerReflectionClient::new(connect(app.url()).await);
        let answer = client.server_reflection_info(futures::stream::empty()).await;
        assert_eq!(answer.expect_err("not there").code(), Code::Unimplemented);
    });
}
