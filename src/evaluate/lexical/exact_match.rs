//! Exact match: 1 if response and reference are the same text, 0 otherwise. Source: RAGAS's ExactMatch.

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
pub struct ExactMatch {
    /// Takes texts that differ in case, width and white space alone for the same.
    pub normalize: bool,
}

/// 1 if they are equal, 0 otherwise.
pub fn score(pair: Pair<'_>, options: &ExactMatch) -> f64 {
    let Pair { response, reference } = pair;
    let is_equal =
        if options.normalize { normalize(response) == normalize(reference) } else { response == reference };
    f64::from(is_equal)
}

impl MetricType for ExactMatch {
    const DEFINITION: &Definition = &Definition {
        name: "exact_match",
        options_field: "match",
        formula: "1 if response and reference are the same, else 0",
        source: "RAGAS, ExactMatch",
        labels: Some(["fail", "pass"]),
        ..PAIR
    };

    fn read(options: Options, _: &mut OptionReader<'_>) -> Option<ExactMatch> {
        let Options::Match(options) = options else { return None };
        Some(ExactMatch { normalize: options.normalize })
    }

    async fn find(&self, steps: &Steps<'_>, _: &mut Ledger) -> Found {
        let options = self.clone();
        compare(steps, Length::Short, move |texts, _| Ok(Some(score(texts.pair(), &options))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(response: &str, reference: &str, normalize: bool, expected: f64) {
        assert_eq!(
            score(Pair { response, reference }, &ExactMatch { normalize }),
            expected,
            "{response:?} {reference:?}"
        );
    }

    #[test]
    fn only_equal_texts_score_one() {
        check("Paris", "Paris", false, 1.0);
        check("巴黎", "巴黎", false, 1.0);
        check("Paris ", "paris", false, 0.0);
        check("Ｐaris ", "paris", true, 1.0);
        check("Paris.", "paris", true, 0.0);
        check("", "", false, 1.0);
    }
}
