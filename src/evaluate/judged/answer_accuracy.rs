//! Answer accuracy: how well the response agrees with the reference, by two differently worded judges.
//!
//! Range 0 to 1, higher is better. Source: RAGAS, answer accuracy (nv_accuracy).

use super::ratings::two_ratings;
use crate::evaluate::{
    definition::Definition,
    finding::Found,
    metric::MetricType,
    prompts::Template,
    replies::AccuracyReply,
    sample::Field::{Reference, Response, UserInput},
    steps::{JudgeQuestion, Ledger, Steps},
};
use futures::future::join;
use serde_json::json;

/// The mean of two ratings of how well the response agrees with the reference.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AnswerAccuracy;

/// The highest rating; the others are 2 and 0.
pub const HIGHEST: u32 = 4;

impl MetricType for AnswerAccuracy {
    const DEFINITION: &Definition = &Definition {
        name: "answer_accuracy",
        needs: &[UserInput, Response, Reference],
        judge_calls: 2,
        formula: "mean of two ratings of 0, 2 or 4, divided by 4",
        source: "RAGAS, AnswerAccuracy",
        differs: "A judge that fails leaves the result PARTIAL, where RAGAS takes the other's rating alone.",
        ..Definition::JUDGED
    };

    async fn find(&self, steps: &Steps<'_>, ledger: &mut Ledger) -> Found {
        let sample = &steps.sample;
        let ask = |template| {
            let question = JudgeQuestion::new(template)
                .part("question", json!(sample.user_input))
                .part("reference", json!(sample.reference))
                .part("response", json!(sample.response));
            async {
                let (reply, cost) = steps.ask::<AccuracyReply>(question).await;
                (reply.map(|reply| (reply.rating, reply.reason)), cost)
            }
        };
        let rated = join(ask(Template::AccuracyA), ask(Template::AccuracyB)).await;
        two_ratings(ledger, rated.into(), HIGHEST)
    }
}
