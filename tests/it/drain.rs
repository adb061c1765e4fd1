//! Shutdown: calls in flight finish, and idle streams and connections are closed.

use std::{
    io::{BufRead, BufReader},
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::net::UnixListener,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

use assay::proto::{
    EmbedStreamRequest, TokenizeRequest, embed_stream_response::Result as ItemResult,
    embedding_service_client::EmbeddingServiceClient,
};
use futures::{StreamExt, future::join_all, stream};
use tonic::{Code, transport::Channel};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use crate::support::app::{
    LARGE, LIMIT, SMALL, TestApp, connect, item, random_model, request, run, settings, until,
};

const CALLS: &str = "method=\"assay.v1.EmbeddingService/Embed\"";
const STREAMS: &str = "method=\"assay.v1.EmbeddingService/EmbedStream\"";

fn page() -> String {
    "的".repeat(510)
}

#[test]
fn a_drain_finishes_every_call_and_stream_in_flight() {
    let mut app = TestApp::serving_with(LARGE, |settings| settings.drain_limit = LIMIT);
    run(async {
        let calls: Vec<_> = join_all((0..4).map(|_| app.client())).await;
        let calls = calls.into_iter().map(|mut client| {
            tokio::spawn(async move {
                client.embed(request(vec![page(); 2])).await.map(|r| r.get_ref().embeddings.len())
            })
        });
        let calls: Vec<_> = calls.collect();
        let mut clients = join_all((0..4).map(|_| app.client())).await;
        let mut streams = Vec::new();
        for client in &mut clients {
            let items = stream::iter(0..3).map(|n| item(n, page()));
            let answers = client.embed_stream(items).await.expect("a stream").into_inner();
            streams.push(tokio::spawn(
                answers.map(|answer| answer.expect("an answer").result).collect::<Vec<_>>(),
            ));
        }
        app.until_metric("assay_rpc_open", CALLS, |open| open == 4.0).await;
        app.until_metric("assay_rpc_open", STREAMS, |open| open == 4.0).await;
        assert!(app.drain().await, "the drain limit cut something off");
        for call in calls {
            assert_eq!(call.await.expect("no panic").expect("vectors"), 2);
        }
        for stream in streams {
            let results = stream.await.expect("no panic");
            assert_eq!(results.len(), 3);
            assert!(
                results.iter().all(|result| matches!(result, Some(ItemResult::Embedding(_)))),
                "{results:?}"
            );
        }
    });
}

#[test]
fn idle_streams_and_connections_do_not_delay_a_drain() {
    let mut app = TestApp::serving(SMALL);
    run(async {
        let silent = TcpStream::connect(app.address()).expect("a connection");
        let idle_connection = app.channel().await;
        let watch = app.health().await.watch(HealthCheckRequest::default()).await.expect("a watch");
        let idle = app.client().await.embed_stream(stream::pending::<EmbedStreamRequest>()).await;
        let mut idle = idle.expect("a stream").into_inner();
        let reflection = open_reflection(&app).await;
        app.until_metric("assay_rpc_open", STREAMS, |open| open == 1.0).await;
        let began = Instant::now();
        assert!(app.drain().await);
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
        let status = idle.message().await.expect_err("it is told to go elsewhere");
        assert_eq!(status.code(), Code::Unavailable);
        drop((silent, idle_connection, watch, reflection));
    });
}

/// As grpcurl keeps one open while it works.
async fn open_reflection(app: &TestApp) -> impl Sized + use<> {
    use tonic_reflection::pb::v1::{
        ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
        server_reflection_request::MessageRequest,
    };
    let list = MessageRequest::ListServices(String::new());
    let ask = ServerReflectionRequest { host: String::new(), message_request: Some(list) };
    let asked = stream::iter([ask]).chain(stream::pending());
    let answers = ServerReflectionClient::new(app.channel().await).server_reflection_info(asked).await;
    let mut answers = answers.expect("an answer").into_inner();
    answers.message().await.expect("open").expect("a list");
    answers
}

#[test]
fn a_draining_server_is_not_serving_but_serves_calls() {
    let dir = random_model(SMALL);
    let mut settings = settings(dir.path().to_string_lossy());
    settings.drain_wait = Duration::from_millis(500);
    let mut app = TestApp::start(settings);
    run(async {
        app.until_serving().await;
        let (mut client, mut health) = (app.client().await, app.health().await);
        let mut watch = health.watch(HealthCheckRequest::default()).await.expect("a watch").into_inner();
        watch.message().await.expect("open").expect("serving");
        let late = async {
            let change = watch.message().await.expect("open").expect("a change");
            assert_eq!(change.status(), ServingStatus::NotServing);
            client.embed(request(["late"])).await.expect("endpoints may lag behind");
        };
        let (clean, ()) = futures::join!(app.drain(), late);
        assert!(clean);
    });
}

/// The program itself, with its log.
struct Program {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Program {
    fn start(arguments: &[&str]) -> Program {
        let mut command = Command::new(env!("CARGO_BIN_EXE_assay"));
        command.args(["--admin-listen", "off", "--threads", "1", "--offline", "true"]).args(arguments);
        command.env_remove("RUST_LOG").stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the program");
        let log = BufReader::new(child.stderr.take().expect("it is piped"));
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || log.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Program { child, lines }
    }

    /// The first line of its log with `part`.
    fn line(&self, part: &str) -> String {
        let mut seen = Vec::new();
        while let Ok(line) = self.lines.recv_timeout(LIMIT) {
            if line.contains(part) {
                return line;
            }
            seen.push(line);
        }
        panic!("no {part:?} in {seen:#?}");
    }

    fn address(&self) -> SocketAddr {
        let line = self.line("listening");
        let listen = line.split("listen=\"").nth(1).or(line.split("listen=").nth(1)).expect("addresses");
        let address = listen.split(['"', ',', ' ']).next().expect("an address");
        address.parse().unwrap_or_else(|_| panic!("no address in {line}"))
    }

    fn terminate(&self) {
        let process = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(process, rustix::process::Signal::TERM).expect("it runs");
    }

    async fn ended(&mut self) -> ExitStatus {
        let mut status = None;
        until("the program's end", async || {
            status = self.child.try_wait().expect("a child");
            status.is_some()
        })
        .await;
        status.expect("it ended")
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn until_serving(channel: Channel) {
    let mut watch =
        HealthClient::new(channel).watch(HealthCheckRequest::default()).await.expect("a watch").into_inner();
    while watch.message().await.expect("open").expect("a change").status() != ServingStatus::Serving {}
}

fn path(dir: &Path) -> &str {
    dir.to_str().expect("a path in UTF-8")
}

#[test]
fn sigterm_under_load_finishes_calls_and_exits_with_0() {
    let model = random_model(LARGE);
    let mut program = Program::start(&["--listen", "127.0.0.1:0", "--model", path(model.path())]);
    run(async {
        let channel = connect(format!("http://{}", program.address())).await;
        until_serving(channel.clone()).await;
        let mut client = EmbeddingServiceClient::new(channel);
        let items = stream::iter(0..8).map(|n| item(n, page()));
        let mut answers = client.embed_stream(items).await.expect("a stream").into_inner();
        answers.message().await.expect("an answer").expect("the first of eight");
        let calls: Vec<_> = (0..4)
            .map(|_| {
                let mut client = client.clone();
                tokio::spawn(async move { client.embed(request([page()])).await })
            })
            .collect();
        // The first answer of a call tells that those before it on the connection have arrived.
        let short = TokenizeRequest { inputs: vec!["x".into()], ..TokenizeRequest::default() };
        client.tokenize(short).await.expect("tokens");
        program.terminate();
        program.line("draining");
        for call in calls {
            call.await.expect("no panic").expect("a vector");
        }
        assert_eq!(answers.map(|answer| answer.expect("an answer")).count().await, 7);
        assert_eq!(program.ended().await.code(), Some(0));
    });
}

#[test]
fn a_second_sigterm_stops_immediately() {
    let model = random_model(LARGE);
    let wait = ["--drain-wait", "1h"];
    let mut program =
        Program::start(&[&["--listen", "127.0.0.1:0", "--model", path(model.path())], &wait[..]].concat());
    run(async {
        program.address();
        program.line("serving");
        program.terminate();
        program.line("draining");
        program.terminate();
        assert_eq!(program.ended().await.code(), Some(1));
    });
}

#[test]
fn a_unix_socket_replaces_a_stale_one_and_is_removed_at_exit() {
    let (model, dir) = (random_model(SMALL), tempfile::tempdir().expect("a temporary directory"));
    let socket = dir.path().join("assay.sock");
    drop(UnixListener::bind(&socket).expect("a socket"));
    let listen = format!("unix:{}", path(&socket));
    let mut program = Program::start(&["--listen", &listen, "--model", path(model.path())]);
    run(async {
        program.line("serving");
        let channel = connect(format!("unix://{}", path(&socket))).await;
        let response = EmbeddingServiceClient::new(channel).embed(request(["x"])).await.expect("a vector");
        assert_eq!(response.get_ref().embeddings.len(), 1);
        program.terminate();
        assert_eq!(program.ended().await.code(), Some(0));
        assert!(!socket.exists());
    });
}

#[test]
fn an_address_in_use_is_named_and_the_exit_code_is_1() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("a bound socket").to_string();
    let dir = tempfile::tempdir().expect("a temporary directory");
    let socket = dir.path().join("assay.sock");
    let _live = UnixListener::bind(&socket).expect("a socket");
    for listen in [address, format!("unix:{}", path(&socket))] {
        let mut program = Program::start(&["--listen", &listen, "--model", "/nowhere"]);
        run(async {
            assert!(program.line("cannot listen").contains(&listen));
            assert_eq!(program.ended().await.code(), Some(1));
        });
    }
}

#[test]
fn a_file_that_is_not_a_socket_is_never_removed() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let file = dir.path().join("precious");
    std::fs::write(&file, "data").expect("a file");
    let mut program = Program::start(&["--listen", &format!("unix:{}", path(&file)), "--model", "/nowhere"]);
    run(async {
        program.line("cannot listen");
        assert_eq!(program.ended().await.code(), Some(1));
    });
    assert_eq!(std::fs::read_to_string(&file).ok().as_deref(), Some("data"));
}

#[test]
fn invalid_settings_are_reported_with_exit_code_64() {
    let mut program = Program::start(&["--listen", "nowhere", "--max-inputs", "none"]);
    run(async {
        assert!(program.line("listen").contains("nowhere"));
        program.line("max-inputs");
        assert_eq!(program.ended().await.code(), Some(64));
    });
}
