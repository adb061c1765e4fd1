//! The HTTP/2 streams of a connection: each is ended where nobody reads its answer.
//!
//! hyper waits for the peer's flow-control window before it looks at an answer again, however long that takes, so an
//! answer that is never read keeps its call open. The executor that runs the streams drops such a stream, which resets
//! it.

use std::{
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use tokio::{sync::Notify, time::sleep};
use tokio_util::sync::CancellationToken;

use crate::deadline::Deadline;

/// Time after the deadline in which the answer that tells of it may be read.
const GRACE: Duration = Duration::from_secs(1);
/// An answer that is complete and of which nothing is read for so long is given up.
const UNREAD_LIMIT: Duration = Duration::from_secs(60);
/// The same once the server shuts down.
const LAST_UNREAD_LIMIT: Duration = Duration::from_secs(2);

/// When the stream of one call ends, whether its answer was read or not.
#[derive(Clone, Debug, Default)]
pub(crate) struct CallEnd(Arc<EndState>);

#[derive(Debug, Default)]
struct EndState {
    deadline: OnceLock<Deadline>,
    answered: AtomicBool,
    /// Frames of the answer that the transport took.
    frames: AtomicU32,
    ended: Notify,
}

impl CallEnd {
    /// Sets the call's deadline; the first one counts.
    pub fn at(&self, deadline: Deadline) {
        // A call has one deadline, set by the layer around it.
        let _ = self.0.deadline.set(deadline);
    }

    /// Takes note that nothing of the answer is computed any more.
    pub fn answered(&self) {
        self.0.answered.store(true, Ordering::Relaxed);
        self.0.ended.notify_one();
    }

    /// Takes note that the transport took a frame of the answer.
    pub fn progressed(&self) {
        self.0.frames.fetch_add(1, Ordering::Relaxed);
    }

    /// Ready when the stream is to be dropped.
    async fn overdue(&self, closing: &CancellationToken) {
        let late = async {
            match self.0.deadline.get() {
                Some(deadline) => tokio::time::sleep_until((deadline.instant() + GRACE).into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = late => {}
            () = self.unread(closing) => {}
        }
    }

    /// Ready once a complete answer has not been read for too long.
    async fn unread(&self, closing: &CancellationToken) {
        while !self.0.answered.load(Ordering::Relaxed) {
            self.0.ended.notified().await;
        }
        loop {
            let before = self.0.frames.load(Ordering::Relaxed);
            tokio::select! {
                () = sleep(UNREAD_LIMIT) => {}
                () = async { closing.cancelled().await; sleep(LAST_UNREAD_LIMIT).await } => {}
            }
            if self.0.frames.load(Ordering::Relaxed) == before {
                return;
            }
        }
    }
}

/// Runs the streams of one connection. hyper hands over a stream right after it has called the service for it, so the
/// service leaves the call's end in `next`.
#[derive(Clone)]
pub(super) struct StreamExecutor {
    next: Arc<Mutex<Option<CallEnd>>>,
    closing: CancellationToken,
}

impl StreamExecutor {
    pub fn new(closing: CancellationToken) -> StreamExecutor {
        StreamExecutor { next: Arc::default(), closing }
    }

    /// Says when the next stream ends.
    pub fn expect(&self, end: CallEnd) {
        *self.next.lock().unwrap_or_else(PoisonError::into_inner) = Some(end);
    }
}

impl<F> hyper::rt::Executor<F> for StreamExecutor
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    fn execute(&self, stream: F) {
        let end = self.next.lock().unwrap_or_else(PoisonError::into_inner).take();
        let closing = self.closing.clone();
        tokio::spawn(async move {
            let Some(end) = end else {
                stream.await;
                return;
            };
            tokio::select! {
                biased;
                _ = stream => {}
                () = end.overdue(&closing) => tracing::debug!("a call is ended: its answer is not read"),
            }
        });
    }
}
