//! Definitions of metrics: names, required fields, and the meaning of scores.

use super::sample::{Field, Sample};

/// The kind of computation behind a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricFamily {
    /// It asks the judge.
    Judged,
    /// It compares texts.
    Lexical,
    /// It compares vectors of the server's embedding model.
    Vector,
}

/// The description of a metric. ListMetrics, docs/METRICS.md, the CLI and the validation of requests read it.
#[derive(Clone, Debug)]
pub struct Definition {
    /// The name in requests and results.
    pub name: &'static str,
    /// The kind of its computation.
    pub family: MetricFamily,
    /// Fields of the sample that it needs, all of them.
    pub needs: &'static [Field],
    /// Fields of which it needs at least one besides; empty for no more.
    pub any_of: &'static [Field],
    /// The lowest score.
    pub lowest: f64,
    /// The highest score.
    pub highest: f64,
    /// Whether a higher score is better; None where neither end is.
    pub higher_is_better: Option<bool>,
    /// The version of the definition, raised whenever scores change.
    pub version: u32,
    /// How the score is computed.
    pub formula: &'static str,
    /// The paper or project that the definition comes from.
    pub source: &'static str,
    /// Differences from the source; empty for none.
    pub differs: &'static str,
    /// Requests to the judge when the metric is computed alone and the texts are short.
    pub judge_calls: u32,
    /// Whether it needs vectors.
    pub embeddings: bool,
    /// The field of `MetricSelection.options` that it takes; empty for none.
    pub options_field: &'static str,
    /// Whether groups include it.
    pub in_groups: bool,
    /// The names of a score of 0 and of 1, where the score is a yes or no.
    pub labels: Option<[&'static str; 2]>,
}

impl Definition {
    pub(super) const LEXICAL: Definition = Definition {
        name: "",
        family: MetricFamily::Lexical,
        needs: &[],
        any_of: &[],
        lowest: 0.0,
        highest: 1.0,
        higher_is_better: Some(true),
        version: 1,
        formula: "",
        source: "",
        differs: "",
        judge_calls: 0,
        embeddings: false,
        options_field: "",
        in_groups: true,
        labels: None,
    };
    pub(super) const JUDGED: Definition = Definition { family: MetricFamily::Judged, ..Definition::LEXICAL };
    pub(super) const VECTOR: Definition =
        Definition { family: MetricFamily::Vector, embeddings: true, ..Definition::LEXICAL };

    /// Names of the fields; fields of which one is enough are one entry, such as "reference or response".
    pub fn required_fields(&self) -> Vec<String> {
        let one_of: Vec<&str> = self.any_of.iter().map(|field| field.name()).collect();
        let all = self.needs.iter().map(|field| field.name().to_owned());
        all.chain((!one_of.is_empty()).then(|| one_of.join(" or "))).collect()
    }

    /// The fields that the sample lacks.
    pub fn missing(&self, sample: &Sample) -> Vec<Field> {
        self.missing_where(|field| sample.has(field))
    }

    /// The fields that the metric needs and that `has` denies.
    pub(super) fn missing_where(&self, has: impl Fn(Field) -> bool) -> Vec<Field> {
        let all = self.needs.iter().filter(|field| !has(**field));
        let has_one = self.any_of.is_empty() || self.any_of.iter().any(|field| has(*field));
        let any = self.any_of.first().filter(|_| !has_one);
        all.chain(any).copied().collect()
    }

    /// The name of a score, where scores have names.
    pub(super) fn label(&self, score: f64) -> Option<&'static str> {
        self.labels.map(|labels| labels[usize::from(score > 0.5)])
    }
}
