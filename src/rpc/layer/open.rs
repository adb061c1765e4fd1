//! Calls that are open, counted: those that a shutdown waits for, and those that take memory.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// Calls that are not answered to the last byte.
#[derive(Clone, Default)]
pub(crate) struct OpenCalls {
    /// All but health watches, which end on their own, and reflection, which a caller may leave open and idle.
    pub(super) count: Arc<AtomicUsize>,
    /// Calls that take memory: health, and all others.
    health: Arc<AtomicUsize>,
    others: Arc<AtomicUsize>,
}

/// One of the calls that may be open at one time; dropping it gives the place back.
pub(super) struct OpenPlace(Arc<AtomicUsize>);

impl Drop for OpenPlace {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl OpenCalls {
    pub fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Health checks have as many places of their own, so that probes find one whatever callers do.
    pub(super) fn take_place(&self, method: &str, limit: usize) -> Option<OpenPlace> {
        let open = if method.starts_with("grpc.health.") { &self.health } else { &self.others };
        let place = OpenPlace(Arc::clone(open));
        (open.fetch_add(1, Ordering::Relaxed) < limit).then_some(place)
    }
}
