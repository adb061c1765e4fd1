//! A fair queue that threads wait on.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use super::batch::{FairQueue, FlowId};

/// Bounded by what admission lets in: every job in it holds its permits.
pub(super) struct SharedQueue<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
}

struct State<T> {
    queue: FairQueue<T>,
    idle_threads: usize,
    closed: bool,
}

/// Below this many tokens, cutting a batch in two costs more than it gains: each pass reads all weights.
const SMALLEST_SHARE: usize = 64;

impl<T> SharedQueue<T> {
    pub fn new() -> SharedQueue<T> {
        let state = State { queue: FairQueue::new(), idle_threads: 0, closed: false };
        SharedQueue { state: Mutex::new(state), changed: Condvar::new() }
    }

    /// Drops the jobs if the queue is closed, which tells their callers.
    pub fn push(&self, flow: FlowId, jobs: impl IntoIterator<Item = (usize, T)>) {
        let mut state = self.lock();
        if state.closed {
            return;
        }
        for (tokens, job) in jobs {
            state.queue.push(flow, tokens, job);
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Waits for the next jobs, at most `limit` tokens of them; none once the queue is closed and empty.
    ///
    /// While other threads are idle too, each takes only its share of what waits.
    pub fn next_batch(&self, limit: usize, keep: impl Fn(&T) -> bool) -> Option<Vec<T>> {
        let mut state = self.lock();
        loop {
            if !state.queue.is_empty() {
                let share = state.queue.tokens().div_ceil(state.idle_threads + 1);
                let batch = state.queue.next_batch(share.max(SMALLEST_SHARE).min(limit), &keep);
                if !batch.is_empty() {
                    return Some(batch);
                }
                continue;
            }
            if state.closed {
                return None;
            }
            state.idle_threads += 1;
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.idle_threads -= 1;
        }
    }

    /// Lets the waiting threads end; what is queued is still handed out.
    pub fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    /// Jobs and tokens that wait.
    pub fn depth(&self) -> (usize, usize) {
        let state = self.lock();
        (state.queue.jobs(), state.queue.tokens())
    }

    /// A thread that panicked while it held the lock left the queue whole: every change of it is complete
    /// before anything that could panic runs.
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
