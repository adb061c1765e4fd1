//! Computations under way, by the keys of their texts.

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures::{
    FutureExt,
    future::{BoxFuture, Shared, WeakShared},
};
use parking_lot::{Mutex, MutexGuard};

use super::{CacheShared, EmbedCacheKey, EmbedError, Embedded, PooledState};

/// Whoever awaits it drives it; it is dropped with the last of them.
pub(super) type SharedComputation = Shared<BoxFuture<'static, Result<Arc<ComputedStates>, EmbedError>>>;

type WeakComputation = WeakShared<BoxFuture<'static, Result<Arc<ComputedStates>, EmbedError>>>;

/// What was computed, in the order of the keys, and the time it took: tokenizing, queue, compute.
pub(super) struct ComputedStates {
    pub states: Vec<Arc<PooledState>>,
    pub durations: [Duration; 3],
}

#[derive(Default)]
pub(super) struct InFlight(Mutex<InFlightTable>);

/// Invariant: no flight is dropped under its lock, which the flight's end takes.
#[derive(Default)]
pub(super) struct InFlightTable {
    entries: HashMap<EmbedCacheKey, InFlightEntry>,
    generations: u64,
}

struct InFlightEntry {
    generation: u64,
    flight: WeakComputation,
    /// Its place among the keys of the flight.
    number: usize,
}

/// Takes the keys off the board, however the flight ends.
struct InFlightGuard {
    shared: Arc<CacheShared>,
    keys: Vec<EmbedCacheKey>,
    generation: u64,
}

impl InFlight {
    pub fn lock(&self) -> MutexGuard<'_, InFlightTable> {
        self.0.lock()
    }
}

impl InFlightTable {
    /// The flight that computes this, and the place in it.
    pub fn find(&self, key: &EmbedCacheKey) -> Option<(SharedComputation, usize)> {
        let slot = self.entries.get(key)?;
        Some((slot.flight.upgrade()?, slot.number))
    }

    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// What lands is kept before its keys leave the board, so that nobody finds them on neither.
    pub fn start(
        &mut self,
        shared: &Arc<CacheShared>,
        keys: Vec<EmbedCacheKey>,
        run: BoxFuture<'static, Result<Embedded, EmbedError>>,
    ) -> SharedComputation {
        self.generations += 1;
        let generation = self.generations;
        let guard = InFlightGuard { shared: Arc::clone(shared), keys: keys.clone(), generation };
        let flight = async move {
            let results = ComputedStates::new(run.await?)?;
            guard.shared.insert_all(&guard.keys, &results.states).await;
            Ok(Arc::new(results))
        };
        let flight = flight.boxed().shared();
        if let Some(weak) = flight.downgrade() {
            for (number, key) in keys.into_iter().enumerate() {
                let slot = InFlightEntry { generation, flight: weak.clone(), number };
                self.entries.insert(key, slot);
            }
        }
        flight
    }
}

impl ComputedStates {
    fn new(embedded: Embedded) -> Result<ComputedStates, EmbedError> {
        let Embedded { inputs, tokenize, queue, compute } = embedded;
        let states = inputs.into_iter().map(|input| PooledState::new(input).map(Arc::new));
        Ok(ComputedStates {
            states: states.collect::<Result<_, _>>()?,
            durations: [tokenize, queue, compute],
        })
    }
}

impl Drop for InFlightGuard {
    fn drop(&mut self) {
        let mut table = self.shared.flights.lock();
        for key in &self.keys {
            // Another may have taken off with it since.
            if table.entries.get(key).is_some_and(|slot| slot.generation == self.generation) {
                table.entries.remove(key);
            }
        }
    }
}
