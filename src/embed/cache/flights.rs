//! Computations under way, by the keys of their texts.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::{
    FutureExt,
    future::{BoxFuture, Shared, WeakShared},
};

use super::{EmbedError, Embedded, Key, Pooled, Shelf};

/// Whoever awaits it drives it; it is dropped with the last of them.
pub(super) type Flight = Shared<BoxFuture<'static, Result<Arc<Landed>, EmbedError>>>;

type WeakFlight = WeakShared<BoxFuture<'static, Result<Arc<Landed>, EmbedError>>>;

/// What was computed, in the order of the keys, and the time it took: tokenizing, queue, compute.
pub(super) struct Landed {
    pub states: Vec<Arc<Pooled>>,
    pub took: [Duration; 3],
}

#[derive(Default)]
pub(super) struct Flights(Mutex<Board>);

/// Invariant: no flight is dropped under its lock, which the flight's end takes.
#[derive(Default)]
pub(super) struct Board {
    seats: HashMap<Key, Seat>,
    departures: u64,
}

struct Seat {
    departure: u64,
    flight: WeakFlight,
    /// Its place among the keys of the flight.
    number: usize,
}

/// Takes the keys off the board, however the flight ends.
struct OnBoard {
    shelf: Arc<Shelf>,
    keys: Vec<Key>,
    departure: u64,
}

impl Flights {
    pub fn lock(&self) -> MutexGuard<'_, Board> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Board {
    /// The flight that computes this, and the place in it.
    pub fn find(&self, key: &Key) -> Option<(Flight, usize)> {
        let seat = self.seats.get(key)?;
        Some((seat.flight.upgrade()?, seat.number))
    }

    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.seats.is_empty()
    }

    /// What lands is kept before its keys leave the board, so that nobody finds them on neither.
    pub fn take_off(
        &mut self,
        shelf: &Arc<Shelf>,
        keys: Vec<Key>,
        run: BoxFuture<'static, Result<Embedded, EmbedError>>,
    ) -> Flight {
        self.departures += 1;
        let departure = self.departures;
        let on_board = OnBoard { shelf: Arc::clone(shelf), keys: keys.clone(), departure };
        let flight = async move {
            let landed = Landed::new(run.await?)?;
            on_board.shelf.keep(&on_board.keys, &landed.states).await;
            Ok(Arc::new(landed))
        };
        let flight = flight.boxed().shared();
        if let Some(weak) = flight.downgrade() {
            for (number, key) in keys.into_iter().enumerate() {
                let seat = Seat { departure, flight: weak.clone(), number };
                self.seats.insert(key, seat);
            }
        }
        flight
    }
}

impl Landed {
    fn new(embedded: Embedded) -> Result<Landed, EmbedError> {
        let Embedded { inputs, tokenize, queue, compute } = embedded;
        let states = inputs.into_iter().map(|input| Pooled::new(input).map(Arc::new));
        Ok(Landed { states: states.collect::<Result<_, _>>()?, took: [tokenize, queue, compute] })
    }
}

impl Drop for OnBoard {
    fn drop(&mut self) {
        let mut board = self.shelf.flights.lock();
        for key in &self.keys {
            // Another may have taken off with it since.
            if board.seats.get(key).is_some_and(|seat| seat.departure == self.departure) {
                board.seats.remove(key);
            }
        }
    }
}
