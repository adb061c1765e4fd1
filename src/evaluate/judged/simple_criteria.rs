//! Simple criteria: a score by a criterion of the caller's, the most frequent of the judgements.
//!
//! From the caller's lowest to the highest, 0 to 5 by default; higher is better. Source: RAGAS, simple criteria.

use super::{
    aspect_critic::Criterion,
    votes::{self, Votes, about_sample},
};
use crate::evaluate::{
    definition::Definition,
    finding::{Computation, Found},
    metric::MetricType,
    options::OptionReader,
    prompts::Template,
    replies::GradeReply,
    sample::Field::Response,
    score::Estimate,
    steps::{Ledger, Steps},
};
use crate::proto::metric_selection::Options;

/// A score by a criterion.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SimpleCriteria(pub Criterion);

/// `votes` are the scores that were given, of `criterion.samples`.
pub fn score(votes: &[i32], criterion: &Criterion) -> Estimate {
    match votes::most_frequent(votes) {
        Some((score, _)) if votes::is_settled(votes, criterion.samples - votes.len()) => {
            Estimate::Exact(f64::from(*score))
        }
        _ => Estimate::Between(f64::from(criterion.lowest), f64::from(criterion.highest)),
    }
}

impl MetricType for SimpleCriteria {
    const DEFINITION: &Definition = &Definition {
        name: "simple_criteria",
        needs: &[Response],
        highest: 5.0,
        judge_calls: 1,
        options_field: "criterion",
        in_groups: false,
        formula: "the most frequent of the scores that the judge gives, within the caller's lowest and highest",
        source: "RAGAS, SimpleCriteriaScore",
        differs: "The scale is stated and kept; several samples are that many judgements.",
        ..Definition::JUDGED
    };

    fn read(options: Options, reader: &mut OptionReader<'_>) -> Option<SimpleCriteria> {
        Criterion::read(options, reader).map(SimpleCriteria)
    }

    fn required_options() -> Option<Options> {
        Some(Options::Criterion(Default::default()))
    }

    async fn find(&self, steps: &Steps<'_>, ledger: &mut Ledger) -> Found {
        let Criterion { definition, lowest, highest, samples } = self.0.clone();
        let instruction = format!("{definition}\nWhole numbers from {lowest} to {highest}.");
        let question = about_sample(steps, Template::Criteria).await?.fill("instruction", &instruction);
        let read = move |reply: GradeReply| match i32::try_from(reply.score.0) {
            Ok(score) if (lowest..=highest).contains(&score) => Ok((score, reply.reason)),
            _ => Err(format!("the score is not from {lowest} to {highest}")),
        };
        let votes = Votes::ask(steps, ledger, question, samples, read).await?;
        let criterion = self.0.clone();
        Ok(Computation::of(move || {
            let estimate = score(&votes.given, &criterion);
            votes.found(estimate)
        }))
    }
}
