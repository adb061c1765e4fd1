//! Numeric: a number in the caller's range, the mean of the judgements.
//!
//! Source: RAGAS, numeric metrics.

use super::votes::{Votes, about_sample};
use crate::{
    evaluate::{
        definition::Definition,
        finding::{Computation, Found},
        metric::MetricType,
        options::OptionReader,
        prompts::Template,
        replies::NumberReply,
        score::Estimate,
        steps::{Ledger, Steps},
    },
    proto::metric_selection::Options,
};

/// The largest bound of a range, far from where numbers overflow.
const LARGEST_NUMBER: f64 = 1e12;

/// The number that the judge gives.
#[derive(Clone, Debug, PartialEq)]
pub struct Numeric {
    /// Instruction to the judge.
    pub instruction: String,
    /// Lowest score.
    pub lowest: f64,
    /// Above the lowest.
    pub highest: f64,
    /// The number of judgements.
    pub samples: usize,
}

impl Default for Numeric {
    fn default() -> Numeric {
        Numeric { instruction: String::new(), lowest: 0.0, highest: 1.0, samples: 1 }
    }
}

/// The mean; `given` are numbers within the range, of `options.samples`.
pub fn score(given: &[f64], options: &Numeric) -> Estimate {
    let missing = (options.samples - given.len()) as f64;
    let mean = |filled: f64| (given.iter().sum::<f64>() + missing * filled) / options.samples as f64;
    if missing > 0.0 {
        Estimate::Between(mean(options.lowest), mean(options.highest))
    } else {
        Estimate::Exact(mean(0.0))
    }
}

impl MetricType for Numeric {
    const DEFINITION: &Definition = &Definition {
        name: "numeric",
        higher_is_better: None,
        judge_calls: 1,
        options_field: "numeric",
        in_groups: false,
        formula: "the mean of the numbers that the judge gives, within the caller's lowest and highest",
        source: "RAGAS, NumericMetric",
        differs: "A number outside of the range is unreadable, not cut to it.",
        ..Definition::JUDGED
    };

    fn read(options: Options, reader: &mut OptionReader<'_>) -> Option<Numeric> {
        let Options::Numeric(options) = options else { return None };
        let numbers = -LARGEST_NUMBER..=LARGEST_NUMBER;
        reader.text("numeric.instruction", &options.instruction);
        let lowest = reader.number("numeric.lowest", options.lowest, 0.0, numbers.clone());
        let highest = reader.number("numeric.highest", options.highest, 1.0, numbers);
        reader.scale("numeric.highest", &lowest, &highest);
        let samples = reader.number("numeric.samples", options.samples, 1, 1..=9) as usize;
        Some(Numeric { instruction: options.instruction, lowest, highest, samples })
    }

    fn required_options() -> Option<Options> {
        Some(Options::Numeric(Default::default()))
    }

    async fn find(&self, steps: &Steps<'_>, ledger: &mut Ledger) -> Found {
        let (lowest, highest) = (self.lowest.to_string(), self.highest.to_string());
        let question = about_sample(steps, Template::Numeric)
            .await?
            .fill("instruction", &self.instruction)
            .fill("minimum", &lowest)
            .fill("maximum", &highest);
        let range = self.lowest..=self.highest;
        let off_scale = format!("the number is not from {lowest} to {highest}");
        let read = move |reply: NumberReply| match range.contains(&reply.value) {
            true => Ok((reply.value, reply.reason)),
            false => Err(off_scale.clone()),
        };
        let votes = Votes::ask(steps, ledger, question, self.samples, read).await?;
        let options = self.clone();
        Ok(Computation::of(move || {
            let estimate = score(&votes.given, &options);
            votes.found(estimate)
        }))
    }
}
