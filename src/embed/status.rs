//! Status of an embedder: the progress of its warm-up and the health of its compute threads.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::watch;

/// Phase of the warm-up, or of serving.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// The model files are being located or downloaded.
    Fetching,
    /// The model files are being checked and read.
    Loading,
    /// The first forward passes are running.
    Warming,
    /// The model is ready to serve.
    Ready,
    /// The last attempt failed; the next one follows after a pause.
    Retrying,
    /// At least one compute thread is unhealthy and waits for its probe to succeed.
    Unhealthy,
}

/// Status of an embedder at one moment.
#[derive(Clone, Debug)]
pub struct EmbedderStatus {
    /// Phase of the warm-up.
    pub phase: Phase,
    /// Current activity, as text for people.
    pub detail: String,
    /// Number of the current attempt to load the model, from 1.
    pub attempt: u32,
    /// Error of the last attempt, with what to do about it.
    pub last_error: Option<String>,
    /// Bytes of model files downloaded in this attempt.
    pub fetched_bytes: u64,
    /// Bytes of all model files; 0 while unknown.
    pub total_bytes: u64,
    /// Start of the warm-up.
    pub started: Instant,
    /// Duration of the warm-up, once it is done.
    pub took: Option<Duration>,
    /// Start of the next attempt, while retrying.
    pub retry_at: Option<Instant>,
    failed_workers: usize,
}

impl EmbedderStatus {
    /// Returns true if requests are served now.
    pub fn is_serving(&self) -> bool {
        self.phase == Phase::Ready
    }

    /// Number of unhealthy compute threads.
    pub(super) fn failed_workers(&self) -> usize {
        self.failed_workers
    }

    /// Pause after which a client should retry.
    pub fn retry_in(&self) -> Duration {
        const SOON: Duration = Duration::from_secs(1);
        let next = self.retry_at.map_or(SOON, |at| at.saturating_duration_since(Instant::now()));
        next.clamp(SOON, Duration::from_secs(15))
    }
}

/// Handle with which the warm-up and the compute threads update the status.
#[derive(Clone)]
pub(super) struct StatusHandle(Arc<watch::Sender<EmbedderStatus>>);

impl StatusHandle {
    pub fn new() -> StatusHandle {
        StatusHandle(Arc::new(watch::Sender::new(EmbedderStatus {
            phase: Phase::Fetching,
            detail: "starting".into(),
            attempt: 1,
            last_error: None,
            fetched_bytes: 0,
            total_bytes: 0,
            started: Instant::now(),
            took: None,
            retry_at: None,
            failed_workers: 0,
        })))
    }

    /// Subscribes to changes.
    pub fn subscribe(&self) -> watch::Receiver<EmbedderStatus> {
        self.0.subscribe()
    }

    /// Applies a change and notifies subscribers.
    pub fn update(&self, change: impl FnOnce(&mut EmbedderStatus)) {
        self.0.send_modify(change);
    }

    /// Sets the phase and its description.
    pub fn enter(&self, phase: Phase, detail: impl Into<String>) {
        self.update(|status| {
            status.phase = phase;
            status.detail = detail.into();
        });
    }

    /// Records that a compute thread became unhealthy.
    pub fn worker_failed(&self, reason: &str) {
        self.update(|status| {
            status.failed_workers += 1;
            status.phase = Phase::Unhealthy;
            status.last_error = Some(format!("a forward pass failed: {reason}"));
            status.detail = "a compute thread is unhealthy and waits for its probe to succeed".into();
        });
    }

    /// Records that a compute thread is healthy again.
    pub fn worker_recovered(&self) {
        self.update(|status| {
            status.failed_workers -= 1;
            if status.failed_workers == 0 {
                status.phase = Phase::Ready;
                status.detail = "serving".into();
            }
        });
    }
}
