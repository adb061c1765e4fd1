//! The memory that messages of calls may take, process-wide: requests that arrive, and answers that wait to be read.
//!
//! Each call has a small allowance of its own, so that short messages never wait for long ones; the number of open
//! calls bounds their sum. What a message needs beyond the allowance is taken from one of two budgets, before a byte
//! of it is read or computed. A call that holds a request may wait for an answer, never the other way round, so calls
//! cannot wait for each other in a circle.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicUsize, Ordering},
};

use prometheus_client::{metrics::gauge::ConstGauge, registry::Registry};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes of messages that a call may hold without asking, for requests and as many for answers.
pub(crate) const CALL_ALLOWANCE: usize = 64 << 10;
/// Bytes that one permit of a budget stands for.
const UNIT: usize = 1 << 10;

/// The two budgets.
#[derive(Clone, Debug)]
pub(crate) struct MessageMemory {
    requests: Budget,
    answers: Budget,
}

#[derive(Clone, Debug)]
struct Budget {
    permits: Arc<Semaphore>,
    units: usize,
}

impl MessageMemory {
    /// `bytes` are divided evenly between requests and answers.
    pub fn new(bytes: usize, registry: &mut Registry) -> MessageMemory {
        let memory = MessageMemory { requests: Budget::new(bytes / 2), answers: Budget::new(bytes / 2) };
        registry.register_collector(Box::new(Gauges(memory.clone())));
        memory
    }

    pub fn for_call(&self) -> CallMemory {
        CallMemory(Arc::new(OfCall {
            requests: Allowance::new(&self.requests),
            answers: Allowance::new(&self.answers),
            kept: Mutex::default(),
        }))
    }
}

impl Budget {
    fn new(bytes: usize) -> Budget {
        let units = (bytes / UNIT).clamp(1, Semaphore::MAX_PERMITS);
        Budget { permits: Arc::new(Semaphore::new(units)), units }
    }

    fn held_bytes(&self) -> usize {
        (self.units - self.permits.available_permits().min(self.units)) * UNIT
    }
}

/// The memory of one call.
#[derive(Clone, Debug)]
pub(crate) struct CallMemory(Arc<OfCall>);

#[derive(Debug)]
struct OfCall {
    requests: Allowance,
    answers: Allowance,
    /// Held until the call has ended.
    kept: Mutex<Vec<Held>>,
}

#[derive(Debug)]
struct Allowance {
    free: Arc<AtomicUsize>,
    budget: Budget,
}

impl Allowance {
    fn new(budget: &Budget) -> Allowance {
        Allowance { free: Arc::new(AtomicUsize::new(CALL_ALLOWANCE)), budget: budget.clone() }
    }

    /// Out of the call's own allowance; None where that is not enough.
    fn try_take(&self, bytes: usize) -> Option<Held> {
        let less = |free: usize| free.checked_sub(bytes);
        self.free.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).ok()?;
        Some(Held { allowance: Some((Arc::clone(&self.free), bytes)), permit: None })
    }

    async fn take(&self, bytes: usize) -> Held {
        if let Some(held) = self.try_take(bytes) {
            return held;
        }
        // More than there is of it is the whole of it: such a message goes alone.
        let units = bytes.div_ceil(UNIT).min(self.budget.units);
        let units = u32::try_from(units).unwrap_or(u32::MAX);
        let permit = Arc::clone(&self.budget.permits).acquire_many_owned(units).await;
        Held { allowance: None, permit: Some(permit.expect("the budget is never closed")) }
    }
}

/// Memory that is taken; dropping it gives it back.
#[derive(Debug, Default)]
pub(crate) struct Held {
    allowance: Option<(Arc<AtomicUsize>, usize)>,
    #[expect(dead_code, reason = "held until the message is gone")]
    permit: Option<OwnedSemaphorePermit>,
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some((free, bytes)) = self.allowance.take() {
            free.fetch_add(bytes, Ordering::Relaxed);
        }
    }
}

impl CallMemory {
    /// For a request's message, where the call's own allowance is enough.
    pub fn try_take_request(&self, bytes: usize) -> Option<Held> {
        self.0.requests.try_take(bytes)
    }

    /// For a request's message; waits until there is room.
    pub async fn take_request(&self, bytes: usize) -> Held {
        self.0.requests.take(bytes).await
    }

    /// For an answer of about `bytes`, until the call has ended; waits until there is room.
    pub async fn take_answer(&self, bytes: usize) {
        let held = self.0.answers.take(bytes).await;
        self.keep(held);
    }

    /// Keeps `held` until the call has ended.
    pub fn keep(&self, held: Held) {
        self.0.kept.lock().unwrap_or_else(PoisonError::into_inner).push(held);
    }

    /// Gives back all that was kept. The call's parts may outlive it.
    pub fn release(&self) {
        let kept = std::mem::take(&mut *self.0.kept.lock().unwrap_or_else(PoisonError::into_inner));
        drop(kept);
    }
}

/// Read when metrics are asked for.
#[derive(Debug)]
struct Gauges(MessageMemory);

impl prometheus_client::collector::Collector for Gauges {
    fn encode(&self, mut encoder: prometheus_client::encoding::DescriptorEncoder<'_>) -> std::fmt::Result {
        use prometheus_client::encoding::EncodeMetric as _;
        let MessageMemory { requests, answers } = &self.0;
        for (name, help, value) in [
            ("assay_message_request_bytes", "Memory budget held by requests", requests.held_bytes()),
            ("assay_message_answer_bytes", "Memory budget held by answers", answers.held_bytes()),
            (
                "assay_message_limit_bytes",
                "Memory budget of requests, and as much of answers",
                requests.units * UNIT,
            ),
        ] {
            let gauge = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    fn memory(bytes: usize) -> MessageMemory {
        MessageMemory::new(2 * bytes, &mut Registry::default())
    }

    #[test]
    fn a_short_message_needs_no_budget_and_a_long_one_waits() {
        let memory = memory(1 << 20);
        let (one, two) = (memory.for_call(), memory.for_call());
        let long = one.take_request(1 << 20).now_or_never().expect("the whole budget");
        assert!(two.take_request(100 << 10).now_or_never().is_none());
        let short = two.try_take_request(CALL_ALLOWANCE).expect("its own allowance");
        assert!(two.try_take_request(1).is_none());
        drop((long, short));
        assert!(two.try_take_request(1).is_some());
        assert!(two.take_request(1 << 20).now_or_never().is_some());
        assert_eq!(memory.requests.held_bytes(), 0);
    }

    #[test]
    fn answers_are_held_until_the_call_ends() {
        let memory = memory(1 << 20);
        let call = memory.for_call();
        call.take_answer(300 << 10).now_or_never().expect("room");
        assert_eq!(memory.answers.held_bytes(), 300 << 10);
        call.release();
        assert_eq!(memory.answers.held_bytes(), 0);
    }

    #[test]
    fn what_is_larger_than_the_budget_takes_all_of_it() {
        let memory = memory(1 << 20);
        let held = memory.for_call().take_request(usize::MAX).now_or_never().expect("alone");
        assert_eq!(memory.requests.held_bytes(), 1 << 20);
        drop(held);
    }
}
