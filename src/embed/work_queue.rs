//! A fair queue that threads wait on.

use parking_lot::{Condvar, Mutex, MutexGuard};

use super::fair_queue::{FairQueue, FlowId};
use crate::model::{Invitation, Team};

/// What a thread is to do next.
pub(super) enum WorkItem<T> {
    /// A forward pass, with those that may join it.
    Batch(Vec<T>, Team),
    /// Another thread's forward pass.
    Help(Invitation),
}

/// Bounded by what admission lets in: every job in it holds its permits.
pub(super) struct WorkQueue<T> {
    state: Mutex<WorkQueueState<T>>,
    changed: Condvar,
    threads: usize,
}

struct WorkQueueState<T> {
    queue: FairQueue<T>,
    idle_threads: usize,
    /// To the pass that began last, one for each other thread: whoever has nothing else to do takes one.
    invitations: Vec<Invitation>,
    closed: bool,
}

/// Below this many tokens, cutting a batch in two costs more than it gains: each pass reads all weights.
const SMALLEST_SHARE: usize = 64;

impl<T> WorkQueue<T> {
    /// For so many threads.
    pub fn new(threads: usize) -> WorkQueue<T> {
        let state = WorkQueueState {
            queue: FairQueue::new(),
            idle_threads: 0,
            invitations: Vec::new(),
            closed: false,
        };
        WorkQueue { state: Mutex::new(state), changed: Condvar::new(), threads }
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
        let waiting = state.queue.jobs();
        drop(state);
        if waiting == 1 {
            self.changed.notify_one();
        } else {
            self.changed.notify_all();
        }
    }

    /// Waits for the next jobs, at most `limit` tokens of them; none once the queue is closed and empty.
    ///
    /// While other threads are idle too, each takes only its share of what waits.
    pub fn next_batch(&self, limit: usize, keep: impl Fn(&T) -> bool) -> Option<Vec<T>> {
        match self.wait(|state| state.share().min(limit), keep, |_| Team::alone())? {
            WorkItem::Batch(batch, _) => Some(batch),
            WorkItem::Help(_) => unreachable!("nobody is invited here"),
        }
    }

    /// The same for forward passes, but what fits one is not cut: where nothing is left for the other threads, they
    /// are invited to help, now or when they become idle. Together they read the weights once, and however unequal the
    /// jobs, all end at once.
    pub fn next_pass(&self, limit: usize, keep: impl Fn(&T) -> bool) -> Option<WorkItem<T>> {
        let most = |state: &WorkQueueState<T>| {
            if state.queue.tokens() <= limit { limit } else { state.share().min(limit) }
        };
        self.wait(most, keep, |state| self.invite(state))
    }

    /// The next jobs and their tokens, where those are at most `limit`. None are taken while another thread is idle,
    /// which was woken for them.
    pub fn next_short(&self, limit: usize, keep: impl Fn(&T) -> bool) -> (Vec<T>, usize) {
        let mut state = self.lock();
        if state.idle_threads > 0 { (Vec::new(), 0) } else { state.queue.next_short(limit, keep) }
    }

    fn wait(
        &self,
        most: impl Fn(&WorkQueueState<T>) -> usize,
        keep: impl Fn(&T) -> bool,
        team: impl Fn(&mut WorkQueueState<T>) -> Team,
    ) -> Option<WorkItem<T>> {
        let mut state = self.lock();
        loop {
            if !state.queue.is_empty() {
                let most = most(&state);
                let batch = state.queue.next_batch(most, &keep);
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
        // Whoever was invited before and has not come is too late.
        state.invitations = vec![invitation; others];
        if state.idle_threads > 0 {
            self.changed.notify_all();
        }
        team
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
    fn lock(&self) -> MutexGuard<'_, WorkQueueState<T>> {
        self.state.lock()
    }
}

impl<T> WorkQueueState<T> {
    /// Tokens for each of those that could take them.
    fn share(&self) -> usize {
        self.queue.tokens().div_ceil(self.idle_threads + 1).max(SMALLEST_SHARE)
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
            // Pushed without waking anyone, so that this thread is the one that takes it.
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
    fn a_pass_is_joined_by_whoever_becomes_idle_while_it_runs() {
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
    fn idle_threads_share_what_is_too_much_for_one_pass() {
        let queue = WorkQueue::new(2);
        queue.push(FLOW, (0..4).map(|_| (SMALLEST_SHARE, ())));
        queue.lock().idle_threads = 1;
        let pass = |limit| match queue.next_pass(limit, |_| true) {
            Some(WorkItem::Batch(batch, team)) => (batch.len(), team.size()),
            _ => panic!("no batch"),
        };
        assert_eq!(pass(4 * SMALLEST_SHARE - 1), (2, 1));
        assert_eq!(pass(2 * SMALLEST_SHARE), (2, 2));
    }

    #[test]
    fn idle_threads_share_what_waits_where_nobody_can_help() {
        let queue = WorkQueue::new(2);
        queue.push(FLOW, (0..4).map(|_| (SMALLEST_SHARE, ())));
        queue.lock().idle_threads = 1;
        assert_eq!(queue.next_batch(1000, |_| true).map(|batch| batch.len()), Some(2));
    }
}
