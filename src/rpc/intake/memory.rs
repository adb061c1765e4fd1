//! Process-wide memory limits of messages: requests that are being received, and responses that wait to be read.
//!
//! Each call has a small allowance, so short messages never wait for long ones; the limit of open calls bounds the sum
//! of the allowances. Longer messages reserve memory from one of two budgets before they are read or computed. A call
//! that holds memory of the request budget may wait for the response budget, but never the other way round, so calls
//! cannot deadlock.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use parking_lot::Mutex;
use prometheus_client::{metrics::gauge::ConstGauge, registry::Registry};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Allowance of a call in bytes, for requests and for responses each.
pub(crate) const CALL_ALLOWANCE: usize = 64 << 10;
/// Bytes per permit of a budget.
const UNIT: usize = 1 << 10;

/// The budgets of requests and responses.
#[derive(Clone, Debug)]
pub(crate) struct MessageMemory {
    requests: MemoryBudget,
    responses: MemoryBudget,
}

#[derive(Clone, Debug)]
struct MemoryBudget {
    permits: Arc<Semaphore>,
    units: usize,
}

impl MessageMemory {
    /// Divides `bytes` evenly between requests and responses, and registers the metrics.
    pub fn new(bytes: usize, registry: &mut Registry) -> MessageMemory {
        let memory =
            MessageMemory { requests: MemoryBudget::new(bytes / 2), responses: MemoryBudget::new(bytes / 2) };
        registry.register_collector(Box::new(MemoryGauges(memory.clone())));
        memory
    }

    pub fn for_call(&self) -> CallMemory {
        CallMemory(Arc::new(CallMemoryInner {
            requests: Allowance::new(&self.requests),
            responses: Allowance::new(&self.responses),
            kept: Mutex::default(),
        }))
    }
}

impl MemoryBudget {
    fn new(bytes: usize) -> MemoryBudget {
        let units = (bytes / UNIT).clamp(1, Semaphore::MAX_PERMITS);
        MemoryBudget { permits: Arc::new(Semaphore::new(units)), units }
    }

    fn held_bytes(&self) -> usize {
        (self.units - self.permits.available_permits().min(self.units)) * UNIT
    }
}

/// The memory of one call.
#[derive(Clone, Debug)]
pub(crate) struct CallMemory(Arc<CallMemoryInner>);

#[derive(Debug)]
struct CallMemoryInner {
    requests: Allowance,
    responses: Allowance,
    /// Reservations held until the end of the call.
    kept: Mutex<Vec<MemoryReservation>>,
}

/// Memory that a call may use without the budget.
#[derive(Debug)]
struct Allowance {
    free: Arc<AtomicUsize>,
    budget: MemoryBudget,
}

impl Allowance {
    fn new(budget: &MemoryBudget) -> Allowance {
        Allowance { free: Arc::new(AtomicUsize::new(CALL_ALLOWANCE)), budget: budget.clone() }
    }

    /// Takes `bytes` from the allowance; None if it is too small.
    fn try_take(&self, bytes: usize) -> Option<MemoryReservation> {
        let less = |free: usize| free.checked_sub(bytes);
        self.free.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).ok()?;
        Some(MemoryReservation { allowance: Some((Arc::clone(&self.free), bytes)), permit: None })
    }

    async fn take(&self, bytes: usize) -> MemoryReservation {
        if let Some(held) = self.try_take(bytes) {
            return held;
        }
        // A message larger than the budget takes all of it, and is processed alone.
        let units = bytes.div_ceil(UNIT).min(self.budget.units);
        let units = u32::try_from(units).unwrap_or(u32::MAX);
        let permit = Arc::clone(&self.budget.permits).acquire_many_owned(units).await;
        MemoryReservation { allowance: None, permit: Some(permit.expect("the budget is never closed")) }
    }
}

/// Reserved memory. Dropping it releases the memory.
#[derive(Debug, Default)]
pub(crate) struct MemoryReservation {
    allowance: Option<(Arc<AtomicUsize>, usize)>,
    #[expect(dead_code, reason = "released on drop")]
    permit: Option<OwnedSemaphorePermit>,
}

impl Drop for MemoryReservation {
    fn drop(&mut self) {
        if let Some((free, bytes)) = self.allowance.take() {
            free.fetch_add(bytes, Ordering::Relaxed);
        }
    }
}

impl CallMemory {
    /// Reserves memory for a request message from the allowance; None if it is too small.
    pub fn try_take_request(&self, bytes: usize) -> Option<MemoryReservation> {
        self.0.requests.try_take(bytes)
    }

    /// Reserves memory for a request message. Waits until memory is available.
    pub async fn take_request(&self, bytes: usize) -> MemoryReservation {
        self.0.requests.take(bytes).await
    }

    /// Reserves memory for a response of about `bytes` until the end of the call. Waits until memory is available.
    pub async fn take_response(&self, bytes: usize) {
        let held = self.0.responses.take(bytes).await;
        self.keep(held);
    }

    /// Keeps `held` until the end of the call.
    pub fn keep(&self, held: MemoryReservation) {
        self.0.kept.lock().push(held);
    }

    /// Releases all kept reservations at the end of the call, because parts of the call may live longer.
    pub fn release(&self) {
        let kept = std::mem::take(&mut *self.0.kept.lock());
        drop(kept);
    }
}

/// Collector that reads the budgets at each scrape.
#[derive(Debug)]
struct MemoryGauges(MessageMemory);

impl prometheus_client::collector::Collector for MemoryGauges {
    fn encode(&self, mut encoder: prometheus_client::encoding::DescriptorEncoder<'_>) -> std::fmt::Result {
        use prometheus_client::encoding::EncodeMetric as _;
        let MessageMemory { requests, responses } = &self.0;
        for (name, help, value) in [
            ("assay_message_request_bytes", "Message memory in use by requests", requests.held_bytes()),
            ("assay_message_answer_bytes", "Message memory in use by responses", responses.held_bytes()),
            (
                "assay_message_limit_bytes",
                "Limit of message memory of requests; the limit of responses is the same",
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
    fn short_messages_need_no_budget_and_long_ones_wait() {
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
    fn responses_are_held_until_the_call_ends() {
        let memory = memory(1 << 20);
        let call = memory.for_call();
        call.take_response(300 << 10).now_or_never().expect("room");
        assert_eq!(memory.responses.held_bytes(), 300 << 10);
        call.release();
        assert_eq!(memory.responses.held_bytes(), 0);
    }

    #[test]
    fn a_message_larger_than_the_budget_takes_all_of_it() {
        let memory = memory(1 << 20);
        let held = memory.for_call().take_request(usize::MAX).now_or_never().expect("alone");
        assert_eq!(memory.requests.held_bytes(), 1 << 20);
        drop(held);
    }
}
