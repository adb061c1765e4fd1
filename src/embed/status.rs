//! How far the embedder is on its way to serving, for everyone who asks.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::watch;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// The model's files are being found or fetched.
    Fetching,
    /// The files are being checked and read.
    Loading,
    /// The first forward passes are running.
    Warming,
    /// The model serves.
    Ready,
    /// The last attempt failed; another one follows.
    Retrying,
    /// A compute thread failed; a probe brings it back.
    Unhealthy,
}

#[derive(Clone, Debug)]
pub struct EmbedderStatus {
    pub phase: Phase,
    /// What it does or waits for.
    pub detail: String,
    /// From 1.
    pub attempt: u32,
    /// Why the attempt before failed, and what to do about it.
    pub last_error: Option<String>,
    pub fetched_bytes: u64,
    /// 0 while it is not known.
    pub total_bytes: u64,
    pub started: Instant,
    /// How long the warm-up took, once it is done.
    pub took: Option<Duration>,
    /// When the next attempt begins, while retrying.
    pub retry_at: Option<Instant>,
    failed_workers: usize,
}

impl EmbedderStatus {
    /// Whether a call would be computed now.
    pub fn is_serving(&self) -> bool {
        self.phase == Phase::Ready
    }

    /// Compute threads that wait for their probe to pass.
    pub(super) fn failed_workers(&self) -> usize {
        self.failed_workers
    }

    /// When it makes sense to ask again.
    pub fn retry_in(&self) -> Duration {
        const SOON: Duration = Duration::from_secs(1);
        let next = self.retry_at.map_or(SOON, |at| at.saturating_duration_since(Instant::now()));
        next.clamp(SOON, Duration::from_secs(15))
    }
}

/// Shared by the warm-up and the compute threads.
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

    pub fn subscribe(&self) -> watch::Receiver<EmbedderStatus> {
        self.0.subscribe()
    }

    pub fn update(&self, change: impl FnOnce(&mut EmbedderStatus)) {
        self.0.send_modify(change);
    }

    pub fn enter(&self, phase: Phase, detail: impl Into<String>) {
        self.update(|status| {
            status.phase = phase;
            status.detail = detail.into();
        });
    }

    pub fn worker_failed(&self, reason: &str) {
        self.update(|status| {
            status.failed_workers += 1;
            status.phase = Phase::Unhealthy;
            status.last_error = Some(format!("a forward pass failed: {reason}"));
            status.detail = "a compute thread waits for its probe to pass".into();
        });
    }

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
