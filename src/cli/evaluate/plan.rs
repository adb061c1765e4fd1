//! The plan of a run, made from flags and settings, and validated before anything starts.

use std::{io, path::PathBuf};

use anyhow::Context as _;

use super::{UsageError, options, options::EvaluateOptions, output::ResultOutput};
use crate::{
    config::Config,
    evaluate::{metric::Selection, metrics::MetricGroup},
    judge::{self, store::StoreMode},
    model::Precision,
};

/// A validated run.
pub(super) struct EvaluationPlan {
    pub options: EvaluateOptions,
    pub selections: Vec<Selection>,
    /// The judge; `None` if no metric uses it.
    pub judge: Option<judge::JudgeSettings>,
    /// Name of the embedding model; `None` if no metric uses it.
    pub embedding_model: Option<String>,
    /// Description of all settings that scores depend on. A row is kept only if it is unchanged.
    pub fingerprint: String,
    /// File of the responses of the judge until the run is complete.
    journal: Option<PathBuf>,
}

impl EvaluationPlan {
    /// Validates the flags against the settings.
    ///
    /// # Errors
    /// [`UsageError`] for invalid combinations.
    pub fn new(options: EvaluateOptions, config: &Config) -> Result<EvaluationPlan, UsageError> {
        let judge = choose_judge(&options, &config.app.judges)?;
        let default = if judge.is_some() { MetricGroup::All } else { MetricGroup::NoJudge };
        let selections = options.metrics.clone().unwrap_or_else(|| options::select_group(default));
        let judged = selections.iter().find(|selection| selection.metric.definition().judge_calls > 0);
        let mut judge = judge.filter(|_| judged.is_some());
        if let (Some(judged), None) = (judged, &judge) {
            return Err(UsageError(format!(
                "{} requires a judge: set --judge-url and --judge-model, or --metrics no_judge",
                judged.label
            )));
        }
        if options.html.is_some() && options.output == "-" {
            return Err(UsageError("--html requires --output FILE: the report is generated from it".into()));
        }
        let journal = judge.as_mut().and_then(|judge| journal(&options, judge));
        let mut plan = EvaluationPlan {
            embedding_model: None,
            fingerprint: String::new(),
            options,
            selections,
            judge,
            journal,
        };
        plan.embedding_model = plan.needs_embeddings().then(|| {
            let source = &config.app.embed.source;
            source
                .revision
                .as_ref()
                .map_or(source.model.clone(), |revision| format!("{}@{revision}", source.model))
        });
        plan.fingerprint = plan.describe(config);
        Ok(plan)
    }

    /// Returns true if a metric uses the embedding model.
    pub fn needs_embeddings(&self) -> bool {
        self.selections.iter().any(|selection| selection.metric.definition().embeddings)
    }

    /// Opens the output.
    ///
    /// # Errors
    /// The errors of [`ResultOutput::open`], and [`UsageError`] if the output is the input.
    pub fn open_output(&self) -> anyhow::Result<ResultOutput> {
        let (input, path) = (&self.options.input, &self.options.output);
        if path != "-" && is_same_file(input, path) {
            return Err(UsageError(format!("--output {path} is the input file: set another --output")).into());
        }
        let output = ResultOutput::open(path, self.options.fresh)?;
        if self.options.html.is_some() && !output.is_file() {
            return Err(
                UsageError(format!("--html requires --output FILE: {path} is not a regular file")).into()
            );
        }
        Ok(output)
    }

    /// Removes the journal of earlier runs if the run starts from scratch. Requires the lock of the output.
    ///
    /// # Errors
    /// A journal that cannot be removed.
    pub fn prepare_journal(&self) -> anyhow::Result<()> {
        if self.options.fresh { self.delete_journal() } else { Ok(()) }
    }

    /// Removes the journal of a complete run, unless metrics failed: a run with `--retry-failed` reuses its responses.
    ///
    /// # Errors
    /// A journal that cannot be removed.
    pub fn remove_journal(&self, is_clean: bool) -> anyhow::Result<()> {
        if is_clean && !self.options.keep_journal { self.delete_journal() } else { Ok(()) }
    }

    #[expect(clippy::disallowed_methods, reason = "the command has no event loop to block")]
    fn delete_journal(&self) -> anyhow::Result<()> {
        let Some(path) = &self.journal else { return Ok(()) };
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove {}", path.display()))
            }
            _ => Ok(()),
        }
    }

    /// Describes all settings that scores depend on.
    fn describe(&self, config: &Config) -> String {
        let metrics = self.selections.iter().map(|selection| {
            let definition = selection.metric.definition();
            format!("{}:{}:{}", selection.label, definition.name, definition.version)
        });
        let judge = self
            .judge
            .as_ref()
            .map(|judge| (&judge.url, &judge.model, judge.temperature, judge.seed, judge.max_answer_tokens));
        let model = self.needs_embeddings().then(|| {
            let (source, model) = (&config.app.embed.source, &config.app.embed.model);
            let selection = &model.kernel_selection;
            let precision = selection.precision.map_or("auto", Precision::name);
            let kernel = (precision, &selection.kernel, selection.quality.name());
            (&source.model, &source.revision, model.max_tokens, model.pooling, kernel)
        });
        let metrics = metrics.collect::<Vec<_>>().join(";");
        format!("{metrics}|{:?}|{judge:?}|{model:?}", self.options.language)
    }
}

fn choose_judge(
    options: &EvaluateOptions,
    judges: &[judge::JudgeSettings],
) -> Result<Option<judge::JudgeSettings>, UsageError> {
    if options.judge.is_empty() {
        return Ok(judges.first().cloned());
    }
    match judges.iter().find(|judge| judge.name == options.judge) {
        Some(judge) => Ok(Some(judge.clone())),
        None => Err(UsageError(format!(
            "--judge {} is unknown: set the name of a judge profile of the --config file",
            options.judge
        ))),
    }
}

/// Enables the journal, a file next to the output. `None` if the settings already record or replay responses, or if the
/// output is standard output, which cannot be resumed.
fn journal(options: &EvaluateOptions, judge: &mut judge::JudgeSettings) -> Option<PathBuf> {
    let is_resumable = options.output != "-" && judge.store == StoreMode::Off;
    let path = is_resumable.then(|| PathBuf::from(format!("{}.journal", options.output)))?;
    judge.store = StoreMode::Journal(path.clone());
    Some(path)
}

fn is_same_file(one: &str, other: &str) -> bool {
    match (std::fs::canonicalize(one), std::fs::canonicalize(other)) {
        (Ok(one), Ok(other)) => one == other,
        _ => false,
    }
}
