//! Two judges on one short scale.

use crate::evaluate::score::Estimate;

/// The mean of the ratings divided by the highest. A judge without a rating counts as the lowest and as the
/// highest.
pub fn score(ratings: [Option<u32>; 2], highest: u32) -> Estimate {
    let mean = |missing: u32| {
        let sum: u32 = ratings.iter().map(|rating| rating.unwrap_or(missing)).sum();
        f64::from(sum) / f64::from(2 * highest)
    };
    if ratings.iter().all(Option::is_some) {
        Estimate::Exact(mean(0))
    } else {
        Estimate::Between(mean(0), mean(highest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_judge_that_fails_leaves_bounds() {
        assert_eq!(score([Some(4), Some(2)], 4), Estimate::Exact(0.75));
        assert_eq!(score([Some(1), None], 2), Estimate::Between(0.25, 0.75));
    }
}
