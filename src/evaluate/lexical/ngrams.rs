use std::{collections::HashMap, hash::Hash};

/// The sizes of two sequences and of what they have in common.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Overlap {
    pub(super) response: usize,
    pub(super) reference: usize,
    pub(super) matched: usize,
}

impl Overlap {
    /// Counts n-grams; one that occurs twice matches twice only if it does so on both sides. `order` is at least 1.
    pub(super) fn of_ngrams<T: Eq + Hash>(response: &[T], reference: &[T], order: usize) -> Overlap {
        let mut unmatched: HashMap<&[T], usize> = HashMap::new();
        for ngram in reference.windows(order) {
            *unmatched.entry(ngram).or_default() += 1;
        }
        let mut matched = 0;
        for ngram in response.windows(order) {
            if let Some(count) = unmatched.get_mut(ngram).filter(|count| **count > 0) {
                *count -= 1;
                matched += 1;
            }
        }
        let count = |items: &[T]| (items.len() + 1).saturating_sub(order);
        Overlap { response: count(response), reference: count(reference), matched }
    }

    pub(super) fn precision(self) -> f64 {
        ratio(self.matched, self.response)
    }

    pub(super) fn recall(self) -> f64 {
        ratio(self.matched, self.reference)
    }

    /// Harmonic mean of precision and recall.
    pub(super) fn f1(self) -> f64 {
        ratio(2 * self.matched, self.response + self.reference)
    }
}

/// 0 where there is nothing to divide by.
pub(super) fn ratio(part: usize, whole: usize) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_item_matches_as_often_as_it_is_on_both_sides() {
        let (response, reference) = (['a', 'b', 'a', 'a'], ['a', 'a', 'b']);
        let unigrams = Overlap { response: 4, reference: 3, matched: 3 };
        assert_eq!(Overlap::of_ngrams(&response, &reference, 1), unigrams);
        let bigrams = Overlap { response: 3, reference: 2, matched: 2 };
        assert_eq!(Overlap::of_ngrams(&response, &reference, 2), bigrams);
        let none = Overlap { response: 0, reference: 0, matched: 0 };
        assert_eq!(Overlap::of_ngrams(&response, &reference, 5), none);
        assert_eq!((none.precision(), none.recall(), none.f1()), (0.0, 0.0, 0.0));
        assert_eq!((unigrams.precision(), unigrams.recall(), unigrams.f1()), (0.75, 1.0, 6.0 / 7.0));
    }
}
