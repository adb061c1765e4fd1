//! What a run does, from its flags and the settings: checked before anything starts.

use std::{io, path::PathBuf};

use anyhow::Context as _;

use super::{Usage, options, options::Options, output::Output};
use crate::{
    config::Config,
    evaluate::{metric::Selection, metrics::MetricGroup},
    judge::{self, store::StoreMode},
};

pub(super) struct Plan {
    pub options: Options,
    pub selections: Vec<Selection>,
    /// Only where a metric asks it.
    pub judge: Option<judge::JudgeSettings>,
    /// Of the embedding model; only where a metric needs it.
    pub embedding_model: Option<String>,
    /// All that scores depend on but the line itself.
    pub fingerprint: String,
    /// Where the judge's answers are kept until the run is complete.
    journal: Option<PathBuf>,
}

impl Plan {
    /// # Errors
    /// [`Usage`] for what can't work together.
    pub fn new(options: Options, config: &Config) -> Result<Plan, Usage> {
        let judge = choose_judge(&options, &config.app.judges)?;
        let default = if judge.is_some() { MetricGroup::All } else { MetricGroup::NoJudge };
        let selections = options.metrics.clone().unwrap_or_else(|| options::of_group(default));
        let judged = selections.iter().find(|selection| selection.metric.definition().judge_calls > 0);
        let mut judge = judge.filter(|_| judged.is_some());
        if let (Some(judged), None) = (judged, &judge) {
            return Err(Usage(format!(
                "{} needs a judge: set --judge-url and --judge-model, or choose --metrics no_judge",
                judged.label
            )));
        }
        if options.html.is_some() && options.output == "-" {
            return Err(Usage("--html needs --output FILE: the report is made from it".into()));
        }
        let journal = judge.as_mut().and_then(|judge| journal(&options, judge));
        let mut plan =
            Plan { embedding_model: None, fingerprint: String::new(), options, selections, judge, journal };
        plan.embedding_model = plan.needs_vectors().then(|| {
            let source = &config.app.embed.source;
            source
                .revision
                .as_ref()
                .map_or(source.model.clone(), |revision| format!("{}@{revision}", source.model))
        });
        plan.fingerprint = plan.describe(config);
        Ok(plan)
    }

    pub fn needs_vectors(&self) -> bool {
        self.selections.iter().any(|selection| selection.metric.definition().embeddings)
    }

    /// # Errors
    /// As [`Output::open`]; if it is the input.
    pub fn open_output(&self) -> anyhow::Result<Output> {
        let (input, path) = (&self.options.input, &self.options.output);
        if path != "-" && is_same_file(input, path) {
            return Err(Usage(format!("--output {path} is the input")).into());
        }
        let output = Output::open(path, self.options.fresh)?;
        if self.options.html.is_some() && !output.is_file() {
            return Err(Usage(format!("--html needs --output FILE, which {path} is not")).into());
        }
        Ok(output)
    }

    /// Drops answers of earlier runs where they are not wanted; to be called with the output's lock.
    ///
    /// # Errors
    /// If the file can't be removed.
    pub fn prepare_journal(&self) -> anyhow::Result<()> {
        if self.options.fresh { self.drop_journal() } else { Ok(()) }
    }

    /// When the run is complete. What failed may be tried again, for which other answers are kept.
    ///
    /// # Errors
    /// If the file can't be removed.
    pub fn remove_journal(&self, is_clean: bool) -> anyhow::Result<()> {
        if is_clean && !self.options.keep_journal { self.drop_journal() } else { Ok(()) }
    }

    #[expect(clippy::disallowed_methods, reason = "there is no reactor to hold up")]
    fn drop_journal(&self) -> anyhow::Result<()> {
        let Some(path) = &self.journal else { return Ok(()) };
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove {}", path.display()))
            }
            _ => Ok(()),
        }
    }

    /// In words that change whenever scores may.
    fn describe(&self, config: &Config) -> String {
        let metrics = self.selections.iter().map(|selection| {
            let definition = selection.metric.definition();
            format!("{}:{:?}:{}", selection.label, selection.metric, definition.version)
        });
        let judge = self
            .judge
            .as_ref()
            .map(|judge| (&judge.url, &judge.model, judge.temperature, judge.seed, judge.max_answer_tokens));
        let model = self.needs_vectors().then(|| {
            let (source, model) = (&config.app.embed.source, &config.app.embed.model);
            (&source.model, &source.revision, model.max_tokens, model.pooling, &model.kernel_selection)
        });
        let metrics = metrics.collect::<Vec<_>>().join(";");
        format!("{metrics}|{:?}|{judge:?}|{model:?}", self.options.language)
    }
}

fn choose_judge(
    options: &Options,
    judges: &[judge::JudgeSettings],
) -> Result<Option<judge::JudgeSettings>, Usage> {
    if options.judge.is_empty() {
        return Ok(judges.first().cloned());
    }
    match judges.iter().find(|judge| judge.name == options.judge) {
        Some(judge) => Ok(Some(judge.clone())),
        None => Err(Usage(format!("--judge {}: no profile has this name", options.judge))),
    }
}

/// Beside the output; nowhere if the settings keep answers elsewhere, or where nothing can be resumed.
fn journal(options: &Options, judge: &mut judge::JudgeSettings) -> Option<PathBuf> {
    let has_place = options.output != "-" && judge.store == StoreMode::Off;
    let path = has_place.then(|| PathBuf::from(format!("{}.journal", options.output)))?;
    judge.store = StoreMode::Journal(path.clone());
    Some(path)
}

fn is_same_file(one: &str, other: &str) -> bool {
    match (std::fs::canonicalize(one), std::fs::canonicalize(other)) {
        (Ok(one), Ok(other)) => one == other,
        _ => false,
    }
}
