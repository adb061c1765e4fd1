//! Counters of open calls: those that a shutdown waits for, and those that count towards the limit of open calls.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// Counters of open calls. A call is open until its response is completely sent.
#[derive(Clone, Default)]
pub(crate) struct OpenCalls {
    /// Calls that a shutdown waits for: all except health watches, which end on their own, and reflection, which a client
    /// may leave open and idle.
    pub(super) count: Arc<AtomicUsize>,
    /// Open health checks, and all other open calls.
    health: Arc<AtomicUsize>,
    others: Arc<AtomicUsize>,
}

/// Permit of one open call. Dropping it releases the permit.
pub(super) struct OpenCallPermit(Arc<AtomicUsize>);

impl Drop for OpenCallPermit {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl OpenCalls {
    pub fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Acquires a permit; None at the limit. Health checks have a separate limit of the same size, so that clients cannot
    /// block probes.
    pub(super) fn acquire(&self, method: &str, limit: usize) -> Option<OpenCallPermit> {
        let open = if method.starts_with("grpc.health.") { &self.health } else { &self.others };
        let permit = OpenCallPermit(Arc::clone(open));
        (open.fetch_add(1, Ordering::Relaxed) < limit).then_some(permit)
    }
}
