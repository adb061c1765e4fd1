//! Secrets appear in no log line, response, metric or command output.

use std::{
    fs::File,
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Output, Stdio},
};

use assay::proto::{
    EvaluateOptions, EvaluateRequest, GetServerInfoRequest, embedding_service_client::EmbeddingServiceClient,
    evaluation_service_client::EvaluationServiceClient, server_service_client::ServerServiceClient,
};
use rustix::process::{Pid, Signal, kill_process};
use tonic::{Request, transport::Channel};

use crate::{
    evaluate_rpc::{request as evaluation, sample},
    support::{
        app::{SMALL, plain_http, random_model, request, run, until},
        certificates::{Authority, Client, Files},
        collector::Collector,
        hub::{Hub, MODEL_ID},
        judge::{Fault, StandIn},
    },
};

/// Part of every secret of the test, but for the private key.
const PLANTED: &str = "planted";
const HUB_TOKEN: &str = "hf-planted-token";
const JUDGE_KEY: &str = "sk-planted-flat-key";
const TOKEN: &str = "planted-token-of-a-caller";
const OTLP_HEADERS: &str = "authorization=Bearer%20planted-token-of-a-collector";

/// What the program trusts as the system's, where there is such a file.
const AUTHORITIES: &str = "ca.pem";

/// Everything that anybody can read of it.
pub struct Program {
    child: Child,
    log: std::path::PathBuf,
    told: String,
}

impl Program {
    pub fn start(files: &Files, arguments: &[&str]) -> Program {
        let (log, authorities) = (files.path("log"), files.path(AUTHORITIES));
        let child = Command::new(env!("CARGO_BIN_EXE_assay"))
            .args(arguments)
            .env_remove("RUST_LOG")
            .env("ASSAY_HUB_TOKEN", HUB_TOKEN)
            .env("ASSAY_JUDGE_KEY", JUDGE_KEY)
            .env("OTEL_EXPORTER_OTLP_HEADERS", OTLP_HEADERS)
            .envs(authorities.exists().then_some(("SSL_CERT_FILE", authorities)))
            .stdout(Stdio::null())
            .stderr(File::create(&log).expect("a file"))
            .spawn();
        Program { child: child.expect("the program"), log, told: String::new() }
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).expect("a log in UTF-8")
    }

    /// Serving address and admin address, once they are told.
    pub async fn addresses(&self) -> (SocketAddr, SocketAddr) {
        let announced = || {
            let log = self.log();
            let line = log.lines().find(|line| line.contains("listening; the model"))?;
            let line: serde_json::Value = serde_json::from_str(line).ok()?;
            Some(["listen", "admin"].map(|name| line[name].as_str().expect("an address").to_owned()))
        };
        until("its addresses", async || announced().is_some()).await;
        let [listen, admin] =
            announced().expect("its addresses").map(|text| text.parse().expect("an address"));
        (listen, admin)
    }

    pub fn send(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("it runs");
    }

    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("a child").is_some()
    }

    fn tell(&mut self, told: impl std::fmt::Debug) {
        self.told += &format!("{told:?}\n");
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn path(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

fn assay(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_assay"));
    command.args(arguments).env("ASSAY_HUB_TOKEN", HUB_TOKEN).env("ASSAY_JUDGE_KEY", JUDGE_KEY);
    command.env("OTEL_EXPORTER_OTLP_HEADERS", OTLP_HEADERS);
    command.output().expect("the program")
}

fn with_token<T>(message: T, token: &str) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().expect("ASCII"));
    request
}

/// What anybody may ask of it, and with which answers.
async fn ask_everything(program: &mut Program, channel: Channel, judge: &StandIn) {
    let embed = async |token: &str| {
        let message = request(["a text"]);
        EmbeddingServiceClient::new(channel.clone()).embed(with_token(message, token)).await
    };
    embed(TOKEN).await.expect("a vector");
    program.tell(embed("another-planted-token").await.expect_err("refused"));
    let evaluate = async |judge: &str| {
        let options = Some(EvaluateOptions { judge: judge.into(), ..EvaluateOptions::default() });
        let message = EvaluateRequest { options, ..evaluation(sample(), &["faithfulness"]) };
        EvaluationServiceClient::new(channel.clone()).evaluate(with_token(message, TOKEN)).await
    };
    program.tell(evaluate("default").await.expect("a result"));
    let body = format!("{{\"error\": {{\"message\": \"Incorrect API key provided: {JUDGE_KEY}\"}}}}");
    judge.fail_always(Fault::Body { status: 401, body });
    for judge in ["default", "strict", "file"] {
        program.tell(evaluate(judge).await.expect("a result that says what was wrong"));
    }
    let info = with_token(GetServerInfoRequest {}, TOKEN);
    program.tell(ServerServiceClient::new(channel).get_server_info(info).await.expect("an answer"));
}

#[test]
fn no_secret_is_shown_anywhere() {
    let (authority, model, judge) = (Authority::new("of the server"), random_model(SMALL), StandIn::start());
    let (certificate, hub) = (authority.server(), Hub::start(model.path()));
    let collector = Collector::with_tls(&certificate);
    let otlp_endpoint = format!("https://{}", collector.address);
    hub.require_token(HUB_TOKEN);
    let files = Files::new(&certificate);
    files.write("tokens", &format!("app:{TOKEN}\n"));
    files.write(AUTHORITIES, &authority.pem);
    files.write("key", "sk-planted-key-of-a-file\n");
    files.write(
        "assay.toml",
        &format!(
            "judge_url = \"{}\"\njudge_model = \"stand-in\"\njudge_attempts = 1\n\
             [judges.strict]\nkey = \"sk-planted-key-of-a-profile\"\n\
             [judges.file]\nkey_file = \"{}\"\n",
            judge.url(),
            path(&files.path("key"))
        ),
    );
    let [config, cert, key, tokens, cache] = ["assay.toml", "cert.pem", "key.pem", "tokens", "cache"]
        .map(|name| path(&files.path(name)).to_owned());
    let hub_endpoint = hub.endpoint();
    let settings = [
        ["--config", &config],
        ["--tls-cert", &cert],
        ["--tls-key", &key],
        ["--token-file", &tokens],
        ["--reload-every", "10ms"],
        ["--model", MODEL_ID],
        ["--hub-endpoint", &hub_endpoint],
        ["--cache-dir", &cache],
        ["--threads", "1"],
        ["--otlp-endpoint", &otlp_endpoint],
        ["--otlp-signals", "traces,events,metrics"],
        ["--listen", "127.0.0.1:0"],
        ["--admin-listen", "127.0.0.1:0"],
        ["--log", "trace"],
        ["--log-format", "json"],
    ]
    .concat();
    let mut program = Program::start(&files, &settings);
    run(async {
        let (address, admin) = program.addresses().await;
        let get = async |page: &str| {
            plain_http().get(format!("http://{admin}/{page}")).send().await.expect("an answer")
        };
        until("the model", async || get("readyz").await.status().is_success()).await;
        let channel = Client::new(&authority, None).connect(address).await.expect("a connection");
        ask_everything(&mut program, channel, &judge).await;

        files.write("tokens", "planted-garbage");
        files.write("key.pem", "-----BEGIN PRIVATE KEY-----\nplanted\n-----END PRIVATE KEY-----\n");
        let mut metrics = String::new();
        until("both failures", async || {
            metrics = get("metrics").await.text().await.expect("a text");
            metrics.lines().filter(|line| line.contains("outcome=\"failed\"} 1")).count() >= 2
        })
        .await;
        program.told += &metrics;
        kill_process(Pid::from_child(&program.child), Signal::TERM).expect("it runs");
        until("its end", async || program.child.try_wait().expect("a child").is_some()).await;
    });
    let sent = collector.all();
    let is_named = |headers: &tonic::metadata::MetadataMap| {
        headers.get("authorization").is_some_and(|value| value == "Bearer planted-token-of-a-collector")
    };
    assert!(!sent.headers.is_empty() && sent.headers.iter().all(is_named));
    program.told += &format!("{:?}\n{:?}\n{:?}\n", sent.spans, sent.events, sent.metrics);
    files.set_certificate(&certificate);
    for arguments in [
        [&["config", "show"], &settings[..]].concat(),
        [&["config", "check", "--hub-attempts", "0"], &settings[..]].concat(),
        vec!["config", "check", "--otlp-headers", "planted header"],
        vec!["config", "check", "--hub-endpoint", "planted@nowhere", "--judge-url", "planted:x@nowhere"],
        vec!["config", "show", "--hub-endpoint", "http://me:planted@127.0.0.1/"],
    ] {
        let Output { stdout, stderr, .. } = assay(&arguments);
        program.told += &[String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr)].concat();
    }
    let everything = program.log() + &program.told;
    for part in [
        "call finished",
        "assay_tls_handshakes_total",
        "judge_configured",
        "TOKEN_UNKNOWN",
        "(hidden)",
        "gen_ai.evaluation.result",
        "otlp-headers",
    ] {
        assert!(everything.contains(part), "it was not looked at: {part}");
    }
    let key_line = certificate.key.lines().nth(1).expect("a line of the key");
    for (number, line) in everything.lines().enumerate() {
        assert!(!line.contains(PLANTED) && !line.contains(key_line), "line {number}: {line}");
    }
}

#[test]
fn credentials_in_hub_and_judge_urls_are_not_logged() {
    let files = Files::empty();
    let closed = "http://me:planted@127.0.0.1:9/base?api-key=planted";
    let cache = path(&files.path("cache")).to_owned();
    let mut program = Program::start(
        &files,
        &[
            ["--model", MODEL_ID],
            ["--hub-endpoint", closed],
            ["--hub-attempts", "1"],
            ["--cache-dir", &cache],
            ["--judge-url", closed],
            ["--judge-model", "stand-in"],
            ["--judge-attempts", "1"],
            ["--otlp-endpoint", closed],
            ["--otlp-signals", "traces,events,metrics"],
            ["--otlp-metrics-every", "20ms"],
            ["--listen", "127.0.0.1:0"],
            ["--admin-listen", "127.0.0.1:0"],
            ["--log", "trace"],
            ["--log-format", "json"],
        ]
        .concat(),
    );
    run(async {
        let (address, _) = program.addresses().await;
        let channel = crate::support::app::connect(format!("http://{address}")).await;
        let asked = evaluation(sample(), &["faithfulness"]);
        program.tell(EvaluationServiceClient::new(channel.clone()).evaluate(asked).await.expect("a result"));
        until("a failure to fetch the model", async || {
            let mut client = ServerServiceClient::new(channel.clone());
            let info = client.get_server_info(GetServerInfoRequest {}).await.expect("an answer").into_inner();
            let failed = info.warm_up.as_ref().is_some_and(|warm_up| !warm_up.last_error.is_empty());
            program.tell(info);
            failed
        })
        .await;
        until("a failure to reach the collector", async || {
            program.log().contains("cannot send data to the OTLP collector")
        })
        .await;
    });
    let shown = assay(&[
        "config",
        "show",
        "--judge-url",
        closed,
        "--hub-endpoint",
        closed,
        "--otlp-endpoint",
        closed,
    ]);
    let everything = program.log() + &program.told + &String::from_utf8_lossy(&shown.stderr);
    let everything = everything + &String::from_utf8_lossy(&shown.stdout);
    for line in everything.lines() {
        assert!(!line.contains(PLANTED), "{line}");
    }
}
