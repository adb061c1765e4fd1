//! Several judgements of one thing.

/// The most frequent of them, and how many agree; of equals, the one that was given first. None of none.
pub fn most_frequent<T: PartialEq>(votes: &[T]) -> Option<(&T, usize)> {
    let count = |vote: &T| votes.iter().filter(|other| *other == vote).count();
    let most = votes.iter().map(count).max()?;
    votes.iter().find(|vote| count(vote) == most).map(|vote| (vote, most))
}

/// Whether the votes that are missing can't change which is the most frequent.
pub fn is_settled<T: PartialEq>(votes: &[T], missing: usize) -> bool {
    let Some((winner, most)) = most_frequent(votes) else { return missing == 0 };
    let count = |vote: &T| votes.iter().filter(|other| *other == vote).count();
    let second = votes.iter().filter(|vote| *vote != winner).map(count).max().unwrap_or(0);
    missing == 0 || most > second + missing
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_majority_decides_and_not_the_first() {
        assert_eq!(most_frequent(&[true, false, false]), Some((&false, 2)));
        assert_eq!(most_frequent(&[3, 2]), Some((&3, 1)));
        assert_eq!(most_frequent::<u8>(&[]), None);
    }

    #[test]
    fn a_majority_stands_whatever_is_missing() {
        assert!(is_settled(&[true, true], 1) && !is_settled(&[true, false], 1) && !is_settled(&[true], 1));
    }
}
