//! String similarity: how few edits make one text of the other, code point by code point. 0 to 1, higher is better.
//!
//! Levenshtein and Hamming are 1 − edits / length of the longer text; Jaro and Jaro-Winkler (with a prefix weight of
//! 0.1) are similarities themselves. The numbers are those of rapidfuzz's `normalized_similarity`, and of RAGAS's
//! NonLLMStringSimilarity. Two empty texts are equal.

use super::{PAIR, compare};
use crate::evaluate::{
    definition::Definition,
    finding::Found,
    metric::MetricType,
    steps::{Ledger, Steps},
};
use crate::evaluate::{options::OptionReader, pool::Length};
use crate::proto::{self, metric_selection::Options};

use super::Pair;
use crate::evaluate::cancellation::{Cancellation, Cancelled};
use rapidfuzz::distance::{hamming, jaro, jaro_winkler, levenshtein};

/// The options of the metric.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StringSimilarity {
    /// The measure of similarity.
    pub measure: StringMeasure,
}

/// The measure of similarity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StringMeasure {
    /// A code point put in, taken out or replaced.
    #[default]
    Levenshtein,
    /// A place where the two differ; the shorter text is padded.
    Hamming,
    /// Matches near each other, without counting edits.
    Jaro,
    /// Jaro, with more weight on a common beginning.
    JaroWinkler,
}

/// Similarity of response and reference.
pub fn score(pair: Pair<'_>, options: &StringSimilarity) -> f64 {
    Cancellation::unlimited(|cancellation| score_cancellable(pair, options, cancellation))
}

/// Computes [`score`], but ends early once it is cancelled.
pub(in crate::evaluate) fn score_cancellable(
    pair: Pair<'_>,
    options: &StringSimilarity,
    cancellation: Cancellation<'_>,
) -> Result<f64, Cancelled> {
    similarity(pair.response, pair.reference, options.measure, cancellation)
}

/// The same whichever of the two comes first.
///
/// Two unlike texts of 128 KiB take Levenshtein half a second and Jaro 0.2 s. The first stops in between; Jaro looks
/// its characters up a second time, and could not end early.
pub(super) fn similarity(
    a: &str,
    b: &str,
    measure: StringMeasure,
    cancellation: Cancellation<'_>,
) -> Result<f64, Cancelled> {
    cancellation.check()?;
    let (a, b) = (a.chars(), b.chars());
    let score = match measure {
        StringMeasure::Levenshtein => cancellation.run_guarded(|guard| {
            levenshtein::normalized_similarity(guard.over(a.clone()), guard.over(b.clone()))
        })?,
        StringMeasure::Hamming => {
            hamming::normalized_similarity_with_args(a, b, &hamming::Args::default().pad(true))
        }
        StringMeasure::Jaro => jaro::normalized_similarity(a, b),
        StringMeasure::JaroWinkler => jaro_winkler::normalized_similarity(a, b),
    };
    Ok(score.clamp(0.0, 1.0))
}

impl MetricType for StringSimilarity {
    const DEFINITION: &Definition = &Definition {
        name: "string_similarity",
        options_field: "string_similarity",
        formula: "normalised Levenshtein (by default), Hamming, Jaro or Jaro-Winkler similarity on code points",
        source: "rapidfuzz.distance; RAGAS, NonLLMStringSimilarity",
        ..PAIR
    };

    fn read(options: Options, reader: &mut OptionReader<'_>) -> Option<StringSimilarity> {
        let Options::StringSimilarity(options) = options else { return None };
        Some(StringSimilarity { measure: read_measure(reader, "string_similarity.measure", options.measure) })
    }

    async fn find(&self, steps: &Steps<'_>, _: &mut Ledger) -> Found {
        let options = self.clone();
        compare(steps, Length::Long, move |texts, cancellation| {
            score_cancellable(texts.pair(), &options, cancellation).map(Some)
        })
    }
}

/// The measure that a request names.
pub(super) fn read_measure(reader: &mut OptionReader<'_>, field: &str, value: i32) -> StringMeasure {
    match reader.choice(field, value) {
        proto::StringMeasure::Unspecified | proto::StringMeasure::Levenshtein => StringMeasure::Levenshtein,
        proto::StringMeasure::Hamming => StringMeasure::Hamming,
        proto::StringMeasure::Jaro => StringMeasure::Jaro,
        proto::StringMeasure::JaroWinkler => StringMeasure::JaroWinkler,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ALL: [StringMeasure; 4] =
        [StringMeasure::Levenshtein, StringMeasure::Hamming, StringMeasure::Jaro, StringMeasure::JaroWinkler];

    fn check(a: &str, b: &str, measure: StringMeasure, expected: f64) {
        let pair = Pair { response: a, reference: b };
        let score = score(pair, &StringSimilarity { measure });
        assert!((score - expected).abs() < 1e-12, "{a:?} {b:?} {measure:?}: {score}");
    }

    #[test]
    fn similarities_count_code_points() {
        check("kitten", "sitting", StringMeasure::Levenshtein, 1.0 - 3.0 / 7.0);
        check("首都是巴黎", "首都是北京", StringMeasure::Levenshtein, 0.6);
        check("abc", "abcd", StringMeasure::Hamming, 0.75);
        check("martha", "marhta", StringMeasure::Jaro, 17.0 / 18.0);
        check("martha", "marhta", StringMeasure::JaroWinkler, 17.0 / 18.0 + 0.3 / 18.0);
    }

    #[test]
    fn empty_texts_are_equal_to_each_other_alone() {
        for measure in ALL {
            check("", "", measure, 1.0);
            check("", "a", measure, 0.0);
        }
    }

    proptest! {
        #[test]
        fn a_score_is_a_share(a in "[a-c你好 ]{0,90}|\\PC{0,20}", b in "[a-c你好 ]{0,90}|\\PC{0,20}", measure in prop::sample::select(ALL.to_vec())) {
            let score = |a, b| score(Pair { response: a, reference: b }, &StringSimilarity { measure });
            prop_assert!((0.0..=1.0).contains(&score(&a, &b)));
            prop_assert_eq!(score(&a, &b).to_bits(), score(&b, &a).to_bits());
        }

        #[test]
        fn a_text_scores_one_against_itself(text in any::<String>(), measure in prop::sample::select(ALL.to_vec())) {
            prop_assert_eq!(score(Pair { response: &text, reference: &text }, &StringSimilarity { measure }), 1.0);
        }

        #[test]
        fn a_comparison_may_be_stopped_at_any_point(
            a in "[ab]{0,5}|[a-d]{60,600}", b in "[ab]{0,5}|[a-d]{60,600}",
            measure in prop::sample::select(ALL.to_vec()), questions in 0..60_u32,
        ) {
            let left = std::cell::Cell::new(questions);
            let is_wanted = || left.replace(left.get().saturating_sub(1)) > 0;
            let found = similarity(&a, &b, measure, Cancellation::new(&is_wanted));
            let whole = score(Pair { response: &a, reference: &b }, &StringSimilarity { measure });
            prop_assert!(found.is_err() || found == Ok(whole), "{:?} {}", found, whole);
        }
    }
}
