//! EvaluationService: a sample, metrics and options in; every mistake is named.

use std::collections::{BTreeMap, HashMap};

use rapidfuzz::distance::jaro_winkler;
use tonic::Status;

use super::{Check, ID_BYTES};
use crate::{
    evaluate::{
        metric::Selection,
        metrics::{self, MetricEntry, MetricGroup},
        options::{OptionError, OptionReader, read_rubrics},
        sample::{Context, Field, Fields, Sample},
        text::Language,
    },
    judge::{BudgetLimits, Judge},
    proto,
    rpc::Limits,
};

/// Metrics of one request, those of groups counted one by one.
const METRICS: usize = 64;
/// The longest id of a context; some are URLs.
const CONTEXT_ID_BYTES: usize = 1024;

/// A request that can be evaluated.
#[derive(Debug)]
pub(in crate::rpc) struct Asked {
    pub sample: Sample,
    pub selections: Vec<Selection>,
    /// A name that is configured; empty for the default one.
    pub judge: String,
    pub budget: BudgetLimits,
    pub use_cache: bool,
    pub reason_language: Option<Language>,
}

pub(in crate::rpc) fn request(
    request: proto::EvaluateRequest,
    limits: &Limits,
    judges: &[Judge],
) -> Result<Asked, Status> {
    let mut check = Check::default();
    let asked = check.asked(request, limits, judges);
    check.finish(asked)
}

pub(in crate::rpc) fn stream_request(
    request: proto::EvaluateStreamRequest,
    limits: &Limits,
    judges: &[Judge],
) -> Result<Asked, Status> {
    let mut check = Check::default();
    check.bytes(|| "id".into(), &request.id, ID_BYTES);
    let asked = check.asked(request.request.unwrap_or_default(), limits, judges);
    check.finish(asked)
}

impl Check {
    fn asked(&mut self, request: proto::EvaluateRequest, limits: &Limits, judges: &[Judge]) -> Asked {
        let proto::EvaluateRequest { sample, metrics, options } = request;
        let has_sample = sample.is_some();
        if !has_sample {
            self.add("sample", "required");
        }
        let sample = self.sample(sample.unwrap_or_default(), limits);
        let selections = self.selections(metrics, limits, &sample);
        if has_sample {
            self.missing(&selections, &sample);
        }
        let options = options.unwrap_or_default();
        self.judge(&options.judge, judges);
        Asked {
            budget: self.budget(options.budget.unwrap_or_default()),
            use_cache: options.use_cache.unwrap_or(true),
            reason_language: self.reason_language(&options.reason_language),
            judge: options.judge,
            sample,
            selections,
        }
    }

    fn sample(&mut self, sample: proto::Sample, limits: &Limits) -> Sample {
        for (name, text) in [
            ("user_input", &sample.user_input),
            ("response", &sample.response),
            ("reference", &sample.reference),
        ] {
            self.bytes(|| format!("sample.{name}"), text, limits.input_bytes);
        }
        self.bytes(|| "sample.id".into(), &sample.id, ID_BYTES);
        let sample = Sample {
            language: self.language("sample.language", &sample.language),
            retrieved_contexts: self.contexts("retrieved_contexts", sample.retrieved_contexts, limits),
            reference_contexts: self.contexts("reference_contexts", sample.reference_contexts, limits),
            rubrics: self.rubrics("sample.rubrics", sample.rubrics, limits),
            id: sample.id,
            user_input: sample.user_input,
            response: sample.response,
            reference: sample.reference,
        };
        let (bytes, limit) = (sample.bytes(), limits.sample_bytes);
        if bytes > limit {
            self.add("sample", format!("{bytes} bytes in all texts, the limit is {limit}"));
        }
        sample
    }

    fn contexts(&mut self, name: &str, contexts: Vec<proto::Context>, limits: &Limits) -> Vec<Context> {
        let path = format!("sample.{name}");
        if contexts.len() > limits.contexts {
            self.add(path.as_str(), format!("{} contexts, the limit is {}", contexts.len(), limits.contexts));
        }
        for (index, context) in contexts.iter().enumerate().take(limits.contexts) {
            self.bytes(|| format!("{path}[{index}].text"), &context.text, limits.input_bytes);
            self.bytes(|| format!("{path}[{index}].id"), &context.id, CONTEXT_ID_BYTES);
        }
        contexts.into_iter().map(|context| Context { text: context.text, id: context.id }).collect()
    }

    /// The meaning of each score; empty for none.
    fn rubrics(
        &mut self,
        path: &str,
        rubrics: HashMap<String, String>,
        limits: &Limits,
    ) -> BTreeMap<i32, String> {
        let (rubrics, errors) = read_rubrics(path, rubrics, limits.input_bytes);
        self.add_all(errors);
        rubrics
    }

    fn add_all(&mut self, errors: Vec<OptionError>) {
        errors.into_iter().for_each(|error| self.add(error.field, error.description));
    }

    fn selections(
        &mut self,
        metrics: Vec<proto::MetricSelection>,
        limits: &Limits,
        sample: &Sample,
    ) -> Vec<Selection> {
        let mut selections = Vec::new();
        if metrics.is_empty() {
            selections.extend(group(MetricGroup::All, ""));
        }
        if metrics.len() > METRICS {
            self.add("metrics", format!("{} metrics, the limit is {METRICS}", metrics.len()));
            return selections;
        }
        for (index, proto::MetricSelection { name, label, options }) in metrics.into_iter().enumerate() {
            if selections.len() > METRICS {
                break;
            }
            let path = format!("metrics[{index}]");
            self.bytes(|| format!("{path}.label"), &label, ID_BYTES);
            match (MetricGroup::named(&name), MetricEntry::named(&name)) {
                (Some(of), _) => {
                    if options.is_some() {
                        self.add(path, "groups take no options");
                    }
                    selections.extend(group(of, &label));
                }
                (None, Some(entry)) => {
                    let mut reader = OptionReader::new(path, limits.input_bytes, sample);
                    let metric = entry.with_options(options, &mut reader);
                    self.add_all(reader.into_errors());
                    let label = if label.is_empty() { entry.definition.name.into() } else { label };
                    selections.push(Selection { metric, label, from_group: false });
                }
                (None, None) => self.add(format!("{path}.name"), unknown_metric(&name)),
            }
        }
        if selections.len() > METRICS {
            let what = "metrics with those of groups";
            self.add("metrics", format!("more than {METRICS} {what}"));
        }
        selections
    }

    /// Reports fields that metrics selected by name need and the sample lacks.
    fn missing(&mut self, selections: &[Selection], sample: &Sample) {
        let fields = Fields::of(sample);
        let mut needed: BTreeMap<Field, Vec<&str>> = BTreeMap::new();
        for selection in selections.iter().filter(|selection| !selection.from_group) {
            let definition = selection.metric.definition();
            for &field in definition.needs.iter().filter(|field| !fields.has(**field)) {
                let by = needed.entry(field).or_default();
                if !by.contains(&definition.name) {
                    by.push(definition.name);
                }
            }
            if let Some(first) = definition.any_of.first()
                && !definition.any_of.iter().any(|&field| fields.has(field))
            {
                let names: Vec<&str> = definition.any_of.iter().map(|field| field.name()).collect();
                let description = format!("{} needs one of {}", definition.name, names.join(", "));
                self.add(format!("sample.{}", first.name()), description);
            }
        }
        for (field, by) in needed {
            self.add(format!("sample.{}", field.name()), format!("needed by {}", by.join(", ")));
        }
    }

    fn judge(&mut self, name: &str, judges: &[Judge]) {
        if !name.is_empty() && !judges.iter().any(|judge| judge.name() == name) {
            let known: Vec<&str> = judges.iter().map(Judge::name).collect();
            let known = if known.is_empty() { "none".into() } else { known.join(", ") };
            self.add("options.judge", format!("unknown judge; configured judges: {known}"));
        }
    }

    fn budget(&mut self, budget: proto::Budget) -> BudgetLimits {
        if budget.usd.is_some_and(|usd| !(usd.is_finite() && usd >= 0.0)) {
            self.add("options.budget.usd", "must be a finite number of at least 0");
        }
        BudgetLimits { calls: budget.judge_calls, tokens: budget.tokens, usd: budget.usd }
    }

    fn reason_language(&mut self, tag: &str) -> Option<Language> {
        let language = self.language("options.reason_language", tag);
        if language == Some(Language::Other) {
            self.add("options.reason_language", "must be en or zh");
        }
        language
    }

    fn language(&mut self, field: &str, tag: &str) -> Option<Language> {
        if !tag.is_empty() && !is_language_tag(tag) {
            self.add(field, "must be a BCP 47 language tag such as en or zh-Hans");
            return None;
        }
        let primary = tag.split('-').next().unwrap_or_default();
        match primary.to_ascii_lowercase().as_str() {
            "" => None,
            "en" => Some(Language::English),
            "zh" | "cmn" | "yue" => Some(Language::Chinese),
            _ => Some(Language::Other),
        }
    }
}

/// Selections of all metrics of a group.
fn group(group: MetricGroup, label: &str) -> impl Iterator<Item = Selection> {
    group.metrics().into_iter().map(move |metric| {
        let selection = Selection { from_group: true, ..Selection::of(metric) };
        if label.is_empty() { selection } else { Selection { label: label.to_owned(), ..selection } }
    })
}

fn unknown_metric(name: &str) -> String {
    let what = match (name.is_empty(), closest_metric(name)) {
        (true, _) => "required".to_owned(),
        (false, Some(closest)) => format!("unknown metric; did you mean {closest}?"),
        (false, None) => "unknown metric".to_owned(),
    };
    let groups = MetricGroup::NAMED.map(|(name, _)| name).join(", ");
    format!("{what} (ListMetrics lists all names; groups: {groups})")
}

/// The metric whose name is most like `name`, if one is.
fn closest_metric(name: &str) -> Option<&'static str> {
    const LONGEST: usize = 64;
    const ALIKE: f64 = 0.85;
    if name.len() > LONGEST {
        return None;
    }
    let names = metrics::METRICS.iter().map(|entry| entry.definition.name);
    let alike = names.map(|known| (jaro_winkler::normalized_similarity(name.chars(), known.chars()), known));
    alike.filter(|(alike, _)| *alike >= ALIKE).max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, known)| known)
}

/// The form of a tag: a language of letters, then parts of letters and digits. Source: RFC 5646, section 2.1.
fn is_language_tag(tag: &str) -> bool {
    let mut parts = tag.split('-');
    let is_language = |part: &str| part.len() >= 2 && part.bytes().all(|b| b.is_ascii_alphabetic());
    let is_part =
        |part: &str| (1..=8).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_alphanumeric());
    tag.len() <= 64
        && parts.next().is_some_and(|part| is_part(part) && is_language(part))
        && parts.all(is_part)
}
