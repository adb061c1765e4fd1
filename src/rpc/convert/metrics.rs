//! Metrics with their options.

mod judged;
mod texts;

use std::ops::RangeInclusive;

use super::Check;
use crate::{
    evaluate::{
        lexical::{exact_match, string_presence},
        metric::Metric,
        sample::Sample,
    },
    proto::{self, metric_selection::Options},
    rpc::Limits,
};

/// One selection that is being read.
pub(super) struct Reading<'a> {
    pub check: &'a mut Check,
    /// Of the selection, such as `metrics[3]`.
    pub path: String,
    pub limits: &'a Limits,
    pub sample: &'a Sample,
}

impl Reading<'_> {
    /// The metric with its options in place of the default ones.
    pub fn of(&mut self, metric: Metric, options: Option<Options>) -> Metric {
        use Options as O;
        match (metric, options) {
            (Metric::AnswerRelevancy(_), Some(O::AnswerRelevancy(o))) => self.answer_relevancy(&o),
            (Metric::AnswerCorrectness(_), Some(O::AnswerCorrectness(o))) => self.answer_correctness(&o),
            (Metric::FactualCorrectness(_), Some(O::FactualCorrectness(o))) => self.factual_correctness(&o),
            (Metric::NoiseSensitivity(_), Some(O::NoiseSensitivity(o))) => self.noise_sensitivity(&o),
            (Metric::SummaryScore(_), Some(O::SummaryScore(o))) => self.summary_score(&o),
            (Metric::AspectCritic(_), Some(O::Criterion(o))) => Metric::AspectCritic(self.criterion(o)),
            (Metric::SimpleCriteria(_), Some(O::Criterion(o))) => Metric::SimpleCriteria(self.criterion(o)),
            (Metric::Rubrics(_), Some(O::Rubrics(o))) => self.rubrics(o),
            (Metric::Discrete(_), Some(O::Discrete(o))) => self.discrete(o),
            (Metric::Numeric(_), Some(O::Numeric(o))) => self.numeric(o),
            (Metric::Ranking(_), Some(O::Ranking(o))) => self.ranking(o),
            (Metric::SemanticSimilarity(_), Some(O::SemanticSimilarity(o))) => self.semantic_similarity(&o),
            (Metric::Bleu(_), Some(O::Bleu(o))) => self.bleu(&o),
            (Metric::Rouge(_), Some(O::Rouge(o))) => self.rouge(&o),
            (Metric::Chrf(_), Some(O::Chrf(o))) => self.chrf(&o),
            (Metric::StringSimilarity(_), Some(O::StringSimilarity(o))) => self.string_similarity(&o),
            (Metric::ExactMatch(_), Some(O::Match(proto::MatchOptions { normalize }))) => {
                Metric::ExactMatch(exact_match::Options { normalize })
            }
            (Metric::StringPresence(_), Some(O::Match(proto::MatchOptions { normalize }))) => {
                Metric::StringPresence(string_presence::Options { normalize })
            }
            (Metric::TextContextPrecision(_), Some(O::ContextMatch(o))) => {
                Metric::TextContextPrecision(self.context_match(&o))
            }
            (Metric::TextContextRecall(_), Some(O::ContextMatch(o))) => {
                Metric::TextContextRecall(self.context_match(&o))
            }
            (metric, None) => self.without_options(metric),
            (metric, Some(options)) => self.refuse(metric, &options),
        }
    }

    /// Some metrics are nothing without options; reading empty ones tells what is missing.
    fn without_options(&mut self, metric: Metric) -> Metric {
        let empty = match metric {
            Metric::AspectCritic(_) | Metric::SimpleCriteria(_) => Options::Criterion(Default::default()),
            Metric::Discrete(_) => Options::Discrete(Default::default()),
            Metric::Numeric(_) => Options::Numeric(Default::default()),
            Metric::Ranking(_) => Options::Ranking(Default::default()),
            metric => return metric,
        };
        self.of(metric, Some(empty))
    }

    fn refuse(&mut self, metric: Metric, options: &Options) -> Metric {
        let definition = metric.definition();
        let takes = match definition.options_field {
            "" => "no options".to_owned(),
            field => format!("the options {field}"),
        };
        let field = format!("{}.{}", self.path, field_name(options));
        self.check.add(field, format!("{} takes {takes}", definition.name));
        metric
    }

    fn at(&self, field: &str) -> String {
        format!("{}.{field}", self.path)
    }

    fn text(&mut self, field: &str, text: &str) {
        let path = self.at(field);
        self.check.text(|| path.clone(), text, self.limits);
    }

    fn choice<E: TryFrom<i32> + Default>(&mut self, field: &str, value: i32) -> E {
        let path = self.at(field);
        self.check.known(|| path, value)
    }

    fn number(&mut self, field: &str, value: Option<f64>, default: f64, range: RangeInclusive<f64>) -> f64 {
        let path = self.at(field);
        self.check.within(|| path, value, default, range)
    }

    fn whole(&mut self, field: &str, value: Option<u32>, default: u32, range: RangeInclusive<u32>) -> u32 {
        let path = self.at(field);
        self.check.within(|| path, value, default, range)
    }

    /// Within a range that `u8` holds; the default stands in until the mistake is told.
    fn small(&mut self, field: &str, value: Option<u32>, default: u8, range: RangeInclusive<u32>) -> u8 {
        u8::try_from(self.whole(field, value, default.into(), range)).unwrap_or(default)
    }
}

fn field_name(options: &Options) -> &'static str {
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
