//! Context relevance: whether the contexts hold what the question needs, by two differently worded judges.
//!
//! Range 0 to 1, higher is better. Source: RAGAS, context relevance (nv_context_relevance).

use crate::evaluate::{
    metric::Definition,
    sample::Field::{RetrievedContexts, UserInput},
};

/// The highest rating; the others are 1 and 0.
pub const HIGHEST: u32 = 2;

pub const DEFINITION: Definition = Definition {
    name: "context_relevance",
    needs: &[UserInput, RetrievedContexts],
    judge_calls: 2,
    formula: "mean of two ratings of 0, 1 or 2, divided by 2",
    source: "RAGAS, ContextRelevance",
    differs: "A judge that fails leaves the result PARTIAL, where RAGAS takes the other's rating alone.",
    ..Definition::JUDGED
};
