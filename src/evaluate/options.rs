//! Options of metrics, from a request.

use std::{
    collections::{BTreeMap, HashMap},
    ops::RangeInclusive,
};

use super::sample::Sample;
use crate::{proto::metric_selection::Options, validation};

/// The number of scores that a rubric may have.
const RUBRIC_SCORES: RangeInclusive<usize> = 2..=100;
/// The largest beta of an F score; the smallest is its inverse.
const LARGEST_BETA: f64 = 100.0;

/// Reads the options of one selected metric and collects their validation errors.
pub struct OptionReader<'a> {
    /// The selection in the request, such as `metrics[3]`.
    path: String,
    /// The maximum UTF-8 bytes of one text.
    text_limit: usize,
    sample: &'a Sample,
    errors: Vec<OptionError>,
}

/// A validation error in the options of a metric.
pub struct OptionError {
    /// The path of the field, such as `metrics[3].bleu.max_order`.
    pub field: String,
    /// The reason.
    pub description: String,
}

impl<'a> OptionReader<'a> {
    /// A reader of the options of the selection at `path`.
    pub fn new(path: String, text_limit: usize, sample: &'a Sample) -> OptionReader<'a> {
        OptionReader { path, text_limit, sample, errors: Vec::new() }
    }

    /// The validation errors, in the order of the fields.
    pub fn into_errors(self) -> Vec<OptionError> {
        self.errors
    }

    /// The sample that is evaluated.
    pub(super) fn sample(&self) -> &'a Sample {
        self.sample
    }

    /// Adds a validation error; `field` is relative to the selection.
    pub(super) fn add(&mut self, field: &str, description: impl Into<String>) {
        self.errors
            .push(OptionError { field: format!("{}.{field}", self.path), description: description.into() });
    }

    /// Checks a text that must not be empty.
    pub(super) fn text(&mut self, field: &str, text: &str) {
        if let Some(description) = validation::text(text, self.text_limit) {
            self.add(field, description);
        }
    }

    /// A value of an enum; its default stands in for an unknown one.
    pub(super) fn choice<E: TryFrom<i32> + Default>(&mut self, field: &str, value: i32) -> E {
        validation::known(value).unwrap_or_else(|description| {
            self.add(field, description);
            E::default()
        })
    }

    /// A number within `range`, or the default where it is not set.
    pub(super) fn number<T: PartialOrd + Copy + std::fmt::Display>(
        &mut self,
        field: &str,
        value: Option<T>,
        default: T,
        range: RangeInclusive<T>,
    ) -> T {
        let value = value.unwrap_or(default);
        if let Some(description) = validation::within(&value, &range) {
            self.add(field, description);
        }
        value
    }

    /// A number within a range that `u8` holds; the default stands in for one that is out of it.
    pub(super) fn small(
        &mut self,
        field: &str,
        value: Option<u32>,
        default: u8,
        range: RangeInclusive<u32>,
    ) -> u8 {
        u8::try_from(self.number(field, value, default.into(), range)).unwrap_or(default)
    }

    /// Checks how many values a list has.
    pub(super) fn count(&mut self, field: &str, count: usize, range: RangeInclusive<usize>) {
        self.number(field, Some(count), count, range);
    }

    /// The beta of an F score.
    pub(super) fn beta(&mut self, field: &str, value: Option<f64>) -> f64 {
        self.number(field, value, 1.0, 1.0 / LARGEST_BETA..=LARGEST_BETA)
    }

    /// The number of judgements: odd, so that there is a majority.
    pub(super) fn judgements(&mut self, field: &str, value: Option<u32>) -> usize {
        let samples = self.number(field, value, 1, 1..=9);
        if samples.is_multiple_of(2) {
            self.add(field, format!("{samples} is even; the number of judgements must be odd"));
        }
        samples as usize
    }

    /// A scale whose lowest value has to be below its highest.
    pub(super) fn scale<T: PartialOrd + std::fmt::Display>(&mut self, field: &str, lowest: &T, highest: &T) {
        if lowest >= highest {
            self.add(field, format!("{highest} is not above lowest ({lowest})"));
        }
    }

    /// The meaning of each score; empty for none.
    pub(super) fn rubrics(&mut self, field: &str, rubrics: HashMap<String, String>) -> BTreeMap<i32, String> {
        let (rubrics, errors) = read_rubrics(&format!("{}.{field}", self.path), rubrics, self.text_limit);
        self.errors.extend(errors);
        rubrics
    }
}

/// The meaning of each score, and the validation errors; `text_limit` is in UTF-8 bytes.
pub(crate) fn read_rubrics(
    path: &str,
    rubrics: HashMap<String, String>,
    text_limit: usize,
) -> (BTreeMap<i32, String>, Vec<OptionError>) {
    let mut errors = Vec::new();
    let mut add = |field: String, description: String| errors.push(OptionError { field, description });
    let given = rubrics.len();
    let numbered = rubrics.into_iter().filter_map(|(key, text)| Some((key.parse::<i32>().ok()?, text)));
    let numbered: BTreeMap<i32, String> = numbered.collect();
    if numbered.len() < given {
        add(path.to_owned(), "keys must be distinct whole numbers".into());
    }
    if given > 0 && !RUBRIC_SCORES.contains(&given) {
        let (least, most) = RUBRIC_SCORES.into_inner();
        add(path.to_owned(), format!("{given} scores, the range is {least} to {most}"));
    }
    for (score, text) in numbered.iter().take(*RUBRIC_SCORES.end()) {
        if let Some(description) = validation::text(text, text_limit) {
            add(format!("{path}[{score}]"), description);
        }
    }
    (numbered, errors)
}

/// The name of the field that holds these options.
pub(super) fn field_name(options: &Options) -> &'static str {
    match options {
        Options::AnswerRelevancy(_) => "answer_relevancy",
        Options::AnswerCorrectness(_) => "answer_correctness",
        Options::FactualCorrectness(_) => "factual_correctness",
        Options::NoiseSensitivity(_) => "noise_sensitivity",
        Options::SummaryScore(_) => "summary_score",
        Options::Criterion(_) => "criterion",
        Options::Rubrics(_) => "rubrics",
        Options::Discrete(_) => "discrete",
        Options::Numeric(_) => "numeric",
        Options::Ranking(_) => "ranking",
        Options::SemanticSimilarity(_) => "semantic_similarity",
        Options::Bleu(_) => "bleu",
        Options::Rouge(_) => "rouge",
        Options::Chrf(_) => "chrf",
        Options::StringSimilarity(_) => "string_similarity",
        Options::Match(_) => "match",
        Options::ContextMatch(_) => "context_match",
    }
}
