//! Whether anyone still waits for long work, asked by the work itself (pure).

use std::{cell::Cell, iter::FusedIterator};

/// Tells work whether its result is still wanted. Work asks between slices of at most some milliseconds.
#[derive(Clone, Copy)]
pub struct Progress<'a>(Option<&'a dyn Fn() -> bool>);

/// The work ended early: its caller has left, or its deadline has passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the result is no longer wanted")]
pub struct Stopped;

impl<'a> Progress<'a> {
    /// For work whose result is always wanted.
    pub const UNLIMITED: Progress<'static> = Progress(None);

    /// Does work whose result is always wanted.
    ///
    /// # Panics
    /// If the work says that it was stopped, which nothing but [`Progress::check`] gives it a reason for.
    pub fn unlimited<T>(work: impl FnOnce(Progress<'static>) -> Result<T, Stopped>) -> T {
        work(Progress::UNLIMITED).expect("the result is always wanted")
    }

    /// `is_wanted` should take well under a microsecond.
    pub fn new(is_wanted: &'a dyn Fn() -> bool) -> Progress<'a> {
        Progress(Some(is_wanted))
    }

    /// # Errors
    /// [`Stopped`] if nobody waits any more.
    pub fn check(self) -> Result<(), Stopped> {
        match self.0 {
            Some(is_wanted) if !is_wanted() => Err(Stopped),
            _ => Ok(()),
        }
    }

    /// Runs a call into a library that reads its input item by item and knows no end but that of the input: the items
    /// give out once nobody waits, and what the library makes of that is dropped.
    ///
    /// # Errors
    /// [`Stopped`] if nobody waits any more.
    pub fn while_wanted<T>(self, call: impl FnOnce(&Watch<'a>) -> T) -> Result<T, Stopped> {
        let watch = Watch { progress: self, is_over: Cell::new(false) };
        let value = call(&watch);
        if watch.is_over.get() { Err(Stopped) } else { Ok(value) }
    }
}

/// Ends iterators once nobody waits. Once over, it stays so, so that all of them end.
pub struct Watch<'a> {
    progress: Progress<'a>,
    is_over: Cell<bool>,
}

/// How many items are read between two questions whether anyone still waits.
const ITEMS: u32 = 64;

impl<'a> Watch<'a> {
    /// The same items, for as long as they are wanted.
    pub fn over<I>(&self, items: I) -> Watched<'_, 'a, I> {
        Watched { items, watch: self, read: 0 }
    }
}

/// See [`Watch::over`].
pub struct Watched<'w, 'a, I> {
    items: I,
    watch: &'w Watch<'a>,
    read: u32,
}

impl<I: Clone> Clone for Watched<'_, '_, I> {
    fn clone(&self) -> Self {
        Watched { items: self.items.clone(), watch: self.watch, read: 0 }
    }
}

impl<I> Watched<'_, '_, I> {
    fn is_wanted(&mut self) -> bool {
        if self.read.is_multiple_of(ITEMS) && self.watch.progress.check().is_err() {
            self.watch.is_over.set(true);
        }
        self.read = self.read.wrapping_add(1);
        !self.watch.is_over.get()
    }
}

impl<I: Iterator> Iterator for Watched<'_, '_, I> {
    type Item = I::Item;

    fn next(&mut self) -> Option<I::Item> {
        if self.is_wanted() { self.items.next() } else { None }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (0, self.items.size_hint().1)
    }
}

impl<I: DoubleEndedIterator> DoubleEndedIterator for Watched<'_, '_, I> {
    fn next_back(&mut self) -> Option<I::Item> {
        if self.is_wanted() { self.items.next_back() } else { None }
    }
}

impl<I: FusedIterator> FusedIterator for Watched<'_, '_, I> {}

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
        let progress = Progress::new(&is_wanted);
        let mut read = 0;
        let sum = progress.while_wanted(|watch| watch.over(0..1_000_000).inspect(|_| read += 1).sum::<u64>());
        assert_eq!((sum, read), (Err(Stopped), 3 * ITEMS));
        assert_eq!(Progress::UNLIMITED.while_wanted(|watch| watch.over(0..10).sum::<u64>()), Ok(45));
    }
}
