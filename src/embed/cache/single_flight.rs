//! The computations in flight, by the cache keys of their texts (single-flight).

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures::{
    FutureExt,
    future::{BoxFuture, Shared, WeakShared},
};
use parking_lot::{Mutex, MutexGuard};

use super::{CacheShared, EmbedCacheKey, EmbedError, Embedded, PooledState};

/// A computation that several requests await. Its waiters poll it, and it is cancelled when the last one is dropped.
pub(super) type SharedComputation = Shared<BoxFuture<'static, Result<Arc<ComputedStates>, EmbedError>>>;

type WeakComputation = WeakShared<BoxFuture<'static, Result<Arc<ComputedStates>, EmbedError>>>;

/// Result of a computation.
pub(super) struct ComputedStates {
    /// Pooled states in the order of the keys.
    pub states: Vec<Arc<PooledState>>,
    /// Time spent tokenizing, queued and computing.
    pub durations: [Duration; 3],
}

/// The lock around the table of computations in flight.
#[derive(Default)]
pub(super) struct InFlight(Mutex<InFlightTable>);

/// Computations in flight.
///
/// Invariant: no computation is dropped while the table is locked, because its end takes the lock.
#[derive(Default)]
pub(super) struct InFlightTable {
    entries: HashMap<EmbedCacheKey, InFlightEntry>,
    generations: u64,
}

struct InFlightEntry {
    generation: u64,
    computation: WeakComputation,
    /// Index of the key in the computation.
    number: usize,
}

/// Removes the keys of a computation from the table when it ends or is cancelled.
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
    /// Returns the computation of `key` and the index of the key in it.
    pub fn find(&self, key: &EmbedCacheKey) -> Option<(SharedComputation, usize)> {
        let slot = self.entries.get(key)?;
        Some((slot.computation.upgrade()?, slot.number))
    }

    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Registers the computation `run` of `keys`. Its results are cached before its keys leave the table, so that every
    /// lookup finds them in one of the two.
    pub fn start(
        &mut self,
        shared: &Arc<CacheShared>,
        keys: Vec<EmbedCacheKey>,
        run: BoxFuture<'static, Result<Embedded, EmbedError>>,
    ) -> SharedComputation {
        self.generations += 1;
        let generation = self.generations;
        let guard = InFlightGuard { shared: Arc::clone(shared), keys: keys.clone(), generation };
        let computation = async move {
            let results = ComputedStates::new(run.await?)?;
            guard.shared.insert_all(&guard.keys, &results.states).await;
            Ok(Arc::new(results))
        };
        let computation = computation.boxed().shared();
        if let Some(weak) = computation.downgrade() {
            for (number, key) in keys.into_iter().enumerate() {
                let slot = InFlightEntry { generation, computation: weak.clone(), number };
                self.entries.insert(key, slot);
            }
        }
        computation
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
        let mut table = self.shared.in_flight.lock();
        for key in &self.keys {
            // A later computation may have registered the same key.
            if table.entries.get(key).is_some_and(|slot| slot.generation == self.generation) {
                table.entries.remove(key);
            }
        }
    }
}
