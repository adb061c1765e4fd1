//! ROUGE: n-grams or the longest common subsequence that response and reference share. 0 to 1, higher is better.
//!
//! ROUGE-N counts the n-grams in common, ROUGE-L the tokens of the longest common subsequence; precision divides by
//! those of the response, recall by those of the reference, and the F-measure is their harmonic mean. For English the
//! numbers are those of the rouge_score package: runs of ASCII letters and digits in lower case, stemmed if longer
//! than three. Chinese has tokens of its own, since that package drops every character of it. Two texts with the same
//! tokens score 1 even if they have no n-gram, where the package gives 0. Source: Lin 2004, ACL W04-1013.

use super::{PAIR, compare};
use crate::evaluate::{
    definition::Definition,
    finding::Found,
    metric::MetricType,
    steps::{Ledger, Steps},
};
use crate::evaluate::{options::OptionReader, pool::Length};
use crate::proto::{self, metric_selection::Options};

use super::{Pair, ngrams::Overlap, porter, tokens::Tokenization};
use crate::evaluate::cancellation::{Cancellation, Cancelled};
use std::collections::HashMap;

/// Shorter words are not stemmed.
const SHORTEST_STEMMED: usize = 4;

/// The options of the metric.
#[derive(Clone, Debug, PartialEq)]
pub struct Rouge {
    /// The unit that is counted.
    pub variant: RougeVariant,
    /// The denominator.
    pub measure: RougeMeasure,
    /// The tokenization of the texts.
    pub tokens: Tokenization,
    /// Compares English words by their stems.
    pub stem: bool,
}

impl Default for Rouge {
    fn default() -> Rouge {
        Rouge {
            variant: RougeVariant::RougeL,
            measure: RougeMeasure::FMeasure,
            tokens: Tokenization::Auto,
            stem: true,
        }
    }
}

/// The unit that is counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RougeVariant {
    /// Tokenization.
    Rouge1,
    /// Pairs of tokens.
    Rouge2,
    /// The longest common subsequence.
    #[default]
    RougeL,
}

/// The denominator.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RougeMeasure {
    /// The count in the response.
    Precision,
    /// The count in the reference.
    Recall,
    /// Both: their harmonic mean.
    #[default]
    FMeasure,
}

/// ROUGE of the response against the reference; `None` if the reference is blank.
pub fn score(pair: Pair<'_>, options: &Rouge) -> Option<f64> {
    Cancellation::unlimited(|cancellation| score_cancellable(pair, options, cancellation))
}

/// Computes [`score`], but ends early once it is cancelled.
pub(in crate::evaluate) fn score_cancellable(
    pair: Pair<'_>,
    options: &Rouge,
    cancellation: Cancellation<'_>,
) -> Result<Option<f64>, Cancelled> {
    if pair.reference.trim().is_empty() {
        return Ok(None);
    }
    let [response, reference] = options.tokens.cut(pair, |text| english(text, options.stem));
    if response == reference {
        return Ok(Some(1.0));
    }
    cancellation.check()?;
    let overlap = match options.variant {
        RougeVariant::Rouge1 => Overlap::of_ngrams(&response, &reference, 1),
        RougeVariant::Rouge2 => Overlap::of_ngrams(&response, &reference, 2),
        RougeVariant::RougeL => longest_common_subsequence(&response, &reference, cancellation)?,
    };
    Ok(Some(match options.measure {
        RougeMeasure::Precision => overlap.precision(),
        RougeMeasure::Recall => overlap.recall(),
        RougeMeasure::FMeasure => overlap.f1(),
    }))
}

fn english(text: &str, stem: bool) -> Vec<String> {
    let lower = text.to_lowercase();
    let words = lower.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    words
        .map(|word| if stem && word.len() >= SHORTEST_STEMMED { porter::stem(word) } else { word.to_owned() })
        .collect()
}

fn longest_common_subsequence(
    response: &[String],
    reference: &[String],
    cancellation: Cancellation<'_>,
) -> Result<Overlap, Cancelled> {
    let mut ids = HashMap::new();
    let [a, b] = [response, reference].map(|tokens| -> Vec<u32> {
        let mut id = |token| {
            let next = ids.len() as u32;
            *ids.entry(token).or_insert(next)
        };
        tokens.iter().map(|token| id(token.as_str())).collect()
    });
    let matched = cancellation.run_guarded(|watch| {
        let [a, b] = [&a, &b].map(|tokens| watch.over(tokens.iter().copied()));
        rapidfuzz::distance::lcs_seq::similarity(a, b)
    })?;
    Ok(Overlap { response: a.len(), reference: b.len(), matched })
}

impl MetricType for Rouge {
    const DEFINITION: &Definition = &Definition {
        name: "rouge",
        options_field: "rouge",
        formula: "ROUGE-L by default, or ROUGE-1 and ROUGE-2: F, precision or recall of what is in common; English words \
                  are stemmed (Porter), Chinese is cut into characters or words",
        source: "rouge_score; Lin, ACL W04-1013",
        differs: "Chinese characters count, where RAGAS drops them: equal Chinese texts score 1, and 0 there.",
        ..PAIR
    };

    fn read(options: Options, reader: &mut OptionReader<'_>) -> Option<Rouge> {
        use proto::rouge_options::{Measure, Variant};
        let Options::Rouge(options) = options else { return None };
        let variant = match reader.choice("rouge.variant", options.variant) {
            Variant::Unspecified | Variant::L => RougeVariant::RougeL,
            Variant::Variant1 => RougeVariant::Rouge1,
            Variant::Variant2 => RougeVariant::Rouge2,
        };
        let measure = match reader.choice("rouge.measure", options.measure) {
            Measure::Unspecified | Measure::F => RougeMeasure::FMeasure,
            Measure::Precision => RougeMeasure::Precision,
            Measure::Recall => RougeMeasure::Recall,
        };
        let tokens = if options.chinese_words { Tokenization::Words } else { Tokenization::Auto };
        Some(Rouge { variant, measure, tokens, stem: options.stem.unwrap_or(true) })
    }

    async fn find(&self, steps: &Steps<'_>, _: &mut Ledger) -> Found {
        let options = self.clone();
        compare(steps, Length::Long, move |texts, cancellation| {
            let tokens = options.tokens.or_those_of(texts.language);
            score_cancellable(texts.pair(), &Rouge { tokens, ..options.clone() }, cancellation)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ALL: [RougeVariant; 3] = [RougeVariant::Rouge1, RougeVariant::Rouge2, RougeVariant::RougeL];

    fn check(response: &str, reference: &str, options: &Rouge, expected: Option<f64>) {
        assert_eq!(score(Pair { response, reference }, options), expected, "{response:?} {reference:?}");
    }

    #[test]
    fn identical_texts_score_one_in_every_variant() {
        for variant in ALL {
            for text in ["Paris", "是", "法国的首都是巴黎。", "🎉!", "Москва"] {
                check(text, text, &Rouge { variant, ..Rouge::default() }, Some(1.0));
            }
        }
    }

    #[test]
    fn chinese_is_compared_by_characters() {
        let options = Rouge { variant: RougeVariant::Rouge1, ..Rouge::default() };
        check("首都是巴黎", "首都是北京。", &options, Some(0.6));
        check(
            "首都是巴黎",
            "首都是北京。",
            &Rouge { tokens: Tokenization::Words, ..options },
            Some(2.0 / 3.0),
        );
    }

    #[test]
    fn precision_and_recall_divide_by_their_own_side() {
        let options =
            Rouge { variant: RougeVariant::RougeL, tokens: Tokenization::English, ..Rouge::default() };
        check(
            "the cat sat",
            "the dogs sat on the mat",
            &Rouge { measure: RougeMeasure::Precision, ..options.clone() },
            Some(2.0 / 3.0),
        );
        check(
            "the cat sat",
            "the dogs sat on the mat",
            &Rouge { measure: RougeMeasure::Recall, ..options.clone() },
            Some(2.0 / 6.0),
        );
        check("", "the cat", &options, Some(0.0));
        check("the cat", "", &options, None);
    }

    fn options() -> impl Strategy<Value = Rouge> {
        let measures =
            prop::sample::select(vec![RougeMeasure::Precision, RougeMeasure::Recall, RougeMeasure::FMeasure]);
        let tokens = prop::sample::select(vec![
            Tokenization::Auto,
            Tokenization::English,
            Tokenization::Characters,
            Tokenization::Words,
        ]);
        (prop::sample::select(ALL.to_vec()), measures, tokens, any::<bool>())
            .prop_map(|(variant, measure, tokens, stem)| Rouge { variant, measure, tokens, stem })
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
            prop_assert_eq!(score(Pair { response: &text, reference: &text }, &options), Some(1.0));
        }
    }
}
