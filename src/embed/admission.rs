//! How many tokens may wait or be computed at one time.

use std::{sync::Arc, time::Duration};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{EmbedError, metrics::Metrics};

/// Room for tokens: half of it is for calls, half for streams.
pub(super) struct Admission {
    calls: Arc<Semaphore>,
    streams: Arc<Semaphore>,
    /// Permits of each of the two.
    capacity: usize,
    metrics: Metrics,
}

/// Which half.
#[derive(Clone, Copy, Debug)]
pub(super) enum Lane {
    /// Refused at once where it is full.
    Call,
    /// Waited for where it is full.
    Stream,
}

impl Admission {
    pub fn new(queue_tokens: usize, max_tokens: usize, metrics: &Metrics) -> Admission {
        let capacity = capacity(queue_tokens, max_tokens);
        Admission {
            calls: Arc::new(Semaphore::new(capacity)),
            streams: Arc::new(Semaphore::new(capacity)),
            capacity,
            metrics: metrics.clone(),
        }
    }

    /// Never waits in [`Lane::Call`].
    pub async fn admit(&self, lane: Lane, tokens: usize) -> Result<OwnedSemaphorePermit, EmbedError> {
        match lane {
            Lane::Call => self.admit_call(tokens),
            Lane::Stream => {
                let permit = Arc::clone(&self.streams).acquire_many_owned(permits(tokens)).await;
                permit.map_err(|_| EmbedError::Stopping)
            }
        }
    }

    /// Tokens that calls hold, that streams hold, and the most of either.
    pub fn held(&self) -> (usize, usize, usize) {
        let held = |permits: &Semaphore| self.capacity - permits.available_permits().min(self.capacity);
        (held(&self.calls), held(&self.streams), self.capacity)
    }

    fn admit_call(&self, tokens: usize) -> Result<OwnedSemaphorePermit, EmbedError> {
        let capacity = self.capacity;
        if tokens > capacity {
            return Err(EmbedError::TooLarge { tokens, capacity });
        }
        Arc::clone(&self.calls).try_acquire_many_owned(permits(tokens)).map_err(|_| {
            self.metrics.refused();
            EmbedError::QueueFull { tokens, capacity, retry_in: Duration::from_millis(250) }
        })
    }
}

/// Half of the queue, but room for one input of any length, or that would wait for ever.
fn capacity(queue_tokens: usize, max_tokens: usize) -> usize {
    let half = queue_tokens / 2;
    if half < max_tokens {
        tracing::warn!(queue_tokens, max_tokens, "the queue is raised to twice the tokens of one input");
    }
    half.max(max_tokens)
}

fn permits(tokens: usize) -> u32 {
    u32::try_from(tokens).unwrap_or(u32::MAX)
}
