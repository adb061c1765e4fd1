//! Threads that compute metrics, so that the reactor doesn't.
//!
//! Computation is done in slices. Between slices a job ends if nobody waits for it any more, and gives way to the jobs of other
//! callers, who take turns: however much one caller asks for, another waits for one slice of it. Short work, such as the
//! arithmetic over what a judge said, comes before long work, and is done in its middle too: a judge that was asked late
//! because texts were being compared would answer late.

mod round_robin;

use std::{
    cell::Cell,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::{
    cancellation::{Cancellation, Cancelled},
    result::Failure,
};
use crate::{
    deadline::Deadline,
    log_limit::{LogLimit, Site},
    priority::Priority,
};
use round_robin::CallerTurns;

/// Time for which a job keeps its thread before other jobs get a turn. A slice is usually shorter and is never interrupted.
const TURN: Duration = Duration::from_millis(5);

/// The caller of a job, and the deadline of its result.
#[derive(Clone, Copy, Debug)]
pub(super) struct PoolTicket {
    /// A number for the call or stream that asks.
    pub caller: u64,
    pub deadline: Deadline,
}

/// The length of a slice of a computation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Length {
    /// At most a few milliseconds.
    Short,
    /// Up to half a second, with questions in between whether the result is still wanted.
    Long,
}

/// One turn of a job; false once it is done.
type PoolJob = Box<dyn FnMut() -> bool + Send>;

/// Jobs that wait for a thread.
#[derive(Default)]
struct QueuedJob {
    short: Mutex<CallerTurns<PoolJob>>,
    long: Mutex<CallerTurns<PoolJob>>,
}

pub(super) struct Pool {
    /// None while the pool is being dropped.
    threads: Option<rayon::ThreadPool>,
    waiting: Arc<QueuedJob>,
    /// Hears of each thread's end.
    ended: Mutex<mpsc::Receiver<()>>,
}

impl Pool {
    /// # Errors
    /// If the operating system gives no thread.
    pub fn start(threads: usize) -> io::Result<Pool> {
        let (ending, ended) = mpsc::channel();
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|index| format!("assay-score-{index}"))
            .start_handler(|_| Priority::Score.apply())
            .exit_handler(move |_| {
                // Nobody listens where the pool could not be started.
                let _ = ending.send(());
            })
            .build();
        let threads = Some(pool.map_err(io::Error::other)?);
        Ok(Pool { threads, waiting: Arc::default(), ended: Mutex::new(ended) })
    }

    /// Runs `work` on one of the threads. Computation whose caller left before it began is dropped there.
    ///
    /// # Errors
    /// [`Failure::DeadlineExceeded`]; [`Failure::Defect`] if the work panics.
    pub async fn run<T: Send + 'static>(
        &self,
        ticket: PoolTicket,
        length: Length,
        work: impl FnOnce(Cancellation<'_>) -> Result<T, Cancelled> + Send + 'static,
    ) -> Result<T, Failure> {
        let mut work = Some(work);
        let once = move |cancellation: Cancellation<'_>| match work.take() {
            Some(work) => work(cancellation).map(Some),
            None => Err(Cancelled),
        };
        self.run_in_slices(ticket, length, once).await
    }

    /// Runs `slice` again and again until it gives the result.
    ///
    /// # Errors
    /// See [`Pool::run`].
    pub async fn run_in_slices<T: Send + 'static>(
        &self,
        ticket: PoolTicket,
        length: Length,
        mut slice: impl FnMut(Cancellation<'_>) -> Result<Option<T>, Cancelled> + Send + 'static,
    ) -> Result<T, Failure> {
        let deadline = ticket.deadline;
        let (done, result) = oneshot::channel();
        let mut done = Some(done);
        let waiting = Arc::clone(&self.waiting);
        let turn = move || {
            let Some(open) = &done else { return false };
            let gave_way = Cell::new(Instant::now());
            let is_wanted = || {
                if length == Length::Long && gave_way.get().elapsed() >= TURN {
                    waiting.do_short_work();
                    gave_way.set(Instant::now());
                }
                !open.is_closed() && !deadline.has_passed()
            };
            match one_turn(Cancellation::new(&is_wanted), &mut slice) {
                Ok(None) => return true,
                Ok(Some(value)) => {
                    // A caller that left needs no result.
                    let _ = done.take().map(|done| done.send(value));
                }
                Err(Cancelled) => drop(done.take()),
            }
            false
        };
        // Bounded by the samples that may be evaluated at one time, and by the metrics of each.
        self.waiting.of(length).lock().push(ticket.caller, Box::new(turn));
        let waiting = Arc::clone(&self.waiting);
        self.threads.as_ref().expect("it is there until it is dropped").spawn(move || next_turn(&waiting));
        match tokio::time::timeout_at(deadline.instant().into(), result).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(_)) if !deadline.has_passed() => Err(Failure::Defect),
            _ => Err(Failure::DeadlineExceeded),
        }
    }
}

/// Slices until there is a result or the turn is over.
fn one_turn<T>(
    cancellation: Cancellation<'_>,
    slice: &mut impl FnMut(Cancellation<'_>) -> Result<Option<T>, Cancelled>,
) -> Result<Option<T>, Cancelled> {
    let begun = Instant::now();
    loop {
        cancellation.check()?;
        let value = slice(cancellation)?;
        if value.is_some() || begun.elapsed() >= TURN {
            return Ok(value);
        }
    }
}

/// Gives a turn to whichever job is next: there are at least as many calls of this to come as jobs that wait.
fn next_turn(waiting: &Arc<QueuedJob>) {
    let is_unfinished = waiting.give_turn(Length::Short).or_else(|| waiting.give_turn(Length::Long));
    if is_unfinished.unwrap_or(false) {
        let waiting = Arc::clone(waiting);
        rayon::spawn(move || next_turn(&waiting));
    }
}

impl QueuedJob {
    fn of(&self, length: Length) -> &Mutex<CallerTurns<PoolJob>> {
        match length {
            Length::Short => &self.short,
            Length::Long => &self.long,
        }
    }

    /// Returns whether the job that had its turn waits for another one; None if no job waits.
    fn give_turn(&self, length: Length) -> Option<bool> {
        let (caller, mut job) = self.of(length).lock().pop()?;
        // A job that panics is dropped, which tells its caller; one in whose middle it was done goes on.
        let is_unfinished = catch_unwind(AssertUnwindSafe(&mut job)).unwrap_or_else(|_| {
            static LINES: LogLimit = LogLimit::new(Site::ScorePanic);
            if LINES.admits() {
                tracing::error!("computing a metric panicked; it is answered with FAILED");
            }
            false
        });
        if is_unfinished {
            self.of(length).lock().push(caller, job);
        }
        Some(is_unfinished)
    }

    /// Runs short jobs for one turn, or until none is left. An unfinished job is queued again behind those of the other
    /// callers.
    fn do_short_work(&self) {
        let begun = Instant::now();
        while begun.elapsed() < TURN && self.give_turn(Length::Short).is_some() {}
    }
}

/// Ends the threads when what they have begun is done, and waits for them.
impl Drop for Pool {
    fn drop(&mut self) {
        let Some(threads) = self.threads.take() else { return };
        let count = threads.current_num_threads();
        drop(threads);
        let ended = self.ended.get_mut();
        ended.iter().take(count).for_each(drop);
    }
}

#[cfg(test)]
mod tests;
