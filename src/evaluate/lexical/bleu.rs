//! BLEU: the geometric mean of n-gram precisions, times a penalty for short responses. 0 to 1, higher is better.
//!
//! BLEU = BP · exp(1/N · Σ ln pₙ), with pₙ the clipped precision of n-grams and BP = 1 if the response is as long as the
//! reference, exp(1 − reference / response) otherwise. The numbers are those of sacrebleu's `sentence_bleu`, divided
//! by 100, over the whole text. Source: Papineni et al. 2002, ACL P02-1040; Post 2018, arXiv:1804.08771;
//! smoothing: Chen and Cherry 2014, ACL W14-3346.

use super::{PAIR, compare};
use crate::evaluate::{
    definition::Definition,
    finding::Found,
    metric::MetricType,
    steps::{Ledger, Steps},
};
use crate::evaluate::{options::OptionReader, pool::Length};
use crate::proto::{self, metric_selection::Options};

use super::{Pair, ngrams::Overlap};
use crate::evaluate::cancellation::{Cancellation, Cancelled};

mod tokenizer;

pub use tokenizer::BleuTokenizer;

/// No n-gram is longer.
const LONGEST_ORDER: u8 = 16;

/// The options of the metric.
#[derive(Clone, Debug, PartialEq)]
pub struct Bleu {
    /// The tokenizer.
    pub tokenizer: BleuTokenizer,
    /// The smoothing of a precision of 0.
    pub smoothing: BleuSmoothing,
    /// The longest n-grams, 1 to 16; 4 as a rule.
    pub max_order: u8,
    /// Leaves out orders that the response is too short for. Without it, short identical texts score 0, and a single
    /// answer is not what BLEU was made for.
    pub effective_order: bool,
    /// Compares in lower case.
    pub lowercase: bool,
}

impl Default for Bleu {
    fn default() -> Bleu {
        Bleu {
            tokenizer: BleuTokenizer::Auto,
            smoothing: BleuSmoothing::Exponential,
            max_order: 4,
            effective_order: true,
            lowercase: false,
        }
    }
}

/// The smoothing of a precision of 0.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum BleuSmoothing {
    /// A half of a match for the first such order, a quarter for the next, and so on.
    #[default]
    Exponential,
    /// This many matches; sacrebleu's own is 0.1. Anything but a finite number from 0 counts as 0.
    Floor(f64),
    /// This many more matches and n-grams in each order above 1; sacrebleu's own is 1. Bounded like `Floor`.
    AddK(f64),
    /// Nothing: the score is 0.
    None,
}

/// BLEU of the response against the reference; `None` if the reference is blank.
pub fn score(pair: Pair<'_>, options: &Bleu) -> Option<f64> {
    Cancellation::unlimited(|cancellation| score_cancellable(pair, options, cancellation))
}

/// Computes [`score`], but ends early once it is cancelled.
pub(in crate::evaluate) fn score_cancellable(
    pair: Pair<'_>,
    options: &Bleu,
    cancellation: Cancellation<'_>,
) -> Result<Option<f64>, Cancelled> {
    if pair.reference.trim().is_empty() {
        return Ok(None);
    }
    let tokenizer = options.tokenizer.resolve(pair.reference);
    let [response, reference] = [pair.response, pair.reference].map(|text| {
        let text = if options.lowercase { text.to_lowercase() } else { text.to_owned() };
        tokenizer.cut(&text)
    });
    if response.is_empty() && reference.is_empty() {
        // Markup that the tokenizer drops.
        return Ok(Some(if pair.response == pair.reference { 1.0 } else { 0.0 }));
    }
    let precision = mean_precision(&response, &reference, options, cancellation)?;
    Ok(Some((brevity(response.len(), reference.len()) * precision).clamp(0.0, 1.0)))
}

fn brevity(response: usize, reference: usize) -> f64 {
    match response {
        0 => 0.0,
        _ if response < reference => (1.0 - reference as f64 / response as f64).exp(),
        _ => 1.0,
    }
}

/// The geometric mean of the smoothed precisions of all orders.
fn mean_precision(
    response: &[String],
    reference: &[String],
    options: &Bleu,
    cancellation: Cancellation<'_>,
) -> Result<f64, Cancelled> {
    let max_order = options.max_order.clamp(1, LONGEST_ORDER);
    let overlap = |order: u8| {
        cancellation.check()?;
        Ok(Overlap::of_ngrams(response, reference, order.into()))
    };
    let orders: Vec<Overlap> = (1..=max_order).map(overlap).collect::<Result<_, _>>()?;
    if orders.iter().all(|order| order.matched == 0) {
        return Ok(0.0);
    }
    let precisions = smoothed(&orders, options.smoothing);
    let divisor = if options.effective_order { precisions.len() } else { orders.len() };
    // Orders that the response is too short for have a precision of 0 unless they are left out.
    if precisions.len() < divisor {
        return Ok(0.0);
    }
    Ok((precisions.iter().map(|precision| precision.ln()).sum::<f64>() / divisor as f64).exp())
}

/// Precisions of the orders that the response has n-grams of.
fn smoothed(orders: &[Overlap], smoothing: BleuSmoothing) -> Vec<f64> {
    let mut share = 1.0;
    let mut precisions = Vec::with_capacity(orders.len());
    for (at, order) in orders.iter().enumerate() {
        let more = match smoothing {
            BleuSmoothing::AddK(k) if at > 0 => amount(k),
            _ => 0.0,
        };
        let (matched, total) = (order.matched as f64 + more, order.response as f64 + more);
        if total == 0.0 {
            break;
        }
        let stand_in = match smoothing {
            BleuSmoothing::Exponential if matched == 0.0 => {
                share /= 2.0;
                share
            }
            BleuSmoothing::Floor(floor) => amount(floor),
            _ => 0.0,
        };
        precisions.push(if matched == 0.0 { stand_in } else { matched } / total);
    }
    precisions
}

fn amount(value: f64) -> f64 {
    if value.is_finite() { value.max(0.0) } else { 0.0 }
}

impl MetricType for Bleu {
    const DEFINITION: &Definition = &Definition {
        name: "bleu",
        options_field: "bleu",
        formula: "brevity penalty * geometric mean of the n-gram precisions of orders 1 to 4, exponentially smoothed, with \
                  effective order, divided by 100",
        source: "sacrebleu, sentence_bleu; Papineni et al., ACL P02-1040",
        differs: "Over the whole text, where RAGAS scores the first sentence. Chinese is cut into characters, so that \
                  equal texts score 1, where RAGAS gives 0.",
        ..PAIR
    };

    fn read(options: Options, reader: &mut OptionReader<'_>) -> Option<Bleu> {
        use proto::bleu_options::{Smoothing, Tokenizer};
        let Options::Bleu(options) = options else { return None };
        let tokenizer = match reader.choice("bleu.tokenizer", options.tokenizer) {
            Tokenizer::Unspecified => BleuTokenizer::Auto,
            Tokenizer::Tokenizer13a => BleuTokenizer::Mteval13a,
            Tokenizer::Zh => BleuTokenizer::Chinese,
            Tokenizer::Char => BleuTokenizer::Characters,
            Tokenizer::None => BleuTokenizer::None,
        };
        let smoothing = match reader.choice("bleu.smoothing", options.smoothing) {
            Smoothing::Unspecified | Smoothing::Exp => BleuSmoothing::Exponential,
            Smoothing::Floor => BleuSmoothing::Floor(0.1),
            Smoothing::AddK => BleuSmoothing::AddK(1.0),
            Smoothing::None => BleuSmoothing::None,
        };
        let max_order = reader.small("bleu.max_order", options.max_order, 4, 1..=8);
        Some(Bleu { tokenizer, smoothing, max_order, lowercase: options.lowercase, ..Bleu::default() })
    }

    async fn find(&self, steps: &Steps<'_>, _: &mut Ledger) -> Found {
        let options = self.clone();
        compare(steps, Length::Long, move |texts, cancellation| {
            let tokenizer = match options.tokenizer {
                BleuTokenizer::Auto => BleuTokenizer::of(texts.language),
                tokenizer => tokenizer,
            };
            score_cancellable(texts.pair(), &Bleu { tokenizer, ..options.clone() }, cancellation)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(response: &str, reference: &str, options: &Bleu, expected: Option<f64>) {
        assert_eq!(score(Pair { response, reference }, options), expected, "{response:?} {reference:?}");
    }

    #[test]
    fn identical_texts_score_one_however_short() {
        for text in ["Paris", "是", "法国的首都是巴黎。", "A b c d e. F g h.", "!", "🎉", "<skipped>"]
        {
            check(text, text, &Bleu::default(), Some(1.0));
        }
    }

    #[test]
    fn the_whole_text_counts_not_its_first_sentence() {
        let reference = "It is red. It is big.";
        let score = score(Pair { response: "It is red.", reference }, &Bleu::default());
        assert!(score.is_some_and(|score| (0.1..0.5).contains(&score)), "{score:?}");
    }

    #[test]
    fn a_blank_reference_has_no_score_and_a_blank_response_none_of_it() {
        check("text", " \n", &Bleu::default(), None);
        check("", "text", &Bleu::default(), Some(0.0));
        check("", "", &Bleu::default(), None);
    }

    #[test]
    fn without_the_effective_order_short_texts_score_zero() {
        let options = Bleu { effective_order: false, ..Bleu::default() };
        check("one two", "one two", &options, Some(0.0));
        check("one two three four", "one two three four", &options, Some(1.0));
    }

    prop_compose! {
        fn options()(
            tokenizer in prop::sample::select(BleuTokenizer::ALL.to_vec()),
            smoothing in prop_oneof![
                Just(BleuSmoothing::Exponential), any::<f64>().prop_map(BleuSmoothing::Floor), any::<f64>().prop_map(BleuSmoothing::AddK),
                (0.0..2.0).prop_map(BleuSmoothing::AddK), Just(BleuSmoothing::None),
            ],
            max_order in any::<u8>(), effective_order in any::<bool>(), lowercase in any::<bool>(),
        ) -> Bleu {
            Bleu { tokenizer, smoothing, max_order, effective_order, lowercase }
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
            let options = Bleu { effective_order: true, ..options };
            prop_assert_eq!(score(Pair { response: &text, reference: &text }, &options), Some(1.0));
        }
    }
}
