//! Factual correctness: precision, recall or F score of claims verified both ways.
//!
//! Range 0 to 1, higher is better. Source: RAGAS, factual correctness.

use super::answer_correctness::{f_of_claims, precision_and_recall};
use crate::evaluate::{
    metric::Definition,
    sample::Field::{Reference, Response},
    score::Estimate,
};

pub const DEFINITION: Definition = Definition {
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

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    #[default]
    F,
    Precision,
    Recall,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    pub mode: Mode,
    /// Above 0.
    pub beta: f64,
}

impl Default for Options {
    fn default() -> Options {
        Options { mode: Mode::F, beta: 1.0 }
    }
}

/// As answer_correctness takes them. For precision `reference` may be empty.
pub fn score(response: &[Option<bool>], reference: &[Option<bool>], options: &Options) -> Estimate {
    let verdicts: Vec<Option<bool>> = response.iter().chain(reference).copied().collect();
    Estimate::rising(&verdicts, |verdicts| {
        let (response, reference) = verdicts.split_at(response.len());
        let (precision, recall) = precision_and_recall(response, reference);
        match options.mode {
            Mode::F => f_of_claims(response, reference, options.beta),
            Mode::Precision => precision,
            Mode::Recall => recall,
        }
    })
}
