//! Context relevance: whether the contexts hold what the question needs, by two differently worded judges.
//!
//! Range 0 to 1, higher is better. Source: RAGAS, context relevance (nv_context_relevance).

use super::ratings::{contexts_part, rate, two_ratings};
use crate::evaluate::{
    definition::Definition,
    finding::{Computation, Finding, Found},
    metric::MetricType,
    prompts::Template,
    sample::Field::{RetrievedContexts, UserInput},
    score::Estimate,
    steps::{JudgeQuestion, Ledger, Steps},
};
use futures::future::join;
use serde_json::json;

/// The mean of two ratings of whether the contexts hold what the question needs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ContextRelevance;

/// The highest rating; the others are 1 and 0.
pub const HIGHEST: u32 = 2;

impl MetricType for ContextRelevance {
    const DEFINITION: &Definition = &Definition {
        name: "context_relevance",
        needs: &[UserInput, RetrievedContexts],
        judge_calls: 2,
        formula: "mean of two ratings of 0, 1 or 2, divided by 2",
        source: "RAGAS, ContextRelevance",
        differs: "A judge that fails leaves the result PARTIAL, where RAGAS takes the other's rating alone.",
        ..Definition::JUDGED
    };

    async fn find(&self, steps: &Steps<'_>, ledger: &mut Ledger) -> Found {
        let parts = steps.derive(|sample| {
            let repeats = sample.user_input.trim().contains(sample.joined_contexts().trim());
            (!repeats).then(|| [contexts_part(sample), contexts_part(sample)])
        });
        let Some([first, second]) = parts.await? else {
            let nothing = Estimate::Exact(0.0);
            return Ok(Computation::done(Finding::of(nothing, "the contexts only repeat the question")));
        };
        let ask = |template, contexts| {
            let question = JudgeQuestion::new(template).parts(vec![contexts]);
            rate(steps, question.part("question", json!(steps.sample.user_input)))
        };
        let rated = join(ask(Template::ContextRelevanceA, first), ask(Template::ContextRelevanceB, second));
        two_ratings(ledger, rated.await.into(), HIGHEST)
    }
}
