//! Rubrics: which description of a score fits the answer, with one rubric for all samples or one in each.
//!
//! From the lowest score of the rubric to the highest; higher is better. Source: RAGAS, rubric-based scores.

use std::collections::BTreeMap;

use super::votes::{Votes, about_sample};
use crate::{
    evaluate::{
        definition::Definition,
        finding::{Computation, Found},
        metric::MetricType,
        options::OptionReader,
        prompts::Template,
        replies::GradeReply,
        sample::Field::{self, Response},
        score::Estimate,
        steps::{Ledger, Steps},
    },
    proto::metric_selection::Options,
};

/// The score of one rubric for all samples.
#[derive(Clone, Debug, PartialEq)]
pub struct Rubrics {
    /// The meaning of each score.
    pub rubrics: BTreeMap<i32, String>,
}

impl Default for Rubrics {
    /// Five scores, from wrong to complete.
    fn default() -> Rubrics {
        let meanings = [
            "The response is wrong, or does not answer the question.",
            "The response is partly right, with serious mistakes or gaps.",
            "The response is mostly right, but misses or blurs something that matters.",
            "The response is right, with small gaps or unclear places.",
            "The response is right, complete and clear.",
        ];
        Rubrics { rubrics: (1..).zip(meanings.map(str::to_owned)).collect() }
    }
}

impl MetricType for Rubrics {
    const DEFINITION: &Definition = &Definition {
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

    fn read(options: Options, reader: &mut OptionReader<'_>) -> Option<Rubrics> {
        let Options::Rubrics(options) = options else { return None };
        if options.rubrics.is_empty() {
            return Some(Rubrics::default());
        }
        Some(Rubrics { rubrics: reader.rubrics("rubrics.rubrics", options.rubrics) })
    }

    async fn find(&self, steps: &Steps<'_>, ledger: &mut Ledger) -> Found {
        grade(steps, ledger, &self.rubrics).await
    }
}

/// The score of a rubric that each sample brings.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct InstanceRubrics;

impl MetricType for InstanceRubrics {
    const DEFINITION: &Definition = &Definition {
        name: "instance_rubrics",
        needs: &[Response, Field::Rubrics],
        options_field: "",
        in_groups: true,
        formula: "the score whose description in the sample's rubrics fits best",
        source: "RAGAS, InstanceRubrics",
        ..*Rubrics::DEFINITION
    };

    async fn find(&self, steps: &Steps<'_>, ledger: &mut Ledger) -> Found {
        grade(steps, ledger, &steps.sample.rubrics).await
    }
}

async fn grade(steps: &Steps<'_>, ledger: &mut Ledger, rubrics: &BTreeMap<i32, String>) -> Found {
    let instruction = lines(rubrics);
    let question = about_sample(steps, Template::Rubric).await?.fill("instruction", &instruction);
    let scores: Vec<i32> = rubrics.keys().copied().collect();
    let read = move |reply: GradeReply| match i32::try_from(reply.score.0) {
        Ok(score) if scores.contains(&score) => Ok((score, reply.reason)),
        _ => Err("the rubric has no such score".to_owned()),
    };
    let votes = Votes::ask(steps, ledger, question, 1, read).await?;
    let estimate = Estimate::Exact(f64::from(votes.given[0]));
    Ok(Computation::of(move || votes.found(estimate)))
}

/// One line for each score, lowest first.
fn lines(rubrics: &BTreeMap<i32, String>) -> String {
    rubrics.iter().map(|(score, meaning)| format!("{score}: {meaning}\n")).collect()
}
