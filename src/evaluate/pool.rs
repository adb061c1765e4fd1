//! Threads that compare texts, so that the reactor doesn't.

use std::{
    io,
    sync::{Mutex, PoisonError, mpsc},
};

use tokio::sync::oneshot;

use super::result::Failure;
use crate::{deadline::Deadline, priority::Priority};

pub(super) struct Pool {
    /// None while it is dropped.
    threads: Option<rayon::ThreadPool>,
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
            .start_handler(|_| Priority::Compute.take())
            .exit_handler(move |_| {
                // Nobody listens where the pool could not be started.
                let _ = ending.send(());
            })
            .panic_handler(|_| {
                tracing::error!("comparing texts panicked; its metric is answered with FAILED")
            })
            .build();
        Ok(Pool { threads: Some(pool.map_err(io::Error::other)?), ended: Mutex::new(ended) })
    }

    /// Runs `work` on one of the threads. Work whose caller left before it began is dropped.
    ///
    /// # Errors
    /// [`Failure::DeadlineExceeded`]; [`Failure::Defect`] if the work panics.
    pub async fn run<T: Send + 'static>(
        &self,
        deadline: Deadline,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Failure> {
        // Bounded by the samples that may be evaluated at one time, and by the metrics of each.
        let (done, result) = oneshot::channel();
        let threads = self.threads.as_ref().expect("it is there until it is dropped");
        threads.spawn(move || {
            if !done.is_closed() && !deadline.has_passed() {
                // A caller that left needs no result.
                let _ = done.send(work());
            }
        });
        match tokio::time::timeout_at(deadline.instant().into(), result).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(_)) if !deadline.has_passed() => Err(Failure::Defect),
            _ => Err(Failure::DeadlineExceeded),
        }
    }
}

/// Ends the threads when what they have begun is done, and waits for them.
impl Drop for Pool {
    fn drop(&mut self) {
        let Some(threads) = self.threads.take() else { return };
        let count = threads.current_num_threads();
        drop(threads);
        let ended = self.ended.get_mut().unwrap_or_else(PoisonError::into_inner);
        ended.iter().take(count).for_each(drop);
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test waits for its futures")]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn work_that_panics_costs_itself_alone() {
        let pool = Pool::start(1).expect("a thread");
        let soon = Deadline::after(Duration::from_secs(20));
        let failed = pool.run(soon, || panic!("on purpose")).await;
        assert!(matches!(failed, Err::<(), _>(Failure::Defect)));
        assert_eq!(pool.run(soon, || 7).await.expect("it goes on"), 7);
    }

    #[test]
    fn a_pool_that_is_dropped_waits_for_what_its_threads_have_begun() {
        let pool = Pool::start(2).expect("threads");
        let (begin, begun) = mpsc::channel();
        let (finish, finished) = mpsc::channel::<()>();
        let done = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let mark = std::sync::Arc::clone(&done);
        let threads = pool.threads.as_ref().expect("it is there");
        threads.spawn(move || {
            begin.send(()).expect("it is waited for");
            finished.recv().expect_err("the other end is dropped");
            mark.store(true, std::sync::atomic::Ordering::SeqCst);
        });
        begun.recv().expect("it begins");
        drop(finish);
        drop(pool);
        assert!(done.load(std::sync::atomic::Ordering::SeqCst));
    }

    #[tokio::test]
    async fn work_whose_deadline_passed_is_not_begun() {
        let pool = Pool::start(1).expect("a thread");
        let failed = pool.run(Deadline::after(Duration::ZERO), || panic!("it began")).await;
        assert!(matches!(failed, Err::<(), _>(Failure::DeadlineExceeded)));
    }
}
