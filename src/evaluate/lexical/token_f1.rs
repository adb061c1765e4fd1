//! Token F1: the harmonic mean of the shares of tokens in common. 0 to 1, higher is better.
//!
//! Tokenization count as often as they occur on both sides. For English they are those of the SQuAD evaluation: lower case,
//! no ASCII punctuation, no articles; Chinese is compared by characters. Texts that nothing is left of are compared mark
//! by mark, where SQuAD 2.0 gives 1 to any two of them. Source: Rajpurkar et al. 2016, arXiv:1606.05250.

use super::{PAIR, compare};
use crate::evaluate::pool::Length;
use crate::evaluate::{
    definition::Definition,
    finding::Found,
    metric::MetricType,
    steps::{Ledger, Steps},
};

use super::{Pair, ngrams::Overlap, tokens::Tokenization};

/// The options of the metric.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TokenF1 {
    /// The tokenization of the texts.
    pub tokens: Tokenization,
}

/// F1 of the tokens; `None` if the reference is blank.
pub fn score(pair: Pair<'_>, options: &TokenF1) -> Option<f64> {
    if pair.reference.trim().is_empty() {
        return None;
    }
    let [response, reference] = options.tokens.cut(pair, squad);
    if response == reference {
        return Some(1.0);
    }
    Some(Overlap::of_ngrams(&response, &reference, 1).f1())
}

fn squad(text: &str) -> Vec<String> {
    let plain: String = text.to_lowercase().chars().filter(|c| !c.is_ascii_punctuation()).collect();
    without_articles(&plain).split_whitespace().map(str::to_owned).collect()
}

/// An article is one between whatever isn't part of a word.
fn without_articles(text: &str) -> String {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    let mut rest = text;
    let mut kept = String::with_capacity(text.len());
    while let Some(first) = rest.chars().next() {
        let kind = is_part(first);
        let end = rest.find(|c| is_part(c) != kind).unwrap_or(rest.len());
        let (run, tail) = rest.split_at(end);
        kept.push_str(if matches!(run, "a" | "an" | "the") { " " } else { run });
        rest = tail;
    }
    kept
}

impl MetricType for TokenF1 {
    const DEFINITION: &Definition = &Definition {
        name: "token_f1",
        formula: "F1 of the tokens in common, without case, punctuation and English articles; Chinese by characters",
        source: "Rajpurkar et al., arXiv:1606.05250",
        ..PAIR
    };

    async fn find(&self, steps: &Steps<'_>, _: &mut Ledger) -> Found {
        let tokens = self.tokens;
        compare(steps, Length::Long, move |texts, _| {
            Ok(score(texts.pair(), &TokenF1 { tokens: tokens.or_those_of(texts.language) }))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(response: &str, reference: &str, expected: Option<f64>) {
        assert_eq!(
            score(Pair { response, reference }, &TokenF1::default()),
            expected,
            "{response:?} {reference:?}"
        );
    }

    #[test]
    fn case_punctuation_and_articles_do_not_count() {
        check("The Eiffel Tower!", "an eiffel tower", Some(1.0));
        check("It is the tower in Paris", "Paris, the tower", Some(2.0 * 2.0 / 7.0));
        check("London", "Paris", Some(0.0));
        check("the", "the", Some(1.0));
        check("the", "!", Some(0.0));
        check("London", "the", Some(0.0));
        check("", "Paris", Some(0.0));
        check("Paris", "", None);
    }

    #[test]
    fn chinese_is_compared_by_characters() {
        check("首都是巴黎。", "首都是巴黎", Some(1.0));
        check("首都是巴黎", "首都是北京", Some(0.6));
    }

    proptest! {
        #[test]
        fn a_score_is_a_share_and_one_for_the_text_itself(a in "[a-c你好 .,-]{0,20}|\\PC{0,20}", b in "[a-c你好 .,-]{0,20}|\\PC{0,20}",
            tokens in prop::sample::select(vec![Tokenization::Auto, Tokenization::English, Tokenization::Characters, Tokenization::Words])) {
            let options = TokenF1 { tokens };
            if let Some(score) = score(Pair { response: &a, reference: &b }, &options) {
                prop_assert!((0.0..=1.0).contains(&score), "{}", score);
            }
            let itself = score(Pair { response: &a, reference: &a }, &options);
            prop_assert_eq!(itself, (!a.trim().is_empty()).then_some(1.0));
        }
    }
}
