//! The flags of `assay evaluate`.

use std::{path::PathBuf, time::Duration};

use clap::{Arg, ArgAction, ArgMatches, value_parser};

use super::sample;
use crate::{
    config::Kind,
    evaluate::{
        metric::Selection,
        metrics::{self, MetricEntry, MetricGroup},
        text::Language,
    },
    judge::BudgetLimits,
};

pub(super) const AFTER_HELP: &str = "Input, one object a line; what is left out is unset, and each metric says what it needs:
  {\"user_input\": \"When did it open?\", \"response\": \"In 1931.\", \"retrieved_contexts\": [\"It opened on 1 May 1931.\"],
   \"reference\": \"It opened in 1931.\", \"id\": \"q1\"}
  The names question, answer, contexts and ground_truth do as well; a context may be {\"text\": …, \"id\": …}; and
  there are reference_contexts, rubrics and language.

Output, one object a line: line, id, and for each metric its status, score (or lower and upper, where verdicts are
missing), reason, claims with their evidence, cost and error. A line that is no sample has an error in place of
results. Rows are added as they come and stand in the order of the input when the run is complete.

A run that was stopped or killed goes on with the same command: rows that are there are kept, and of the others no
answer of the judge is asked for twice, as they stand in FILE.journal until the run is complete. A row is made again
when its line, the metrics or the model has changed.

Metrics: the names in docs/METRICS.md, and the groups all, judged, no_judge, lexical and vector. A metric that lacks a
field of a sample is NOT_APPLICABLE there.

Exit code: 0 if every line was scored; 1 if lines or metrics failed, which the table at the end counts; 64 for a mistake
in the flags; 130 if it was interrupted.

Examples:
  assay evaluate --metrics lexical < samples.jsonl             no judge, no model
  assay evaluate --input samples.jsonl --output scores.jsonl --html report.html \\
      --judge-url http://127.0.0.1:8000/v1 --judge-model Qwen/Qwen3-32B
  assay evaluate --input samples.jsonl --output scores.jsonl --metrics faithfulness,context_recall,bleu \\
      --judge-url https://api.example.com/v1 --judge-model big --budget-usd 5
  assay evaluate --input samples.jsonl --output scores.jsonl --retry-failed      only what failed, once more";

const CONCURRENCY: Kind = Kind::Count { min: 1, max: 65_536 };
const DEADLINE: Kind = Kind::Duration { min: Duration::from_millis(1), max: Duration::from_hours(24) };

#[derive(Clone, Debug)]
pub(super) struct Options {
    pub input: String,
    pub output: String,
    pub html: Option<PathBuf>,
    /// None for all that can be had.
    pub metrics: Option<Vec<Selection>>,
    pub language: Option<Language>,
    pub concurrency: usize,
    /// Of each sample.
    pub deadline: Duration,
    /// Of the whole run.
    pub budget: BudgetLimits,
    /// Empty for the first.
    pub judge: String,
    pub fresh: bool,
    pub retry_failed: bool,
    pub keep_journal: bool,
}

pub(super) fn arguments() -> Vec<Arg> {
    vec![
        option("input", "FILE", "Samples, one JSON object a line; - for standard input").default_value("-"),
        option("output", "FILE", "Where to write results, and to go on from; - for standard output")
            .default_value("-"),
        option(
            "metrics",
            "NAMES",
            "Names and groups, with commas [default: all with a judge, no_judge without]",
        )
        .value_parser(select),
        option("language", "LANGUAGE", "en, zh or other, where a sample names none; found out by default")
            .value_parser(|name: &str| sample::language(name).ok_or("en, zh or other is needed")),
        option("concurrency", "N", "Maximum number of samples evaluated concurrently")
            .default_value("8")
            .value_parser(|text: &str| CONCURRENCY.whole(text)),
        option("deadline", "DURATION", "Deadline of each sample; what is known by then is written")
            .default_value("120s")
            .value_parser(|text: &str| DEADLINE.duration(text)),
        option("judge", "NAME", "The profile of the judge; by default the first"),
        option("budget-calls", "N", "Calls of the judge in this run").value_parser(value_parser!(u32)),
        option("budget-tokens", "N", "Tokens of the judge in this run").value_parser(value_parser!(u64)),
        option("budget-usd", "USD", "Money for the judge in this run, by the prices that are set")
            .value_parser(usd),
        option(
            "html",
            "FILE",
            "A report for the browser, one file without a network, when the run is complete",
        ),
        switch("fresh", "Start again: drop the results and the journal that are there"),
        switch("retry-failed", "Make rows again in which a metric failed"),
        switch("keep-journal", "Leave the judge's answers beside the output"),
    ]
}

fn option(name: &'static str, placeholder: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).value_name(placeholder).help(help).help_heading("Evaluate")
}

fn switch(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).help(help).help_heading("Evaluate").action(ArgAction::SetTrue)
}

impl Options {
    pub fn read(flags: &ArgMatches) -> Options {
        let text = |name: &str| flags.get_one::<String>(name).cloned();
        Options {
            input: text("input").unwrap_or_default(),
            output: text("output").unwrap_or_default(),
            html: text("html").map(PathBuf::from),
            metrics: flags.get_one("metrics").cloned(),
            language: flags.get_one("language").copied(),
            concurrency: flags.get_one("concurrency").map_or(1, |&number: &u64| number as usize),
            deadline: flags.get_one("deadline").copied().unwrap_or_default(),
            budget: BudgetLimits {
                calls: flags.get_one("budget-calls").copied(),
                tokens: flags.get_one("budget-tokens").copied(),
                usd: flags.get_one("budget-usd").copied(),
            },
            judge: text("judge").unwrap_or_default(),
            fresh: flags.get_flag("fresh"),
            retry_failed: flags.get_flag("retry-failed"),
            keep_journal: flags.get_flag("keep-journal"),
        }
    }
}

/// Metrics by their names and those of groups, each once, in the order in which they were named.
fn select(names: &str) -> Result<Vec<Selection>, String> {
    let mut selections: Vec<Selection> = Vec::new();
    for name in names.split(',').map(str::trim).filter(|name| !name.is_empty()) {
        for selection in named(name)? {
            match selections.iter_mut().find(|known| known.label == selection.label) {
                Some(known) => known.from_group &= selection.from_group,
                None => selections.push(selection),
            }
        }
    }
    if selections.is_empty() { Err("at least one metric is needed".into()) } else { Ok(selections) }
}

fn named(name: &str) -> Result<Vec<Selection>, String> {
    if let Some(group) = MetricGroup::named(name) {
        return Ok(of_group(group));
    }
    match MetricEntry::named(name) {
        Some(entry) if entry.requires_options() => {
            Err(format!("{name} needs an instruction of yours, which only the Evaluate call can take"))
        }
        Some(entry) => Ok(vec![Selection::of(entry.with_default_options())]),
        None => Err(format!("{name} is neither a metric nor a group; there are {}", all_names())),
    }
}

pub(super) fn of_group(group: MetricGroup) -> Vec<Selection> {
    let selection = |metric| Selection { from_group: true, ..Selection::of(metric) };
    group.metrics().into_iter().map(selection).collect()
}

fn all_names() -> String {
    let metrics = metrics::METRICS.iter().map(|entry| entry.definition.name);
    let groups = MetricGroup::NAMED.map(|(name, _)| name);
    metrics.chain(groups).collect::<Vec<_>>().join(", ")
}

fn usd(value: &str) -> Result<f64, String> {
    let number = value.parse().ok().filter(|usd: &f64| usd.is_finite() && *usd > 0.0);
    number.ok_or_else(|| "an amount above 0 is needed".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_is_taken_once_and_by_name_wins() {
        let selections = select("bleu, lexical,bleu").expect("metrics");
        let labels: Vec<_> = selections.iter().map(|selection| selection.label.as_str()).collect();
        assert_eq!((labels[0], labels.iter().filter(|label| **label == "bleu").count()), ("bleu", 1));
        assert!(labels.len() > 5 && !selections[0].from_group && selections[1].from_group);
    }

    #[test]
    fn what_is_no_metric_is_told_with_what_there_is() {
        let error = select("faithfullness").expect_err("a mistake");
        assert!(error.contains("faithfulness,") && error.contains("no_judge"), "{error}");
        assert!(select("discrete").expect_err("a mistake").contains("instruction"));
        assert!(select(" ,").is_err());
    }
}
