//! Refusal: whether the response declines to answer.
//!
//! 0 or 1; which is better depends on the question. Source: DeepEval and Phoenix have the like; the definition is ours.

use crate::evaluate::{
    definition::Definition,
    finding::{Computation, Finding, Found},
    metric::MetricType,
    prompts::Template,
    replies::RefusalReply,
    sample::Field::{Response, UserInput},
    score::Estimate,
    steps::{JudgeQuestion, Ledger, Steps},
};
use serde_json::json;

/// A yes or no on whether the response declines to answer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Refusal;

impl MetricType for Refusal {
    const DEFINITION: &Definition = &Definition {
        name: "refusal",
        needs: &[UserInput, Response],
        higher_is_better: None,
        judge_calls: 1,
        formula: "1 if the response declines or fails to answer, else 0; known phrases in English and Chinese need no judge call",
        source: "the definition is Assay's",
        labels: Some(["answer", "refusal"]),
        ..Definition::JUDGED
    };

    async fn find(&self, steps: &Steps<'_>, ledger: &mut Ledger) -> Found {
        if steps.analysis()?.response_refuses {
            let reason = "the response is a known form of refusal";
            return Ok(Computation::done(Finding::of(Estimate::Exact(1.0), reason)));
        }
        let question = JudgeQuestion::new(Template::Refusal)
            .part("question", json!(steps.sample.user_input))
            .part("response", json!(steps.sample.response));
        let (reply, cost) = steps.ask::<RefusalReply>(question).await;
        ledger.enter(cost);
        let reply = reply?;
        let score = f64::from(u8::from(reply.refusal.0));
        let finding = Finding::of(Estimate::Exact(score), reply.reason);
        Ok(Computation::of(move || finding.counting(&[Some(())])))
    }
}
