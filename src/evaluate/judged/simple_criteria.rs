//! Simple criteria: a score by a criterion of the caller's, the most frequent of the judgements.
//!
//! From the caller's lowest to the highest, 0 to 5 by default; higher is better. Source: RAGAS, simple criteria.

use super::{aspect_critic::Criterion, votes};
use crate::evaluate::{metric::Definition, sample::Field::Response, score::Estimate};

pub const DEFINITION: Definition = Definition {
    name: "simple_criteria",
    needs: &[Response],
    highest: 5.0,
    judge_calls: 1,
    options_field: "criterion",
    in_groups: false,
    formula: "the most frequent of the scores that the judge gives, within the caller's lowest and highest",
    source: "RAGAS, SimpleCriteriaScore",
    differs: "The scale is stated and kept; several samples are that many judgements.",
    ..Definition::JUDGED
};

/// `votes` are the scores that were given, of `criterion.samples`.
pub fn score(votes: &[i32], criterion: &Criterion) -> Estimate {
    match votes::most_frequent(votes) {
        Some((score, _)) if votes::is_settled(votes, criterion.samples - votes.len()) => {
            Estimate::Exact(f64::from(*score))
        }
        _ => Estimate::Between(f64::from(criterion.lowest), f64::from(criterion.highest)),
    }
}
