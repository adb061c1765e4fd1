//! The composition root: builds all parts of the server, and defines the order in which they start, drain and stop.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::Context as _;
use prometheus_client::registry::Registry;
use tokio::{
    runtime::Runtime,
    signal::unix::{Signal, SignalKind, signal},
    task::JoinHandle,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    admin::Admin,
    embed::{self, Embedder},
    evaluate::{self, Evaluator},
    judge::{self, Judge},
    log_limit,
    rpc::{
        self, OpenCalls, Reloader, RpcContext, RpcServer,
        guard::Guard,
        health::Health,
        listen::{Address, Listener, bind_tcp},
    },
    stall::{self, Watchdog},
    telemetry::{self, otlp},
};

/// Settings of the whole server.
#[derive(Clone, Debug)]
pub struct AppSettings {
    /// Addresses of the gRPC server.
    pub listen: Vec<Address>,
    /// Address of the admin port; `None` disables it.
    pub admin_listen: Option<SocketAddr>,
    /// Threads of the reactor.
    pub reactor_threads: usize,
    /// Settings of the gRPC server.
    pub rpc: rpc::RpcSettings,
    /// Settings of the embedder.
    pub embed: embed::EmbedSettings,
    /// Settings of the evaluator.
    pub evaluate: evaluate::EvaluatorSettings,
    /// Judges; the first is the default.
    pub judges: Vec<judge::JudgeSettings>,
    /// Settings of the reactor watchdog.
    pub stall: stall::WatchdogSettings,
    /// Time at shutdown between reporting NOT_SERVING and refusing connections, for load balancers to update.
    pub drain_wait: Duration,
    /// Maximum time after that for calls in flight to finish and for remaining telemetry to be exported.
    pub drain_limit: Duration,
    /// Settings of the export to a collector; `None` disables it.
    pub otlp: Option<otlp::OtlpSettings>,
}

/// Minimum and maximum time at shutdown for exporting the remaining telemetry. The minimum applies if calls took the whole
/// drain limit, the maximum if the collector does not respond.
const FLUSH_TIME: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(5));

/// A running server. Dropping it stops everything immediately; [`App::drain`] first finishes the calls in flight.
pub struct App {
    addresses: Vec<Address>,
    drain_wait: Duration,
    drain_limit: Duration,
    health: Health,
    open: OpenCalls,
    streams: TaskTracker,
    servers: Vec<JoinHandle<()>>,
    embedder: Embedder,
    exporter: Option<otlp::OtlpExporter>,
    // Fields below are dropped in this order.
    watchdog: Option<Watchdog>,
    reactor: Option<Runtime>,
    admin: Option<Admin>,
    reloader: Reloader,
}

impl App {
    /// Binds the ports and starts everything else. Returns without waiting for the model, which loads in the background.
    ///
    /// # Errors
    /// An address that cannot be bound, a certificate or token file that cannot be loaded, or a thread that cannot be
    /// started.
    pub fn start(settings: AppSettings) -> anyhow::Result<App> {
        let started = SystemTime::now();
        let listeners = bind(&settings.listen)?;
        let admin_listener = settings.admin_listen.map(bind_admin).transpose()?;
        let addresses = listeners.iter().map(Listener::address).collect::<io::Result<Vec<_>>>()?;

        let mut registry = Registry::default();
        telemetry::register_process(&mut registry, started);
        log_limit::register(&mut registry);
        let otlp = settings.otlp.clone().map(|settings| otlp::PreparedExporter::new(settings, &mut registry));
        let tracer = otlp.as_ref().map(otlp::PreparedExporter::tracer).unwrap_or_default();
        let (guard, reloader) = Guard::open(&settings.rpc.security, &mut registry)?;
        let reactor = build_reactor(settings.reactor_threads)?;
        let watchdog = Watchdog::start(settings.stall.clone(), reactor.handle(), &mut registry);
        let embedder = Embedder::start(settings.embed.clone(), &mut registry)?;
        // This sends no requests, so an unavailable judge does not delay the start.
        let judges = Judge::start_all(&settings.judges, &mut registry)?;
        let evaluator = Evaluator::start(&settings.evaluate, embedder.clone(), judges)?;
        let health = Health {
            embedder: embedder.status(),
            reactor: watchdog.reader(),
            draining: CancellationToken::new(),
            closing: CancellationToken::new(),
        };
        let (open, streams) = (OpenCalls::default(), TaskTracker::new());
        let context = RpcContext {
            settings: settings.rpc.clone(),
            embedder: embedder.clone(),
            evaluator,
            reactor: watchdog.reader(),
            health: health.clone(),
            open: open.clone(),
            guard,
            tracer,
            streams: streams.clone(),
            started,
        };
        let admin_connections = Admin::connections(&mut registry);
        let rpc = RpcServer::new(context, &mut registry)?;
        let registry = Arc::new(registry);
        let exporter = otlp.map(|otlp| otlp.start(Arc::clone(&registry), started)).transpose()?;
        let admin = admin_listener
            .map(|listener| {
                Admin::start(listener, admin_connections, health.clone(), settings.rpc.reflection, registry)
            })
            .transpose()?;
        let servers = listeners.into_iter().map(|listener| reactor.spawn(serve(rpc.clone(), listener)));
        Ok(App {
            addresses,
            drain_wait: settings.drain_wait,
            drain_limit: settings.drain_limit,
            health,
            open,
            streams,
            servers: servers.collect(),
            embedder,
            exporter,
            watchdog: Some(watchdog),
            reactor: Some(reactor),
            admin,
            reloader,
        })
    }

    /// Addresses of the gRPC server, with the actual ports.
    pub fn addresses(&self) -> &[Address] {
        &self.addresses
    }

    /// Address of the admin port, with the actual port; `None` if it is disabled.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin.as_ref().map(Admin::address)
    }

    /// The embedder of the server.
    pub fn embedder(&self) -> &Embedder {
        &self.embedder
    }

    /// Shuts down gracefully: reports NOT_SERVING, waits for load balancers to update, refuses new connections, and
    /// finishes the calls in flight. Returns false if the drain limit cancelled calls.
    pub async fn drain(&mut self) -> bool {
        tracing::info!(wait = ?self.drain_wait, limit = ?self.drain_limit, open = self.open.count(), "draining");
        self.health.draining.cancel();
        tokio::time::sleep(self.drain_wait).await;
        self.health.closing.cancel();
        self.streams.close();
        let (limit, open) = (self.drain_limit, self.open.clone());
        let servers = futures::future::join_all(self.servers.drain(..));
        let finished = async {
            // Connections without calls may stay half open forever, so the drain does not wait for them.
            tokio::select! {
                _ = servers => {}
                () = no_calls(&open) => {}
            }
        };
        let deadline = tokio::time::Instant::now() + limit;
        let clean = tokio::time::timeout_at(deadline, finished).await.is_ok();
        if !clean {
            tracing::warn!(open = self.open.count(), ?limit, "drain limit exceeded, cancelling open calls");
        }
        if let Some(exporter) = &mut self.exporter {
            let left = deadline.saturating_duration_since(tokio::time::Instant::now());
            exporter.finish(left.clamp(FLUSH_TIME.0, FLUSH_TIME.1)).await;
        }
        clean
    }

    /// Waits for SIGTERM or SIGINT. SIGHUP reloads certificates and tokens.
    async fn serve_until_signal(&self, signals: &mut ProcessSignals) {
        let ProcessSignals { hangup, terminate, interrupt } = signals;
        loop {
            tokio::select! {
                _ = hangup.recv() => self.reloader.reload_now(),
                _ = terminate.recv() => return,
                _ = interrupt.recv() => return,
            }
        }
    }

    /// Logs the addresses and the main settings.
    fn log_start(&self, settings: &AppSettings) {
        let listen: Vec<String> = self.addresses.iter().map(Address::to_string).collect();
        let security = &settings.rpc.security;
        let judges: Vec<&str> = settings.judges.iter().map(|judge| judge.name.as_str()).collect();
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            listen = listen.join(","),
            admin = self.admin_address().map(|address| address.to_string()).unwrap_or_default(),
            reactor_threads = settings.reactor_threads,
            compute_threads = settings.embed.threads,
            text_threads = settings.embed.text_threads,
            score_threads = settings.evaluate.threads,
            judges = judges.join(","),
            tls = security.tls.is_some(),
            client_certificates = security.tls.as_ref().is_some_and(|tls| tls.client_authorities.is_some()),
            tokens = security.token_file.is_some(),
            "listening; the model is loading in the background"
        );
        if security.token_file.is_some() && security.tls.is_none() && self.addresses.iter().any(is_remote) {
            tracing::warn!(
                "clients on other machines send their tokens in plain text: set tls-cert and tls-key"
            );
        }
    }
}

impl Drop for App {
    fn drop(&mut self) {
        drop(self.watchdog.take());
        // Calls are dropped first, so that the compute threads discard their work instead of finishing it.
        if let Some(reactor) = self.reactor.take() {
            reactor.shutdown_timeout(Duration::from_secs(1));
        }
        self.embedder.stop();
        self.exporter.take();
        self.admin.take();
        for address in &self.addresses {
            if let Address::Unix(path) = address {
                remove_socket(path);
            }
        }
    }
}

/// Serves until SIGTERM or SIGINT, then drains; a second signal stops the server immediately. Returns false if calls were
/// cancelled.
///
/// SIGHUP reloads certificates and tokens and never ends the process. SIGPIPE is ignored, as in every Rust program.
/// All other signals keep their default actions.
///
/// # Errors
/// The errors of [`App::start`].
#[expect(clippy::disallowed_methods, reason = "the main thread only waits for the end of the server")]
pub fn run(settings: AppSettings) -> anyhow::Result<bool> {
    ignore_hangups()?;
    let mut app = App::start(settings.clone())?;
    let handle = app.reactor.as_ref().context("the server has been started")?.handle().clone();
    handle.block_on(async {
        let mut signals = ProcessSignals::new()?;
        // Signal handlers are installed before this line is logged, so a supervisor that reads it may send signals.
        app.log_start(&settings);
        app.serve_until_signal(&mut signals).await;
        tokio::select! {
            clean = app.drain() => Ok(clean),
            () = signals.termination() => {
                tracing::warn!("second signal received, stopping immediately");
                Ok(false)
            }
        }
    })
}

/// Installs a handler of SIGHUP that outlives its runtime, so that the signal has no effect while the server starts or
/// drains.
fn ignore_hangups() -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let _context = runtime.enter();
    signal(SignalKind::hangup()).map(drop)
}

struct ProcessSignals {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
}

impl ProcessSignals {
    fn new() -> io::Result<ProcessSignals> {
        Ok(ProcessSignals {
            hangup: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Waits for SIGTERM or SIGINT.
    async fn termination(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

fn bind(addresses: &[Address]) -> anyhow::Result<Vec<Listener>> {
    let bind = |address| {
        Listener::bind(address).with_context(|| {
            format!(
                "cannot listen on {address}: set --listen to another address, or to port 0 for a free port"
            )
        })
    };
    addresses.iter().map(bind).collect()
}

fn bind_admin(address: SocketAddr) -> anyhow::Result<TcpListener> {
    bind_tcp(&address)
        .with_context(|| format!("cannot listen on {address}: set --admin-listen to another address, to port 0 for a free port, or to off"))
}

/// Returns true if other machines may connect to the address.
fn is_remote(address: &Address) -> bool {
    matches!(address, Address::Tcp(address) if !address.ip().is_loopback())
}

fn build_reactor(threads: usize) -> io::Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .thread_name("assay-reactor")
        .enable_all()
        .build()
}

async fn serve(rpc: RpcServer, listener: Listener) {
    if let Err(error) = rpc.serve(listener).await {
        tracing::error!(%error, "the server stopped accepting connections");
    }
}

/// Waits until no call has been open for 250 ms, so that no accepted call is missed.
async fn no_calls(open: &OpenCalls) {
    const QUIET_CHECKS: u32 = 10;
    let mut quiet = 0;
    while quiet < QUIET_CHECKS {
        tokio::time::sleep(Duration::from_millis(25)).await;
        quiet = if open.count() == 0 { quiet + 1 } else { 0 };
    }
}

#[expect(clippy::disallowed_methods, reason = "the event loop has ended")]
fn remove_socket(path: &std::path::Path) {
    // The file may have been removed already.
    let _ = std::fs::remove_file(path);
}
