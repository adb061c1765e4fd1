//! The composition root: builds the parts, and owns the order in which they start and drain.

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

#[derive(Clone, Debug)]
pub struct Settings {
    pub listen: Vec<Address>,
    /// None to serve no admin port.
    pub admin_listen: Option<SocketAddr>,
    pub reactor_threads: usize,
    pub rpc: rpc::RpcSettings,
    pub embed: embed::EmbedSettings,
    pub evaluate: evaluate::EvaluatorSettings,
    /// The first is the default.
    pub judges: Vec<judge::Settings>,
    pub stall: stall::Settings,
    /// Between NOT_SERVING and the end of accepting, for endpoints to update.
    pub drain_wait: Duration,
    /// For what is in flight to finish after that, and for the last traces to leave.
    pub drain_limit: Duration,
    /// None to send nothing to a collector.
    pub otlp: Option<otlp::Settings>,
}

/// For the last traces to leave: of calls that took the whole drain limit, and where the collector is away.
const LAST_WORD: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(5));

/// A running server. Dropping it stops everything at once; [`App::drain`] finishes what is in flight first.
pub struct App {
    addresses: Vec<Address>,
    drain_wait: Duration,
    drain_limit: Duration,
    health: Health,
    open: OpenCalls,
    streams: TaskTracker,
    servers: Vec<JoinHandle<()>>,
    embedder: Embedder,
    exporter: Option<otlp::Exporter>,
    // Dropped from here on, in this order.
    watchdog: Option<Watchdog>,
    reactor: Option<Runtime>,
    admin: Option<Admin>,
    reloader: Reloader,
}

impl App {
    /// Binds the ports, then starts everything else; returns at once, with the warm-up under way.
    ///
    /// # Errors
    /// If an address cannot be bound, or the operating system gives no thread.
    pub fn start(settings: Settings) -> anyhow::Result<App> {
        let started = SystemTime::now();
        let listeners = bind(&settings.listen)?;
        let admin_listener = settings.admin_listen.map(bind_admin).transpose()?;
        let addresses = listeners.iter().map(Listener::address).collect::<io::Result<Vec<_>>>()?;

        let mut registry = Registry::default();
        telemetry::register_process(&mut registry, started);
        log_limit::register(&mut registry);
        let otlp = settings.otlp.clone().map(|settings| otlp::Prepared::new(settings, &mut registry));
        let tracer = otlp.as_ref().map(otlp::Prepared::tracer).unwrap_or_default();
        let (guard, reloader) = Guard::open(&settings.rpc.security, &mut registry)?;
        let reactor = build_reactor(settings.reactor_threads)?;
        let watchdog = Watchdog::start(settings.stall.clone(), reactor.handle(), &mut registry);
        let embedder = Embedder::start(settings.embed.clone(), &mut registry)?;
        // Clients alone: nothing is sent, so a judge that is away holds up nothing.
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

    /// Where it listens, with the ports that were picked.
    pub fn addresses(&self) -> &[Address] {
        &self.addresses
    }

    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin.as_ref().map(Admin::address)
    }

    pub fn embedder(&self) -> &Embedder {
        &self.embedder
    }

    /// Turns NOT_SERVING, waits for endpoints to update, stops accepting, and finishes what is in flight. False
    /// if the drain limit cut something off.
    pub async fn drain(&mut self) -> bool {
        tracing::info!(wait = ?self.drain_wait, limit = ?self.drain_limit, open = self.open.count(), "draining");
        self.health.draining.cancel();
        tokio::time::sleep(self.drain_wait).await;
        self.health.closing.cancel();
        self.streams.close();
        let (limit, open) = (self.drain_limit, self.open.clone());
        let servers = futures::future::join_all(self.servers.drain(..));
        let finished = async {
            // Connections without a call may stay half open for ever; they are not waited for.
            tokio::select! {
                _ = servers => {}
                () = no_calls(&open) => {}
            }
        };
        let by = tokio::time::Instant::now() + limit;
        let clean = tokio::time::timeout_at(by, finished).await.is_ok();
        if !clean {
            tracing::warn!(open = self.open.count(), ?limit, "the drain limit cut calls off");
        }
        if let Some(exporter) = &mut self.exporter {
            let left = by.saturating_duration_since(tokio::time::Instant::now());
            exporter.finish(left.clamp(LAST_WORD.0, LAST_WORD.1)).await;
        }
        clean
    }

    /// Until a signal ends the server. A hangup reloads what can be reloaded.
    async fn serve_until_told(&self, signals: &mut Signals) {
        let Signals { hangup, terminate, interrupt } = signals;
        loop {
            tokio::select! {
                _ = hangup.recv() => self.reloader.reload_now(),
                _ = terminate.recv() => return,
                _ = interrupt.recv() => return,
            }
        }
    }

    fn announce(&self, settings: &Settings) {
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
            "listening; the model is being made ready"
        );
        if security.token_file.is_some() && security.tls.is_none() && self.addresses.iter().any(is_remote) {
            tracing::warn!("tokens are read in plain text from other machines: set tls-cert and tls-key");
        }
    }
}

impl Drop for App {
    fn drop(&mut self) {
        drop(self.watchdog.take());
        // Callers go first, so that the threads drop their work instead of finishing it.
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

/// Serves until SIGTERM or SIGINT, then drains; a second signal stops at once. False if calls were cut off.
///
/// SIGHUP has certificates and tokens read again, and never ends the process. SIGPIPE is ignored, as in every Rust
/// program; SIGUSR1, SIGUSR2 and the others keep their defaults.
///
/// # Errors
/// As [`App::start`].
#[expect(clippy::disallowed_methods, reason = "the main thread exists to wait for the end")]
pub fn run(settings: Settings) -> anyhow::Result<bool> {
    outlive_hangups()?;
    let mut app = App::start(settings.clone())?;
    let handle = app.reactor.as_ref().context("it was just started")?.handle().clone();
    handle.block_on(async {
        let mut signals = Signals::new()?;
        // Whoever reads this line may send one.
        app.announce(&settings);
        app.serve_until_told(&mut signals).await;
        tokio::select! {
            clean = app.drain() => Ok(clean),
            () = signals.next() => {
                tracing::warn!("a second signal stops the server at once");
                Ok(false)
            }
        }
    })
}

/// Sets a handler, which stays until the process ends, also without the runtime that set it. While the server starts or
/// drains, a hangup has no effect.
fn outlive_hangups() -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let _context = runtime.enter();
    signal(SignalKind::hangup()).map(drop)
}

struct Signals {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> io::Result<Signals> {
        Ok(Signals {
            hangup: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Waits for a signal that ends the server.
    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

fn bind(addresses: &[Address]) -> anyhow::Result<Vec<Listener>> {
    let bind = |address| {
        Listener::bind(address)
            .with_context(|| format!("cannot listen on {address}: set another --listen, or port 0 for any"))
    };
    addresses.iter().map(bind).collect()
}

fn bind_admin(address: SocketAddr) -> anyhow::Result<TcpListener> {
    bind_tcp(&address)
        .with_context(|| format!("cannot listen on {address}: set another --admin-listen, port 0, or off"))
}

/// Whether other machines may reach it.
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
        tracing::error!(%error, "the server ended");
    }
}

/// Until no call has been open for long enough that none is on its way.
async fn no_calls(open: &OpenCalls) {
    const SETTLED: u32 = 10;
    let mut quiet = 0;
    while quiet < SETTLED {
        tokio::time::sleep(Duration::from_millis(25)).await;
        quiet = if open.count() == 0 { quiet + 1 } else { 0 };
    }
}

#[expect(clippy::disallowed_methods, reason = "the reactor has ended")]
fn remove_socket(path: &std::path::Path) {
    // Someone may have removed it before.
    let _ = std::fs::remove_file(path);
}
