//! Majority votes over several judgements of one thing.

use serde_json::json;

use crate::{
    evaluate::{
        finding::Finding,
        pool::Length,
        prompts::Template,
        result::Failure,
        sample::Sample,
        score::Estimate,
        steps::{JudgeQuestion, Ledger, Steps, part},
    },
    judge::{JudgeError, Part, Verdict},
};

/// The most frequent of them, and how many agree; of equals, the one that was given first. None of none.
pub fn most_frequent<T: PartialEq>(votes: &[T]) -> Option<(&T, usize)> {
    let count = |vote: &T| votes.iter().filter(|other| *other == vote).count();
    let most = votes.iter().map(count).max()?;
    votes.iter().find(|vote| count(vote) == most).map(|vote| (vote, most))
}

/// Returns whether the missing votes cannot change which vote is the most frequent.
pub fn is_settled<T: PartialEq>(votes: &[T], missing: usize) -> bool {
    let Some((winner, most)) = most_frequent(votes) else { return missing == 0 };
    let count = |vote: &T| votes.iter().filter(|other| *other == vote).count();
    let second = votes.iter().filter(|vote| *vote != winner).map(count).max().unwrap_or(0);
    missing == 0 || most > second + missing
}

/// Judgements of one thing, and why some are missing.
pub(super) struct Votes<T> {
    pub given: Vec<T>,
    pub reasons: Vec<String>,
    samples: usize,
    failure: Option<Failure>,
}

impl<T> Votes<T> {
    /// Asks for `samples` judgements, of which `read` takes the verdict and the reason; at least one is there.
    pub async fn ask<V: Verdict>(
        steps: &Steps<'_>,
        ledger: &mut Ledger,
        question: JudgeQuestion<'_>,
        samples: usize,
        read: impl Fn(V) -> Result<(T, String), String> + Send + 'static,
    ) -> Result<Votes<T>, Failure>
    where
        T: Send + 'static,
    {
        let (replies, cost) = steps.ask_many::<V>(question, samples).await;
        ledger.enter(cost);
        let votes = steps.compute(Length::Short, move |_| {
            let mut votes = Votes { given: Vec::new(), reasons: Vec::new(), samples, failure: None };
            for reply in replies {
                match reply.and_then(|reply| read(reply).map_err(off_scale)) {
                    Ok((verdict, reason)) => {
                        votes.given.push(verdict);
                        votes.reasons.extend(Some(reason).filter(|reason| !reason.is_empty()));
                    }
                    Err(failure) => votes.failure = votes.failure.or(Some(failure)),
                }
            }
            Ok(votes)
        });
        let votes = votes.await?;
        match votes.failure {
            Some(failure) if votes.given.is_empty() => Err(failure),
            _ => Ok(votes),
        }
    }

    pub fn found(self, estimate: Estimate) -> Finding {
        let missing = self.samples - self.given.len();
        let failure = self.failure.filter(|_| matches!(estimate, Estimate::Between(..)));
        Finding {
            judged: self.given.len(),
            submitted: self.given.len() + missing,
            missing: failure,
            ..Finding::of(estimate, self.reasons.join(" / "))
        }
    }
}

/// The failure of a judge that kept the schema, but not the caller's scale.
fn off_scale(detail: String) -> Failure {
    Failure::Judge(JudgeError::Unreadable { detail })
}

/// A question about the sample, with as much of it as there is.
pub(super) async fn about_sample<'q>(
    steps: &Steps<'_>,
    template: Template,
) -> Result<JudgeQuestion<'q>, Failure> {
    let parts = steps.derive(|sample| {
        let contexts: Vec<&str> = sample.retrieved_contexts.iter().map(|c| c.text.as_str()).collect();
        let contexts = (!contexts.is_empty()).then(|| part("retrieved_contexts", json!(contexts)));
        contexts.into_iter().chain(own_parts(sample)).collect()
    });
    Ok(JudgeQuestion::new(template).parts(parts.await?))
}

/// The user's input, the response and the reference, as far as the sample has them.
pub(super) fn own_parts(sample: &Sample) -> impl Iterator<Item = Part> {
    let texts = [
        ("user_input", &sample.user_input),
        ("response", &sample.response),
        ("reference", &sample.reference),
    ];
    texts.into_iter().filter(|(_, text)| !text.is_empty()).map(|(name, text)| part(name, json!(text)))
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
