//! Aspect critic: whether the response keeps a criterion of the caller's, by the majority of judgements.
//!
//! 0 or 1; which is better is the criterion's. Source: RAGAS, aspect critic.

use super::votes;
use crate::evaluate::{metric::Definition, sample::Field::Response, score::Estimate};

pub const DEFINITION: Definition = Definition {
    name: "aspect_critic",
    needs: &[Response],
    higher_is_better: None,
    judge_calls: 1,
    options_field: "criterion",
    in_groups: false,
    formula: "1 if most of the judgements say that the criterion is met, else 0",
    source: "RAGAS, AspectCritic",
    differs: "Several samples are that many judgements; RAGAS's strictness asks once and counts one answer.",
    ..Definition::JUDGED
};

/// A criterion of the caller's, for this metric and for simple_criteria.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Criterion {
    pub definition: String,
    /// Odd.
    pub samples: usize,
    /// Of simple_criteria's scores.
    pub lowest: i32,
    pub highest: i32,
}

impl Default for Criterion {
    fn default() -> Criterion {
        Criterion { definition: String::new(), samples: 1, lowest: 0, highest: 5 }
    }
}

/// `votes` are the judgements that were given, of `samples`.
pub fn score(votes: &[bool], samples: usize) -> Estimate {
    match votes::most_frequent(votes) {
        Some((met, _)) if votes::is_settled(votes, samples - votes.len()) => {
            Estimate::Exact(f64::from(u8::from(*met)))
        }
        _ => Estimate::Between(0.0, 1.0),
    }
}
