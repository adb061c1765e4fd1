//! All metrics: their types, and the registry that lists them. A new one is a file with a
//! [`MetricType`] and a line here.

use super::{
    definition::{Definition, MetricFamily},
    metric::{Metric, MetricType},
    options::{self, OptionReader},
};
pub use super::{
    judged::{
        answer_accuracy::AnswerAccuracy,
        answer_correctness::AnswerCorrectness,
        answer_relevancy::AnswerRelevancy,
        aspect_critic::AspectCritic,
        context_entity_recall::ContextEntityRecall,
        context_precision::{ContextPrecision, ContextUtilization},
        context_recall::ContextRecall,
        context_relevance::ContextRelevance,
        discrete::Discrete,
        factual_correctness::FactualCorrectness,
        faithfulness::Faithfulness,
        hallucination::Hallucination,
        noise_sensitivity::NoiseSensitivity,
        numeric::Numeric,
        ranking::Ranking,
        refusal::Refusal,
        response_groundedness::ResponseGroundedness,
        rubrics::{InstanceRubrics, Rubrics},
        simple_criteria::SimpleCriteria,
        summary_score::SummaryScore,
    },
    lexical::{
        bleu::Bleu,
        chrf::Chrf,
        exact_match::ExactMatch,
        id_context::{IdContextPrecision, IdContextRecall},
        quoted_spans::QuotedSpans,
        rouge::Rouge,
        string_presence::StringPresence,
        string_similarity::StringSimilarity,
        text_context::{TextContextPrecision, TextContextRecall},
        token_f1::TokenF1,
    },
    vector::{
        embedding_groundedness::EmbeddingGroundedness, embedding_relevance::EmbeddingRelevance,
        semantic_similarity::SemanticSimilarity,
    },
};
use crate::proto::metric_selection::Options;

/// Every metric, in the order of the documentation.
pub(crate) const METRICS: &[MetricEntry] = &[
    MetricEntry::of::<Faithfulness>(),
    MetricEntry::of::<AnswerRelevancy>(),
    MetricEntry::of::<ContextPrecision>(),
    MetricEntry::of::<ContextUtilization>(),
    MetricEntry::of::<ContextRecall>(),
    MetricEntry::of::<ContextEntityRecall>(),
    MetricEntry::of::<AnswerCorrectness>(),
    MetricEntry::of::<FactualCorrectness>(),
    MetricEntry::of::<NoiseSensitivity>(),
    MetricEntry::of::<Hallucination>(),
    MetricEntry::of::<AnswerAccuracy>(),
    MetricEntry::of::<ContextRelevance>(),
    MetricEntry::of::<ResponseGroundedness>(),
    MetricEntry::of::<SummaryScore>(),
    MetricEntry::of::<Refusal>(),
    MetricEntry::of::<AspectCritic>(),
    MetricEntry::of::<SimpleCriteria>(),
    MetricEntry::of::<Rubrics>(),
    MetricEntry::of::<InstanceRubrics>(),
    MetricEntry::of::<Discrete>(),
    MetricEntry::of::<Numeric>(),
    MetricEntry::of::<Ranking>(),
    MetricEntry::of::<SemanticSimilarity>(),
    MetricEntry::of::<EmbeddingGroundedness>(),
    MetricEntry::of::<EmbeddingRelevance>(),
    MetricEntry::of::<Bleu>(),
    MetricEntry::of::<Rouge>(),
    MetricEntry::of::<Chrf>(),
    MetricEntry::of::<StringSimilarity>(),
    MetricEntry::of::<ExactMatch>(),
    MetricEntry::of::<StringPresence>(),
    MetricEntry::of::<TokenF1>(),
    MetricEntry::of::<IdContextPrecision>(),
    MetricEntry::of::<IdContextRecall>(),
    MetricEntry::of::<TextContextPrecision>(),
    MetricEntry::of::<TextContextRecall>(),
    MetricEntry::of::<QuotedSpans>(),
];

impl Metric {
    /// Every metric with its default options, in the order of the documentation.
    pub fn all() -> Vec<Metric> {
        METRICS.iter().map(MetricEntry::with_default_options).collect()
    }

    /// The metric of a name, with its default options.
    pub fn named(name: &str) -> Option<Metric> {
        MetricEntry::named(name).map(MetricEntry::with_default_options)
    }
}

/// A line of the registry.
pub(crate) struct MetricEntry {
    pub definition: &'static Definition,
    default: fn() -> Metric,
    read: fn(Options, &mut OptionReader<'_>) -> Option<Metric>,
    required_options: fn() -> Option<Options>,
}

impl MetricEntry {
    const fn of<M: MetricType>() -> MetricEntry {
        MetricEntry {
            definition: M::DEFINITION,
            default: || M::default().into(),
            read: |options, reader| M::read(options, reader).map(Metric::from),
            required_options: M::required_options,
        }
    }

    /// The entry of a name.
    pub fn named(name: &str) -> Option<&'static MetricEntry> {
        METRICS.iter().find(|entry| entry.definition.name == name)
    }

    pub fn with_default_options(&self) -> Metric {
        (self.default)()
    }

    /// Whether the metric needs options of the caller's.
    pub fn requires_options(&self) -> bool {
        (self.required_options)().is_some()
    }

    /// The metric with these options; with its default ones where there are none or where they are wrong, which the
    /// reader is told.
    pub fn with_options(&self, options: Option<Options>, reader: &mut OptionReader<'_>) -> Metric {
        let Some(options) = options.or_else(self.required_options) else {
            return self.with_default_options();
        };
        let field = options::field_name(&options);
        (self.read)(options, reader).unwrap_or_else(|| {
            let takes = match self.definition.options_field {
                "" => "no options".to_owned(),
                field => format!("the options {field}"),
            };
            reader.add(field, format!("{} takes {takes}", self.definition.name));
            self.with_default_options()
        })
    }
}

/// A group of metrics that a request can select by one name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricGroup {
    /// All metrics.
    All,
    /// Metrics that ask the judge.
    Judged,
    /// Metrics that compare texts.
    Lexical,
    /// Metrics that compare vectors.
    Vector,
    /// Metrics that need no judge.
    NoJudge,
}

impl MetricGroup {
    /// Every group with its name.
    pub const NAMED: [(&str, MetricGroup); 5] = [
        ("all", MetricGroup::All),
        ("judged", MetricGroup::Judged),
        ("lexical", MetricGroup::Lexical),
        ("vector", MetricGroup::Vector),
        ("no_judge", MetricGroup::NoJudge),
    ];

    /// The group of a name.
    pub fn named(name: &str) -> Option<MetricGroup> {
        MetricGroup::NAMED.into_iter().find(|(known, _)| *known == name).map(|(_, group)| group)
    }

    /// The metrics of the group: those that need no options.
    pub fn metrics(self) -> Vec<Metric> {
        let belongs = |definition: &Definition| {
            definition.in_groups
                && match self {
                    MetricGroup::All => true,
                    MetricGroup::Judged => definition.family == MetricFamily::Judged,
                    MetricGroup::Lexical => definition.family == MetricFamily::Lexical,
                    MetricGroup::Vector => definition.family == MetricFamily::Vector,
                    MetricGroup::NoJudge => definition.judge_calls == 0,
                }
        };
        let entries = METRICS.iter().filter(|entry| belongs(entry.definition));
        entries.map(MetricEntry::with_default_options).collect()
    }
}
