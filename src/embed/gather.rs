//! Collects the parts of an answer from the threads that compute them.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::deadline::Deadline;

/// The caller of one request: whether it still waits for the answer.
#[derive(Debug)]
pub(super) struct EmbedCaller {
    gone: AtomicBool,
    deadline: Deadline,
}

impl EmbedCaller {
    pub fn new(deadline: Deadline) -> Arc<EmbedCaller> {
        Arc::new(EmbedCaller { gone: AtomicBool::new(false), deadline })
    }

    /// Returns true if the caller is connected and its deadline has not passed.
    pub fn is_waiting(&self) -> bool {
        !self.gone.load(Ordering::Relaxed) && !self.deadline.has_passed()
    }
}

/// Marks the caller as gone when it is dropped, so that the threads skip its work.
pub(super) struct CancelOnDrop(pub Arc<EmbedCaller>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.gone.store(true, Ordering::Relaxed);
    }
}

/// Slots that threads fill in any order. The receiver gets all values once the last slot is filled, or an error if all
/// handles are dropped before.
pub(super) struct Gather<T>(Mutex<Slots<T>>);

struct Slots<T> {
    values: Vec<Option<T>>,
    missing: usize,
    done: Option<oneshot::Sender<Vec<T>>>,
}

impl<T> Gather<T> {
    /// Creates slots for `parts` values, at least one.
    pub fn new(parts: usize) -> (Arc<Gather<T>>, oneshot::Receiver<Vec<T>>) {
        let (done, receiver) = oneshot::channel();
        let slots = Slots { values: (0..parts).map(|_| None).collect(), missing: parts, done: Some(done) };
        (Arc::new(Gather(Mutex::new(slots))), receiver)
    }

    /// Fills the slot `index`.
    pub fn put(&self, index: usize, value: T) {
        let mut slots = self.0.lock();
        if slots.values[index].replace(value).is_none() {
            slots.missing -= 1;
        }
        if slots.missing == 0
            && let Some(done) = slots.done.take()
        {
            let values = std::mem::take(&mut slots.values).into_iter().flatten().collect();
            // The receiver is gone if the caller went away.
            let _ = done.send(values);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn values_are_in_slot_order_regardless_of_arrival() {
        let (gather, mut receiver) = Gather::new(3);
        for index in [2, 0, 1] {
            assert!(receiver.try_recv().is_err());
            gather.put(index, index * 10);
        }
        assert_eq!(receiver.try_recv(), Ok(vec![0, 10, 20]));
    }

    #[test]
    fn a_dropped_part_ends_in_an_error() {
        let (gather, mut receiver) = Gather::new(2);
        gather.put(0, ());
        drop(gather);
        assert_eq!(receiver.try_recv(), Err(oneshot::error::TryRecvError::Closed));
    }

    #[test]
    fn a_caller_is_gone_after_cancellation_or_its_deadline() {
        let caller = EmbedCaller::new(Deadline::after(Duration::from_secs(60)));
        assert!(caller.is_waiting());
        drop(CancelOnDrop(caller.clone()));
        assert!(!caller.is_waiting());
        assert!(!EmbedCaller::new(Deadline::after(Duration::ZERO)).is_waiting());
    }
}
