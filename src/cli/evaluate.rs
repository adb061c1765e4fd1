//! `assay evaluate`: samples in lines of JSON to scores in lines of JSON, with resume, through the same engine as the
//! server.

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
use clap::{ArgMatches, Command};
use futures::{Stream, StreamExt};
use prometheus_client::registry::Registry;
use tokio::signal::unix::{SignalKind, signal};
use tokio_stream::wrappers::ReceiverStream;

use super::{Usage, embed::warm};
use crate::{
    config::Config,
    deadline::Deadline,
    embed::Embedder,
    evaluate::{Evaluation, Evaluator, Task},
    judge::{Budget, Call, Judge, TraceHeaders},
};
use input::{Input, Line};
use options::Options;
use output::{Known, Output};
use plan::Plan;
use progress::Progress;
use sample::LineError;
use writer::{Collected, Done, Writer};

/// What a shell gives a program that SIGINT ended.
const INTERRUPTED: u8 = 130;
/// To compute with what the judge has answered by the deadline of a sample.
const TO_COMPUTE: std::time::Duration = std::time::Duration::from_secs(5);

/// Of lines that are no samples; more would only bury the rest of the log.
const WARNINGS: u64 = 20;

/// How often what is shown is brought up to date.
const SHOW_EVERY: std::time::Duration = std::time::Duration::from_millis(200);

/// Its flags, on top of the settings', and what they are for.
pub(super) fn arguments(command: Command) -> Command {
    command.args(options::arguments()).after_help(options::AFTER_HELP)
}

/// # Errors
/// [`Usage`] for flags that don't fit each other; whatever keeps all lines from being scored.
pub(super) fn run(config: Config, flags: &ArgMatches) -> anyhow::Result<ExitCode> {
    let plan = Plan::new(Options::read(flags), &config)?;
    let output = plan.open_output()?;
    let input = Input::open(&plan.options.input)?;
    plan.prepare_journal()?;
    let (collected, progress, is_complete) = work(&plan, config, input, output)?;
    if is_complete { finish(&plan, collected, &progress) } else { Ok(interrupted(&plan, &collected)) }
}

/// Scores all lines; false if a signal ended it.
#[expect(clippy::disallowed_methods, reason = "the program exists to wait for the end of its input")]
fn work(
    plan: &Plan,
    config: Config,
    input: Input,
    mut output: Output,
) -> anyhow::Result<(Collected, Progress, bool)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut registry = Registry::default();
    let _entered = runtime.enter();
    let judge = plan.judge.clone().map(|settings| Judge::start(settings, &mut registry)).transpose()?;
    let embedder = if plan.needs_vectors() {
        Embedder::start(config.app.embed, &mut registry)?
    } else {
        Embedder::without_model(&mut registry)
    };
    let evaluator =
        Evaluator::start(&config.app.evaluate, embedder.clone(), judge.iter().cloned().collect())?;
    let (bar, budget) = (super::progress::inputs(), Budget::new(plan.options.budget));
    let mut progress = Progress::new(bar.clone(), input.total, budget.clone());
    let known = output.take_known();
    let writer = Writer::start(output)?;
    let scoring = Scoring { plan, evaluator, judge, budget, known, bad_lines: Cell::default() };
    let outcome = runtime.block_on(async {
        if plan.needs_vectors() {
            warm(&embedder, &bar).await?;
        }
        progress.begin();
        scoring.all(input, &writer, &mut progress).await
    });
    progress.finish();
    drop((scoring, _entered));
    drop(runtime);
    embedder.stop();
    // What stopped the disk is why there is no more to score.
    let collected = writer.finish()?;
    Ok((collected, progress, outcome?))
}

/// Puts the files in order and tells what they say.
fn finish(plan: &Plan, mut collected: Collected, progress: &Progress) -> anyhow::Result<ExitCode> {
    collected.output.complete()?;
    if let Some(path) = &plan.options.html {
        report::write(path, plan, &collected).with_context(|| format!("cannot write {}", path.display()))?;
    }
    let totals = &collected.totals;
    plan.remove_journal(totals.is_clean())?;
    let (kept, changed) = (progress.counts.kept, progress.counts.changed);
    tracing::info!(samples = totals.rows, kept, changed, failed = totals.failed_cells, "evaluated");
    tell(&summary::table(totals), collected.output.is_file());
    Ok(if totals.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn interrupted(plan: &Plan, collected: &Collected) -> ExitCode {
    let rows = collected.totals.rows;
    let advice = if collected.output.is_file() {
        format!("{rows} rows are in {}; the same command goes on from there\n", plan.options.output)
    } else {
        format!("{rows} rows were written; with --output FILE a run can be resumed\n")
    };
    tell(&format!("interrupted: {advice}"), false);
    ExitCode::from(INTERRUPTED)
}

/// On standard output where no results stand there.
#[expect(clippy::print_stdout, clippy::print_stderr, reason = "it is what was asked for")]
fn tell(text: &str, on_stdout: bool) {
    if on_stdout {
        print!("{text}");
    } else {
        eprint!("{text}");
    }
}

struct Scoring<'a> {
    plan: &'a Plan,
    evaluator: Evaluator,
    judge: Option<Judge>,
    budget: Budget,
    known: HashMap<u64, Known>,
    bad_lines: Cell<u64>,
}

/// A line, and what is to be counted of it.
struct Step {
    done: Done,
    /// None for a line that was kept, or is no sample.
    evaluation: Option<Evaluation>,
    is_changed: bool,
    unknown: Vec<String>,
}

impl Scoring<'_> {
    /// False if a signal ended it.
    async fn all(&self, input: Input, writer: &Writer, progress: &mut Progress) -> anyhow::Result<bool> {
        let mut steps = std::pin::pin!(self.steps(input));
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut show = tokio::time::interval(SHOW_EVERY);
        let mut warned = Vec::new();
        loop {
            tokio::select! {
                step = steps.next() => {
                    let Some(step) = step.transpose().context("the input cannot be read")? else { return Ok(true) };
                    warn_once(&mut warned, &step.unknown);
                    count(progress, &step);
                    if !writer.add(step.done).await {
                        return Ok(false);
                    }
                }
                _ = show.tick() => progress.show(),
                _ = terminate.recv() => return Ok(false),
                _ = interrupt.recv() => return Ok(false),
            }
        }
    }

    fn steps(&self, input: Input) -> impl Stream<Item = io::Result<Step>> {
        let lines = ReceiverStream::new(input.lines);
        let steps = lines.map(async |line| Ok(self.step(line?).await));
        steps.buffer_unordered(self.plan.options.concurrency)
    }

    async fn step(&self, line: Line) -> Step {
        let key = output::key(line.number, &line.bytes, &self.plan.fingerprint);
        let before = self.known.get(&line.number);
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
                self.warn_of(&line, &error);
                (Some(row::refused(&key, &error)), None, Vec::new())
            }
            Ok(parsed) => {
                let mut sample = parsed.sample;
                sample.language = sample.language.or(self.plan.options.language);
                let evaluation = self.evaluator.evaluate(self.task(&sample), |_| ()).await;
                (Some(row::scored(&key, &sample, &evaluation)), Some(evaluation), parsed.unknown)
            }
        };
        Step { done: Done { line: line.number, row, texts }, evaluation, is_changed, unknown }
    }

    /// The rows tell of all of them, and the table counts them.
    fn warn_of(&self, line: &Line, error: &LineError) {
        self.bad_lines.set(self.bad_lines.get() + 1);
        if self.bad_lines.get() <= WARNINGS {
            tracing::warn!(line = line.number, %error, "a line has no scores");
        } else if self.bad_lines.get() == WARNINGS + 1 {
            tracing::warn!("more lines have no scores; the output tells why");
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
                // Costs are told for each sample.
                budget: self.budget.child(),
                caller: 0,
                use_cache: true,
                trace: TraceHeaders::default(),
            },
            answer_by: deadline.later(TO_COMPUTE),
            reason_language: None,
        }
    }
}

fn count(progress: &mut Progress, step: &Step) {
    if step.is_changed {
        if progress.counts.changed == 0 {
            let line = step.done.line;
            tracing::warn!(line, "its text or the settings have changed; rows like this are made again");
        }
        progress.counts.changed += 1;
    }
    progress.counts.kept += u64::from(step.done.row.is_none());
    if let Some(evaluation) = &step.evaluation {
        progress.scored(evaluation);
    }
    progress.done();
}

fn warn_once(warned: &mut Vec<String>, unknown: &[String]) {
    for field in unknown {
        if !warned.contains(field) {
            tracing::warn!(field, "samples have a field that is not used");
            warned.push(field.clone());
        }
    }
}
