//! `assay evaluate`: evaluates samples in JSON lines with the engine of the server. A stopped run can be resumed.

#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod input;
mod options;
mod output;
mod plan;
mod progress;
mod report;
mod row;
mod sample;
mod summary;
mod writer;

use std::{cell::Cell, collections::HashMap, io, process::ExitCode};

use anyhow::Context as _;
use clap::ArgMatches;
use futures::{Stream, StreamExt};
use prometheus_client::registry::Registry;
use tokio::signal::unix::{SignalKind, signal};
use tokio_stream::wrappers::ReceiverStream;

use super::{UsageError, embed::warm};
use crate::{
    config::Config,
    deadline::Deadline,
    embed::Embedder,
    evaluate::{Evaluation, Evaluator, Task},
    judge::{Budget, Call, Judge, TraceHeaders},
};
use input::{InputLine, SampleInput};
use options::EvaluateOptions;
pub(super) use options::{AFTER_HELP, arguments};
use output::{EarlierRow, ResultOutput};
use plan::EvaluationPlan;
use progress::EvaluationProgress;
use sample::LineError;
use writer::{FinishedLine, RowWriter, WrittenRows};

/// Exit code that shells use for a program ended by SIGINT.
const INTERRUPTED: u8 = 130;
/// Time after the deadline of a sample to compute results from the responses that the judge has given by then.
const COMPUTE_TIME: std::time::Duration = std::time::Duration::from_secs(5);

/// Maximum number of logged warnings about invalid lines.
const MAX_LINE_WARNINGS: u64 = 20;

/// Interval at which the progress is redrawn.
const REDRAW_EVERY: std::time::Duration = std::time::Duration::from_millis(200);

/// Runs the command.
///
/// # Errors
/// [`UsageError`] for invalid flags, and any error that prevents the evaluation of all lines.
pub(super) fn run(config: Config, flags: &ArgMatches) -> anyhow::Result<ExitCode> {
    let plan = EvaluationPlan::new(EvaluateOptions::read(flags), &config)?;
    let output = plan.open_output()?;
    let input = SampleInput::open(&plan.options.input)?;
    plan.prepare_journal()?;
    let (collected, progress, is_complete) = work(&plan, config, input, output)?;
    if is_complete { finish(&plan, collected, &progress) } else { Ok(interrupted(&plan, &collected)) }
}

/// Evaluates all lines. Returns false if a signal ended the run.
#[expect(clippy::disallowed_methods, reason = "the command only waits for the end of its input")]
fn work(
    plan: &EvaluationPlan,
    config: Config,
    input: SampleInput,
    mut output: ResultOutput,
) -> anyhow::Result<(WrittenRows, EvaluationProgress, bool)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut registry = Registry::default();
    let _entered = runtime.enter();
    let judge = plan.judge.clone().map(|settings| Judge::start(settings, &mut registry)).transpose()?;
    let embedder = if plan.needs_embeddings() {
        Embedder::start(config.app.embed, &mut registry)?
    } else {
        Embedder::without_model(&mut registry)
    };
    let evaluator =
        Evaluator::start(&config.app.evaluate, embedder.clone(), judge.iter().cloned().collect())?;
    let (bar, budget) = (super::progress::inputs(), Budget::new(plan.options.budget));
    let mut progress = EvaluationProgress::new(bar.clone(), input.total, budget.clone());
    let earlier_rows = output.take_earlier_rows();
    let writer = RowWriter::start(output)?;
    let run = EvaluationRun { plan, evaluator, judge, budget, earlier_rows, invalid_lines: Cell::default() };
    let outcome = runtime.block_on(async {
        if plan.needs_embeddings() {
            warm(&embedder, &bar).await?;
        }
        progress.begin();
        run.evaluate_all(input, &writer, &mut progress).await
    });
    progress.finish();
    drop((run, _entered));
    drop(runtime);
    embedder.stop();
    // If writing failed, its error is the cause of the early end, and takes precedence.
    let collected = writer.finish()?;
    Ok((collected, progress, outcome?))
}

/// Completes the output, writes the report and prints the summary.
fn finish(
    plan: &EvaluationPlan,
    mut collected: WrittenRows,
    progress: &EvaluationProgress,
) -> anyhow::Result<ExitCode> {
    collected.output.complete()?;
    if let Some(path) = &plan.options.html {
        report::write(path, plan, &collected).with_context(|| format!("cannot write {}", path.display()))?;
    }
    let totals = &collected.totals;
    plan.remove_journal(totals.is_clean())?;
    let (kept, changed) = (progress.counts.kept, progress.counts.changed);
    tracing::info!(samples = totals.rows, kept, changed, failed = totals.failed_cells, "all lines evaluated");
    print_summary(&summary::table(totals), collected.output.is_file());
    Ok(if totals.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Prints how to resume the run.
fn interrupted(plan: &EvaluationPlan, collected: &WrittenRows) -> ExitCode {
    let rows = collected.totals.rows;
    let advice = if collected.output.is_file() {
        format!("{rows} rows are in {}; the same command resumes the run\n", plan.options.output)
    } else {
        format!("{rows} rows were written; set --output FILE to be able to resume a run\n")
    };
    print_summary(&format!("interrupted: {advice}"), false);
    ExitCode::from(INTERRUPTED)
}

/// Prints to standard output, unless the results are written there.
#[expect(clippy::print_stdout, clippy::print_stderr, reason = "the requested output")]
fn print_summary(text: &str, on_stdout: bool) {
    if on_stdout {
        print!("{text}");
    } else {
        eprint!("{text}");
    }
}

/// The parts of one run.
struct EvaluationRun<'a> {
    plan: &'a EvaluationPlan,
    evaluator: Evaluator,
    judge: Option<Judge>,
    budget: Budget,
    earlier_rows: HashMap<u64, EarlierRow>,
    invalid_lines: Cell<u64>,
}

/// A processed line and its contribution to the progress.
struct ProcessedLine {
    done: FinishedLine,
    /// `None` for a row that was kept, and for an invalid line.
    evaluation: Option<Evaluation>,
    is_changed: bool,
    unknown: Vec<String>,
}

impl EvaluationRun<'_> {
    /// Evaluates all lines. Returns false if a signal ended the run or writing failed.
    async fn evaluate_all(
        &self,
        input: SampleInput,
        writer: &RowWriter,
        progress: &mut EvaluationProgress,
    ) -> anyhow::Result<bool> {
        let mut processed_lines = std::pin::pin!(self.process_all(input));
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut show = tokio::time::interval(REDRAW_EVERY);
        let mut warned = Vec::new();
        loop {
            tokio::select! {
                line = processed_lines.next() => {
                    let Some(line) = line.transpose().context("cannot read the input")? else { return Ok(true) };
                    warn_once(&mut warned, &line.unknown);
                    count(progress, &line);
                    if !writer.add(line.done).await {
                        return Ok(false);
                    }
                }
                _ = show.tick() => progress.show(),
                _ = terminate.recv() => return Ok(false),
                _ = interrupt.recv() => return Ok(false),
            }
        }
    }

    fn process_all(&self, input: SampleInput) -> impl Stream<Item = io::Result<ProcessedLine>> {
        let lines = ReceiverStream::new(input.lines);
        let processed = lines.map(async |line| Ok(self.process(line?).await));
        processed.buffer_unordered(self.plan.options.concurrency)
    }

    async fn process(&self, line: InputLine) -> ProcessedLine {
        let key = output::key(line.number, &line.bytes, &self.plan.fingerprint);
        let before = self.earlier_rows.get(&line.number);
        let is_kept = before.is_some_and(|row| {
            row.digest == key.digest && !(self.plan.options.retry_failed && row.has_failures)
        });
        let is_changed = before.is_some_and(|row| row.digest != key.digest);
        let parsed = sample::parse(&line.bytes);
        let texts = parsed.as_ref().ok().filter(|_| self.plan.options.html.is_some());
        let texts = texts.map(|parsed| row::texts(&parsed.sample));
        let (row, evaluation, unknown) = match parsed {
            _ if is_kept => (None, None, Vec::new()),
            Err(error) => {
                self.warn_invalid(&line, &error);
                (Some(row::invalid(&key, &error)), None, Vec::new())
            }
            Ok(parsed) => {
                let mut sample = parsed.sample;
                sample.language = sample.language.or(self.plan.options.language);
                let evaluation = self.evaluator.evaluate(self.task(&sample), |_| ()).await;
                (Some(row::scored(&key, &sample, &evaluation)), Some(evaluation), parsed.unknown)
            }
        };
        ProcessedLine {
            done: FinishedLine { line: line.number, row, texts },
            evaluation,
            is_changed,
            unknown,
        }
    }

    /// Logs an invalid line, up to a maximum. The output has the errors of all of them.
    fn warn_invalid(&self, line: &InputLine, error: &LineError) {
        self.invalid_lines.set(self.invalid_lines.get() + 1);
        if self.invalid_lines.get() <= MAX_LINE_WARNINGS {
            tracing::warn!(line = line.number, %error, "invalid line");
        } else if self.invalid_lines.get() == MAX_LINE_WARNINGS + 1 {
            tracing::warn!("further invalid lines are not logged; the output has the error of each");
        }
    }

    fn task(&self, sample: &crate::evaluate::sample::Sample) -> Task {
        let deadline = Deadline::after(self.plan.options.deadline);
        Task {
            sample: sample.clone(),
            selections: self.plan.selections.clone(),
            judge: self.judge.clone(),
            call: Call {
                deadline,
                // A child budget counts the cost of each sample.
                budget: self.budget.child(),
                caller: 0,
                use_cache: true,
                trace: TraceHeaders::default(),
            },
            answer_by: deadline.later(COMPUTE_TIME),
            reason_language: None,
        }
    }
}

/// Adds a line to the progress.
fn count(progress: &mut EvaluationProgress, line: &ProcessedLine) {
    if line.is_changed {
        if progress.counts.changed == 0 {
            let line = line.done.line;
            tracing::warn!(
                line,
                "the line or the settings have changed since the earlier run; such rows are evaluated again"
            );
        }
        progress.counts.changed += 1;
    }
    progress.counts.kept += u64::from(line.done.row.is_none());
    if let Some(evaluation) = &line.evaluation {
        progress.count_failures(evaluation);
    }
    progress.count_line();
}

/// Logs each unknown field once.
fn warn_once(warned: &mut Vec<String>, unknown: &[String]) {
    for field in unknown {
        if !warned.contains(field) {
            tracing::warn!(field, "ignoring an unknown field of samples");
            warned.push(field.clone());
        }
    }
}
