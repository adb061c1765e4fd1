//! Loop of the exporting thread: batches queued items, and sends the metrics periodically.

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

/// Inputs of the exporting thread.
pub(super) struct ExportInput {
    pub queue: mpsc::Receiver<ExportItem>,
    pub counters: ExportCounters,
    pub registry: Arc<Registry>,
    pub started: SystemTime,
    /// Deadline of the final flush; `None` until shutdown begins.
    pub stopping: watch::Receiver<Option<Instant>>,
}

#[expect(clippy::disallowed_methods, reason = "the thread exists to wait for this runtime")]
pub(super) fn run(runtime: &tokio::runtime::Runtime, settings: &OtlpSettings, work: ExportInput) {
    let ExportInput { mut queue, counters, registry, started, stopping } = work;
    runtime.block_on(async {
        let client = match CollectorClient::new(settings, counters.clone()) {
            Ok(client) => client,
            Err(error) => {
                tracing::error!(%error, "cannot create the OTLP client, so nothing is exported; check otlp-endpoint and the system's CA certificates");
                return;
            }
        };
        let source = ExportResource::new(settings, started);
        let send = async {
            let items = send_items(&mut queue, stopping.clone(), &client, &source);
            let metrics = send_metrics(settings, stopping.clone(), &client, (&source, &registry));
            tokio::join!(items, metrics);
        };
        tokio::select! {
            () = send => {}
            () = final_deadline(stopping.clone()) => {}
        }
    });
    let left = queue.len();
    if left > 0 {
        while let Ok(item) = queue.try_recv() {
            counters.dropped(item.signal(), DropReason::Stopped, 1);
        }
        tracing::warn!(left, "spans and events were dropped at shutdown");
    }
}

/// Maximum number of items per request.
const MAX_BATCH_ITEMS: usize = 512;
/// Maximum time for which the first item of a request waits for others.
const MAX_BATCH_DELAY: Duration = Duration::from_secs(1);

/// Sends queued items until the queue is closed and empty.
async fn send_items(
    queue: &mut mpsc::Receiver<ExportItem>,
    mut stopping: watch::Receiver<Option<Instant>>,
    client: &CollectorClient,
    source: &ExportResource,
) {
    let mut stopped = false;
    loop {
        let mut batch = Vec::new();
        stopped = stopped || fill(queue, &mut stopping, &mut batch).await;
        if stopped {
            queue.close();
            queue.recv_many(&mut batch, MAX_BATCH_ITEMS).await;
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
        tokio::join!(client.traces(source, spans), client.events(source, events));
    }
}

/// Collects a batch; returns true if shutdown has begun.
async fn fill(
    queue: &mut mpsc::Receiver<ExportItem>,
    stopping: &mut watch::Receiver<Option<Instant>>,
    batch: &mut Vec<ExportItem>,
) -> bool {
    let collected = async {
        // All senders are gone.
        if queue.recv_many(batch, MAX_BATCH_ITEMS).await == 0 {
            return true;
        }
        let more = async {
            while batch.len() < MAX_BATCH_ITEMS
                && queue.recv_many(batch, MAX_BATCH_ITEMS - batch.len()).await > 0
            {}
        };
        // Usually ended by the timeout.
        let _ = tokio::time::timeout(MAX_BATCH_DELAY, more).await;
        false
    };
    tokio::select! {
        stopped = collected => stopped,
        _ = stopping.wait_for(Option::is_some) => true,
    }
}

async fn send_metrics(
    settings: &OtlpSettings,
    mut stopping: watch::Receiver<Option<Instant>>,
    client: &CollectorClient,
    (source, registry): (&ExportResource, &Registry),
) {
    if !settings.signals.metrics {
        return;
    }
    loop {
        let pause = tokio::time::sleep(settings.metrics_interval);
        let stopped = tokio::select! {
            () = pause => false,
            _ = stopping.wait_for(Option::is_some) => true,
        };
        let now = SystemTime::now();
        client.metrics(source, convert::metrics(&scraped::scrape(registry), source, now)).await;
        if stopped {
            return;
        }
    }
}

/// Completes at the deadline of the final flush.
async fn final_deadline(mut stopping: watch::Receiver<Option<Instant>>) {
    let by = stopping.wait_for(Option::is_some).await.ok().and_then(|by| *by);
    if let Some(by) = by {
        tokio::time::sleep_until(by).await;
    }
}
