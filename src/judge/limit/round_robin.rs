//! Round-robin queue over callers; each caller's items keep their order (pure).

use std::collections::{HashMap, VecDeque};

/// Round-robin queue of items per caller.
///
/// Invariant: `order` holds each caller with a queue once, and no queue is empty.
pub(super) struct RoundRobin<T> {
    queues: HashMap<u64, VecDeque<(u64, T)>>,
    order: VecDeque<u64>,
    len: usize,
    next_ticket: u64,
}

impl<T> RoundRobin<T> {
    pub fn new() -> RoundRobin<T> {
        RoundRobin { queues: HashMap::new(), order: VecDeque::new(), len: 0, next_ticket: 0 }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    /// Queues `item`, before the caller's other items if `first`. Returns a ticket for [`RoundRobin::remove`].
    pub fn push(&mut self, caller: u64, first: bool, item: T) -> u64 {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        let queue = self.queues.entry(caller).or_default();
        if queue.is_empty() {
            self.order.push_back(caller);
        }
        match first {
            true => queue.push_front((ticket, item)),
            false => queue.push_back((ticket, item)),
        }
        self.len += 1;
        ticket
    }

    pub fn pop(&mut self) -> Option<T> {
        let caller = self.order.pop_front()?;
        let queue = self.queues.get_mut(&caller)?;
        let (_, item) = queue.pop_front()?;
        self.len -= 1;
        match queue.is_empty() {
            true => drop(self.queues.remove(&caller)),
            false => self.order.push_back(caller),
        }
        Some(item)
    }

    /// Removes an item; returns `None` if it was popped already.
    pub fn remove(&mut self, caller: u64, ticket: u64) -> Option<T> {
        let queue = self.queues.get_mut(&caller)?;
        let at = queue.iter().position(|(other, _)| *other == ticket)?;
        let (_, item) = queue.remove(at)?;
        self.len -= 1;
        if queue.is_empty() {
            self.queues.remove(&caller);
            self.order.retain(|other| *other != caller);
        }
        Some(item)
    }
}

#[cfg(test)]
mod tests {
    use super::RoundRobin;

    fn drain(robin: &mut RoundRobin<char>) -> String {
        std::iter::from_fn(|| robin.pop()).collect()
    }

    #[test]
    fn callers_alternate() {
        let mut robin = RoundRobin::new();
        for (caller, item) in [(1, 'a'), (1, 'b'), (1, 'c'), (2, 'x'), (3, 'y'), (2, 'z')] {
            robin.push(caller, false, item);
        }
        assert_eq!(robin.len(), 6);
        assert_eq!(drain(&mut robin), "axybzc");
        assert_eq!(robin.len(), 0);
    }

    #[test]
    fn a_retry_goes_before_its_callers_other_items() {
        let mut robin = RoundRobin::new();
        robin.push(1, false, 'a');
        robin.push(2, false, 'x');
        robin.push(1, true, 'b');
        assert_eq!(drain(&mut robin), "bxa");
    }

    #[test]
    fn a_removed_item_is_not_popped() {
        let mut robin = RoundRobin::new();
        let a = robin.push(1, false, 'a');
        robin.push(2, false, 'x');
        assert_eq!(robin.remove(1, a), Some('a'));
        assert_eq!(robin.remove(1, a), None);
        assert_eq!((robin.len(), drain(&mut robin).as_str()), (1, "x"));
    }
}
