//! Summary score: questions made from the contexts that the summary answers, against its length.
//!
//! Range 0 to 1, higher is better. Source: RAGAS, summarization score.

use crate::evaluate::{
    metric::Definition,
    sample::Field::{ReferenceContexts, Response, RetrievedContexts},
    score::{Estimate, share},
};

pub const DEFINITION: Definition = Definition {
    name: "summary_score",
    needs: &[Response],
    any_of: &[ReferenceContexts, RetrievedContexts],
    judge_calls: 3,
    options_field: "summary_score",
    formula: "(1 - w) * answered questions / questions + w * (1 - min(length of summary, length of text) / length of text), \
              lengths in code points, w = 0.5; the text are the reference contexts or, without any, the retrieved ones",
    source: "RAGAS, SummarizationScore",
    differs: "Without the length penalty the answered questions count in full, as in RAGAS's newer API; its older one \
              still multiplies them by 1 - w. RAGAS adds 1e-10 to the length of the text, and reads the reference \
              contexts alone.",
    ..Definition::JUDGED
};

#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    pub length_penalty: bool,
    /// 0 to 1.
    pub conciseness_weight: f64,
}

impl Default for Options {
    fn default() -> Options {
        Options { length_penalty: true, conciseness_weight: 0.5 }
    }
}

/// Lengths in code points.
#[derive(Clone, Copy, Debug)]
pub struct Lengths {
    pub summary: usize,
    pub text: usize,
}

/// `answered` has a verdict for each question.
pub fn score(answered: &[Option<bool>], lengths: Lengths, options: &Options) -> Estimate {
    if answered.is_empty() {
        return Estimate::NotApplicable("the text gives no questions");
    }
    Estimate::rising(answered, |answered| {
        let answered = share(answered);
        if !options.length_penalty {
            return answered;
        }
        let weight = options.conciseness_weight;
        (1.0 - weight) * answered + weight * conciseness(lengths)
    })
}

fn conciseness(lengths: Lengths) -> f64 {
    1.0 - lengths.summary.min(lengths.text) as f64 / lengths.text.max(1) as f64
}
