//! Rubrics: which description of a score fits the answer, with one rubric for all samples or one in each.
//!
//! From the lowest score of the rubric to the highest; higher is better. Source: RAGAS, rubric-based scores.

use std::collections::BTreeMap;

use crate::evaluate::{
    metric::Definition,
    sample::Field::{self, Response},
};

/// One rubric for all samples.
pub const DOMAIN: Definition = Definition {
    name: "rubrics",
    needs: &[Response],
    lowest: 1.0,
    highest: 5.0,
    judge_calls: 1,
    options_field: "rubrics",
    in_groups: false,
    formula: "the score whose description in the options fits best",
    source: "RAGAS, RubricsScore",
    differs: "A score that the rubric does not have is unreadable.",
    ..Definition::JUDGED
};

/// A rubric in each sample.
pub const INSTANCE: Definition = Definition {
    name: "instance_rubrics",
    needs: &[Response, Field::Rubrics],
    options_field: "",
    in_groups: true,
    formula: "the score whose description in the sample's rubrics fits best",
    source: "RAGAS, InstanceRubrics",
    ..DOMAIN
};

/// Scores with their meanings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    pub rubrics: BTreeMap<i32, String>,
}

impl Default for Options {
    /// From wrong to complete.
    fn default() -> Options {
        let meanings = [
            "The response is wrong, or does not answer the question.",
            "The response is partly right, with serious mistakes or gaps.",
            "The response is mostly right, but misses or blurs something that matters.",
            "The response is right, with small gaps or unclear places.",
            "The response is right, complete and clear.",
        ];
        Options { rubrics: (1..).zip(meanings.map(str::to_owned)).collect() }
    }
}

/// One line for each score, lowest first.
pub fn lines(rubrics: &BTreeMap<i32, String>) -> String {
    rubrics.iter().map(|(score, meaning)| format!("{score}: {meaning}\n")).collect()
}
