//! A fair queue shared by a pool of threads, which wait on it for work.

use parking_lot::{Condvar, Mutex, MutexGuard};

use super::fair_queue::{FairQueue, FlowId};
use crate::model::{Invitation, Team};

/// Work that a thread takes from the queue.
pub(super) enum WorkItem<T> {
    /// A batch to compute, with the team of threads that may help.
    Batch(Vec<T>, Team),
    /// An invitation to help with another thread's forward pass.
    Help(Invitation),
}

/// A queue for a pool of threads, fair between flows. Its length is bounded by admission: every job holds a permit.
pub(super) struct WorkQueue<T> {
    state: Mutex<WorkQueueState<T>>,
    changed: Condvar,
    threads: usize,
}

struct WorkQueueState<T> {
    queue: FairQueue<T>,
    idle_threads: usize,
    /// Invitations to the forward pass that began last, one per other thread. An idle thread takes one.
    invitations: Vec<Invitation>,
    closed: bool,
}

/// Minimum tokens per thread when a batch is split. Every forward pass reads all weights, so smaller batches cost more
/// than they gain.
const MIN_SHARE_TOKENS: usize = 64;

impl<T> WorkQueue<T> {
    /// Creates a queue for `threads` threads.
    pub fn new(threads: usize) -> WorkQueue<T> {
        WorkQueue::over(FairQueue::new(), threads)
    }

    /// Creates a queue in which at most `position_limit` tokens of a job count for its position.
    pub fn with_position_limit(position_limit: usize, threads: usize) -> WorkQueue<T> {
        WorkQueue::over(FairQueue::with_position_limit(position_limit), threads)
    }

    fn over(queue: FairQueue<T>, threads: usize) -> WorkQueue<T> {
        let state = WorkQueueState { queue, idle_threads: 0, invitations: Vec::new(), closed: false };
        WorkQueue { state: Mutex::new(state), changed: Condvar::new(), threads }
    }

    /// Queues jobs of one flow, each with its cost in tokens or bytes. Drops them if the queue is closed; their callers
    /// then get an error.
    pub fn push(&self, flow: FlowId, jobs: impl IntoIterator<Item = (usize, T)>) {
        let mut state = self.lock();
        if state.closed {
            return;
        }
        for (tokens, job) in jobs {
            state.queue.push(flow, tokens, job);
        }
        let waiting = state.queue.jobs();
        drop(state);
        if waiting == 1 {
            self.changed.notify_one();
        } else {
            self.changed.notify_all();
        }
    }

    /// Waits for the next jobs, at most `limit` tokens. Returns `None` once the queue is closed and empty.
    ///
    /// If other threads are idle too, each takes only its share of the queued tokens.
    pub fn next_batch(&self, limit: usize, keep: impl Fn(&T) -> bool) -> Option<Vec<T>> {
        match self.wait(|state| state.share().min(limit), keep, |_| Team::alone())? {
            WorkItem::Batch(batch, _) => Some(batch),
            WorkItem::Help(_) => unreachable!("this pool sends no invitations"),
        }
    }

    /// Waits for the next forward pass, at most `limit` tokens. Returns `None` once the queue is closed and empty.
    ///
    /// Jobs that fit one pass are not split between threads. If no job is left for the other threads, they are invited to
    /// help, immediately or when they become idle. The team reads the weights once and finishes together, even if the
    /// jobs have different lengths.
    pub fn next_pass(&self, limit: usize, keep: impl Fn(&T) -> bool) -> Option<WorkItem<T>> {
        let limit_for = |state: &WorkQueueState<T>| {
            if state.queue.tokens() <= limit { limit } else { state.share().min(limit) }
        };
        self.wait(limit_for, keep, |state| self.invite(state))
    }

    /// Takes the next jobs, at most `limit` tokens, without waiting. Returns no job while another thread is idle, since
    /// that thread was woken for them.
    pub fn next_short(&self, limit: usize, keep: impl Fn(&T) -> bool) -> (Vec<T>, usize) {
        let mut state = self.lock();
        if state.idle_threads > 0 { (Vec::new(), 0) } else { state.queue.next_short(limit, keep) }
    }

    fn wait(
        &self,
        limit: impl Fn(&WorkQueueState<T>) -> usize,
        keep: impl Fn(&T) -> bool,
        team: impl Fn(&mut WorkQueueState<T>) -> Team,
    ) -> Option<WorkItem<T>> {
        let mut state = self.lock();
        loop {
            if !state.queue.is_empty() {
                let limit = limit(&state);
                let batch = state.queue.next_batch(limit, &keep);
                if !batch.is_empty() {
                    let team = team(&mut state);
                    return Some(WorkItem::Batch(batch, team));
                }
                continue;
            }
            if let Some(invitation) = state.invitations.pop() {
                return Some(WorkItem::Help(invitation));
            }
            if state.closed {
                return None;
            }
            state.idle_threads += 1;
            self.changed.wait(&mut state);
            state.idle_threads -= 1;
        }
    }

    fn invite(&self, state: &mut WorkQueueState<T>) -> Team {
        let others = self.threads - 1;
        if others == 0 || !state.queue.is_empty() {
            return Team::alone();
        }
        let (team, invitation) = Team::with_helpers(others);
        // Invitations to an earlier pass have expired.
        state.invitations = vec![invitation; others];
        if state.idle_threads > 0 {
            self.changed.notify_all();
        }
        team
    }

    /// Closes the queue. Queued jobs are still handed out, and then the waiting threads end.
    pub fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    /// Number of queued jobs and their tokens.
    pub fn depth(&self) -> (usize, usize) {
        let state = self.lock();
        (state.queue.jobs(), state.queue.tokens())
    }

    // No operation under the lock can panic half-way, so the state is always consistent.
    fn lock(&self) -> MutexGuard<'_, WorkQueueState<T>> {
        self.state.lock()
    }
}

impl<T> WorkQueueState<T> {
    /// Tokens per thread if the queue is split between this thread and the idle ones.
    fn share(&self) -> usize {
        self.queue.tokens().div_ceil(self.idle_threads + 1).max(MIN_SHARE_TOKENS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLOW: FlowId = FlowId(0);

    #[test]
    fn a_lone_job_is_computed_with_the_help_of_an_idle_thread() {
        let queue = WorkQueue::new(2);
        std::thread::scope(|scope| {
            let helper = scope.spawn(|| match queue.next_pass(100, |_| true) {
                Some(WorkItem::Help(invitation)) => invitation.help(),
                other => panic!("a batch, or nothing: {}", other.is_some()),
            });
            while queue.lock().idle_threads == 0 {
                std::thread::yield_now();
            }
            // Pushed without waking the other thread, so that this one takes the job.
            queue.lock().queue.push(FLOW, 10, ());
            let Some(WorkItem::Batch(batch, team)) = queue.next_pass(100, |_| true) else {
                panic!("no batch")
            };
            assert_eq!((batch.len(), team.size()), (1, 2));
            drop(team);
            helper.join().expect("it came back");
        });
    }

    #[test]
    fn a_thread_that_becomes_idle_joins_a_running_pass() {
        let queue = WorkQueue::new(2);
        queue.push(FLOW, [(10, ())]);
        let Some(WorkItem::Batch(_, team)) = queue.next_pass(100, |_| true) else { panic!("no batch") };
        assert_eq!((team.size(), team.present()), (2, 1));
        std::thread::scope(|scope| {
            scope.spawn(|| match queue.next_pass(100, |_| true) {
                Some(WorkItem::Help(invitation)) => invitation.help(),
                other => panic!("a batch, or nothing: {}", other.is_some()),
            });
            while team.present() < 2 {
                std::thread::yield_now();
            }
            drop(team);
        });
    }

    #[test]
    fn a_lone_thread_invites_nobody() {
        let queue = WorkQueue::new(1);
        queue.push(FLOW, [(10, ())]);
        assert!(matches!(queue.next_pass(100, |_| true), Some(WorkItem::Batch(_, team)) if team.size() == 1));
    }

    #[test]
    fn idle_threads_split_more_tokens_than_one_pass_takes() {
        let queue = WorkQueue::new(2);
        queue.push(FLOW, (0..4).map(|_| (MIN_SHARE_TOKENS, ())));
        queue.lock().idle_threads = 1;
        let pass = |limit| match queue.next_pass(limit, |_| true) {
            Some(WorkItem::Batch(batch, team)) => (batch.len(), team.size()),
            _ => panic!("no batch"),
        };
        assert_eq!(pass(4 * MIN_SHARE_TOKENS - 1), (2, 1));
        assert_eq!(pass(2 * MIN_SHARE_TOKENS), (2, 2));
    }

    #[test]
    fn idle_text_threads_split_the_queued_texts() {
        let queue = WorkQueue::new(2);
        queue.push(FLOW, (0..4).map(|_| (MIN_SHARE_TOKENS, ())));
        queue.lock().idle_threads = 1;
        assert_eq!(queue.next_batch(1000, |_| true).map(|batch| batch.len()), Some(2));
    }
}
