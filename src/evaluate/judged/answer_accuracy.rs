//! Answer accuracy: how well the response agrees with the reference, by two differently worded judges.
//!
//! Range 0 to 1, higher is better. Source: RAGAS, answer accuracy (nv_accuracy).

use crate::evaluate::{
    metric::Definition,
    sample::Field::{Reference, Response, UserInput},
};

/// The highest rating; the others are 2 and 0.
pub const HIGHEST: u32 = 4;

pub const DEFINITION: Definition = Definition {
    name: "answer_accuracy",
    needs: &[UserInput, Response, Reference],
    judge_calls: 2,
    formula: "mean of two ratings of 0, 2 or 4, divided by 4",
    source: "RAGAS, AnswerAccuracy",
    differs: "A judge that fails leaves the result PARTIAL, where RAGAS takes the other's rating alone.",
    ..Definition::JUDGED
};
