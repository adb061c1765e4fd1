//! Two judges on one short scale.

use serde_json::json;

use crate::{
    evaluate::{
        finding::{Computation, Finding, Found},
        replies::RelevanceReply,
        result::Failure,
        sample::Sample,
        score::Estimate,
        steps::{JudgeQuestion, Ledger, Steps, part},
    },
    judge::{Cost, Part, lenient::Rating},
};

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

/// A rating of the judge with its reason.
pub(super) type Rated = Result<(Rating, String), Failure>;

/// Asks for a rating and enters its cost.
pub(super) async fn rate(steps: &Steps<'_>, question: JudgeQuestion<'_>) -> (Rated, Cost) {
    let (reply, cost) = steps.ask::<RelevanceReply>(question).await;
    (reply.map(|reply| (reply.rating, reply.reason)), cost)
}

/// The retrieved contexts as a part of a question.
pub(super) fn contexts_part(sample: &Sample) -> Part {
    let contexts = sample.retrieved_contexts.iter().enumerate();
    let items = contexts.map(|(n, context)| json!({"id": format!("s{}", n + 1), "text": context.text}));
    part("contexts", items.collect())
}

/// The finding over two ratings of up to `highest`; the response schema holds them to their scale.
pub(super) fn two_ratings(ledger: &mut Ledger, rated: [(Rated, Cost); 2], highest: u32) -> Found {
    let given = rated.map(|(rating, cost)| {
        ledger.enter(cost);
        rating
    });
    let failure = given.iter().find_map(|rating| rating.as_ref().err().cloned());
    let given = given.map(Result::ok);
    let ratings =
        given.each_ref().map(|given| given.as_ref().and_then(|(rating, _)| u32::try_from(rating.0).ok()));
    if let (Some(failure), [None, None]) = (&failure, ratings) {
        return Err(failure.clone());
    }
    let reasons: Vec<String> = given.into_iter().flatten().map(|(_, reason)| reason).collect();
    Ok(Computation::of(move || {
        let finding = Finding::of(score(ratings, highest), reasons.join(" / ")).counting(&ratings);
        let finding = Finding { missing: failure, ..finding };
        ["first_rating", "second_rating"]
            .into_iter()
            .zip(ratings)
            .fold(finding, |finding, (name, rating)| finding.detail(name, rating.map_or(f64::NAN, f64::from)))
    }))
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
