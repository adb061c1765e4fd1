//! Who is next: callers take turns, each caller's questions in their order (pure).

use std::collections::{HashMap, VecDeque};

/// Invariant: `order` names each caller with a queue once, and no queue is empty.
pub(super) struct Turns<T> {
    queues: HashMap<u64, VecDeque<(u64, T)>>,
    order: VecDeque<u64>,
    len: usize,
    next_ticket: u64,
}

impl<T> Turns<T> {
    pub fn new() -> Turns<T> {
        Turns { queues: HashMap::new(), order: VecDeque::new(), len: 0, next_ticket: 0 }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    /// `first` puts it before the caller's others. Returns the ticket to take it back with.
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

    /// Nothing if it was popped already.
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
    use super::Turns;

    fn drain(turns: &mut Turns<char>) -> String {
        std::iter::from_fn(|| turns.pop()).collect()
    }

    #[test]
    fn callers_take_turns() {
        let mut turns = Turns::new();
        for (caller, item) in [(1, 'a'), (1, 'b'), (1, 'c'), (2, 'x'), (3, 'y'), (2, 'z')] {
            turns.push(caller, false, item);
        }
        assert_eq!(turns.len(), 6);
        assert_eq!(drain(&mut turns), "axybzc");
        assert_eq!(turns.len(), 0);
    }

    #[test]
    fn a_question_asked_again_goes_before_its_caller_s_others() {
        let mut turns = Turns::new();
        turns.push(1, false, 'a');
        turns.push(2, false, 'x');
        turns.push(1, true, 'b');
        assert_eq!(drain(&mut turns), "bxa");
    }

    #[test]
    fn what_is_taken_back_leaves_no_trace() {
        let mut turns = Turns::new();
        let a = turns.push(1, false, 'a');
        turns.push(2, false, 'x');
        assert_eq!(turns.remove(1, a), Some('a'));
        assert_eq!(turns.remove(1, a), None);
        assert_eq!((turns.len(), drain(&mut turns).as_str()), (1, "x"));
    }
}
