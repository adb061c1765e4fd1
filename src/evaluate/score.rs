//! Numbers that can be told: finite ones.

use serde::Serialize;

/// A finite number. Ranges are the metric's own.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd, Serialize)]
pub struct Score(f64);

impl Score {
    /// None for NaN and infinities.
    pub fn new(value: f64) -> Option<Score> {
        value.is_finite().then_some(Score(value))
    }

    /// The number.
    pub fn value(self) -> f64 {
        self.0
    }
}

/// A score from verdicts, some of which may be missing.
#[derive(Clone, Debug, PartialEq)]
pub enum Estimate {
    /// All verdicts are there.
    Exact(f64),
    /// Some are missing; the score lies between.
    Between(f64, f64),
    /// The metric says nothing here; why.
    NotApplicable(&'static str),
}

impl Estimate {
    /// Applies a formula over complete verdicts that never decreases when a verdict changes to yes.
    pub fn rising(verdicts: &[Option<bool>], formula: impl Fn(&[bool]) -> f64) -> Estimate {
        let filled = |missing| -> Vec<bool> { verdicts.iter().map(|v| v.unwrap_or(missing)).collect() };
        let lower = formula(&filled(false));
        if verdicts.iter().all(Option::is_some) {
            Estimate::Exact(lower)
        } else {
            Estimate::Between(lower, formula(&filled(true)))
        }
    }
}

/// Share of yes; the list is not empty.
pub fn share(verdicts: &[bool]) -> f64 {
    verdicts.iter().filter(|&&verdict| verdict).count() as f64 / verdicts.len() as f64
}

/// The weighted harmonic mean of precision and recall, with recall counting `beta` times as much: 0 where both
/// are 0. Source: van Rijsbergen, Information Retrieval, 1979, chapter 7.
pub fn f_beta(precision: f64, recall: f64, beta: f64) -> f64 {
    let weighted = beta * beta * precision + recall;
    if weighted > 0.0 { (1.0 + beta * beta) * precision * recall / weighted } else { 0.0 }
}
