//! Collects the parts of one call from the threads that make them.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::deadline::Deadline;

/// Whether anyone still waits for a call's answer.
#[derive(Debug)]
pub(super) struct EmbedCaller {
    gone: AtomicBool,
    deadline: Deadline,
}

impl EmbedCaller {
    pub fn new(deadline: Deadline) -> Arc<EmbedCaller> {
        Arc::new(EmbedCaller { gone: AtomicBool::new(false), deadline })
    }

    pub fn is_waiting(&self) -> bool {
        !self.gone.load(Ordering::Relaxed) && !self.deadline.has_passed()
    }
}

/// Tells the threads that the caller left, however its future ended.
pub(super) struct CancelOnDrop(pub Arc<EmbedCaller>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.gone.store(true, Ordering::Relaxed);
    }
}

/// Slots that threads fill in any order. If all its handles are dropped before, the receiver gets an error.
pub(super) struct Gather<T>(Mutex<Slots<T>>);

struct Slots<T> {
    values: Vec<Option<T>>,
    missing: usize,
    done: Option<oneshot::Sender<Vec<T>>>,
}

impl<T> Gather<T> {
    /// For at least one part.
    pub fn new(parts: usize) -> (Arc<Gather<T>>, oneshot::Receiver<Vec<T>>) {
        let (done, receiver) = oneshot::channel();
        let slots = Slots { values: (0..parts).map(|_| None).collect(), missing: parts, done: Some(done) };
        (Arc::new(Gather(Mutex::new(slots))), receiver)
    }

    pub fn put(&self, index: usize, value: T) {
        let mut slots = self.0.lock();
        if slots.values[index].replace(value).is_none() {
            slots.missing -= 1;
        }
        if slots.missing == 0
            && let Some(done) = slots.done.take()
        {
            let values = std::mem::take(&mut slots.values).into_iter().flatten().collect();
            // A caller that left needs no answer.
            let _ = done.send(values);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn parts_come_in_their_order_whatever_the_order_they_were_put() {
        let (gather, mut receiver) = Gather::new(3);
        for index in [2, 0, 1] {
            assert!(receiver.try_recv().is_err());
            gather.put(index, index * 10);
        }
        assert_eq!(receiver.try_recv(), Ok(vec![0, 10, 20]));
    }

    #[test]
    fn a_part_that_never_comes_ends_in_an_error() {
        let (gather, mut receiver) = Gather::new(2);
        gather.put(0, ());
        drop(gather);
        assert_eq!(receiver.try_recv(), Err(oneshot::error::TryRecvError::Closed));
    }

    #[test]
    fn a_caller_is_gone_when_its_future_is_dropped_or_its_deadline_passed() {
        let caller = EmbedCaller::new(Deadline::after(Duration::from_secs(60)));
        assert!(caller.is_waiting());
        drop(CancelOnDrop(caller.clone()));
        assert!(!caller.is_waiting());
        assert!(!EmbedCaller::new(Deadline::after(Duration::ZERO)).is_waiting());
    }
}
