//! Noise sensitivity: the share of the response's claims that are wrong and come from the contexts.
//!
//! Range 0 to 1, lower is better. Source: RAGAS, noise sensitivity; RAGChecker, arXiv:2408.08067, section 3.

use crate::evaluate::{
    metric::Definition,
    sample::Field::{Reference, Response, RetrievedContexts, UserInput},
    score::Estimate,
};

pub const DEFINITION: Definition = Definition {
    name: "noise_sensitivity",
    needs: &[UserInput, Response, RetrievedContexts, Reference],
    higher_is_better: Some(false),
    judge_calls: 5,
    options_field: "noise_sensitivity",
    formula: "claims of the response that the reference does not support and that a relevant context does (RELEVANT), \
              or that only an irrelevant one does (IRRELEVANT) / claims of the response; a context is relevant if it \
              supports a claim of the reference",
    source: "RAGAS, NoiseSensitivity; RAGChecker, arXiv:2408.08067",
    differs: "The contexts that support a claim are asked for in one call, where RAGAS has one for each context.",
    ..Definition::JUDGED
};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    #[default]
    Relevant,
    Irrelevant,
}

/// A claim of the response.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Row {
    pub supported_by_reference: Option<bool>,
    /// For each context whether it supports the claim.
    pub supported_by: Option<Vec<bool>>,
}

/// `reference` tells for each claim of the reference which contexts support it.
pub fn score(response: &[Row], reference: &[Option<Vec<bool>>], contexts: usize, mode: Mode) -> Estimate {
    if response.is_empty() {
        return Estimate::NotApplicable("the response makes no claims");
    }
    let relevant = |missing: bool| -> Vec<bool> {
        (0..contexts).map(|c| reference.iter().any(|r| r.as_ref().map_or(missing, |r| r[c]))).collect()
    };
    // Whatever is missing may make all contexts relevant, or none more than are known to be.
    let readings = [relevant(false), relevant(true)];
    let of = |row: &Row, relevant: &[bool], missing: bool| is_noise(row, relevant, mode, missing);
    let share = |missing: bool| {
        let shares = readings.iter().map(|relevant| {
            response.iter().filter(|row| of(row, relevant, missing)).count() as f64 / response.len() as f64
        });
        if missing { shares.fold(0.0, f64::max) } else { shares.fold(1.0, f64::min) }
    };
    let is_complete = reference.iter().all(Option::is_some)
        && response.iter().all(|row| row.supported_by.is_some() && row.supported_by_reference.is_some());
    if is_complete { Estimate::Exact(share(false)) } else { Estimate::Between(share(false), share(true)) }
}

/// `missing` is whether what is not known is read as noise.
fn is_noise(row: &Row, relevant: &[bool], mode: Mode, missing: bool) -> bool {
    let wrong = row.supported_by_reference.map_or(missing, |supported| !supported);
    let by = |of_relevant: bool| match &row.supported_by {
        Some(supported) => relevant.iter().zip(supported).any(|(&r, &s)| s && r == of_relevant),
        None => missing && relevant.contains(&of_relevant),
    };
    wrong
        && match mode {
            Mode::Relevant => by(true),
            Mode::Irrelevant => by(false) && !(row.supported_by.is_some() && by(true)),
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(reference: bool, contexts: &[bool]) -> Row {
        Row { supported_by_reference: Some(reference), supported_by: Some(contexts.to_vec()) }
    }

    #[test]
    fn a_wrong_claim_counts_where_its_context_is() {
        let reference = [Some(vec![true, false])];
        let response = [row(false, &[true, false]), row(false, &[false, true]), row(true, &[true, true])];
        assert_eq!(score(&response, &reference, 2, Mode::Relevant), Estimate::Exact(1.0 / 3.0));
        assert_eq!(score(&response, &reference, 2, Mode::Irrelevant), Estimate::Exact(1.0 / 3.0));
    }

    #[test]
    fn a_claim_without_verdicts_leaves_bounds() {
        let reference = [Some(vec![true])];
        let response = [row(true, &[true]), Row::default()];
        assert_eq!(score(&response, &reference, 1, Mode::Relevant), Estimate::Between(0.0, 0.5));
        assert_eq!(score(&response, &reference, 1, Mode::Irrelevant), Estimate::Between(0.0, 0.0));
    }
}
