//! What the thread does: gathers what waits into requests, and sends the metrics now and then.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use prometheus_client::registry::Registry;
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};

use super::{
    ExportItem, OtlpSettings,
    client::CollectorClient,
    convert::{self, ExportResource},
    counters::{DropReason, ExportCounters},
    scraped,
};

pub(super) struct ExportInput {
    pub queue: mpsc::Receiver<ExportItem>,
    pub counts: ExportCounters,
    pub registry: Arc<Registry>,
    pub started: SystemTime,
    /// Set to when the last word has to be out.
    pub stopping: watch::Receiver<Option<Instant>>,
}

#[expect(clippy::disallowed_methods, reason = "the thread exists to wait for this runtime")]
pub(super) fn run(runtime: &tokio::runtime::Runtime, settings: &OtlpSettings, work: ExportInput) {
    let ExportInput { mut queue, counts, registry, started, stopping } = work;
    runtime.block_on(async {
        let delivery = match CollectorClient::new(settings, counts.clone()) {
            Ok(delivery) => delivery,
            Err(error) => {
                tracing::error!(%error, "nothing is sent to the collector; check otlp-endpoint and the system's CA certificates");
                return;
            }
        };
        let origin = ExportResource::new(settings, started);
        let send = async {
            let items = send_items(&mut queue, stopping.clone(), &delivery, &origin);
            let metrics = send_metrics(settings, stopping.clone(), &delivery, (&origin, &registry));
            tokio::join!(items, metrics);
        };
        tokio::select! {
            () = send => {}
            () = cut_off(stopping.clone()) => {}
        }
    });
    let left = queue.len();
    if left > 0 {
        while let Ok(item) = queue.try_recv() {
            counts.dropped(item.signal(), DropReason::Stopped, 1);
        }
        tracing::warn!(left, "spans and events were not sent before the end");
    }
}

/// Items of one request.
const BATCH: usize = 512;
/// How long the first item of a request waits for others.
const GATHER: Duration = Duration::from_secs(1);

/// Until the queue is closed and empty.
async fn send_items(
    queue: &mut mpsc::Receiver<ExportItem>,
    mut stopping: watch::Receiver<Option<Instant>>,
    delivery: &CollectorClient,
    origin: &ExportResource,
) {
    let mut stopped = false;
    loop {
        let mut batch = Vec::new();
        stopped = stopped || fill(queue, &mut stopping, &mut batch).await;
        if stopped {
            queue.close();
            queue.recv_many(&mut batch, BATCH).await;
            if batch.is_empty() {
                return;
            }
        }
        let (mut spans, mut events) = (Vec::new(), Vec::new());
        for item in batch {
            match item {
                ExportItem::Span(span) => spans.push((*span).into()),
                ExportItem::Event(event) => events.push(convert::event(*event)),
            }
        }
        tokio::join!(delivery.traces(origin, spans), delivery.events(origin, events));
    }
}

/// Gathers a batch; true if it was told to stop.
async fn fill(
    queue: &mut mpsc::Receiver<ExportItem>,
    stopping: &mut watch::Receiver<Option<Instant>>,
    batch: &mut Vec<ExportItem>,
) -> bool {
    let gathered = async {
        // None come any more once nobody is left who could put one in.
        if queue.recv_many(batch, BATCH).await == 0 {
            return true;
        }
        let more =
            async { while batch.len() < BATCH && queue.recv_many(batch, BATCH - batch.len()).await > 0 {} };
        // The time is what ends it, mostly.
        let _ = tokio::time::timeout(GATHER, more).await;
        false
    };
    tokio::select! {
        stopped = gathered => stopped,
        _ = stopping.wait_for(Option::is_some) => true,
    }
}

async fn send_metrics(
    settings: &OtlpSettings,
    mut stopping: watch::Receiver<Option<Instant>>,
    delivery: &CollectorClient,
    (origin, registry): (&ExportResource, &Registry),
) {
    if !settings.signals.metrics {
        return;
    }
    loop {
        let pause = tokio::time::sleep(settings.metrics_every);
        let stopped = tokio::select! {
            () = pause => false,
            _ = stopping.wait_for(Option::is_some) => true,
        };
        let now = SystemTime::now();
        delivery.metrics(origin, convert::metrics(&scraped::scrape(registry), origin, now)).await;
        if stopped {
            return;
        }
    }
}

/// Until the time for the last word is over.
async fn cut_off(mut stopping: watch::Receiver<Option<Instant>>) {
    let by = stopping.wait_for(Option::is_some).await.ok().and_then(|by| *by);
    if let Some(by) = by {
        tokio::time::sleep_until(by).await;
    }
}
