//! Refusal: whether the response declines to answer.
//!
//! 0 or 1; which is better depends on the question. Source: DeepEval and Phoenix have the like; the definition is ours.

use crate::evaluate::{
    metric::Definition,
    sample::Field::{Response, UserInput},
};

pub const DEFINITION: Definition = Definition {
    name: "refusal",
    needs: &[UserInput, Response],
    higher_is_better: None,
    judge_calls: 1,
    formula: "1 if the response declines or fails to answer, else 0; known phrases in English and Chinese need no judge call",
    source: "the definition is Assay's",
    ..Definition::JUDGED
};
