//! Answers that share an id leave in the order of their inputs; all others as they come.

use std::collections::{HashMap, VecDeque};

/// Answers of one stream that are not sent yet. Bounded by the caller, who adds no input above a limit.
pub(super) struct Reorder<T> {
    by_id: HashMap<String, VecDeque<(u64, Option<T>)>>,
    pending: usize,
    next: u64,
}

/// An input that waits for its answer.
#[derive(Clone, Debug)]
pub(super) struct Ticket {
    id: String,
    number: u64,
}

impl<T> Reorder<T> {
    pub fn new() -> Reorder<T> {
        Reorder { by_id: HashMap::new(), pending: 0, next: 0 }
    }

    pub fn add(&mut self, id: String) -> Ticket {
        let number = self.next;
        self.next += 1;
        self.pending += 1;
        self.by_id.entry(id.clone()).or_default().push_back((number, None));
        Ticket { id, number }
    }

    /// The answers that may leave now, in their order, each with its id.
    pub fn finish(&mut self, ticket: Ticket, answer: T) -> Vec<(String, T)> {
        let Some(queue) = self.by_id.get_mut(&ticket.id) else { return Vec::new() };
        if let Some(slot) = queue.iter_mut().find(|slot| slot.0 == ticket.number) {
            slot.1 = Some(answer);
        }
        let mut leaving = Vec::new();
        while let Some(answer) = queue.front_mut().and_then(|slot| slot.1.take()) {
            queue.pop_front();
            leaving.push((ticket.id.clone(), answer));
        }
        if queue.is_empty() {
            self.by_id.remove(&ticket.id);
        }
        self.pending -= leaving.len();
        leaving
    }

    /// Inputs whose answers have not left.
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
        fn each_ids_answers_leave_once_and_in_the_order_of_their_inputs(
            ids in prop::collection::vec(0..3_u8, 1..40), order in any::<prop::sample::Index>(),
        ) {
            let mut reorder = Reorder::new();
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
        let mut reorder = Reorder::new();
        let (first, second) = (reorder.add("a".into()), reorder.add("b".into()));
        assert_eq!(reorder.finish(second, 2), [("b".to_owned(), 2)]);
        assert_eq!(reorder.finish(first, 1), [("a".to_owned(), 1)]);
    }
}
