//! Answer correctness: the claims' F score, and the similarity of the vectors, weighted.
//!
//! Range -1 to 1, in practice 0 to 1, higher is better. Source: RAGAS, answer correctness.

use super::claims::both_ways;
use crate::evaluate::{
    definition::Definition,
    finding::{Computation, Finding, Found},
    metric::MetricType,
    options::OptionReader,
    sample::Field::{Reference, Response, UserInput},
    score::{Estimate, f_beta},
    steps::{Ledger, Side, Steps},
    vector::cosine,
};
use crate::proto::metric_selection::Options;
use futures::future::join;

/// The largest weight of one part.
const LARGEST_WEIGHT: f64 = 1000.0;

/// Claims and similarity, weighted.
#[derive(Clone, Debug, PartialEq)]
pub struct AnswerCorrectness {
    /// At least 0; scaled with the other to a sum of 1.
    pub factuality_weight: f64,
    /// Weight of the similarity of the vectors; that of the F score is 1 minus it.
    pub similarity_weight: f64,
    /// Above 0.
    pub beta: f64,
}

impl Default for AnswerCorrectness {
    fn default() -> AnswerCorrectness {
        AnswerCorrectness { factuality_weight: 0.75, similarity_weight: 0.25, beta: 1.0 }
    }
}

/// `response` has a verdict by the reference for each claim of the response, `reference` one by the response for
/// each claim of the reference; `similarity` is -1 to 1.
pub fn score(
    response: &[Option<bool>],
    reference: &[Option<bool>],
    similarity: f64,
    options: &AnswerCorrectness,
) -> Estimate {
    let (factuality, similar) = (options.factuality_weight, options.similarity_weight);
    let verdicts: Vec<Option<bool>> = response.iter().chain(reference).copied().collect();
    Estimate::rising(&verdicts, |verdicts| {
        let (response, reference) = verdicts.split_at(response.len());
        let f = if verdicts.is_empty() { 1.0 } else { f_of_claims(response, reference, options.beta) };
        (factuality * f + similar * similarity) / (factuality + similar)
    })
}

/// The F score of TP = claims of the response that are supported, FP = the others, FN = claims of the reference
/// that are not.
pub(super) fn f_of_claims(response: &[bool], reference: &[bool], beta: f64) -> f64 {
    let (precision, recall) = precision_and_recall(response, reference);
    f_beta(precision, recall, beta)
}

/// TP / (TP + FP) and TP / (TP + FN), 0 where there is nothing to divide by.
pub(super) fn precision_and_recall(response: &[bool], reference: &[bool]) -> (f64, f64) {
    let count = |verdicts: &[bool], of: bool| verdicts.iter().filter(|&&v| v == of).count() as f64;
    let (tp, fp, missed) = (count(response, true), count(response, false), count(reference, false));
    let ratio = |of: f64| if of > 0.0 { tp / of } else { 0.0 };
    (ratio(tp + fp), ratio(tp + missed))
}

impl MetricType for AnswerCorrectness {
    const DEFINITION: &Definition = &Definition {
        name: "answer_correctness",
        needs: &[UserInput, Response, Reference],
        judge_calls: 4,
        embeddings: true,
        options_field: "answer_correctness",
        formula: "0.75 * F(claims) + 0.25 * cosine(response, reference), where TP are claims of the response that the \
                  reference supports, FP the others, FN claims of the reference that the response does not support",
        source: "RAGAS, AnswerCorrectness",
        lowest: -1.0,
        differs: "Claims are verified both ways, with verdicts shared with factual_correctness, where RAGAS has one \
                  classification. F is 1 where neither side makes claims and 0 where one side alone makes none, as in \
                  RAGAS's older API; its newer one gives 1 for both. A score below 0 needs vectors that point apart.",
        ..Definition::JUDGED
    };

    fn read(options: Options, reader: &mut OptionReader<'_>) -> Option<AnswerCorrectness> {
        let Options::AnswerCorrectness(options) = options else { return None };
        let default = AnswerCorrectness::default();
        let mut weight =
            |field: &str, value, default| reader.number(field, value, default, 0.0..=LARGEST_WEIGHT);
        let metric = AnswerCorrectness {
            factuality_weight: weight(
                "answer_correctness.factuality_weight",
                options.factuality_weight,
                default.factuality_weight,
            ),
            similarity_weight: weight(
                "answer_correctness.similarity_weight",
                options.similarity_weight,
                default.similarity_weight,
            ),
            beta: reader.beta("answer_correctness.beta", options.beta),
        };
        if metric.factuality_weight + metric.similarity_weight == 0.0 {
            reader.add("answer_correctness", "at least one weight must be above 0");
        }
        Some(metric)
    }

    async fn find(&self, steps: &Steps<'_>, ledger: &mut Ledger) -> Found {
        let tables = join(steps.by_other(Side::Response), steps.by_other(Side::Reference));
        let vectors = async {
            match self.similarity_weight > 0.0 {
                true => steps.answer_rows().await.map(Some),
                false => Ok(None),
            }
        };
        let ((response, reference), vectors) = join(tables, vectors).await;
        let (response, reference) = (ledger.take(response), ledger.take(reference));
        let (response, reference, vectors, options) = (response?, reference?, vectors?, self.clone());
        Ok(Computation::of(move || {
            let vectors = vectors.as_deref();
            let similarity = vectors.map_or(0.0, |vectors| cosine(vectors.rows.row(0), vectors.rows.row(1)));
            let estimate = score(&response.supported(), &reference.supported(), similarity, &options);
            let finding = Finding { estimate: Some(estimate), ..both_ways(&response, &reference) };
            let is_truncated = vectors.is_some_and(|vectors| vectors.cut);
            finding.detail("similarity", similarity).noting_truncation(is_truncated)
        }))
    }
}
