//! Bearer tokens: authorization of methods, and reload of the token file.

use std::time::{Duration, Instant};

use assay::{
    proto::{
        GetServerInfoRequest, ListMetricsRequest, evaluation_service_client::EvaluationServiceClient,
        server_service_client::ServerServiceClient,
    },
    rpc::guard::OpenService,
};
use rustix::process::Signal;
use tonic::{Code, Request, Status};
use tonic_health::pb::HealthCheckRequest;

use crate::{
    secrets::Program,
    support::{
        app::{TestApp, connect, details, run, settings, until},
        certificates::Files,
    },
};

const SERVE_JSON: [&str; 10] = [
    "--listen",
    "127.0.0.1:0",
    "--admin-listen",
    "127.0.0.1:0",
    "--model",
    "/nowhere",
    "--offline",
    "true",
    "--log-format",
    "json",
];

const FIRST: &str = "first-token-of-tests";
const SECOND: &str = "second-token-of-tests";

/// Without a model, as none is needed to be let in or not.
fn start(files: &Files, open: Vec<OpenService>, every: Duration) -> TestApp {
    let mut settings = settings(files.dir().to_string_lossy());
    settings.rpc.security.token_file = Some(files.path("tokens"));
    settings.rpc.security.open = open;
    settings.rpc.security.reload_every = every;
    TestApp::start(settings)
}

fn files(tokens: &str) -> Files {
    let files = Files::empty();
    files.write("tokens", tokens);
    files
}

fn with_token<T>(authorization: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    if !authorization.is_empty() {
        request.metadata_mut().insert("authorization", authorization.parse().expect("ASCII"));
    }
    request
}

async fn info(app: &TestApp, authorization: &str) -> Result<(), Status> {
    let mut client = ServerServiceClient::new(app.channel().await);
    client.get_server_info(with_token(authorization, GetServerInfoRequest {})).await.map(|_| ())
}

async fn list_metrics(app: &TestApp, authorization: &str) -> Result<(), Status> {
    let mut client = EvaluationServiceClient::new(app.channel().await);
    client.list_metrics(with_token(authorization, ListMetricsRequest::default())).await.map(|_| ())
}

fn refused(answer: Result<(), Status>) -> (Code, String) {
    let status = answer.expect_err("refused");
    assert!(!status.message().contains("-of-tests"), "{status:?}");
    (status.code(), details(&status).reason)
}

#[test]
fn a_call_needs_a_token_that_authorizes_its_method() {
    let files = files(&format!("all:{FIRST}\nlists:{SECOND} assay.v1.EvaluationService/*\n"));
    let app = start(&files, vec![OpenService::Health], Duration::from_secs(2));
    run(async {
        info(&app, &format!("Bearer {FIRST}")).await.expect("a token that is good for all");
        info(&app, &format!("bearer  {FIRST}")).await.expect("the scheme's case does not matter");
        list_metrics(&app, &format!("Bearer {SECOND}")).await.expect("a token that is good for it");
        let unknown = (Code::Unauthenticated, "TOKEN_UNKNOWN".to_owned());
        let missing = (Code::Unauthenticated, "TOKEN_MISSING".to_owned());
        assert_eq!(refused(info(&app, "").await), missing);
        assert_eq!(refused(info(&app, &format!("Basic {FIRST}")).await), missing);
        assert_eq!(refused(info(&app, &format!("Bearer {FIRST}x")).await), unknown);
        assert_eq!(refused(info(&app, "Bearer all").await), unknown);
        let denied = refused(info(&app, &format!("Bearer {SECOND}")).await);
        assert_eq!(denied, (Code::PermissionDenied, "METHOD_NOT_ALLOWED".to_owned()));
        app.until_metric("assay_rpc_seconds_count", "UNAUTHENTICATED", |count| count == 4.0).await;
    });
}

#[test]
fn open_services_need_no_token() {
    for open in [vec![], vec![OpenService::Health], vec![OpenService::Health, OpenService::Reflection]] {
        let files = files(&format!("all:{FIRST}\n"));
        let app = start(&files, open.clone(), Duration::from_secs(2));
        run(async {
            let check = app.health().await.check(HealthCheckRequest::default()).await;
            assert_eq!(check.is_ok(), open.contains(&OpenService::Health), "{check:?}");
            let reflection = reflect(&app).await;
            assert_eq!(reflection.is_ok(), open.contains(&OpenService::Reflection), "{reflection:?}");
            app.admin_health().await.check(HealthCheckRequest::default()).await.expect("no tokens there");
        });
    }
}

/// By hand, as only its code matters.
async fn reflect(app: &TestApp) -> Result<(), Status> {
    let mut client = tonic::client::Grpc::new(app.channel().await);
    client.ready().await.expect("a connection");
    let path =
        http::uri::PathAndQuery::from_static("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo");
    let nothing = tokio_stream::empty::<()>();
    let codec = tonic_prost::ProstCodec::<(), ()>::default();
    client.streaming(Request::new(nothing), path, codec).await?.into_inner().message().await.map(|_| ())
}

#[test]
fn a_removed_token_is_rejected_and_no_other_call_fails() {
    let files = files(&format!("app:{FIRST}\n"));
    let every = assay::rpc::guard::Security::default().reload_every;
    let app = start(&files, vec![], every);
    let (first, second) = (format!("Bearer {FIRST}"), format!("Bearer {SECOND}"));
    run(async {
        info(&app, &first).await.expect("the first token");
        files.write("tokens", &format!("app:{FIRST}\napp:{SECOND}\n"));
        until("the second token", async || {
            info(&app, &first).await.expect("the first token, while both are there");
            info(&app, &second).await.is_ok()
        })
        .await;
        files.write("tokens", &format!("app:{SECOND}\n"));
        let removed = Instant::now();
        until("the end of the first token", async || {
            info(&app, &second).await.expect("the second token");
            info(&app, &first).await.is_err()
        })
        .await;
        println!("the old token was refused after {:?}; the file is read every {every:?}", removed.elapsed());
    });
}

/// The program itself, told by SIGHUP alone: the file is otherwise read once a day.
#[test]
fn sighup_reloads_tokens_and_ends_no_call() {
    let files = files(&format!("app:{FIRST}\n"));
    let tokens = files.path("tokens").to_string_lossy().into_owned();
    let mut program = Program::start(
        &files,
        &[&SERVE_JSON[..], &["--token-file", &tokens, "--reload-every", "1day"]].concat(),
    );
    run(async {
        let (address, _) = program.addresses().await;
        let mut client = ServerServiceClient::new(connect(format!("http://{address}")).await);
        let mut info = async |token: &str| {
            client.get_server_info(with_token(&format!("Bearer {token}"), GetServerInfoRequest {})).await
        };
        info(FIRST).await.expect("the first token");
        files.write("tokens", &format!("app:{SECOND}\n"));
        program.send(Signal::HUP);
        until("the second token", async || info(SECOND).await.is_ok()).await;
        assert!(info(FIRST).await.is_err());
        let told =
            |program: &Program, part: &str| program.log().lines().filter(|line| line.contains(part)).count();
        until("a line about it", async || told(&program, "\"reloaded\":\"tokens\"") == 1).await;

        files.write("tokens", "app:short\n");
        program.send(Signal::HUP);
        until("a line about a bad file", async || told(&program, "\"failed\":\"tokens\"") == 1).await;
        info(SECOND).await.expect("the token that was good");
        program.send(Signal::TERM);
        until("its end", async || program.has_ended()).await;
    });
}

#[test]
fn sighup_without_files_to_reload_has_no_effect() {
    let files = Files::empty();
    let mut program = Program::start(&files, &SERVE_JSON);
    run(async {
        program.addresses().await;
        program.send(Signal::HUP);
        until("a line about it", async || program.log().contains("SIGHUP: nothing to reload")).await;
        assert!(!program.has_ended());
    });
}

#[test]
fn an_invalid_token_file_keeps_the_old_tokens() {
    let files = files(&format!("app:{FIRST}\n"));
    let app = start(&files, vec![], Duration::from_millis(10));
    run(async {
        files.write("tokens", "app:short\n");
        let failed = "what=\"tokens\",outcome=\"failed\"";
        app.until_metric("assay_reloads_total", failed, |failed| failed == 1.0).await;
        info(&app, &format!("Bearer {FIRST}")).await.expect("the old token");
        std::fs::remove_file(files.path("tokens")).expect("removed");
        app.until_metric("assay_reloads_total", failed, |failed| failed == 2.0).await;
        info(&app, &format!("Bearer {FIRST}")).await.expect("the old token");
        files.write("tokens", &format!("app:{SECOND}\n"));
        until("the new token", async || info(&app, &format!("Bearer {SECOND}")).await.is_ok()).await;
        assert!(info(&app, &format!("Bearer {FIRST}")).await.is_err());
    });
}
