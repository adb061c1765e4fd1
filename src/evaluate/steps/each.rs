//! Batched questions with one verdict per item: verdicts are matched by id, and missing ones are asked for again.

use std::ops::Range;

use futures::{
    StreamExt,
    future::{BoxFuture, join},
    stream,
};

use super::{JudgeQuestion, QUESTIONS_AT_ONCE, Steps, at_most};
use crate::{
    evaluate::{pool::Length, result::Failure},
    judge::{Cost, JudgeError, Verdict, lenient::Id},
};

/// A batched question: the ids of its items, its text, and how its answer is read.
pub(in crate::evaluate) struct Each<'a, V, T> {
    /// The prefix of the ids: `c` gives c1, c2 and so on.
    pub letter: char,
    pub count: usize,
    /// The most things in one question.
    pub batch: usize,
    /// The question about the things of these indices.
    pub question: &'a (dyn Fn(&[usize]) -> JudgeQuestion<'a> + Sync),
    pub verdicts: fn(V) -> Vec<(Id, T)>,
    /// Returns whether two verdicts on one item agree.
    pub agree: fn(&T, &T) -> bool,
}

/// Verdicts in the order of the things, why some are missing, and what they cost.
pub(in crate::evaluate) struct JudgedEach<T> {
    pub verdicts: Vec<Option<T>>,
    pub failure: Option<Failure>,
    pub cost: Cost,
}

struct FoundVerdicts<T> {
    verdicts: Vec<(usize, T)>,
    failure: Option<Failure>,
    cost: Cost,
}

impl<T> FoundVerdicts<T> {
    fn and(mut self, other: FoundVerdicts<T>) -> FoundVerdicts<T> {
        self.verdicts.extend(other.verdicts);
        self.failure = self.failure.or(other.failure);
        self.cost += other.cost;
        self
    }
}

impl<V, T> Each<'_, V, T> {
    pub(in crate::evaluate) fn id(letter: char, index: usize) -> String {
        format!("{letter}{}", index + 1)
    }
}

/// Which verdict is about which thing.
struct Matching<V, T> {
    letter: char,
    verdicts: fn(V) -> Vec<(Id, T)>,
    agree: fn(&T, &T) -> bool,
    indices: Vec<usize>,
}

impl<V, T> Matching<V, T> {
    /// The verdict for each of the indices that has exactly one, or several that agree.
    fn matched(self, answer: V) -> Result<Vec<(usize, T)>, Failure> {
        let mut verdicts = at_most("verdicts", (self.verdicts)(answer))?;
        if let ([index], [_]) = (&self.indices[..], &verdicts[..]) {
            // Whatever the judge calls it, there is nothing else that it could mean.
            return Ok(verdicts.pop().map(|(_, verdict)| (*index, verdict)).into_iter().collect());
        }
        let mut found = Vec::new();
        for index in self.indices {
            let id = Each::<V, T>::id(self.letter, index);
            let (own, rest): (Vec<_>, Vec<_>) = verdicts.into_iter().partition(|(given, _)| given.names(&id));
            verdicts = rest;
            let mut own = own.into_iter().map(|(_, verdict)| verdict);
            if let Some(first) = own.next().filter(|first| own.all(|other| (self.agree)(first, &other))) {
                found.push((index, first));
            }
        }
        Ok(found)
    }
}

fn missing<T>(indices: &[usize], verdicts: &[(usize, T)]) -> Vec<usize> {
    let is_found = |index: usize| verdicts.iter().any(|(found, _)| *found == index);
    indices.iter().copied().filter(|&index| !is_found(index)).collect()
}

impl Steps<'_> {
    pub(in crate::evaluate) async fn judge_each<V: Verdict, T: Send + 'static>(
        &self,
        each: &Each<'_, V, T>,
    ) -> JudgedEach<T> {
        let ranges = (0..each.count).step_by(each.batch);
        let ranges = ranges.map(|from| from..each.count.min(from + each.batch));
        let batches = ranges.map(|range: Range<usize>| self.judge_batch(each, range.collect(), true));
        let batches: Vec<BoxFuture<'_, FoundVerdicts<T>>> = batches.collect();
        let mut batches = stream::iter(batches).buffered(QUESTIONS_AT_ONCE);
        let mut found = FoundVerdicts { verdicts: Vec::new(), failure: None, cost: Cost::default() };
        while let Some(batch) = batches.next().await {
            found = found.and(batch);
        }
        let mut judged = JudgedEach {
            verdicts: (0..each.count).map(|_| None).collect(),
            failure: found.failure,
            cost: found.cost,
        };
        let any = !found.verdicts.is_empty();
        found.verdicts.into_iter().for_each(|(index, verdict)| judged.verdicts[index] = Some(verdict));
        if !any && each.count > 0 {
            let detail = "it has a verdict for none of the ids that were asked".to_owned();
            let unreadable = || Failure::Judge(JudgeError::Unreadable { detail });
            judged.failure = judged.failure.or_else(|| Some(unreadable()));
        }
        judged
    }

    fn judge_batch<'b, V: Verdict, T: Send + 'static>(
        &'b self,
        each: &'b Each<'_, V, T>,
        indices: Vec<usize>,
        first: bool,
    ) -> BoxFuture<'b, FoundVerdicts<T>> {
        Box::pin(async move {
            let (answer, cost) = self.ask::<V>((each.question)(&indices)).await;
            let answer = match answer {
                Ok(answer) => self.match_verdicts(each, &indices, answer).await,
                Err(failure) => Err(failure),
            };
            match answer {
                Ok(verdicts) => {
                    let missing = missing(&indices, &verdicts);
                    let found = FoundVerdicts { verdicts, failure: None, cost };
                    match missing.len() {
                        0 => found,
                        _ if !first => found,
                        // The same question again would get the same answer.
                        n if n == indices.len() && n > 1 => {
                            found.and(self.halves(each, missing, false).await)
                        }
                        n if n == indices.len() => found,
                        _ => found.and(self.judge_batch(each, missing, false).await),
                    }
                }
                Err(Failure::Judge(JudgeError::Truncated)) if indices.len() > 1 => {
                    let halves = self.halves(each, indices, first).await;
                    FoundVerdicts { verdicts: Vec::new(), failure: None, cost }.and(halves)
                }
                Err(failure) => FoundVerdicts { verdicts: Vec::new(), failure: Some(failure), cost },
            }
        })
    }

    /// Judges may answer far more than they were asked, so this is not for the reactor.
    async fn match_verdicts<V: Verdict, T: Send + 'static>(
        &self,
        each: &Each<'_, V, T>,
        indices: &[usize],
        answer: V,
    ) -> Result<Vec<(usize, T)>, Failure> {
        let Each { letter, verdicts, agree, .. } = *each;
        let matching = Matching { letter, verdicts, agree, indices: indices.to_vec() };
        self.compute(Length::Short, move |_| Ok(matching.matched(answer))).await?
    }

    fn halves<'b, V: Verdict, T: Send + 'static>(
        &'b self,
        each: &'b Each<'_, V, T>,
        mut indices: Vec<usize>,
        first: bool,
    ) -> BoxFuture<'b, FoundVerdicts<T>> {
        let rest = indices.split_off(indices.len() / 2);
        let halves = join(self.judge_batch(each, indices, first), self.judge_batch(each, rest, first));
        Box::pin(async move {
            let (a, b) = halves.await;
            a.and(b)
        })
    }
}
