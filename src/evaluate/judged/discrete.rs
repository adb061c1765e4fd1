//! Discrete: one of the caller's values, by the majority of judgements.
//!
//! Source: RAGAS, discrete metrics.

use std::ops::RangeInclusive;

use super::votes::{self, Votes, about_sample};
use crate::{
    evaluate::{
        definition::Definition,
        finding::{Computation, Finding, Found},
        metric::MetricType,
        options::OptionReader,
        prompts::Template,
        replies::ValueReply,
        score::Estimate,
        steps::{Ledger, Steps},
    },
    proto::metric_selection::Options,
};

/// The number of values that a judge may choose from.
const VALUES: RangeInclusive<usize> = 2..=64;

/// The value that the judge chooses. Its score is its place among the values, from 0 for the first to 1 for the last.
#[derive(Clone, Debug, PartialEq)]
pub struct Discrete {
    /// Instruction to the judge.
    pub instruction: String,
    /// At least two.
    pub values: Vec<String>,
    /// The number of judgements; odd.
    pub samples: usize,
}

impl Default for Discrete {
    fn default() -> Discrete {
        Discrete { instruction: String::new(), values: Vec::new(), samples: 1 }
    }
}

/// The value that counts and its score; `votes` are indices into the values.
pub fn score(votes: &[usize], options: &Discrete) -> (Option<usize>, Estimate) {
    let last = (options.values.len() - 1).max(1) as f64;
    match votes::most_frequent(votes) {
        Some((&value, _)) if votes::is_settled(votes, options.samples - votes.len()) => {
            (Some(value), Estimate::Exact(value as f64 / last))
        }
        _ => (None, Estimate::Between(0.0, 1.0)),
    }
}

impl MetricType for Discrete {
    const DEFINITION: &Definition = &Definition {
        name: "discrete",
        higher_is_better: None,
        judge_calls: 1,
        options_field: "discrete",
        in_groups: false,
        formula: "the most frequent of the values that the judge chooses; as a score its place among the caller's values, \
                  from 0 for the first to 1 for the last",
        source: "RAGAS, DiscreteMetric",
        differs: "Has a number beside the value.",
        ..Definition::JUDGED
    };

    fn read(options: Options, reader: &mut OptionReader<'_>) -> Option<Discrete> {
        let Options::Discrete(options) = options else { return None };
        reader.text("discrete.instruction", &options.instruction);
        reader.count("discrete.values", options.values.len(), VALUES);
        for (index, value) in options.values.iter().enumerate().take(*VALUES.end()) {
            let field = format!("discrete.values[{index}]");
            reader.text(&field, value);
            if options.values[..index].contains(value) {
                reader.add(&field, "duplicate value");
            }
        }
        let samples = reader.judgements("discrete.samples", options.samples);
        Some(Discrete { instruction: options.instruction, values: options.values, samples })
    }

    fn required_options() -> Option<Options> {
        Some(Options::Discrete(Default::default()))
    }

    async fn find(&self, steps: &Steps<'_>, ledger: &mut Ledger) -> Found {
        let values = self.values.join(", ");
        let question = about_sample(steps, Template::Discrete)
            .await?
            .fill("instruction", &self.instruction)
            .fill("values", &values);
        let known: Vec<String> = self.values.iter().map(|value| value.trim().to_lowercase()).collect();
        let read = move |reply: ValueReply| {
            let chosen = reply.value.trim().to_lowercase();
            let index = known.iter().position(|value| *value == chosen);
            index
                .map(|index| (index, reply.reason))
                .ok_or_else(|| "the value is none of those asked for".to_owned())
        };
        let votes = Votes::ask(steps, ledger, question, self.samples, read).await?;
        let options = self.clone();
        Ok(Computation::of(move || {
            let (value, estimate) = score(&votes.given, &options);
            let value = value.map(|index| options.values[index].clone()).unwrap_or_default();
            Finding { value, ..votes.found(estimate) }
        }))
    }
}
