//! Noise sensitivity: the share of the response's claims that are wrong and come from the contexts.
//!
//! Range 0 to 1, lower is better. Source: RAGAS, noise sensitivity; RAGChecker, arXiv:2408.08067, section 3.

use super::claims::{claims, first_failure};
use crate::evaluate::{
    definition::Definition,
    finding::{Computation, Finding, Found},
    metric::MetricType,
    options::OptionReader,
    sample::Field::{Reference, Response, RetrievedContexts, UserInput},
    score::Estimate,
    steps::{ClaimRow, ClaimTable, Ledger, Side, Steps},
};
use crate::proto::{self, metric_selection::Options};
use futures::future::join3;

/// The share of wrong claims that come from the contexts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NoiseSensitivity {
    /// The contexts to count.
    pub mode: NoiseMode,
}

/// The contexts from which wrong claims are counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NoiseMode {
    /// Relevant contexts.
    #[default]
    Relevant,
    /// Irrelevant contexts.
    Irrelevant,
}

/// A claim of the response.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NoiseRow {
    /// Whether the reference supports the claim; None without a verdict.
    pub supported_by_reference: Option<bool>,
    /// One entry per context: whether it supports the claim.
    pub supported_by: Option<Vec<bool>>,
}

/// `reference` tells for each claim of the reference which contexts support it.
pub fn score(
    response: &[NoiseRow],
    reference: &[Option<Vec<bool>>],
    contexts: usize,
    mode: NoiseMode,
) -> Estimate {
    if response.is_empty() {
        return Estimate::NotApplicable("the response makes no claims");
    }
    let relevant = |missing: bool| -> Vec<bool> {
        (0..contexts).map(|c| reference.iter().any(|r| r.as_ref().map_or(missing, |r| r[c]))).collect()
    };
    // Whatever is missing may make all contexts relevant, or none more than are known to be.
    let readings = [relevant(false), relevant(true)];
    let of = |row: &NoiseRow, relevant: &[bool], missing: bool| is_noise(row, relevant, mode, missing);
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
fn is_noise(row: &NoiseRow, relevant: &[bool], mode: NoiseMode, missing: bool) -> bool {
    let wrong = row.supported_by_reference.map_or(missing, |supported| !supported);
    let by = |of_relevant: bool| match &row.supported_by {
        Some(supported) => relevant.iter().zip(supported).any(|(&r, &s)| s && r == of_relevant),
        None => missing && relevant.contains(&of_relevant),
    };
    wrong
        && match mode {
            NoiseMode::Relevant => by(true),
            NoiseMode::Irrelevant => by(false) && !(row.supported_by.is_some() && by(true)),
        }
}

impl MetricType for NoiseSensitivity {
    const DEFINITION: &Definition = &Definition {
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

    fn read(options: Options, reader: &mut OptionReader<'_>) -> Option<NoiseSensitivity> {
        use proto::noise_sensitivity_options::Mode;
        let Options::NoiseSensitivity(options) = options else { return None };
        let mode = match reader.choice("noise_sensitivity.mode", options.mode) {
            Mode::Unspecified | Mode::Relevant => NoiseMode::Relevant,
            Mode::Irrelevant => NoiseMode::Irrelevant,
        };
        Some(NoiseSensitivity { mode })
    }

    async fn find(&self, steps: &Steps<'_>, ledger: &mut Ledger) -> Found {
        let tables = join3(
            steps.by_other(Side::Response),
            steps.by_contexts(Side::Response),
            steps.by_contexts(Side::Reference),
        );
        let (by_reference, by_contexts, reference) = tables.await;
        let taken = (ledger.take(by_reference), ledger.take(by_contexts), ledger.take(reference));
        let (by_reference, by_contexts, reference) = (taken.0?, taken.1?, taken.2?);
        let (contexts, mode) = (steps.sample.retrieved_contexts.len(), self.mode);
        Ok(Computation::of(move || noise(&by_reference, &by_contexts, &reference, (contexts, mode))))
    }
}

/// `reference` has the claims of the reference by the contexts, the others those of the response.
fn noise(
    by_reference: &ClaimTable,
    by_contexts: &ClaimTable,
    reference: &ClaimTable,
    (contexts, mode): (usize, NoiseMode),
) -> Finding {
    let supporting = |row: &ClaimRow| row.opinion.as_ref().and_then(|opinion| opinion.supporting(contexts));
    let relevant: Vec<Option<Vec<bool>>> = reference.rows.iter().map(supporting).collect();
    let rows: Vec<NoiseRow> = by_reference
        .rows
        .iter()
        .zip(&by_contexts.rows)
        .map(|(wrong, noise)| NoiseRow {
            supported_by_reference: wrong.opinion.as_ref().map(|opinion| opinion.supported),
            supported_by: supporting(noise),
        })
        .collect();
    let wrong = rows.iter().filter(|row| row.supported_by_reference == Some(false)).count();
    let reason = format!("{wrong} of {} claims are not supported by the reference", rows.len());
    let estimate = score(&rows, &relevant, contexts, mode);
    let finding = Finding::of(estimate, reason)
        .counting(&by_reference.supported())
        .counting(&rows.iter().map(|row| row.supported_by.as_ref()).collect::<Vec<_>>())
        .counting(&relevant);
    let failure = first_failure(&[by_reference, by_contexts, reference]);
    Finding { claims: claims(by_contexts, Side::Response), missing: failure, ..finding }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(reference: bool, contexts: &[bool]) -> NoiseRow {
        NoiseRow { supported_by_reference: Some(reference), supported_by: Some(contexts.to_vec()) }
    }

    #[test]
    fn a_wrong_claim_counts_where_its_context_is() {
        let reference = [Some(vec![true, false])];
        let response = [row(false, &[true, false]), row(false, &[false, true]), row(true, &[true, true])];
        assert_eq!(score(&response, &reference, 2, NoiseMode::Relevant), Estimate::Exact(1.0 / 3.0));
        assert_eq!(score(&response, &reference, 2, NoiseMode::Irrelevant), Estimate::Exact(1.0 / 3.0));
    }

    #[test]
    fn a_claim_without_verdicts_leaves_bounds() {
        let reference = [Some(vec![true])];
        let response = [row(true, &[true]), NoiseRow::default()];
        assert_eq!(score(&response, &reference, 1, NoiseMode::Relevant), Estimate::Between(0.0, 0.5));
        assert_eq!(score(&response, &reference, 1, NoiseMode::Irrelevant), Estimate::Between(0.0, 0.0));
    }
}
