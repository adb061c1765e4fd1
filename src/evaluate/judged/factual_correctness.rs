//! Factual correctness: precision, recall or F score of claims verified both ways.
//!
//! Range 0 to 1, higher is better. Source: RAGAS, factual correctness.

use super::{
    answer_correctness::{f_of_claims, precision_and_recall},
    claims::{both_ways, share_of},
};
use crate::evaluate::{
    definition::Definition,
    finding::{Computation, Finding, Found},
    metric::MetricType,
    options::OptionReader,
    sample::Field::{Reference, Response},
    score::Estimate,
    steps::{Ledger, Side, Steps},
};
use crate::proto::{self, metric_selection::Options};
use futures::future::join;

/// The number that is computed from the verified claims.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FactualMode {
    /// F score.
    #[default]
    F,
    /// Precision: claims of the response that the reference supports.
    Precision,
    /// Recall: claims of the reference that the response supports.
    Recall,
}

/// Agreement of the claims of response and reference.
#[derive(Clone, Debug, PartialEq)]
pub struct FactualCorrectness {
    /// The number to compute.
    pub mode: FactualMode,
    /// Above 0.
    pub beta: f64,
}

impl Default for FactualCorrectness {
    fn default() -> FactualCorrectness {
        FactualCorrectness { mode: FactualMode::F, beta: 1.0 }
    }
}

/// The arguments are those of answer_correctness. For precision `reference` may be empty.
pub fn score(
    response: &[Option<bool>],
    reference: &[Option<bool>],
    options: &FactualCorrectness,
) -> Estimate {
    let verdicts: Vec<Option<bool>> = response.iter().chain(reference).copied().collect();
    Estimate::rising(&verdicts, |verdicts| {
        let (response, reference) = verdicts.split_at(response.len());
        let (precision, recall) = precision_and_recall(response, reference);
        match options.mode {
            FactualMode::F => f_of_claims(response, reference, options.beta),
            FactualMode::Precision => precision,
            FactualMode::Recall => recall,
        }
    })
}

impl MetricType for FactualCorrectness {
    const DEFINITION: &Definition = &Definition {
        name: "factual_correctness",
        needs: &[Response, Reference],
        judge_calls: 4,
        options_field: "factual_correctness",
        formula: "F, precision = TP / (TP + FP), or recall = TP / (TP + FN), where TP are claims of the response that the \
                  reference supports, FP the others, FN claims of the reference that the response does not support",
        source: "RAGAS, FactualCorrectness",
        differs: "Not rounded to two decimals. RAGAS adds 1e-8 to the divisors of precision and recall. As there, a response \
                  without claims scores 0.",
        ..Definition::JUDGED
    };

    fn read(options: Options, reader: &mut OptionReader<'_>) -> Option<FactualCorrectness> {
        use proto::factual_correctness_options::Mode;
        let Options::FactualCorrectness(options) = options else { return None };
        let mode = match reader.choice("factual_correctness.mode", options.mode) {
            Mode::Unspecified | Mode::F => FactualMode::F,
            Mode::Precision => FactualMode::Precision,
            Mode::Recall => FactualMode::Recall,
        };
        Some(FactualCorrectness { mode, beta: reader.beta("factual_correctness.beta", options.beta) })
    }

    async fn find(&self, steps: &Steps<'_>, ledger: &mut Ledger) -> Found {
        let options = self.clone();
        if options.mode == FactualMode::Precision {
            let table = ledger.take(steps.by_other(Side::Response).await)?;
            return Ok(Computation::of(move || {
                let estimate = score(&table.supported(), &[], &options);
                share_of(&table, estimate, Side::Response, "the reference")
            }));
        }
        let tables = join(steps.by_other(Side::Response), steps.by_other(Side::Reference)).await;
        let (response, reference) = (ledger.take(tables.0), ledger.take(tables.1));
        let (response, reference) = (response?, reference?);
        Ok(Computation::of(move || {
            let estimate = score(&response.supported(), &reference.supported(), &options);
            Finding { estimate: Some(estimate), ..both_ways(&response, &reference) }
        }))
    }
}
