//! Metrics with an instruction of the caller's: a value of several, a number, an order.
//!
//! Source: RAGAS, discrete, numeric and ranking metrics.

use super::votes;
use crate::evaluate::{metric::Definition, score::Estimate};

/// One of the caller's values: its score is its place among them, from 0 for the first to 1 for the last.
pub const DISCRETE: Definition = Definition {
    name: "discrete",
    higher_is_better: None,
    judge_calls: 1,
    options_field: "discrete",
    in_groups: false,
    formula: "the most frequent of the values that the judge chooses; as a score its place among the caller's values, \
              from 0 for the first to 1 for the last",
    source: "RAGAS, DiscreteMetric",
    differs: "Has a number beside the value.",
    ..Definition::JUDGED
};

/// A number in the caller's range.
pub const NUMERIC: Definition = Definition {
    name: "numeric",
    higher_is_better: None,
    judge_calls: 1,
    options_field: "numeric",
    in_groups: false,
    formula: "the mean of the numbers that the judge gives, within the caller's lowest and highest",
    source: "RAGAS, NumericMetric",
    differs: "A number outside of the range is unreadable, not cut to it.",
    ..Definition::JUDGED
};

/// An order of the candidates; it has no score.
pub const RANKING: Definition = Definition {
    name: "ranking",
    higher_is_better: None,
    judge_calls: 1,
    options_field: "ranking",
    in_groups: false,
    formula: "the candidates in the order that the judge gives, best first; there is no score",
    source: "RAGAS, RankingMetric",
    differs: "An order that misses a candidate or repeats one is unreadable.",
    ..Definition::JUDGED
};

#[derive(Clone, Debug, PartialEq)]
pub struct Discrete {
    pub instruction: String,
    /// At least two.
    pub values: Vec<String>,
    /// Odd.
    pub samples: usize,
}

impl Default for Discrete {
    fn default() -> Discrete {
        Discrete { instruction: String::new(), values: Vec::new(), samples: 1 }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Numeric {
    pub instruction: String,
    pub lowest: f64,
    /// Above the lowest.
    pub highest: f64,
    pub samples: usize,
}

impl Default for Numeric {
    fn default() -> Numeric {
        Numeric { instruction: String::new(), lowest: 0.0, highest: 1.0, samples: 1 }
    }
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ranking {
    pub instruction: String,
    /// Empty for the retrieved contexts.
    pub candidates: Vec<String>,
}

/// The value that counts and its score; `votes` are indices into the values.
pub fn discrete(votes: &[usize], options: &Discrete) -> (Option<usize>, Estimate) {
    let last = (options.values.len() - 1).max(1) as f64;
    match votes::most_frequent(votes) {
        Some((&value, _)) if votes::is_settled(votes, options.samples - votes.len()) => {
            (Some(value), Estimate::Exact(value as f64 / last))
        }
        _ => (None, Estimate::Between(0.0, 1.0)),
    }
}

/// `given` are numbers within the range, of `options.samples`.
pub fn numeric(given: &[f64], options: &Numeric) -> Estimate {
    let missing = (options.samples - given.len()) as f64;
    let mean = |filled: f64| (given.iter().sum::<f64>() + missing * filled) / options.samples as f64;
    if missing > 0.0 {
        Estimate::Between(mean(options.lowest), mean(options.highest))
    } else {
        Estimate::Exact(mean(0.0))
    }
}
