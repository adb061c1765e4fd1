//! The warm-up while the hub is unavailable: the server answers every call and its reactor never stalls.

use std::{
    path::Path,
    thread,
    time::{Duration, Instant},
};

use assay::{
    app::AppSettings,
    model::source,
    proto::{
        EmbedStreamRequest, EmbedStreamResponse, GetServerInfoRequest, GetServerInfoResponse,
        embed_stream_response::Result as ItemResult, embedding_service_client::EmbeddingServiceClient,
        server_service_client::ServerServiceClient, warm_up::State,
    },
};
use tempfile::TempDir;
use tokio::sync::mpsc::Sender;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Streaming, transport::Channel};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use crate::support::{
    app::{SMALL, TestApp, details, item, random_model, request, run, settings, until},
    hub::{Fault, Hub, MODEL_ID},
    lag::{BareThread, Lag, check_lag},
    random_model::write_random_model,
};

const STREAMS: usize = 64;

/// Duration of the fault of the hub; `ASSAY_TEST_STALL_SECONDS` shortens a local run.
fn stalling() -> Duration {
    let seconds = std::env::var("ASSAY_TEST_STALL_SECONDS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(10))
}

fn hub_settings(hub: &Hub, cache: &Path) -> AppSettings {
    let mut settings = settings(MODEL_ID);
    settings.embed.source = source::SourceSettings {
        endpoint: hub.endpoint(),
        connect_timeout: Duration::from_secs(5),
        idle_timeout: Duration::from_secs(2),
        total_timeout: Duration::from_secs(120),
        attempts: 2,
        backoff: Duration::from_millis(50),
        ..source::SourceSettings::new(MODEL_ID, cache)
    };
    settings
}

/// One open stream of a caller.
struct Stream {
    items: Sender<EmbedStreamRequest>,
    answers: Streaming<EmbedStreamResponse>,
}

impl Stream {
    async fn open(channel: Channel, waits: bool) -> Stream {
        let (items, receiver) = tokio::sync::mpsc::channel(1);
        let mut request = Request::new(ReceiverStream::new(receiver));
        request.metadata_mut().insert("assay-wait-for-ready", waits.to_string().parse().expect("ASCII"));
        let answers = EmbeddingServiceClient::new(channel).embed_stream(request).await.expect("a stream");
        Stream { items, answers: answers.into_inner() }
    }

    async fn ask(&mut self, id: usize) -> ItemResult {
        self.items.send(item(id, "a text")).await.expect("an open stream");
        let answer = self.answers.message().await.expect("an open stream").expect("an answer");
        assert_eq!(answer.id, id.to_string());
        answer.result.expect("a result")
    }

    /// Sends ten requests per second until one has a vector, and returns the number of rejected ones.
    async fn ask_until_there_is_a_vector(mut self) -> usize {
        let mut pace = tokio::time::interval(Duration::from_millis(100));
        for id in 0.. {
            pace.tick().await;
            match self.ask(id).await {
                ItemResult::Embedding(embedding) => {
                    assert_eq!(embedding.values.len(), 128);
                    return id;
                }
                ItemResult::Error(error) => assert_eq!(error.code, Code::Unavailable as i32, "{error:?}"),
            }
        }
        unreachable!("it asks for ever")
    }
}

/// Observations of callers during and after the fault of the hub.
struct Story<'a> {
    app: &'a TestApp,
    hub: &'a Hub,
    /// Whether a response of GetServerInfo is as expected.
    tells: &'a dyn Fn(&GetServerInfoResponse) -> bool,
}

impl Story<'_> {
    async fn play(&self) -> Lag {
        let channel = self.app.channel().await;
        let mut watch =
            HealthClient::new(channel.clone()).watch(health_request()).await.expect("a watch").into_inner();
        assert_eq!(
            watch.message().await.expect("open").expect("a status").status(),
            ServingStatus::NotServing
        );
        let mut streams = Vec::new();
        for _ in 0..STREAMS {
            let stream = Stream::open(channel.clone(), false).await;
            streams.push(tokio::spawn(stream.ask_until_there_is_a_vector()));
        }
        let mut waiting = Stream::open(channel.clone(), true).await;
        let waiting = tokio::spawn(async move { waiting.ask(0).await });

        let bare = BareThread::start();
        self.stall(&channel).await;
        let lag = Lag::of(&self.app.info().await, bare);
        assert!(!waiting.is_finished() && !streams.iter().any(tokio::task::JoinHandle::is_finished));

        self.hub.clear_fault();
        let cleared = Instant::now();
        assert_eq!(watch.message().await.expect("open").expect("a status").status(), ServingStatus::Serving);
        println!("serving {:?} after the hub was well", cleared.elapsed());
        for stream in streams {
            let refused = stream.await.expect("the stream goes on until there is a vector");
            assert!(refused as u64 >= stalling().as_secs(), "{refused}");
        }
        assert!(matches!(waiting.await, Ok(ItemResult::Embedding(_))));
        lag
    }

    /// Checks that every call is answered immediately with the state of the warm-up.
    async fn stall(&self, channel: &Channel) {
        let mut health = HealthClient::new(channel.clone());
        let mut server = ServerServiceClient::new(channel.clone());
        let mut embedding = EmbeddingServiceClient::new(channel.clone());
        let end = Instant::now() + stalling();
        let mut slowest = Duration::ZERO;
        let mut pace = tokio::time::interval(Duration::from_millis(50));
        while Instant::now() < end {
            pace.tick().await;
            let began = Instant::now();
            let check = health.check(health_request()).await.expect("an answer");
            assert_eq!(check.get_ref().status(), ServingStatus::NotServing);
            let info = server.get_server_info(GetServerInfoRequest {}).await.expect("an answer").into_inner();
            assert!((self.tells)(&info), "{:?}", info.warm_up);
            let status = embedding.embed(request(["a text"])).await.expect_err("no model");
            let details = details(&status);
            assert_eq!((status.code(), details.reason.as_str()), (Code::Unavailable, "NOT_READY"));
            assert!(details.retry_in.is_some() && details.pushback_ms.is_some());
            slowest = slowest.max(began.elapsed());
        }
        println!("slowest of all rounds of Check, GetServerInfo and Embed: {slowest:?}");
        assert!(slowest < Duration::from_secs(1), "{slowest:?}");
    }
}

fn health_request() -> HealthCheckRequest {
    HealthCheckRequest { service: String::new() }
}

fn state(info: &GetServerInfoResponse) -> State {
    info.warm_up.as_ref().expect("the warm-up").state()
}

#[test]
fn a_hub_that_never_answers_delays_no_call() {
    check_lag("a hub that never answers", || {
        let (model, cache) = (random_model(SMALL), TempDir::new().expect("a temporary directory"));
        let hub = Hub::start(model.path());
        hub.set_fault(Fault::Silent);
        let app = TestApp::start_alone(hub_settings(&hub, cache.path()));
        hub.wait_for("GET list");
        let tells = |info: &GetServerInfoResponse| {
            let warm_up = info.warm_up.as_ref().expect("the warm-up");
            let is_told = warm_up.detail.contains(&hub.endpoint()) && warm_up.detail.contains("attempt");
            let first = warm_up.attempt == 1 && warm_up.last_error.is_empty();
            let later = warm_up.attempt >= 1 && warm_up.last_error.contains(&hub.endpoint());
            // The next attempt starts with the cache.
            let looks = warm_up.detail.contains(MODEL_ID);
            matches!(state(info), State::Fetching | State::Retrying) && (is_told || looks) && (first || later)
        };
        let lag = run(Story { app: &app, hub: &hub, tells: &tells }.play());
        let attempts = run(app.metric("assay_warm_up_attempts_total", ""));
        println!("attempts: {attempts}");
        lag
    });
}

#[test]
fn a_stalled_download_of_weights_delays_no_call() {
    check_lag("a hub that stalls mid-body", || {
        let (model, cache) = (random_model(SMALL), TempDir::new().expect("a temporary directory"));
        let hub = Hub::start(model.path());
        hub.set_fault(Fault::Stall { after_bytes: 100_000 });
        let app = TestApp::start_alone(hub_settings(&hub, cache.path()));
        hub.wait_for("GET model.safetensors");
        let tells = |info: &GetServerInfoResponse| {
            let warm_up = info.warm_up.as_ref().expect("the warm-up");
            state(info) == State::Fetching
                && warm_up.detail.contains("model.safetensors")
                && (1..warm_up.total_bytes).contains(&warm_up.fetched_bytes)
                && warm_up.attempt == 1
        };
        run(Story { app: &app, hub: &hub, tells: &tells }.play())
    });
}

#[test]
fn the_reactor_has_low_lag_at_full_compute() {
    check_lag("full compute with 64 streams", || {
        let model = random_model(SMALL);
        let mut settings = settings(model.path().to_string_lossy());
        settings.embed.threads = thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let app = TestApp::start_alone(settings);
        run(async {
            app.until_serving().await;
            let bare = BareThread::start();
            let channel = app.channel().await;
            let end = Instant::now() + Duration::from_secs(5);
            let mut streams = Vec::new();
            for _ in 0..STREAMS {
                let stream = Stream::open(channel.clone(), false).await;
                streams.push(tokio::spawn(work_until(end, stream)));
            }
            for stream in streams {
                stream.await.expect("vectors to the end");
            }
            let embedded = app.metric("assay_embedded_inputs_total", "").await;
            println!("{embedded} inputs in 5 s");
            Lag::of(&app.info().await, bare)
        })
    });
}

/// Keeps eight long inputs in flight.
async fn work_until(end: Instant, mut stream: Stream) {
    for id in 0.. {
        if Instant::now() >= end {
            return;
        }
        stream.items.send(item(id, "word ".repeat(100))).await.expect("an open stream");
        if id >= 8 {
            let answer = stream.answers.message().await.expect("an open stream").expect("an answer");
            assert!(matches!(answer.result, Some(ItemResult::Embedding(_))));
        }
    }
}

/// A cache that has the model, its hub and the directory of the model.
fn warm_cache() -> (TempDir, Hub, TempDir) {
    let (model, cache) = (random_model(SMALL), TempDir::new().expect("a temporary directory"));
    let hub = Hub::start(model.path());
    let settings = hub_settings(&hub, cache.path()).embed.source;
    source::locate(&settings, &CancellationToken::new(), &|_| ()).expect("a healthy hub");
    (model, hub, cache)
}

fn check_serves(settings: AppSettings) {
    let app = TestApp::start(settings);
    run(async {
        app.until_serving().await;
        let response = app.client().await.embed(request(["a text"])).await.expect("a vector");
        assert_eq!(response.get_ref().model, MODEL_ID);
        assert_eq!(response.get_ref().revision.len(), 40);
    });
}

#[test]
fn a_warm_cache_serves_offline() {
    let (_model, hub, cache) = warm_cache();
    let mut settings = hub_settings(&hub, cache.path());
    settings.embed.source.offline = true;
    let asked = hub.requests().len();
    check_serves(settings);
    assert_eq!(hub.requests().len(), asked);
}

#[test]
fn a_warm_cache_serves_while_the_hub_is_down_or_silent() {
    for fault in [Fault::Refuse, Fault::Silent] {
        let (_model, hub, cache) = warm_cache();
        hub.set_fault(fault);
        check_serves(hub_settings(&hub, cache.path()));
    }
}

#[test]
fn a_model_that_cannot_be_loaded_is_reported() {
    let model = random_model(SMALL);
    let config = model.path().join("config.json");
    let good = std::fs::read_to_string(&config).expect("a configuration");
    std::fs::write(&config, good.replace("\"xlm-roberta\"", "\"t5\"")).expect("a writable directory");
    let app = TestApp::start(settings(model.path().to_string_lossy()));
    run(async {
        let retrying = async || app.info().await.warm_up.is_some_and(|warm_up| warm_up.attempt >= 2);
        until("a second attempt", retrying).await;
        let warm_up = app.info().await.warm_up.expect("the warm-up");
        for part in ["config.json", "t5", "supported"] {
            assert!(warm_up.last_error.contains(part), "{}", warm_up.last_error);
        }
        let mut health = app.health().await;
        let check = health.check(health_request()).await.expect("an answer");
        assert_eq!(check.get_ref().status(), ServingStatus::NotServing);
        let status = app.client().await.embed(request(["x"])).await.expect_err("no model");
        assert_eq!(status.code(), Code::Unavailable);
        write_random_model(SMALL, model.path());
        app.until_serving().await;
        let warm_up = app.info().await.warm_up.expect("the warm-up");
        assert_eq!(warm_up.state(), State::Ready);
    });
}
