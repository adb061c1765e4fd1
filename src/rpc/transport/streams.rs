//! The HTTP/2 streams of a connection. A stream whose response is not read is reset.
//!
//! hyper does not poll a response while the client grants no flow-control window, so a response that is never read keeps
//! its call open. The executor of the streams drops such a stream, which resets it.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{sync::Notify, time::sleep};
use tokio_util::sync::CancellationToken;

use crate::deadline::Deadline;

/// Time after the deadline in which the client can read the final status.
const GRACE: Duration = Duration::from_secs(1);
/// Maximum time without progress of a complete response that the client does not read.
const UNREAD_LIMIT: Duration = Duration::from_secs(60);
/// The same limit during shutdown.
const SHUTDOWN_UNREAD_LIMIT: Duration = Duration::from_secs(2);

/// Condition that ends the stream of a call if its response is not read.
#[derive(Clone, Debug, Default)]
pub(crate) struct CallEnd(Arc<EndState>);

#[derive(Debug, Default)]
struct EndState {
    deadline: OnceLock<Deadline>,
    response_complete: AtomicBool,
    /// Number of response frames that the transport has taken.
    frames: AtomicU32,
    ended: Notify,
}

impl CallEnd {
    /// Sets the deadline of the call. Only the first call has an effect.
    pub fn set_deadline(&self, deadline: Deadline) {
        // The layer sets the deadline once per call.
        let _ = self.0.deadline.set(deadline);
    }

    /// Records that the response is completely computed.
    pub fn response_complete(&self) {
        self.0.response_complete.store(true, Ordering::Relaxed);
        self.0.ended.notify_one();
    }

    /// Records that the transport has taken a frame of the response.
    pub fn progressed(&self) {
        self.0.frames.fetch_add(1, Ordering::Relaxed);
    }

    /// Waits until the stream must be dropped.
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

    /// Waits until a complete response has not been read for too long.
    async fn unread(&self, closing: &CancellationToken) {
        while !self.0.response_complete.load(Ordering::Relaxed) {
            self.0.ended.notified().await;
        }
        loop {
            let before = self.0.frames.load(Ordering::Relaxed);
            tokio::select! {
                () = sleep(UNREAD_LIMIT) => {}
                () = async { closing.cancelled().await; sleep(SHUTDOWN_UNREAD_LIMIT).await } => {}
            }
            if self.0.frames.load(Ordering::Relaxed) == before {
                return;
            }
        }
    }
}

/// Runs the streams of one connection. hyper passes a stream right after it has called the service for it, so the service
/// stores the end condition of the call in `next`.
#[derive(Clone)]
pub(super) struct StreamExecutor {
    next: Arc<Mutex<Option<CallEnd>>>,
    closing: CancellationToken,
}

impl StreamExecutor {
    pub fn new(closing: CancellationToken) -> StreamExecutor {
        StreamExecutor { next: Arc::default(), closing }
    }

    /// Sets the end condition of the next stream.
    pub fn set_next_end(&self, end: CallEnd) {
        *self.next.lock() = Some(end);
    }
}

impl<F> hyper::rt::Executor<F> for StreamExecutor
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    fn execute(&self, stream: F) {
        let end = self.next.lock().take();
        let closing = self.closing.clone();
        tokio::spawn(async move {
            let Some(end) = end else {
                stream.await;
                return;
            };
            tokio::select! {
                biased;
                _ = stream => {}
                () = end.overdue(&closing) => tracing::debug!("call ended: the client does not read the response"),
            }
        });
    }
}
