//! Threads that compare texts, so that the reactor doesn't.

use std::io;

use tokio::sync::oneshot;

use super::result::Failure;
use crate::{deadline::Deadline, priority};

pub(super) struct Pool(rayon::ThreadPool);

impl Pool {
    /// # Errors
    /// If the operating system gives no thread.
    pub fn start(threads: usize) -> io::Result<Pool> {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|index| format!("assay-score-{index}"))
            .start_handler(|_| priority::lower())
            .panic_handler(|_| {
                tracing::error!("comparing texts panicked; its metric is answered with FAILED")
            })
            .build();
        pool.map(Pool).map_err(io::Error::other)
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
        self.0.spawn(move || {
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

    #[tokio::test]
    async fn work_whose_deadline_passed_is_not_begun() {
        let pool = Pool::start(1).expect("a thread");
        let failed = pool.run(Deadline::after(Duration::ZERO), || panic!("it began")).await;
        assert!(matches!(failed, Err::<(), _>(Failure::DeadlineExceeded)));
    }
}
