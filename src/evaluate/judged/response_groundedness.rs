//! Response groundedness: whether the contexts support the response as a whole, by two differently worded judges.
//!
//! Range 0 to 1, higher is better. Source: RAGAS, response groundedness (nv_response_groundedness).

use crate::evaluate::{
    metric::Definition,
    sample::Field::{Response, RetrievedContexts},
};

/// The highest rating; the others are 1 and 0.
pub const HIGHEST: u32 = 2;

pub const DEFINITION: Definition = Definition {
    name: "response_groundedness",
    needs: &[Response, RetrievedContexts],
    judge_calls: 2,
    formula: "mean of two ratings of 0, 1 or 2, divided by 2",
    source: "RAGAS, ResponseGroundedness",
    differs: "A judge that fails leaves the result PARTIAL, where RAGAS takes the other's rating alone.",
    ..Definition::JUDGED
};
