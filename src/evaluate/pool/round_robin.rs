//! Jobs of several callers, who take turns.

use std::collections::{HashMap, VecDeque};

pub(super) struct CallerTurns<T> {
    jobs: HashMap<u64, VecDeque<T>>,
    // Invariant: holds each caller with a job once.
    callers: VecDeque<u64>,
}

impl<T> Default for CallerTurns<T> {
    fn default() -> CallerTurns<T> {
        CallerTurns { jobs: HashMap::new(), callers: VecDeque::new() }
    }
}

impl<T> CallerTurns<T> {
    pub fn push(&mut self, caller: u64, job: T) {
        let own = self.jobs.entry(caller).or_default();
        if own.is_empty() {
            self.callers.push_back(caller);
        }
        own.push_back(job);
    }

    /// The first job of the caller whose turn it is.
    pub fn pop(&mut self) -> Option<(u64, T)> {
        let caller = self.callers.pop_front()?;
        let own = self.jobs.get_mut(&caller)?;
        let job = own.pop_front()?;
        if own.is_empty() {
            self.jobs.remove(&caller);
        } else {
            self.callers.push_back(caller);
        }
        Some((caller, job))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_with_one_job_waits_for_one_of_each_other_caller() {
        let mut turns = CallerTurns::default();
        for job in 0..100 {
            turns.push(1, job);
        }
        turns.push(2, 200);
        turns.push(3, 300);
        let first: Vec<(u64, i32)> = std::iter::from_fn(|| turns.pop()).take(5).collect();
        assert_eq!(first, [(1, 0), (2, 200), (3, 300), (1, 1), (1, 2)]);
        assert_eq!(std::iter::from_fn(|| turns.pop()).count(), 97);
        assert!(turns.jobs.is_empty() && turns.callers.is_empty());
    }
}
