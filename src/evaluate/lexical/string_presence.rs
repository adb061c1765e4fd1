//! String presence: 1 if the reference stands in the response, 0 otherwise. Source: RAGAS's StringPresence.

use super::{PAIR, compare};
use crate::evaluate::{
    definition::Definition,
    finding::Found,
    metric::MetricType,
    steps::{Ledger, Steps},
};
use crate::evaluate::{options::OptionReader, pool::Length};
use crate::proto::metric_selection::Options;

use super::Pair;
use crate::evaluate::text::normalize;

/// The options of the metric.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StringPresence {
    /// Ignores differences in case, width and white space.
    pub normalize: bool,
}

/// 1 if the response contains the reference, 0 otherwise; `None` if the reference is blank, which is in any text.
pub fn score(pair: Pair<'_>, options: &StringPresence) -> Option<f64> {
    let Pair { response, reference } = pair;
    if reference.trim().is_empty() {
        return None;
    }
    let is_present = if options.normalize {
        normalize(response).contains(&normalize(reference))
    } else {
        response.contains(reference)
    };
    Some(f64::from(is_present))
}

impl MetricType for StringPresence {
    const DEFINITION: &Definition = &Definition {
        name: "string_presence",
        options_field: "match",
        formula: "1 if the reference stands in the response, else 0",
        source: "RAGAS, StringPresence",
        labels: Some(["fail", "pass"]),
        ..PAIR
    };

    fn read(options: Options, _: &mut OptionReader<'_>) -> Option<StringPresence> {
        let Options::Match(options) = options else { return None };
        Some(StringPresence { normalize: options.normalize })
    }

    async fn find(&self, steps: &Steps<'_>, _: &mut Ledger) -> Found {
        let options = self.clone();
        compare(steps, Length::Short, move |texts, _| Ok(score(texts.pair(), &options)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(response: &str, reference: &str, normalize: bool, expected: Option<f64>) {
        assert_eq!(
            score(Pair { response, reference }, &StringPresence { normalize }),
            expected,
            "{response:?} {reference:?}"
        );
    }

    #[test]
    fn the_reference_is_sought_in_the_response() {
        check("The capital is Paris.", "Paris", false, Some(1.0));
        check("首都是巴黎。", "巴黎", false, Some(1.0));
        check("Paris", "The capital is Paris.", false, Some(0.0));
        check("it is PARIS", "Paris", false, Some(0.0));
        check("it is  PARIS", "is Paris", true, Some(1.0));
        check("anything", " ", false, None);
    }
}
