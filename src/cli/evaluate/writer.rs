//! The thread that owns the files of a run, and adds up what stands in them.

use std::{collections::BTreeMap, thread::JoinHandle};

use anyhow::Context as _;
use tokio::sync::mpsc;

use super::{
    output::Output,
    row::{CostView, Written},
};
use crate::evaluate::{aggregate::Aggregate, metric::Metric};

/// Rows that wait for the disk.
const WAITING: usize = 64;

/// What became of one line.
pub(super) struct Done {
    pub line: u64,
    /// None for the row that is there.
    pub row: Option<String>,
    /// For the report.
    pub texts: Option<String>,
}

pub(super) struct Writer {
    done: mpsc::Sender<Done>,
    thread: JoinHandle<anyhow::Result<Collected>>,
}

/// A run's rows, new and kept.
pub(super) struct Collected {
    pub output: Output,
    pub totals: Totals,
    /// By line.
    pub texts: BTreeMap<u64, String>,
}

#[derive(Default)]
pub(super) struct Totals {
    pub aggregate: Aggregate,
    pub cost: CostView,
    pub rows: u64,
    /// Lines that are no samples.
    pub bad_lines: u64,
    /// Metrics of samples.
    pub failed_cells: u64,
}

impl Writer {
    /// # Errors
    /// If the operating system gives no thread.
    pub fn start(output: Output) -> anyhow::Result<Writer> {
        let (done, receiver) = mpsc::channel(WAITING);
        let thread = std::thread::Builder::new().name("assay-output".into());
        Ok(Writer { done, thread: thread.spawn(move || write(output, receiver))? })
    }

    /// False once writing failed; [`Writer::finish`] tells why.
    pub async fn add(&self, done: Done) -> bool {
        self.done.send(done).await.is_ok()
    }

    /// Waits until all is written.
    ///
    /// # Errors
    /// If it can't be.
    pub fn finish(self) -> anyhow::Result<Collected> {
        drop(self.done);
        self.thread.join().map_err(|_| anyhow::anyhow!("the thread that writes has panicked"))?
    }
}

fn write(output: Output, mut receiver: mpsc::Receiver<Done>) -> anyhow::Result<Collected> {
    let mut collected = Collected { output, totals: Totals::default(), texts: BTreeMap::new() };
    while let Some(done) = receiver.blocking_recv() {
        let row = match done.row {
            Some(row) => {
                collected.output.add(done.line, &row).context("cannot write the output")?;
                row
            }
            None => collected.output.keep(done.line).context("cannot read the output")?,
        };
        collected.totals.add(&serde_json::from_str(&row)?);
        collected.texts.extend(done.texts.map(|texts| (done.line, texts)));
    }
    Ok(collected)
}

impl Totals {
    fn add(&mut self, row: &Written) {
        self.rows += 1;
        self.bad_lines += u64::from(row.error.is_some());
        for result in &row.results {
            self.failed_cells += u64::from(super::row::is_failure(result.status));
            // A row of another version may have a metric that is no more.
            if let Some(metric) = Metric::named(&result.metric) {
                self.aggregate.add_outcome(&metric, &result.label, result.status, result.score);
            }
        }
        if let Some(cost) = &row.cost {
            self.cost.add(cost);
        }
    }

    pub fn is_clean(&self) -> bool {
        self.bad_lines == 0 && self.failed_cells == 0
    }
}
