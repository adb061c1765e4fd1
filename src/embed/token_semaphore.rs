//! A weighted semaphore over tokens that is fair between flows.

use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::oneshot;

use super::fair_queue::{FairQueue, FlowId, QueueTicket};

/// A semaphore with `capacity` tokens. Waiters are served fairly between flows.
pub(super) struct TokenSemaphore {
    state: Mutex<TokenSemaphoreState>,
    capacity: usize,
}

struct TokenSemaphoreState {
    /// Tokens of all permits. Exceeds the capacity after a permit grew beyond it.
    held: usize,
    waiting: FairQueue<oneshot::Sender<TokenPermit>>,
}

/// Tokens that are released when the permit is dropped.
pub(super) struct TokenPermit {
    gate: Arc<TokenSemaphore>,
    tokens: usize,
}

/// A queued request for a permit. It leaves the queue when it is dropped.
struct QueuedPermit<'a> {
    gate: &'a Arc<TokenSemaphore>,
    ticket: QueueTicket,
}

impl TokenSemaphore {
    /// Creates a semaphore with `capacity` free tokens.
    pub fn new(capacity: usize) -> Arc<TokenSemaphore> {
        Arc::new(TokenSemaphore {
            state: Mutex::new(TokenSemaphoreState { held: 0, waiting: FairQueue::new() }),
            capacity,
        })
    }

    /// Maximum tokens in flight.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Tokens of all permits.
    pub fn held(&self) -> usize {
        self.lock().held
    }

    /// Acquires `tokens` without waiting. Returns `None` if they are not free or others wait.
    pub fn try_acquire(self: &Arc<TokenSemaphore>, tokens: usize) -> Option<TokenPermit> {
        self.lock().take(self, tokens)
    }

    /// Waits for `tokens`. Waiting flows receive equal shares of the tokens that become free, so a request with few tokens
    /// overtakes flows with many. Requests above the capacity are reduced to it, since they could never be granted.
    pub async fn acquire(self: &Arc<TokenSemaphore>, flow: FlowId, tokens: usize) -> TokenPermit {
        let tokens = tokens.min(self.capacity);
        loop {
            let (queued, granted) = {
                let mut state = self.lock();
                if let Some(permit) = state.take(self, tokens) {
                    return permit;
                }
                let (grant, granted) = oneshot::channel();
                let ticket = state.waiting.push(flow, tokens, grant);
                (QueuedPermit { gate: self, ticket }, granted)
            };
            // On cancellation this is dropped before `queued`, which releases a permit that was granted meanwhile.
            let granted = granted.await;
            drop(queued);
            if let Ok(permit) = granted {
                return permit;
            }
        }
    }

    fn release(self: &Arc<TokenSemaphore>, tokens: usize) {
        let mut state = self.lock();
        state.held -= tokens;
        self.grant(state);
    }

    /// Grants free tokens to the next waiters.
    fn grant<'a>(self: &'a Arc<TokenSemaphore>, mut state: MutexGuard<'a, TokenSemaphoreState>) {
        loop {
            let mut grants = Vec::new();
            while let Some((tokens, waiting)) = state.next(self.capacity) {
                state.held += tokens;
                grants.push((TokenPermit { gate: Arc::clone(self), tokens }, waiting));
            }
            drop(state);
            // Permits are sent without the lock, because dropping one takes it. A permit whose receiver is gone is
            // returned here, in a loop rather than recursively, because it may admit further waiters.
            let refused = grants.into_iter().filter_map(|(permit, waiting)| waiting.send(permit).err());
            let unused: usize = refused.map(TokenPermit::forget).sum();
            if unused == 0 {
                return;
            }
            state = self.lock();
            state.held -= unused;
        }
    }

    // No operation under the lock can panic half-way, so the state is always consistent.
    fn lock(&self) -> MutexGuard<'_, TokenSemaphoreState> {
        self.state.lock()
    }
}

impl TokenSemaphoreState {
    fn take(&mut self, gate: &Arc<TokenSemaphore>, tokens: usize) -> Option<TokenPermit> {
        if !self.waiting.is_empty() || self.held.saturating_add(tokens) > gate.capacity {
            return None;
        }
        self.held += tokens;
        Some(TokenPermit { gate: Arc::clone(gate), tokens })
    }

    fn next(&mut self, capacity: usize) -> Option<(usize, oneshot::Sender<TokenPermit>)> {
        self.waiting.next_within(capacity.saturating_sub(self.held))
    }
}

impl TokenPermit {
    #[cfg(test)]
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Changes the size of the permit to `tokens`.
    ///
    /// Growing never waits and may exceed the capacity; new requests then wait until the excess is released. If growing
    /// waited, two callers could deadlock, each holding what the other needs. Admitting each text by the maximum number of
    /// tokens of its bytes would leave most of the capacity unused.
    pub fn resize(&mut self, tokens: usize) {
        let before = std::mem::replace(&mut self.tokens, tokens);
        if tokens > before {
            let mut state = self.gate.lock();
            state.held = state.held.saturating_add(tokens - before);
        } else if tokens < before {
            self.gate.release(before - tokens);
        }
    }

    /// Splits off a permit of at most `tokens`.
    pub fn split(&mut self, tokens: usize) -> TokenPermit {
        let tokens = tokens.min(self.tokens);
        self.tokens -= tokens;
        TokenPermit { gate: Arc::clone(&self.gate), tokens }
    }

    /// Consumes the permit without releasing its tokens, and returns their number.
    fn forget(mut self) -> usize {
        std::mem::take(&mut self.tokens)
    }
}

impl Drop for TokenPermit {
    fn drop(&mut self) {
        if self.tokens > 0 {
            self.gate.release(self.tokens);
        }
    }
}

impl Drop for QueuedPermit<'_> {
    fn drop(&mut self) {
        let mut state = self.gate.lock();
        // The cancelled request may have been what blocked the others.
        if state.waiting.remove(self.ticket).is_some() {
            self.gate.grant(state);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        pin::Pin,
        task::{Context, Poll, Waker},
    };

    use proptest::prelude::*;

    use super::*;

    type Acquire<'a> = Pin<Box<dyn Future<Output = TokenPermit> + 'a>>;

    fn acquire(gate: &Arc<TokenSemaphore>, flow: u64, tokens: usize) -> Acquire<'_> {
        let mut acquire: Acquire<'_> = Box::pin(gate.acquire(FlowId(flow), tokens));
        assert!(poll(&mut acquire).is_none(), "there was room");
        acquire
    }

    fn poll(acquire: &mut Acquire<'_>) -> Option<TokenPermit> {
        match acquire.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(permit) => Some(permit),
            Poll::Pending => None,
        }
    }

    #[test]
    fn free_tokens_are_granted_unless_others_wait() {
        let gate = TokenSemaphore::new(10);
        let first = gate.try_acquire(6).expect("room");
        assert!(gate.try_acquire(5).is_none() && gate.try_acquire(usize::MAX).is_none());
        let mut waiting = acquire(&gate, 0, 5);
        assert!(gate.try_acquire(1).is_none(), "another waits");
        drop(first);
        let second = poll(&mut waiting).expect("its turn");
        assert_eq!((second.tokens(), gate.held()), (5, 5));
    }

    #[test]
    fn a_short_text_of_a_new_flow_overtakes_thousands() {
        let gate = TokenSemaphore::new(100);
        let full = gate.try_acquire(100).expect("room");
        let mut flood: Vec<_> = (0..5000).map(|_| acquire(&gate, 1, 50)).collect();
        let mut polite = acquire(&gate, 2, 5);
        drop(full);
        let _polite = poll(&mut polite).expect("its turn");
        let admitted: Vec<TokenPermit> = flood.iter_mut().filter_map(poll).collect();
        assert_eq!(admitted.len(), 1, "one of 50 tokens fits next to the 5");
    }

    #[test]
    fn a_cancelled_waiter_lets_in_those_behind_it() {
        let gate = TokenSemaphore::new(10);
        let held = gate.try_acquire(5).expect("room");
        let large = acquire(&gate, 1, 10);
        let mut small = acquire(&gate, 1, 5);
        drop(large);
        assert!(poll(&mut small).is_some());
        drop((small, held));
        assert_eq!((gate.held(), gate.lock().waiting.jobs()), (0, 0));
    }

    #[test]
    fn an_unused_grant_is_released() {
        let gate = TokenSemaphore::new(10);
        let held = gate.try_acquire(10).expect("room");
        let (granted, mut next) = (acquire(&gate, 1, 10), acquire(&gate, 1, 10));
        drop(held);
        assert_eq!((gate.held(), poll(&mut next).is_some()), (10, false));
        drop(granted);
        assert_eq!(poll(&mut next).map(|permit| permit.tokens()), Some(10));
        assert_eq!(gate.held(), 0);
    }

    #[test]
    fn an_oversized_permit_delays_new_requests_without_deadlock() {
        let gate = TokenSemaphore::new(10);
        let mut permits = [gate.try_acquire(5).expect("room"), gate.try_acquire(5).expect("room")];
        // Both need more: if either waited, neither would finish.
        permits.iter_mut().for_each(|permit| permit.resize(9));
        assert_eq!(gate.held(), 18);
        let mut newcomer = acquire(&gate, 1, 2);
        let [first, second] = permits;
        drop(first);
        assert!(poll(&mut newcomer).is_none(), "one token is free");
        drop(second);
        assert!(poll(&mut newcomer).is_some());
    }

    #[test]
    fn shrinking_a_permit_frees_tokens_immediately() {
        let gate = TokenSemaphore::new(10);
        let mut permit = gate.try_acquire(10).expect("room");
        let mut waiting = acquire(&gate, 1, 6);
        permit.resize(4);
        assert!(poll(&mut waiting).is_some());
        let part = permit.split(3);
        assert_eq!((part.tokens(), permit.split(3).tokens(), permit.tokens()), (3, 1, 0));
    }

    #[test]
    fn a_request_above_the_capacity_is_admitted_alone() {
        let gate = TokenSemaphore::new(10);
        let held = gate.try_acquire(1).expect("room");
        let mut large = acquire(&gate, 1, usize::MAX);
        drop(held);
        assert_eq!(poll(&mut large).map(|permit| permit.tokens()), Some(10));
    }

    /// One action of a caller.
    #[derive(Clone, Debug)]
    enum Action {
        Ask { flow: u64, tokens: usize },
        GiveUp(usize),
        Resize(usize, usize),
        Release(usize),
    }

    fn action() -> impl Strategy<Value = Action> {
        prop_oneof![
            3 => (0..4_u64, 1..60_usize).prop_map(|(flow, tokens)| Action::Ask { flow, tokens }),
            1 => any::<usize>().prop_map(Action::GiveUp),
            1 => (any::<usize>(), 1..60_usize).prop_map(|(which, tokens)| Action::Resize(which, tokens)),
            2 => any::<usize>().prop_map(Action::Release),
        ]
    }

    proptest! {
        #[test]
        fn tokens_are_conserved_and_every_waiter_is_served(
            acts in prop::collection::vec(action(), 1..200),
        ) {
            let gate = TokenSemaphore::new(100);
            let (mut waiting, mut held): (Vec<Acquire<'_>>, Vec<TokenPermit>) = (Vec::new(), Vec::new());
            let mut debt = 0;
            for act in acts {
                match act {
                    Action::Ask { flow, tokens } => waiting.push(Box::pin(gate.acquire(FlowId(flow), tokens))),
                    Action::GiveUp(which) if !waiting.is_empty() => drop(waiting.remove(which % waiting.len())),
                    Action::Resize(which, tokens) if !held.is_empty() => {
                        let which = which % held.len();
                        debt += tokens.saturating_sub(held[which].tokens());
                        held[which].resize(tokens);
                    }
                    Action::Release(which) if !held.is_empty() => drop(held.swap_remove(which % held.len())),
                    _ => {}
                }
                waiting.retain_mut(|waiting| poll(waiting).map(|permit| held.push(permit)).is_none());
                prop_assert_eq!(gate.held(), held.iter().map(TokenPermit::tokens).sum::<usize>());
                prop_assert!(gate.held() <= 100 + debt);
                prop_assert_eq!(gate.lock().waiting.jobs(), waiting.len());
            }
            while !waiting.is_empty() {
                prop_assert!(held.pop().is_some(), "{} wait for ever", waiting.len());
                waiting.retain_mut(|waiting| poll(waiting).map(|permit| held.push(permit)).is_none());
            }
            held.clear();
            prop_assert_eq!(gate.held(), 0);
        }

        #[test]
        fn a_new_flow_waits_for_at_most_the_documented_bound(
            others in prop::collection::vec(1..60_usize, 1..8), own in 1..60_usize, served in 0..50_usize,
        ) {
            let gate = TokenSemaphore::new(60);
            let mut full = gate.try_acquire(60);
            let mut waiting: Vec<(usize, Acquire<'_>)> = Vec::new();
            for (flow, &tokens) in others.iter().enumerate() {
                waiting.extend((0..200).map(|_| (flow, acquire(&gate, flow as u64, tokens))));
            }
            let mut newcomer = None;
            let mut before = vec![0; others.len()];
            let mut held = Vec::new();
            for round in 0.. {
                if round == served {
                    newcomer = Some(acquire(&gate, u64::MAX, own));
                }
                drop(full.take());
                held.pop();
                if newcomer.as_mut().is_some_and(|newcomer| poll(newcomer).is_some()) {
                    break;
                }
                waiting.retain_mut(|(flow, waiting)| match poll(waiting) {
                    Some(permit) => {
                        before[*flow] += if round < served { 0 } else { permit.tokens() };
                        held.insert(0, permit);
                        false
                    }
                    None => true,
                });
            }
            // A flow may be one text behind its share when the new flow arrives.
            for (tokens, text) in before.into_iter().zip(others) {
                prop_assert!(tokens <= own + 2 * text, "{} tokens before {}, texts of {}", tokens, own, text);
            }
        }
    }
}
