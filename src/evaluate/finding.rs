//! Findings of metrics, and the computations that produce them.

use std::collections::BTreeMap;

use super::{
    cancellation::{Cancellation, Cancelled},
    pool::Length,
    result::{Claim, Failure},
    score::Estimate,
};

/// The computation that is left of a metric once all its inputs are there. It runs on the threads that compute metrics.
pub struct Computation {
    pub(super) length: Length,
    pub(super) compute: ComputeFn,
}

type ComputeFn = Box<dyn FnOnce(Cancellation<'_>) -> Result<Finding, Cancelled> + Send>;

impl Computation {
    /// A computation that takes no longer than a slice.
    pub(super) fn of(compute: impl FnOnce() -> Finding + Send + 'static) -> Computation {
        Computation { length: Length::Short, compute: Box::new(move |_| Ok(compute())) }
    }

    /// A computation that checks between slices whether it is still wanted.
    pub(super) fn sliced(
        compute: impl FnOnce(Cancellation<'_>) -> Result<Finding, Cancelled> + Send + 'static,
    ) -> Computation {
        Computation { length: Length::Long, compute: Box::new(compute) }
    }

    /// A finding that needs no more computation.
    pub(super) fn done(finding: Finding) -> Computation {
        Computation::of(|| finding)
    }
}

/// The rest of a metric's computation, or why there is no result.
pub type Found = Result<Computation, Failure>;

/// The finding of a metric.
#[derive(Default)]
pub(super) struct Finding {
    /// The estimated score; None for a metric without scores, such as ranking.
    pub estimate: Option<Estimate>,
    /// Verdicts that were given.
    pub judged: usize,
    /// Verdicts that were asked for.
    pub submitted: usize,
    pub reason: String,
    pub claims: Vec<Claim>,
    pub details: BTreeMap<&'static str, f64>,
    /// Indices of the candidates, best first.
    pub ranking: Vec<usize>,
    /// The value that a discrete metric chose.
    pub value: String,
    /// The failure because of which verdicts are missing, if any.
    pub missing: Option<Failure>,
}

impl Finding {
    pub fn of(estimate: Estimate, reason: impl Into<String>) -> Finding {
        Finding { estimate: Some(estimate), reason: reason.into(), ..Finding::default() }
    }

    /// Counts the verdicts that were given, of those that were asked for.
    pub fn counting<T>(self, verdicts: &[Option<T>]) -> Finding {
        let judged = verdicts.iter().flatten().count();
        Finding { judged: self.judged + judged, submitted: self.submitted + verdicts.len(), ..self }
    }

    /// Adds a number to the details, if it is finite.
    pub fn detail(mut self, name: &'static str, value: f64) -> Finding {
        if value.is_finite() {
            self.details.insert(name, value);
        }
        self
    }

    /// Notes in the reason that a text was too long for the embedding model.
    pub fn noting_truncation(mut self, truncated: bool) -> Finding {
        if truncated {
            self.reason.push_str("; a text was cut at its end to fit the embedding model");
        }
        self
    }
}
