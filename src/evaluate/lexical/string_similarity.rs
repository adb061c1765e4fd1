//! String similarity: how few edits make one text of the other, code point by code point. 0 to 1, higher is better.
//!
//! Levenshtein and Hamming are 1 − edits / length of the longer text; Jaro and Jaro-Winkler (with a prefix weight of
//! 0.1) are similarities themselves. The numbers are those of rapidfuzz's `normalized_similarity`, and of RAGAS's
//! NonLLMStringSimilarity. Two empty texts are equal.

use super::Pair;
use crate::evaluate::progress::{Progress, Stopped};
use rapidfuzz::distance::{hamming, jaro, jaro_winkler, levenshtein};

/// How a response is scored.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Options {
    /// What an edit is.
    pub measure: Measure,
}

/// What an edit is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Measure {
    /// A code point put in, taken out or replaced.
    #[default]
    Levenshtein,
    /// A place where the two differ; the shorter text is padded.
    Hamming,
    /// Not edits but matches near each other.
    Jaro,
    /// Jaro, with more weight on a common beginning.
    JaroWinkler,
}

/// Similarity of response and reference.
pub fn score(pair: Pair<'_>, options: &Options) -> f64 {
    Progress::unlimited(|progress| score_while(pair, options, progress))
}

/// The same for as long as it is wanted.
pub(in crate::evaluate) fn score_while(
    pair: Pair<'_>,
    options: &Options,
    progress: Progress<'_>,
) -> Result<f64, Stopped> {
    similarity(pair.response, pair.reference, options.measure, progress)
}

/// The same whichever of the two comes first.
///
/// Two unlike texts of 128 KiB take Levenshtein half a second and Jaro 0.2 s. The first stops in between; Jaro looks
/// its characters up a second time, and could not end early.
pub(super) fn similarity(a: &str, b: &str, measure: Measure, progress: Progress<'_>) -> Result<f64, Stopped> {
    progress.check()?;
    let (a, b) = (a.chars(), b.chars());
    let score = match measure {
        Measure::Levenshtein => progress.while_wanted(|watch| {
            levenshtein::normalized_similarity(watch.over(a.clone()), watch.over(b.clone()))
        })?,
        Measure::Hamming => {
            hamming::normalized_similarity_with_args(a, b, &hamming::Args::default().pad(true))
        }
        Measure::Jaro => jaro::normalized_similarity(a, b),
        Measure::JaroWinkler => jaro_winkler::normalized_similarity(a, b),
    };
    Ok(score.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ALL: [Measure; 4] = [Measure::Levenshtein, Measure::Hamming, Measure::Jaro, Measure::JaroWinkler];

    fn check(a: &str, b: &str, measure: Measure, expected: f64) {
        let pair = Pair { response: a, reference: b };
        let score = score(pair, &Options { measure });
        assert!((score - expected).abs() < 1e-12, "{a:?} {b:?} {measure:?}: {score}");
    }

    #[test]
    fn similarities_count_code_points() {
        check("kitten", "sitting", Measure::Levenshtein, 1.0 - 3.0 / 7.0);
        check("首都是巴黎", "首都是北京", Measure::Levenshtein, 0.6);
        check("abc", "abcd", Measure::Hamming, 0.75);
        check("martha", "marhta", Measure::Jaro, 17.0 / 18.0);
        check("martha", "marhta", Measure::JaroWinkler, 17.0 / 18.0 + 0.3 / 18.0);
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
            let score = |a, b| score(Pair { response: a, reference: b }, &Options { measure });
            prop_assert!((0.0..=1.0).contains(&score(&a, &b)));
            prop_assert_eq!(score(&a, &b).to_bits(), score(&b, &a).to_bits());
        }

        #[test]
        fn a_text_scores_one_against_itself(text in any::<String>(), measure in prop::sample::select(ALL.to_vec())) {
            prop_assert_eq!(score(Pair { response: &text, reference: &text }, &Options { measure }), 1.0);
        }

        #[test]
        fn a_comparison_may_be_stopped_at_any_point(
            a in "[ab]{0,5}|[a-d]{60,600}", b in "[ab]{0,5}|[a-d]{60,600}",
            measure in prop::sample::select(ALL.to_vec()), questions in 0..60_u32,
        ) {
            let left = std::cell::Cell::new(questions);
            let is_wanted = || left.replace(left.get().saturating_sub(1)) > 0;
            let found = similarity(&a, &b, measure, Progress::new(&is_wanted));
            let whole = score(Pair { response: &a, reference: &b }, &Options { measure });
            prop_assert!(found.is_err() || found == Ok(whole), "{:?} {}", found, whole);
        }
    }
}
