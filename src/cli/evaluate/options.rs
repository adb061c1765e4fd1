//! Flags of `assay evaluate`.

use std::{path::PathBuf, time::Duration};

use clap::{Arg, ArgAction, ArgMatches, value_parser};

use super::sample;
use crate::{
    config::ValueKind,
    evaluate::{
        metric::Selection,
        metrics::{self, MetricEntry, MetricGroup},
        text::Language,
    },
    judge::BudgetLimits,
};

pub(in crate::cli) const AFTER_HELP: &str =
    "Input, one JSON object per line. All fields are optional; each metric lists those that it requires:
  {\"user_input\": \"When did it open?\", \"response\": \"In 1931.\", \"reference\": \"It opened in 1931.\",
   \"retrieved_contexts\": [\"It opened on 1 May 1931.\"], \"id\": \"q1\"}
  The names question, answer, contexts and ground_truth are accepted, too. A context may be
  {\"text\": …, \"id\": …}. Further fields: reference_contexts, rubrics, language.

Output, one JSON object per line: line, id, and for each metric its status, score (or lower and
upper bound if verdicts are missing), reason, claims with evidence, cost and error. An invalid
line has an error instead of results. Rows are appended as they complete, and sorted in the order
of the input at the end of the run.

Resuming: the same command resumes a stopped or killed run. Existing rows are kept, and no judge
request is repeated, because responses are stored in FILE.journal until the run is complete. A row
is evaluated again if its line, the metrics or the model have changed.

Metrics: the names in docs/METRICS.md, and the groups all, judged, no_judge, lexical and vector.
The status of a metric is NOT_APPLICABLE for samples without a field that it requires.

Exit code: 0 if all lines were evaluated, 1 if lines or metrics failed (the summary counts them),
64 for invalid flags or settings, 130 if the run was interrupted.

Examples:
  assay evaluate --metrics lexical < samples.jsonl     without judge and embedding model
  assay evaluate --input samples.jsonl --output scores.jsonl --html report.html \\
      --judge-url http://127.0.0.1:8000/v1 --judge-model Qwen/Qwen3-32B
  assay evaluate --input samples.jsonl --output scores.jsonl --metrics faithfulness,bleu \\
      --judge-url https://api.example.com/v1 --judge-model large --budget-calls 1000
  assay evaluate --input samples.jsonl --output scores.jsonl --retry-failed";

const CONCURRENCY: ValueKind = ValueKind::Count { min: 1, max: 65_536 };
const DEADLINE: ValueKind =
    ValueKind::Duration { min: Duration::from_millis(1), max: Duration::from_hours(24) };

#[derive(Clone, Debug)]
pub(super) struct EvaluateOptions {
    pub input: String,
    pub output: String,
    pub html: Option<PathBuf>,
    /// Metrics; `None` for all that the configuration supports.
    pub metrics: Option<Vec<Selection>>,
    pub language: Option<Language>,
    pub concurrency: usize,
    /// Deadline of each sample.
    pub deadline: Duration,
    /// Budget of the whole run.
    pub budget: BudgetLimits,
    /// Name of the judge; empty for the default.
    pub judge: String,
    pub fresh: bool,
    pub retry_failed: bool,
    pub keep_journal: bool,
}

pub(in crate::cli) fn arguments() -> Vec<Arg> {
    vec![
        option("input", "FILE", "Input file of samples, one JSON object per line. - is standard input.").default_value("-"),
        option("output", "FILE", "Output file, one JSON object per sample. An existing file is resumed. - is standard output.")
            .default_value("-"),
        option(
            "metrics",
            "NAMES",
            "Metrics and groups of metrics, separated by commas. [default: all with a judge, no_judge without]",
        )
        .value_parser(select),
        option("language", "LANGUAGE", "Language of samples without a language field: en, zh or other. Default: detected.")
            .value_parser(|name: &str| sample::language(name).ok_or("must be en, zh or other")),
        option("concurrency", "N", "Maximum number of samples evaluated concurrently, from 1 to 65536.")
            .default_value("8")
            .value_parser(|text: &str| CONCURRENCY.integer(text)),
        option("deadline", "DURATION", "Deadline of each sample. Results that are complete by then are kept.")
            .default_value("120s")
            .value_parser(|text: &str| DEADLINE.duration(text)),
        option("judge", "NAME", "Name of the judge profile. Default: the default judge."),
        option("budget-calls", "N", "Maximum number of judge requests in this run. Default: no limit.").value_parser(value_parser!(u32)),
        option("budget-tokens", "N", "Maximum number of judge tokens in this run. Default: no limit.").value_parser(value_parser!(u64)),
        option("budget-usd", "USD", "Maximum cost of the judge in this run, in US dollars. Requires --judge-price-prompt and --judge-price-completion. Default: no limit.")
            .value_parser(usd),
        option(
            "html",
            "FILE",
            "Writes a report as one HTML file that needs no network, when the run is complete. Requires --output FILE.",
        ),
        switch("fresh", "Starts from scratch: removes the existing results and the journal."),
        switch("retry-failed", "Evaluates samples with failed metrics again."),
        switch("keep-journal", "Keeps the journal of judge responses, FILE.journal, after a complete run."),
    ]
}

fn option(name: &'static str, placeholder: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).value_name(placeholder).help(help).help_heading("Evaluate")
}

fn switch(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).help(help).help_heading("Evaluate").action(ArgAction::SetTrue)
}

impl EvaluateOptions {
    pub fn read(flags: &ArgMatches) -> EvaluateOptions {
        let text = |name: &str| flags.get_one::<String>(name).cloned();
        EvaluateOptions {
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

/// Parses names of metrics and groups. Each metric is selected once, in the order of its first mention.
fn select(names: &str) -> Result<Vec<Selection>, String> {
    let mut selections: Vec<Selection> = Vec::new();
    for name in names.split(',').map(str::trim).filter(|name| !name.is_empty()) {
        for selection in select_one(name)? {
            match selections.iter_mut().find(|known| known.label == selection.label) {
                Some(known) => known.from_group &= selection.from_group,
                None => selections.push(selection),
            }
        }
    }
    if selections.is_empty() { Err("must name at least one metric".into()) } else { Ok(selections) }
}

fn select_one(name: &str) -> Result<Vec<Selection>, String> {
    if let Some(group) = MetricGroup::named(name) {
        return Ok(select_group(group));
    }
    match MetricEntry::named(name) {
        Some(entry) if entry.requires_options() => {
            Err(format!("{name} requires an instruction, which only the Evaluate RPC accepts"))
        }
        Some(entry) => Ok(vec![Selection::of(entry.with_default_options())]),
        None => {
            Err(format!("{name} is neither a metric nor a group of metrics. Valid names: {}", all_names()))
        }
    }
}

pub(super) fn select_group(group: MetricGroup) -> Vec<Selection> {
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
    number.ok_or_else(|| "must be a number above 0".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_is_selected_once_and_its_name_takes_precedence() {
        let selections = select("bleu, lexical,bleu").expect("metrics");
        let labels: Vec<_> = selections.iter().map(|selection| selection.label.as_str()).collect();
        assert_eq!((labels[0], labels.iter().filter(|label| **label == "bleu").count()), ("bleu", 1));
        assert!(labels.len() > 5 && !selections[0].from_group && selections[1].from_group);
    }

    #[test]
    fn an_unknown_metric_is_rejected_with_the_valid_names() {
        let error = select("faithfullness").expect_err("rejected");
        assert!(error.contains("faithfulness,") && error.contains("no_judge"), "{error}");
        assert!(select("discrete").expect_err("rejected").contains("instruction"));
        assert!(select(" ,").is_err());
    }
}
