//! A whole server in the test's process, on ports of its own, and clients for it.

use std::{
    net::SocketAddr,
    sync::{RwLock, RwLockReadGuard, RwLockWriteGuard},
    time::{Duration, Instant},
};

use assay::{
    app::{App, AppSettings},
    embed, evaluate, model,
    model::source,
    proto::{
        EmbedOptions, EmbedRequest, EmbedResponse, EmbedStreamRequest, GetServerInfoRequest,
        GetServerInfoResponse, embedding_service_client::EmbeddingServiceClient,
        evaluation_service_client::EvaluationServiceClient, server_service_client::ServerServiceClient,
    },
    rpc::{self, ComputeInfo, Limits, listen::Address},
    stall,
};
use hyper_util::{
    client::legacy::{self, connect::HttpConnector},
    rt::TokioExecutor,
};
use tempfile::TempDir;
use tonic::{
    Status,
    body::Body,
    transport::{Channel, Endpoint},
};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use super::random_model::write_random_model;

/// Two layers, 128 dimensions, prompts named `query` and `passage`.
pub const SMALL: &str = "xlmr-mean-prompts";
/// Four layers, 512 dimensions: one long input keeps a thread busy for a while.
pub const LARGE: &str = "bert-zh-cls";

/// How long anything may take before a test fails. Generous, as machines are shared.
pub const LIMIT: Duration = Duration::from_secs(60);

/// Tests that measure time run while no other server does.
static MACHINE: RwLock<()> = RwLock::new(());

#[expect(dead_code, reason = "held until the server has stopped")]
enum Machine {
    Shared(RwLockReadGuard<'static, ()>),
    Alone(RwLockWriteGuard<'static, ()>),
}

/// Stops when dropped, which blocks: keep it outside of [`run`].
pub struct TestApp {
    pub app: App,
    _model: Option<TempDir>,
    _machine: Machine,
}

/// Test defaults: any free port, one thread of each kind, a short drain.
pub fn settings(model: impl Into<String>) -> AppSettings {
    let limits = Limits::default();
    let (threads, text_threads, batch_tokens) = (1, 1, 512);
    AppSettings {
        listen: vec!["127.0.0.1:0".parse().expect("an address")],
        admin_listen: Some("127.0.0.1:0".parse().expect("an address")),
        reactor_threads: 2,
        embed: embed::EmbedSettings {
            source: source::SourceSettings {
                offline: true,
                ..source::SourceSettings::new(model, "/nowhere")
            },
            model: model::ModelSettings::default(),
            threads,
            text_threads,
            batch_tokens,
            queue_tokens: limits.queue_tokens,
            cache_bytes: 0,
            retry_pause: Duration::from_millis(200),
        },
        rpc: rpc::RpcSettings {
            limits,
            compute: ComputeInfo { threads, text_threads, batch_tokens },
            reflection: true,
            connections: Default::default(),
            security: rpc::guard::Security::default(),
            call_log: rpc::CallLog::default(),
        },
        evaluate: evaluate::EvaluatorSettings {
            threads: 1,
            evaluations: 64,
            sentences: evaluate::EvaluatorSettings::SENTENCES,
        },
        judges: Vec::new(),
        stall: stall::WatchdogSettings::default(),
        drain_wait: Duration::ZERO,
        drain_limit: Duration::from_secs(20),
        otlp: None,
    }
}

impl TestApp {
    pub fn start(settings: AppSettings) -> TestApp {
        let machine = MACHINE.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        TestApp::begin(settings, Machine::Shared(machine))
    }

    /// While no other server of this process runs.
    pub fn start_alone(settings: AppSettings) -> TestApp {
        let machine = MACHINE.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        TestApp::begin(settings, Machine::Alone(machine))
    }

    fn begin(settings: AppSettings, machine: Machine) -> TestApp {
        TestApp { app: App::start(settings).expect("a server"), _model: None, _machine: machine }
    }

    /// With a random-weight model, waited for.
    pub fn serving(name: &str) -> TestApp {
        TestApp::serving_with(name, |_| ())
    }

    pub fn serving_with(name: &str, change: impl FnOnce(&mut AppSettings)) -> TestApp {
        let dir = random_model(name);
        let mut settings = settings(dir.path().to_string_lossy());
        change(&mut settings);
        settings.rpc.limits.queue_tokens = settings.embed.queue_tokens;
        settings.rpc.limits.embed_cache_bytes = settings.embed.cache_bytes;
        let app = TestApp { _model: Some(dir), ..TestApp::start(settings) };
        run(app.until_serving());
        app
    }

    /// That never gets a model: the directory is empty.
    pub fn without_model() -> (TestApp, TempDir) {
        let dir = TempDir::new().expect("a temporary directory");
        (TestApp::start(settings(dir.path().to_string_lossy())), dir)
    }

    pub fn address(&self) -> SocketAddr {
        match &self.app.addresses()[0] {
            Address::Tcp(address) => *address,
            Address::Unix(path) => panic!("{} is no TCP address", path.display()),
        }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address())
    }

    pub fn admin_url(&self) -> String {
        format!("http://{}", self.app.admin_address().expect("an admin port"))
    }

    /// A connection of its own.
    pub async fn channel(&self) -> Channel {
        connect(self.url()).await
    }

    pub async fn client(&self) -> EmbeddingServiceClient<Channel> {
        EmbeddingServiceClient::new(self.channel().await)
    }

    pub async fn evaluation_client(&self) -> EvaluationServiceClient<Channel> {
        EvaluationServiceClient::new(self.channel().await)
    }

    /// A client that keeps no deadline itself, so that what it sees is what the server answers; tonic's own would
    /// answer CANCELLED at the same moment.
    pub fn bare_client(&self) -> EmbeddingServiceClient<legacy::Client<HttpConnector, Body>> {
        let client = legacy::Client::builder(TokioExecutor::new()).http2_only(true).build_http();
        EmbeddingServiceClient::with_origin(client, self.url().parse().expect("a URL"))
    }

    pub async fn health(&self) -> HealthClient<Channel> {
        HealthClient::new(self.channel().await)
    }

    pub async fn admin_health(&self) -> HealthClient<Channel> {
        HealthClient::new(connect(self.admin_url()).await)
    }

    pub async fn info(&self) -> GetServerInfoResponse {
        let mut client = ServerServiceClient::new(self.channel().await);
        client.get_server_info(GetServerInfoRequest {}).await.expect("it answers at all times").into_inner()
    }

    /// Until Health/Watch says so, on the admin port: the other one may let in only some.
    pub async fn until_serving(&self) {
        let request = HealthCheckRequest { service: String::new() };
        let mut watch = self.admin_health().await.watch(request).await.expect("a watch").into_inner();
        while let Some(change) = watch.message().await.expect("the watch stays open") {
            if change.status() == ServingStatus::Serving {
                return;
            }
        }
        panic!("the watch ended before the server was serving");
    }

    /// Over HTTP/1.1 from the admin port: status and text.
    pub async fn get(&self, path: &str) -> (u16, String) {
        let url = format!("{}{path}", self.admin_url());
        let response = plain_http().get(url).send().await.expect("an answer");
        assert_eq!(response.version(), http::Version::HTTP_11);
        (response.status().as_u16(), response.text().await.expect("a text"))
    }

    /// The sum of a metric over all labels that contain `labels`; 0 where it isn't there.
    pub async fn metric(&self, name: &str, labels: &str) -> f64 {
        let (_, text) = self.get("/metrics").await;
        let lines = text.lines().filter_map(|line| line.strip_prefix(name));
        let lines = lines.filter(|rest| rest.starts_with(['{', ' ']) && rest.contains(labels));
        lines.filter_map(|rest| rest.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    pub async fn until_metric(&self, name: &str, labels: &str, holds: impl Fn(f64) -> bool) {
        let what = format!("{name} {labels}");
        until(&what, async || holds(self.metric(name, labels).await)).await;
    }

    /// Inputs and tokens that wait for a compute thread.
    pub fn queue_depth(&self) -> (usize, usize) {
        self.app.embedder().ready().expect("it serves").queue_depth()
    }

    /// False if something was cut off.
    pub async fn drain(&mut self) -> bool {
        self.app.drain().await
    }
}

/// A model directory; see tests/fixtures/README.md for the names.
pub fn random_model(name: &str) -> TempDir {
    let dir = TempDir::new().expect("a temporary directory");
    write_random_model(name, dir.path());
    dir
}

pub fn plain_http() -> reqwest::Client {
    // Fails where another test was first.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().no_proxy().build().expect("an HTTP client")
}

pub async fn connect(url: String) -> Channel {
    let endpoint = Endpoint::from_shared(url).expect("a URL").tcp_nodelay(true);
    endpoint.connect().await.expect("a connection")
}

/// Runs the client's side of a test, on a runtime of its own, within [`LIMIT`].
pub fn run<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.expect("a runtime");
    runtime.block_on(async { tokio::time::timeout(LIMIT, work).await }).expect("within the limit")
}

/// Asks again and again until it holds; the wait is only for what gives no signal of its own.
pub async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + LIMIT;
    while !holds().await {
        assert!(Instant::now() < end, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

pub fn request<S: Into<String>>(inputs: impl IntoIterator<Item = S>) -> EmbedRequest {
    EmbedRequest { inputs: inputs.into_iter().map(Into::into).collect(), options: None }
}

pub fn request_with<S: Into<String>>(
    inputs: impl IntoIterator<Item = S>,
    options: EmbedOptions,
) -> EmbedRequest {
    EmbedRequest { options: Some(options), ..request(inputs) }
}

pub fn item(id: impl ToString, input: impl Into<String>) -> EmbedStreamRequest {
    EmbedStreamRequest { id: id.to_string(), input: input.into(), options: None }
}

pub fn vectors(response: &EmbedResponse) -> Vec<&[f32]> {
    response.embeddings.iter().map(|embedding| &embedding.values[..]).collect()
}

pub fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

pub fn length(vector: &[f32]) -> f32 {
    vector.iter().map(|x| x * x).sum::<f32>().sqrt()
}

/// What a status says besides its code.
pub struct Details {
    pub reason: String,
    /// Paths of the fields, in order.
    pub fields: Vec<String>,
    pub descriptions: Vec<String>,
    pub retry_in: Option<Duration>,
    /// Of `grpc-retry-pushback-ms`.
    pub pushback_ms: Option<i64>,
}

pub fn details(status: &Status) -> Details {
    use tonic_types::StatusExt as _;
    let details = status.get_error_details();
    let info = details.error_info().unwrap_or_else(|| panic!("{status:?} names no reason"));
    assert_eq!(info.domain, "assay.v1");
    let violations = details.bad_request().map(|bad| bad.field_violations.clone()).unwrap_or_default();
    let pushback = status.metadata().get("grpc-retry-pushback-ms");
    Details {
        reason: info.reason.clone(),
        fields: violations.iter().map(|violation| violation.field.clone()).collect(),
        descriptions: violations.into_iter().map(|violation| violation.description).collect(),
        retry_in: details.retry_info().and_then(|info| info.retry_delay),
        pushback_ms: pushback.and_then(|ms| ms.to_str().ok()?.parse().ok()),
    }
}
