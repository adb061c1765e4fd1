//! Response groundedness: whether the contexts support the response as a whole, by two differently worded judges.
//!
//! Range 0 to 1, higher is better. Source: RAGAS, response groundedness (nv_response_groundedness).

use super::ratings::{contexts_part, rate, two_ratings};
use crate::evaluate::{
    definition::Definition,
    finding::{Computation, Finding, Found},
    metric::MetricType,
    prompts::Template,
    sample::Field::{Response, RetrievedContexts},
    score::Estimate,
    steps::{JudgeQuestion, Ledger, Steps},
};
use futures::future::join;
use serde_json::json;

/// The mean of two ratings of how far the contexts support the response.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ResponseGroundedness;

/// The highest rating; the others are 1 and 0.
pub const HIGHEST: u32 = 2;

impl MetricType for ResponseGroundedness {
    const DEFINITION: &Definition = &Definition {
        name: "response_groundedness",
        needs: &[Response, RetrievedContexts],
        judge_calls: 2,
        formula: "mean of two ratings of 0, 1 or 2, divided by 2",
        source: "RAGAS, ResponseGroundedness",
        differs: "A judge that fails leaves the result PARTIAL, where RAGAS takes the other's rating alone.",
        ..Definition::JUDGED
    };

    async fn find(&self, steps: &Steps<'_>, ledger: &mut Ledger) -> Found {
        let parts = steps.derive(|sample| {
            let stands = sample.joined_contexts().trim().contains(sample.response.trim());
            (!stands).then(|| [contexts_part(sample), contexts_part(sample)])
        });
        let Some([first, second]) = parts.await? else {
            let reason = "the response stands word for word in the contexts";
            return Ok(Computation::done(Finding::of(Estimate::Exact(1.0), reason)));
        };
        let ask = |template, contexts| {
            let question = JudgeQuestion::new(template).parts(vec![contexts]);
            rate(steps, question.part("response", json!(steps.sample.response)))
        };
        let rated = join(ask(Template::GroundednessA, first), ask(Template::GroundednessB, second)).await;
        two_ratings(ledger, rated.into(), HIGHEST)
    }
}
