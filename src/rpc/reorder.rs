//! Reordering of responses: those with the same id are released in the order of their inputs.

use std::collections::{HashMap, VecDeque};

/// Responses of one stream that cannot be sent yet. The owner bounds the number of inputs.
pub(super) struct ReorderBuffer<T> {
    by_id: HashMap<String, VecDeque<(u64, Option<T>)>>,
    pending: usize,
    next: u64,
}

/// Handle of an input that waits for its response.
#[derive(Clone, Debug)]
pub(super) struct ReorderTicket {
    id: String,
    number: u64,
}

impl<T> ReorderBuffer<T> {
    pub fn new() -> ReorderBuffer<T> {
        ReorderBuffer { by_id: HashMap::new(), pending: 0, next: 0 }
    }

    /// Registers an input with this id.
    pub fn add(&mut self, id: String) -> ReorderTicket {
        let number = self.next;
        self.next += 1;
        self.pending += 1;
        self.by_id.entry(id.clone()).or_default().push_back((number, None));
        ReorderTicket { id, number }
    }

    /// Adds a response. Returns all responses that can be sent now, in order, each with its id.
    pub fn finish(&mut self, ticket: ReorderTicket, answer: T) -> Vec<(String, T)> {
        let Some(queue) = self.by_id.get_mut(&ticket.id) else { return Vec::new() };
        if let Some(slot) = queue.iter_mut().find(|slot| slot.0 == ticket.number) {
            slot.1 = Some(answer);
        }
        let mut released = Vec::new();
        while let Some(answer) = queue.front_mut().and_then(|slot| slot.1.take()) {
            queue.pop_front();
            released.push((ticket.id.clone(), answer));
        }
        if queue.is_empty() {
            self.by_id.remove(&ticket.id);
        }
        self.pending -= released.len();
        released
    }

    /// Number of inputs whose responses have not been released.
    pub fn pending(&self) -> usize {
        self.pending
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn responses_of_an_id_are_released_once_and_in_order(
            ids in prop::collection::vec(0..3_u8, 1..40), order in any::<prop::sample::Index>(),
        ) {
            let mut reorder = ReorderBuffer::new();
            let mut tickets: Vec<_> =
                ids.iter().enumerate().map(|(n, id)| (n, reorder.add(id.to_string()))).collect();
            let mut left = Vec::new();
            while !tickets.is_empty() {
                let (number, ticket) = tickets.swap_remove(order.index(tickets.len()));
                left.extend(reorder.finish(ticket, number));
            }
            prop_assert_eq!(reorder.pending(), 0);
            prop_assert!(reorder.by_id.is_empty());
            for id in 0..3_u8 {
                let of_id: Vec<usize> =
                    left.iter().filter(|(of, _)| *of == id.to_string()).map(|&(_, n)| n).collect();
                let expected: Vec<usize> = (0..ids.len()).filter(|&n| ids[n] == id).collect();
                prop_assert_eq!(of_id, expected);
            }
        }
    }

    #[test]
    fn different_ids_do_not_wait_for_each_other() {
        let mut reorder = ReorderBuffer::new();
        let (first, second) = (reorder.add("a".into()), reorder.add("b".into()));
        assert_eq!(reorder.finish(second, 2), [("b".to_owned(), 2)]);
        assert_eq!(reorder.finish(first, 1), [("a".to_owned(), 1)]);
    }
}
