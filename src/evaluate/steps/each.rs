//! One verdict for each of many things: in batches, matched by id, and asked for again where missing.

use std::ops::Range;

use futures::future::{BoxFuture, join, join_all};

use super::{Question, Steps};
use crate::{
    evaluate::result::Failure,
    judge::{Cost, JudgeError, Verdict, lenient::Id},
};

/// What each thing is called in a question, how the question is put, and how its answer is read.
pub(in crate::evaluate) struct Each<'a, V, T> {
    /// Of the ids: `c` gives c1, c2 and so on.
    pub letter: char,
    pub count: usize,
    /// The most things in one question.
    pub batch: usize,
    /// The question about the things of these indices.
    pub question: &'a (dyn Fn(&[usize]) -> Question<'a> + Sync),
    pub verdicts: fn(V) -> Vec<(Id, T)>,
    /// Whether two verdicts on one thing agree.
    pub agree: fn(&T, &T) -> bool,
}

/// Verdicts in the order of the things, why some are missing, and what they cost.
pub(in crate::evaluate) struct Judged<T> {
    pub verdicts: Vec<Option<T>>,
    pub failure: Option<Failure>,
    pub cost: Cost,
}

struct Found<T> {
    verdicts: Vec<(usize, T)>,
    failure: Option<Failure>,
    cost: Cost,
}

impl<T> Found<T> {
    fn and(mut self, other: Found<T>) -> Found<T> {
        self.verdicts.extend(other.verdicts);
        self.failure = self.failure.or(other.failure);
        self.cost += other.cost;
        self
    }
}

impl<V, T> Each<'_, V, T> {
    pub fn id(letter: char, index: usize) -> String {
        format!("{letter}{}", index + 1)
    }

    /// The verdict for each of `indices` that has exactly one, or several that agree.
    fn matched(&self, indices: &[usize], answer: V) -> Vec<(usize, T)> {
        let mut verdicts = (self.verdicts)(answer);
        if let ([index], [_]) = (indices, &verdicts[..]) {
            // Whatever the judge calls it, there is nothing else that it could mean.
            return verdicts.pop().map(|(_, verdict)| (*index, verdict)).into_iter().collect();
        }
        let mut found = Vec::new();
        for &index in indices {
            let id = Self::id(self.letter, index);
            let (own, rest): (Vec<_>, Vec<_>) = verdicts.into_iter().partition(|(given, _)| given.names(&id));
            verdicts = rest;
            let mut own = own.into_iter().map(|(_, verdict)| verdict);
            if let Some(first) = own.next().filter(|first| own.all(|other| (self.agree)(first, &other))) {
                found.push((index, first));
            }
        }
        found
    }
}

fn missing<T>(indices: &[usize], verdicts: &[(usize, T)]) -> Vec<usize> {
    let is_found = |index: usize| verdicts.iter().any(|(found, _)| *found == index);
    indices.iter().copied().filter(|&index| !is_found(index)).collect()
}

impl Steps<'_> {
    pub async fn judge_each<V: Verdict, T: Send>(&self, each: &Each<'_, V, T>) -> Judged<T> {
        let ranges = (0..each.count).step_by(each.batch);
        let ranges = ranges.map(|from| from..each.count.min(from + each.batch));
        let batches = ranges.map(|range: Range<usize>| self.judge_batch(each, range.collect(), true));
        let batches = join_all(batches).await;
        let nothing = Found { verdicts: Vec::new(), failure: None, cost: Cost::default() };
        let found = batches.into_iter().fold(nothing, Found::and);
        let mut judged = Judged {
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

    fn judge_batch<'b, V: Verdict, T: Send + 'b>(
        &'b self,
        each: &'b Each<'_, V, T>,
        indices: Vec<usize>,
        first: bool,
    ) -> BoxFuture<'b, Found<T>> {
        Box::pin(async move {
            let (answer, cost) = self.ask::<V>((each.question)(&indices)).await;
            match answer {
                Ok(answer) => {
                    let verdicts = each.matched(&indices, answer);
                    let missing = missing(&indices, &verdicts);
                    let found = Found { verdicts, failure: None, cost };
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
                    Found { verdicts: Vec::new(), failure: None, cost }.and(halves)
                }
                Err(failure) => Found { verdicts: Vec::new(), failure: Some(failure), cost },
            }
        })
    }

    fn halves<'b, V: Verdict, T: Send + 'b>(
        &'b self,
        each: &'b Each<'_, V, T>,
        mut indices: Vec<usize>,
        first: bool,
    ) -> BoxFuture<'b, Found<T>> {
        let rest = indices.split_off(indices.len() / 2);
        let halves = join(self.judge_batch(each, indices, first), self.judge_batch(each, rest, first));
        Box::pin(async move {
            let (a, b) = halves.await;
            a.and(b)
        })
    }
}
