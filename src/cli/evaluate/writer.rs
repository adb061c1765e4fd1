//! The thread that writes the output and computes the totals of a run.

use std::{collections::BTreeMap, thread::JoinHandle};

use anyhow::Context as _;
use tokio::sync::mpsc;

use super::{
    output::ResultOutput,
    row::{CostView, ParsedRow},
};
use crate::evaluate::{aggregate::Aggregate, metric::Metric};

/// Maximum number of rows that wait to be written.
const QUEUE: usize = 64;

/// Result of one line.
pub(super) struct FinishedLine {
    pub line: u64,
    /// The new row; `None` keeps the row of an earlier run.
    pub row: Option<String>,
    /// Texts of the sample, for the report.
    pub texts: Option<String>,
}

/// Handle of the output thread.
pub(super) struct RowWriter {
    done: mpsc::Sender<FinishedLine>,
    thread: JoinHandle<anyhow::Result<WrittenRows>>,
}

/// All rows of a run, new and kept, with their totals.
pub(super) struct WrittenRows {
    pub output: ResultOutput,
    pub totals: RunTotals,
    /// Texts of the samples by line number, for the report.
    pub texts: BTreeMap<u64, String>,
}

/// Totals of a run.
#[derive(Default)]
pub(super) struct RunTotals {
    pub aggregate: Aggregate,
    pub cost: CostView,
    pub rows: u64,
    /// Number of invalid lines.
    pub invalid_lines: u64,
    /// Number of failed metric results.
    pub failed_cells: u64,
}

impl RowWriter {
    /// Starts the thread.
    ///
    /// # Errors
    /// A thread that cannot be started.
    pub fn start(output: ResultOutput) -> anyhow::Result<RowWriter> {
        let (done, receiver) = mpsc::channel(QUEUE);
        let thread = std::thread::Builder::new().name("assay-output".into());
        Ok(RowWriter { done, thread: thread.spawn(move || write(output, receiver))? })
    }

    /// Queues a line. Returns false if writing has failed; [`RowWriter::finish`] then returns the error.
    pub async fn add(&self, done: FinishedLine) -> bool {
        self.done.send(done).await.is_ok()
    }

    /// Waits until all rows are written.
    ///
    /// # Errors
    /// The first failed write.
    pub fn finish(self) -> anyhow::Result<WrittenRows> {
        drop(self.done);
        self.thread.join().map_err(|_| anyhow::anyhow!("the output thread has panicked"))?
    }
}

fn write(output: ResultOutput, mut receiver: mpsc::Receiver<FinishedLine>) -> anyhow::Result<WrittenRows> {
    let mut collected = WrittenRows { output, totals: RunTotals::default(), texts: BTreeMap::new() };
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

impl RunTotals {
    fn add(&mut self, row: &ParsedRow) {
        self.rows += 1;
        self.invalid_lines += u64::from(row.error.is_some());
        for result in &row.results {
            self.failed_cells += u64::from(super::row::is_failure(result.status));
            // A row of another version may have a metric that does not exist anymore.
            if let Some(metric) = Metric::named(&result.metric) {
                self.aggregate.add_outcome(&metric, &result.label, result.status, result.score);
            }
        }
        if let Some(cost) = &row.cost {
            self.cost.add(cost);
        }
    }

    /// Returns true if no line and no metric failed.
    pub fn is_clean(&self) -> bool {
        self.invalid_lines == 0 && self.failed_cells == 0
    }
}
