//! Cooperative cancellation: long computations check whether their result is still wanted (pure).

use std::{cell::Cell, iter::FusedIterator};

/// Tells work whether its result is still wanted. Computation asks between slices of at most some milliseconds.
#[derive(Clone, Copy)]
pub struct Cancellation<'a>(Option<&'a dyn Fn() -> bool>);

/// The work ended early: its caller has left, or its deadline has passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the result is no longer wanted")]
pub struct Cancelled;

impl<'a> Cancellation<'a> {
    /// A handle that is never cancelled.
    pub const UNLIMITED: Cancellation<'static> = Cancellation(None);

    /// Does work whose result is always wanted.
    ///
    /// # Panics
    /// If the work says that it was stopped, which nothing but [`Cancellation::check`] gives it a reason for.
    pub fn unlimited<T>(work: impl FnOnce(Cancellation<'static>) -> Result<T, Cancelled>) -> T {
        work(Cancellation::UNLIMITED).expect("the result is always wanted")
    }

    /// `is_wanted` should take well under a microsecond.
    pub fn new(is_wanted: &'a dyn Fn() -> bool) -> Cancellation<'a> {
        Cancellation(Some(is_wanted))
    }

    /// # Errors
    /// [`Cancelled`] if nobody waits any more.
    pub fn check(self) -> Result<(), Cancelled> {
        match self.0 {
            Some(is_wanted) if !is_wanted() => Err(Cancelled),
            _ => Ok(()),
        }
    }

    /// Runs a call into a library that reads its input item by item and knows no end but that of the input: the items
    /// give out once nobody waits, and what the library makes of that is dropped.
    ///
    /// # Errors
    /// [`Cancelled`] if nobody waits any more.
    pub fn run_guarded<T>(self, call: impl FnOnce(&ItemGuard<'a>) -> T) -> Result<T, Cancelled> {
        let guard = ItemGuard { cancellation: self, is_over: Cell::new(false) };
        let value = call(&guard);
        if guard.is_over.get() { Err(Cancelled) } else { Ok(value) }
    }
}

/// Ends iterators once nobody waits. Once over, it stays so, so that all of them end.
pub struct ItemGuard<'a> {
    cancellation: Cancellation<'a>,
    is_over: Cell<bool>,
}

/// The number of items that are read between two checks.
const ITEMS: u32 = 64;

impl<'a> ItemGuard<'a> {
    /// The same items, for as long as they are wanted.
    pub fn over<I>(&self, items: I) -> GuardedItems<'_, 'a, I> {
        GuardedItems { items, guard: self, read: 0 }
    }
}

/// See [`ItemGuard::over`].
pub struct GuardedItems<'w, 'a, I> {
    items: I,
    guard: &'w ItemGuard<'a>,
    read: u32,
}

impl<I: Clone> Clone for GuardedItems<'_, '_, I> {
    fn clone(&self) -> Self {
        GuardedItems { items: self.items.clone(), guard: self.guard, read: 0 }
    }
}

impl<I> GuardedItems<'_, '_, I> {
    fn is_wanted(&mut self) -> bool {
        if self.read.is_multiple_of(ITEMS) && self.guard.cancellation.check().is_err() {
            self.guard.is_over.set(true);
        }
        self.read = self.read.wrapping_add(1);
        !self.guard.is_over.get()
    }
}

impl<I: Iterator> Iterator for GuardedItems<'_, '_, I> {
    type Item = I::Item;

    fn next(&mut self) -> Option<I::Item> {
        if self.is_wanted() { self.items.next() } else { None }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (0, self.items.size_hint().1)
    }
}

impl<I: DoubleEndedIterator> DoubleEndedIterator for GuardedItems<'_, '_, I> {
    fn next_back(&mut self) -> Option<I::Item> {
        if self.is_wanted() { self.items.next_back() } else { None }
    }
}

impl<I: FusedIterator> FusedIterator for GuardedItems<'_, '_, I> {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_end_once_nobody_waits_and_the_result_is_dropped() {
        let questions = Cell::new(0);
        let is_wanted = || {
            questions.set(questions.get() + 1);
            questions.get() < 4
        };
        let cancellation = Cancellation::new(&is_wanted);
        let mut read = 0;
        let sum =
            cancellation.run_guarded(|guard| guard.over(0..1_000_000).inspect(|_| read += 1).sum::<u64>());
        assert_eq!((sum, read), (Err(Cancelled), 3 * ITEMS));
        assert_eq!(Cancellation::UNLIMITED.run_guarded(|guard| guard.over(0..10).sum::<u64>()), Ok(45));
    }
}
