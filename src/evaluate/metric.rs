//! The table of metrics: what each is called, what it needs, and what its scores mean.
//!
//! ListMetrics, docs/METRICS.md and the checks of a request are made from it.

mod markdown;

use super::{
    judged::{
        answer_accuracy, answer_correctness, answer_relevancy, aspect_critic, context_entity_recall,
        context_precision, context_recall, context_relevance, custom, factual_correctness, faithfulness,
        hallucination, noise_sensitivity, refusal, response_groundedness, rubrics, simple_criteria,
        summary_score,
    },
    lexical::{
        bleu, chrf, definitions, exact_match, rouge, string_presence, string_similarity, text_context,
    },
    sample::{Field, Sample},
    vector::{embedding_groundedness, embedding_relevance, semantic_similarity},
};

pub use markdown::markdown;

/// How a metric comes to its score.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    Judged,
    Lexical,
    Vector,
}

/// What is told of a metric.
#[derive(Clone, Debug)]
pub struct Definition {
    pub name: &'static str,
    pub family: Family,
    /// All of these fields.
    pub needs: &'static [Field],
    /// And at least one of these; empty for no more.
    pub any_of: &'static [Field],
    pub lowest: f64,
    pub highest: f64,
    /// None where neither is better.
    pub higher_is_better: Option<bool>,
    /// Raised whenever scores change.
    pub version: u32,
    pub formula: &'static str,
    pub source: &'static str,
    /// From its source; empty for nowhere.
    pub differs: &'static str,
    /// Taken alone, where texts are short.
    pub judge_calls: u32,
    /// Whether it needs vectors.
    pub embeddings: bool,
    /// The field of `MetricSelection.options`; empty for none.
    pub options_field: &'static str,
    /// Whether groups hold it.
    pub in_groups: bool,
}

impl Definition {
    pub(super) const LEXICAL: Definition = Definition {
        name: "",
        family: Family::Lexical,
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
    };
    pub(super) const JUDGED: Definition = Definition { family: Family::Judged, ..Definition::LEXICAL };
    pub(super) const VECTOR: Definition =
        Definition { family: Family::Vector, embeddings: true, ..Definition::LEXICAL };

    /// Names of fields; one of several is one entry, such as "reference or response".
    pub fn required_fields(&self) -> Vec<String> {
        let one_of: Vec<&str> = self.any_of.iter().map(|field| field.name()).collect();
        let all = self.needs.iter().map(|field| field.name().to_owned());
        all.chain((!one_of.is_empty()).then(|| one_of.join(" or "))).collect()
    }

    /// The fields that the sample lacks.
    pub fn missing(&self, sample: &Sample) -> Vec<Field> {
        self.missing_where(|field| sample.has(field))
    }

    /// The fields that are needed and not there.
    pub(super) fn missing_where(&self, has: impl Fn(Field) -> bool) -> Vec<Field> {
        let all = self.needs.iter().filter(|field| !has(**field));
        let has_one = self.any_of.is_empty() || self.any_of.iter().any(|field| has(*field));
        let any = self.any_of.first().filter(|_| !has_one);
        all.chain(any).copied().collect()
    }
}

/// A metric with its options.
#[derive(Clone, Debug, PartialEq)]
pub enum Metric {
    Faithfulness,
    AnswerRelevancy(answer_relevancy::Options),
    ContextPrecision,
    ContextUtilization,
    ContextRecall,
    ContextEntityRecall,
    AnswerCorrectness(answer_correctness::Options),
    FactualCorrectness(factual_correctness::Options),
    NoiseSensitivity(noise_sensitivity::Mode),
    Hallucination,
    AnswerAccuracy,
    ContextRelevance,
    ResponseGroundedness,
    SummaryScore(summary_score::Options),
    Refusal,
    AspectCritic(aspect_critic::Criterion),
    SimpleCriteria(aspect_critic::Criterion),
    Rubrics(rubrics::Options),
    InstanceRubrics,
    Discrete(custom::Discrete),
    Numeric(custom::Numeric),
    Ranking(custom::Ranking),
    SemanticSimilarity(semantic_similarity::Options),
    EmbeddingGroundedness,
    EmbeddingRelevance,
    Bleu(bleu::Options),
    Rouge(rouge::Options),
    Chrf(chrf::Options),
    StringSimilarity(string_similarity::Options),
    ExactMatch(exact_match::Options),
    StringPresence(string_presence::Options),
    TokenF1,
    IdContextPrecision,
    IdContextRecall,
    TextContextPrecision(text_context::Options),
    TextContextRecall(text_context::Options),
    QuotedSpans,
}

impl Metric {
    /// Every metric with its default options, in the order of the documentation.
    pub fn all() -> Vec<Metric> {
        vec![
            Metric::Faithfulness,
            Metric::AnswerRelevancy(Default::default()),
            Metric::ContextPrecision,
            Metric::ContextUtilization,
            Metric::ContextRecall,
            Metric::ContextEntityRecall,
            Metric::AnswerCorrectness(Default::default()),
            Metric::FactualCorrectness(Default::default()),
            Metric::NoiseSensitivity(Default::default()),
            Metric::Hallucination,
            Metric::AnswerAccuracy,
            Metric::ContextRelevance,
            Metric::ResponseGroundedness,
            Metric::SummaryScore(Default::default()),
            Metric::Refusal,
            Metric::AspectCritic(Default::default()),
            Metric::SimpleCriteria(Default::default()),
            Metric::Rubrics(Default::default()),
            Metric::InstanceRubrics,
            Metric::Discrete(Default::default()),
            Metric::Numeric(Default::default()),
            Metric::Ranking(Default::default()),
            Metric::SemanticSimilarity(Default::default()),
            Metric::EmbeddingGroundedness,
            Metric::EmbeddingRelevance,
            Metric::Bleu(Default::default()),
            Metric::Rouge(Default::default()),
            Metric::Chrf(Default::default()),
            Metric::StringSimilarity(Default::default()),
            Metric::ExactMatch(Default::default()),
            Metric::StringPresence(Default::default()),
            Metric::TokenF1,
            Metric::IdContextPrecision,
            Metric::IdContextRecall,
            Metric::TextContextPrecision(Default::default()),
            Metric::TextContextRecall(Default::default()),
            Metric::QuotedSpans,
        ]
    }

    /// With its default options.
    pub fn named(name: &str) -> Option<Metric> {
        Metric::all().into_iter().find(|metric| metric.definition().name == name)
    }

    pub fn definition(&self) -> &'static Definition {
        match self {
            Metric::Faithfulness => &faithfulness::DEFINITION,
            Metric::AnswerRelevancy(_) => &answer_relevancy::DEFINITION,
            Metric::ContextPrecision => &context_precision::DEFINITION,
            Metric::ContextUtilization => &context_precision::UTILIZATION,
            Metric::ContextRecall => &context_recall::DEFINITION,
            Metric::ContextEntityRecall => &context_entity_recall::DEFINITION,
            Metric::AnswerCorrectness(_) => &answer_correctness::DEFINITION,
            Metric::FactualCorrectness(_) => &factual_correctness::DEFINITION,
            Metric::NoiseSensitivity(_) => &noise_sensitivity::DEFINITION,
            Metric::Hallucination => &hallucination::DEFINITION,
            Metric::AnswerAccuracy => &answer_accuracy::DEFINITION,
            Metric::ContextRelevance => &context_relevance::DEFINITION,
            Metric::ResponseGroundedness => &response_groundedness::DEFINITION,
            Metric::SummaryScore(_) => &summary_score::DEFINITION,
            Metric::Refusal => &refusal::DEFINITION,
            Metric::AspectCritic(_) => &aspect_critic::DEFINITION,
            Metric::SimpleCriteria(_) => &simple_criteria::DEFINITION,
            Metric::Rubrics(_) => &rubrics::DOMAIN,
            Metric::InstanceRubrics => &rubrics::INSTANCE,
            Metric::Discrete(_) => &custom::DISCRETE,
            Metric::Numeric(_) => &custom::NUMERIC,
            Metric::Ranking(_) => &custom::RANKING,
            Metric::SemanticSimilarity(_) => &semantic_similarity::DEFINITION,
            Metric::EmbeddingGroundedness => &embedding_groundedness::DEFINITION,
            Metric::EmbeddingRelevance => &embedding_relevance::DEFINITION,
            Metric::Bleu(_) => &definitions::BLEU,
            Metric::Rouge(_) => &definitions::ROUGE,
            Metric::Chrf(_) => &definitions::CHRF,
            Metric::StringSimilarity(_) => &definitions::STRING_SIMILARITY,
            Metric::ExactMatch(_) => &definitions::EXACT_MATCH,
            Metric::StringPresence(_) => &definitions::STRING_PRESENCE,
            Metric::TokenF1 => &definitions::TOKEN_F1,
            Metric::IdContextPrecision => &definitions::ID_CONTEXT_PRECISION,
            Metric::IdContextRecall => &definitions::ID_CONTEXT_RECALL,
            Metric::TextContextPrecision(_) => &definitions::TEXT_CONTEXT_PRECISION,
            Metric::TextContextRecall(_) => &definitions::TEXT_CONTEXT_RECALL,
            Metric::QuotedSpans => &definitions::QUOTED_SPANS,
        }
    }
}

/// Several metrics by one name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    All,
    Judged,
    Lexical,
    Vector,
    NoJudge,
}

impl Group {
    pub fn named(name: &str) -> Option<Group> {
        Some(match name {
            "all" => Group::All,
            "judged" => Group::Judged,
            "lexical" => Group::Lexical,
            "vector" => Group::Vector,
            "no_judge" => Group::NoJudge,
            _ => return None,
        })
    }

    /// Those that need no options of their own.
    pub fn metrics(self) -> Vec<Metric> {
        let belongs = |metric: &Metric| {
            let definition = metric.definition();
            definition.in_groups
                && match self {
                    Group::All => true,
                    Group::Judged => definition.family == Family::Judged,
                    Group::Lexical => definition.family == Family::Lexical,
                    Group::Vector => definition.family == Family::Vector,
                    Group::NoJudge => definition.judge_calls == 0,
                }
        };
        Metric::all().into_iter().filter(belongs).collect()
    }
}

/// A metric that was asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct Selection {
    pub metric: Metric,
    /// Tells results of the same metric apart.
    pub label: String,
    /// Whether a group brought it, so that missing fields only make it not applicable.
    pub from_group: bool,
}

impl Selection {
    /// By name, labelled by it.
    pub fn of(metric: Metric) -> Selection {
        Selection { label: metric.definition().name.to_owned(), metric, from_group: false }
    }
}
