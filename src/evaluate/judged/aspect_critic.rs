//! Aspect critic: whether the response keeps a criterion of the caller's, by the majority of judgements.
//!
//! 0 or 1; which is better is the criterion's. Source: RAGAS, aspect critic.

use super::votes::{self, Votes, about_sample};
use crate::evaluate::{
    definition::Definition,
    finding::{Computation, Found},
    metric::MetricType,
    options::OptionReader,
    prompts::Template,
    replies::AspectReply,
    sample::Field::Response,
    score::Estimate,
    steps::{Ledger, Steps},
};
use crate::proto::metric_selection::Options;

/// A yes or no on a criterion.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AspectCritic(pub Criterion);

/// A criterion of the caller's, for this metric and for simple_criteria.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Criterion {
    /// The criterion in words.
    pub definition: String,
    /// Odd.
    pub samples: usize,
    /// The scale of simple_criteria.
    pub lowest: i32,
    /// Highest score.
    pub highest: i32,
}

impl Default for Criterion {
    fn default() -> Criterion {
        Criterion { definition: String::new(), samples: 1, lowest: 0, highest: 5 }
    }
}

/// `votes` are the judgements that were given, of `samples`.
pub fn score(votes: &[bool], samples: usize) -> Estimate {
    match votes::most_frequent(votes) {
        Some((met, _)) if votes::is_settled(votes, samples - votes.len()) => {
            Estimate::Exact(f64::from(u8::from(*met)))
        }
        _ => Estimate::Between(0.0, 1.0),
    }
}

impl Criterion {
    pub(super) fn read(options: Options, reader: &mut OptionReader<'_>) -> Option<Criterion> {
        let Options::Criterion(options) = options else { return None };
        let default = Criterion::default();
        reader.text("criterion.definition", &options.definition);
        let lowest = options.lowest.unwrap_or(default.lowest);
        let highest = options.highest.unwrap_or(default.highest);
        reader.scale("criterion.highest", &lowest, &highest);
        let samples = reader.judgements("criterion.samples", options.samples);
        Some(Criterion { definition: options.definition, samples, lowest, highest })
    }
}

impl MetricType for AspectCritic {
    const DEFINITION: &Definition = &Definition {
        name: "aspect_critic",
        needs: &[Response],
        higher_is_better: None,
        judge_calls: 1,
        options_field: "criterion",
        in_groups: false,
        labels: Some(["fail", "pass"]),
        formula: "1 if most of the judgements say that the criterion is met, else 0",
        source: "RAGAS, AspectCritic",
        differs: "Several samples are that many judgements; RAGAS's strictness asks once and counts one answer.",
        ..Definition::JUDGED
    };

    fn read(options: Options, reader: &mut OptionReader<'_>) -> Option<AspectCritic> {
        Criterion::read(options, reader).map(AspectCritic)
    }

    fn required_options() -> Option<Options> {
        Some(Options::Criterion(Default::default()))
    }

    async fn find(&self, steps: &Steps<'_>, ledger: &mut Ledger) -> Found {
        let Criterion { definition, samples, .. } = self.0.clone();
        let question = about_sample(steps, Template::Aspect).await?.fill("instruction", &definition);
        let read = |reply: AspectReply| Ok((reply.verdict.0, reply.reason));
        let votes = Votes::ask(steps, ledger, question, samples, read).await?;
        Ok(Computation::of(move || {
            let estimate = score(&votes.given, samples);
            let yes = votes.given.iter().filter(|vote| **vote).count() as f64;
            votes.found(estimate).detail("votes_for", yes)
        }))
    }
}
