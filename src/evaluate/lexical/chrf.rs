//! chrF: the F-score of character n-grams, recall weighing more; chrF++ with words besides. 0 to 1, higher is better.
//!
//! Precision and recall are averaged over the orders that both texts have n-grams of; then
//! F = (1 + β²) · P · R / (β² · P + R). The numbers are those of sacrebleu's `sentence_chrf` without epsilon
//! smoothing, divided by 100. Source: Popović 2015, ACL W15-3049; Popović 2017, ACL W17-4770.

use super::{PAIR, compare};
use crate::evaluate::{
    definition::Definition,
    finding::Found,
    metric::MetricType,
    steps::{Ledger, Steps},
};
use crate::evaluate::{options::OptionReader, pool::Length};
use crate::proto::metric_selection::Options;

use super::{Pair, ngrams::Overlap};
use crate::evaluate::cancellation::{Cancellation, Cancelled};
use std::hash::Hash;

/// No n-gram is longer.
const LONGEST_ORDER: u8 = 16;

/// Recall never weighs more than the square of this.
const GREATEST_BETA: f64 = 1000.0;

/// The options of the metric.
#[derive(Clone, Debug, PartialEq)]
pub struct Chrf {
    /// The longest character n-grams, 1 to 16; 6 as a rule.
    pub char_order: u8,
    /// The longest word n-grams, up to 16: 0 for chrF, 2 for chrF++.
    pub word_order: u8,
    /// The weight of recall relative to precision, up to 1000; default 2, which also replaces NaN.
    pub beta: f64,
    /// Compares in lower case.
    pub lowercase: bool,
    /// Takes white space for characters.
    pub whitespace: bool,
}

impl Default for Chrf {
    fn default() -> Chrf {
        Chrf { char_order: 6, word_order: 0, beta: 2.0, lowercase: false, whitespace: false }
    }
}

/// chrF of the response against the reference; `None` if the reference is blank.
pub fn score(pair: Pair<'_>, options: &Chrf) -> Option<f64> {
    Cancellation::unlimited(|cancellation| score_cancellable(pair, options, cancellation))
}

/// Computes [`score`], but ends early once it is cancelled.
pub(in crate::evaluate) fn score_cancellable(
    pair: Pair<'_>,
    options: &Chrf,
    cancellation: Cancellation<'_>,
) -> Result<Option<f64>, Cancelled> {
    if pair.reference.trim().is_empty() {
        return Ok(None);
    }
    let texts = [pair.response, pair.reference];
    let [response, reference] =
        if options.lowercase { texts.map(str::to_lowercase) } else { texts.map(str::to_owned) };
    let characters = |text: &str| -> Vec<char> {
        text.chars().filter(|c| options.whitespace || !c.is_whitespace()).collect()
    };
    let (longest, [response_characters, reference_characters]) =
        (options.char_order.max(1), [&response, &reference].map(|text| characters(text)));
    let mut orders = overlaps(&response_characters, &reference_characters, longest, cancellation)?;
    orders.extend(overlaps(&words(&response), &words(&reference), options.word_order, cancellation)?);
    Ok(Some(f_score(&orders, options.beta)))
}

fn overlaps<T: Eq + Hash>(
    response: &[T],
    reference: &[T],
    max_order: u8,
    cancellation: Cancellation<'_>,
) -> Result<Vec<Overlap>, Cancelled> {
    let orders = 1..=usize::from(max_order.min(LONGEST_ORDER));
    let overlap = |order| {
        cancellation.check()?;
        Ok(Overlap::of_ngrams(response, reference, order))
    };
    orders.map(overlap).collect()
}

/// Words, with the mark at their end apart, or else the one at their start.
fn words(text: &str) -> Vec<&str> {
    let is_mark = |c: char| c.is_ascii_punctuation();
    let mut words = Vec::new();
    for word in text.split_whitespace() {
        let last = word.char_indices().next_back().map_or(0, |(at, _)| at);
        if last > 0 && word.ends_with(is_mark) {
            words.extend([&word[..last], &word[last..]]);
        } else if last > 0 && word.starts_with(is_mark) {
            words.extend([&word[..1], &word[1..]]);
        } else {
            words.push(word);
        }
    }
    words
}

fn f_score(orders: &[Overlap], beta: f64) -> f64 {
    let known: Vec<&Overlap> =
        orders.iter().filter(|order| order.response > 0 && order.reference > 0).collect();
    if known.iter().all(|order| order.matched == 0) {
        return 0.0;
    }
    let mean =
        |of: fn(Overlap) -> f64| known.iter().map(|order| of(**order)).sum::<f64>() / known.len() as f64;
    let (precision, recall) = (mean(Overlap::precision), mean(Overlap::recall));
    let beta = if beta.is_nan() { Chrf::default().beta } else { beta.abs().min(GREATEST_BETA) };
    let weight = beta * beta;
    ((1.0 + weight) * precision * recall / (weight * precision + recall)).clamp(0.0, 1.0)
}

impl MetricType for Chrf {
    const DEFINITION: &Definition = &Definition {
        name: "chrf",
        options_field: "chrf",
        formula: "F of the character n-grams of orders 1 to 6, recall counting twice as much; with word n-grams it is chrF++",
        source: "sacrebleu, sentence_chrf; Popović, ACL W15-3049",
        differs: "Divided by 100.",
        ..PAIR
    };

    fn read(options: Options, reader: &mut OptionReader<'_>) -> Option<Chrf> {
        let Options::Chrf(options) = options else { return None };
        Some(Chrf {
            char_order: reader.small("chrf.char_order", options.char_order, 6, 1..=10),
            word_order: reader.small("chrf.word_order", options.word_order, 0, 0..=4),
            beta: f64::from(reader.number("chrf.beta", options.beta, 2, 1..=10)),
            lowercase: options.lowercase,
            ..Chrf::default()
        })
    }

    async fn find(&self, steps: &Steps<'_>, _: &mut Ledger) -> Found {
        let options = self.clone();
        compare(steps, Length::Long, move |texts, cancellation| {
            score_cancellable(texts.pair(), &options, cancellation)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(response: &str, reference: &str, options: &Chrf, expected: Option<f64>) {
        assert_eq!(score(Pair { response, reference }, options), expected, "{response:?} {reference:?}");
    }

    #[test]
    fn identical_texts_score_one() {
        for text in ["a", "Paris.", "是", "法国的首都是巴黎。", "🎉"] {
            check(text, text, &Chrf::default(), Some(1.0));
            check(text, text, &Chrf { word_order: 2, ..Chrf::default() }, Some(1.0));
        }
    }

    #[test]
    fn nothing_in_common_is_zero_and_a_blank_reference_has_no_score() {
        check("abc", "xyz", &Chrf::default(), Some(0.0));
        check("", "xyz", &Chrf::default(), Some(0.0));
        check("xyz", "　", &Chrf::default(), None);
    }

    #[test]
    fn a_mark_is_cut_from_one_end_of_a_word() {
        assert_eq!(
            words("(yes) \"no\" a. . -- x"),
            ["(yes", ")", "\"no", "\"", "a", ".", ".", "-", "-", "x"]
        );
        assert_eq!(words("'tis 你好。"), ["'", "tis", "你好。"]);
    }

    prop_compose! {
        fn options()(
            char_order in any::<u8>(), word_order in any::<u8>(), beta in prop_oneof![any::<f64>(), 0.0..4.0],
            lowercase in any::<bool>(), whitespace in any::<bool>(),
        ) -> Chrf {
            Chrf { char_order, word_order, beta, lowercase, whitespace }
        }
    }

    proptest! {
        #[test]
        fn a_score_is_a_share(response in "[a-c你好 .,-]{0,20}|\\PC{0,20}", reference in "[a-c你好 .,-]{0,20}|\\PC{0,20}", options in options()) {
            if let Some(score) = score(Pair { response: &response, reference: &reference }, &options) {
                prop_assert!((0.0..=1.0).contains(&score), "{}", score);
            }
        }

        #[test]
        fn a_text_scores_one_against_itself(text in "[a-c你好 .,-]{1,20}|\\PC{1,20}", options in options()) {
            prop_assume!(!text.trim().is_empty());
            let score = score(Pair { response: &text, reference: &text }, &options);
            prop_assert!(score.is_some_and(|score| (score - 1.0).abs() < 1e-12), "{:?}", score);
        }
    }
}
