//! Pooled states that were computed before, kept within a bound of memory, and computations that callers share.
//!
//! A state serves every cut, scale and encoding, for these are applied as it leaves. Texts of which nothing is known
//! are computed in a flight, one for each call, that whoever wants one of its texts waits for. It belongs to nobody:
//! it goes on until it lands or the last who waits for it has left. Only what landed is kept, never an error.
//!
//! Looking up and writing run in the reactor, in short turns: another thread would cost each hit a hand-off, and
//! have it wait behind the texts that are being cut into tokens.

mod key;
mod single_flight;
mod yield_budget;

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures::future::{BoxFuture, join_all};
use moka::{notification::RemovalCause, sync::Cache as MokaCache};

use self::{
    key::{CacheKeyHasher, EmbedCacheKey},
    single_flight::{InFlight, SharedComputation},
    yield_budget::YieldBudget,
};
use super::{
    EmbedError, Embedded, EmbeddedInput, InputOptions, TooLong, Vector, VectorOptions,
    metrics::{CacheOutcome, EmbedMetrics},
};
use crate::model::ModelInfo;

/// The cache of one model.
pub(super) struct VectorCache(Arc<CacheShared>);

/// What a flight needs of it.
struct CacheShared {
    cached: MokaCache<EmbedCacheKey, Arc<PooledState>>,
    flights: InFlight,
    keys: CacheKeyHasher,
    metrics: EmbedMetrics,
}

/// One input's numbers before anything is done to them.
#[derive(Debug)]
struct PooledState {
    /// `[model dimensions]`
    state: Box<[f32]>,
    tokens: usize,
    truncated: bool,
}

/// What the memory holds, as of now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CacheStats {
    pub entries: u64,
    pub bytes: u64,
    pub limit_bytes: u64,
}

/// The way of one call through the cache: [`CacheLookup::compute`] what is [missing](Lookup::missing), then
/// [`CacheLookup::results`], and both again where that gives none.
pub(super) struct CacheLookup {
    shared: Arc<CacheShared>,
    options: VectorOptions,
    texts: Vec<DistinctText>,
    /// For each input, its place in `texts`.
    inputs: Vec<usize>,
    flights: Vec<SharedComputation>,
    /// Which of the flights computes for this call.
    own_computation: Option<usize>,
    /// Set once a flight of another call failed, so that nobody fails with ever new ones.
    bypass_in_flight: bool,
    durations: [Duration; 3],
}

struct DistinctText {
    key: EmbedCacheKey,
    text: String,
    state: CacheState,
    origin: CacheOutcome,
}

enum CacheState {
    Missing,
    InFlight { flight: usize, slot: usize },
    Cached(Arc<PooledState>),
}

/// What an entry takes besides its numbers: its key, and what the memory spends on order and table. The growth of the
/// process was 422 bytes for each of 500,000 entries, and up to 461 with a full memory that had dropped others.
const ENTRY_BYTES: usize = 464;

/// Looking a key up takes as long as hashing so much.
const LOOK_UP_BYTES: usize = 512;

impl VectorCache {
    /// None where it may hold nothing.
    pub fn new(limit_bytes: usize, model: &ModelInfo, metrics: &EmbedMetrics) -> Option<VectorCache> {
        let evictions = metrics.clone();
        let cached = MokaCache::builder()
            .max_capacity(limit_bytes as u64)
            .weigher(|_, pooled: &Arc<PooledState>| u32::try_from(pooled.bytes()).unwrap_or(u32::MAX))
            .eviction_listener(move |_, _, cause| {
                if cause == RemovalCause::Size {
                    evictions.evicted();
                }
            })
            .build();
        let (flights, keys) = (InFlight::default(), CacheKeyHasher::for_model(model));
        let shared = CacheShared { cached, flights, keys, metrics: metrics.clone() };
        (limit_bytes > 0).then(|| VectorCache(Arc::new(shared)))
    }

    /// Looks up `texts`; equal ones are one from here on.
    pub async fn look_up(&self, texts: Vec<String>, options: &InputOptions) -> CacheLookup {
        let keys = self.0.keys.for_call(&options.prompt, options.truncation);
        let mut lookup = CacheLookup {
            shared: Arc::clone(&self.0),
            options: options.vector,
            inputs: Vec::with_capacity(texts.len()),
            texts: Vec::new(),
            flights: Vec::new(),
            own_computation: None,
            bypass_in_flight: false,
            durations: [Duration::ZERO; 3],
        };
        let (mut budget, mut positions) = (YieldBudget::default(), HashMap::new());
        for text in texts {
            let key = keys.key(&text, &mut budget).await;
            let position = *positions.entry(key).or_insert(lookup.texts.len());
            lookup.inputs.push(position);
            if position == lookup.texts.len() {
                lookup.add(key, text);
            }
            budget.spend(LOOK_UP_BYTES).await;
        }
        lookup
    }

    /// Does what the memory has put off, so that the numbers are those of now.
    pub fn stats(&self) -> CacheStats {
        let cached = &self.0.cached;
        cached.run_pending_tasks();
        let limit_bytes = cached.policy().max_capacity().unwrap_or_default();
        CacheStats { entries: cached.entry_count(), bytes: cached.weighted_size(), limit_bytes }
    }
}

impl CacheShared {
    async fn insert_all(&self, keys: &[EmbedCacheKey], states: &[Arc<PooledState>]) {
        let mut budget = YieldBudget::default();
        for (key, pooled) in keys.iter().zip(states) {
            self.cached.insert(*key, Arc::clone(pooled));
            budget.spend(pooled.bytes()).await;
        }
    }
}

impl CacheLookup {
    /// Texts that are neither known nor under way.
    pub fn missing(&self) -> impl Iterator<Item = &str> {
        let missing = self.texts.iter().filter(|text| matches!(text.state, CacheState::Missing));
        missing.map(|text| text.text.as_str())
    }

    /// Gives `run` the texts that are still missing, and shares what it computes: whole states, in their order. It
    /// is not called if none is missing any more.
    pub fn compute(
        &mut self,
        run: impl FnOnce(Vec<String>) -> BoxFuture<'static, Result<Embedded, EmbedError>>,
    ) {
        let shared = Arc::clone(&self.shared);
        // Between here and the take-off nobody else takes one of the texts.
        let mut flights = shared.flights.lock();
        let (mut keys, mut texts, mut positions) = (Vec::new(), Vec::new(), Vec::new());
        for position in 0..self.texts.len() {
            if !matches!(self.texts[position].state, CacheState::Missing) {
                continue;
            }
            let key = self.texts[position].key;
            if let Some(pooled) = shared.cached.get(&key) {
                self.texts[position].state = CacheState::Cached(pooled);
            } else if !self.bypass_in_flight
                && let Some((flight, slot)) = flights.find(&key)
            {
                self.join(position, flight, slot);
            } else {
                keys.push(key);
                texts.push(std::mem::take(&mut self.texts[position].text));
                positions.push(position);
            }
        }
        if keys.is_empty() {
            return;
        }
        let flight = flights.start(&shared, keys, run(texts));
        drop(flights);
        self.own_computation = Some(self.flights.len());
        for (slot, position) in positions.into_iter().enumerate() {
            self.texts[position].origin = CacheOutcome::Miss;
            self.texts[position].state = CacheState::InFlight { flight: self.flights.len(), slot };
        }
        self.flights.push(flight);
    }

    /// The answer, once all that is under way has landed; none if the flight of another call failed, and some texts
    /// are missing again.
    ///
    /// # Errors
    /// Those of this call's own flight; [`EmbedError::TooLong`] whoever found it out.
    pub async fn results(&mut self) -> Result<Option<Embedded>, EmbedError> {
        let own_computation = self.own_computation.take();
        let results = join_all(std::mem::take(&mut self.flights)).await;
        if let Some(Err(error)) = own_computation.map(|own_computation| &results[own_computation])
            && !matches!(error, EmbedError::TooLong(_))
        {
            return Err(error.clone());
        }
        for results in results.iter().flatten() {
            let durations = self.durations.iter_mut().zip(results.durations);
            durations.for_each(|(longest, durations)| *longest = durations.max(*longest));
        }
        let mut too_long = HashMap::new();
        for (position, text) in self.texts.iter_mut().enumerate() {
            let CacheState::InFlight { flight, slot } = text.state else { continue };
            text.state = match &results[flight] {
                Ok(results) => CacheState::Cached(Arc::clone(&results.states[slot])),
                Err(error) => {
                    too_long.extend(too_long_at(error, slot).map(|found| (position, found)));
                    CacheState::Missing
                }
            };
        }
        if !too_long.is_empty() {
            return Err(self.too_long(&too_long));
        }
        self.bypass_in_flight = true;
        if self.missing().next().is_some() { Ok(None) } else { self.write().await.map(Some) }
    }

    fn add(&mut self, key: EmbedCacheKey, text: String) {
        let cached = self.shared.cached.get(&key);
        let position = self.texts.len();
        let (state, origin) = cached.map_or((CacheState::Missing, CacheOutcome::Joined), |pooled| {
            (CacheState::Cached(pooled), CacheOutcome::Hit)
        });
        let is_missing = matches!(state, CacheState::Missing);
        self.texts.push(DistinctText { key, text, state, origin });
        let found = is_missing.then(|| self.shared.flights.lock().find(&key)).flatten();
        if let Some((flight, slot)) = found {
            self.join(position, flight, slot);
        }
    }

    fn join(&mut self, position: usize, flight: SharedComputation, slot: usize) {
        let same = self.flights.iter().position(|cached| cached.ptr_eq(&flight));
        let flight = same.unwrap_or_else(|| {
            self.flights.push(flight);
            self.flights.len() - 1
        });
        self.texts[position].state = CacheState::InFlight { flight, slot };
    }

    fn too_long(&self, positions: &HashMap<usize, (usize, usize)>) -> EmbedError {
        let inputs = self.inputs.iter().enumerate();
        let found = inputs.filter_map(|(index, position)| {
            let &(tokens, limit) = positions.get(position)?;
            Some(TooLong { index, tokens, limit })
        });
        EmbedError::TooLong(found.collect())
    }

    async fn write(&self) -> Result<Embedded, EmbedError> {
        let (mut budget, mut first) = (YieldBudget::default(), vec![true; self.texts.len()]);
        let mut inputs = Vec::with_capacity(self.inputs.len());
        for &position in &self.inputs {
            let DistinctText { state: CacheState::Cached(pooled), origin, .. } = &self.texts[position] else {
                return Err(EmbedError::Defect);
            };
            let again = !std::mem::replace(&mut first[position], false);
            let origin = if again && *origin == CacheOutcome::Miss { CacheOutcome::Joined } else { *origin };
            self.shared.metrics.looked_up(origin);
            inputs.push(pooled.input(self.options));
            budget.spend(pooled.bytes()).await;
        }
        let [tokenize, queue, compute] = self.durations;
        Ok(Embedded { inputs, tokenize, queue, compute })
    }
}

impl PooledState {
    fn new(input: EmbeddedInput) -> Result<PooledState, EmbedError> {
        let EmbeddedInput { vector, tokens, truncated } = input;
        match vector {
            Vector::Values(state) => Ok(PooledState { state: state.into(), tokens, truncated }),
            Vector::Bytes(_) | Vector::Int8 { .. } => Err(EmbedError::Defect),
        }
    }

    fn input(&self, options: VectorOptions) -> EmbeddedInput {
        let PooledState { state, tokens, truncated } = self;
        EmbeddedInput { vector: Vector::new(state, options), tokens: *tokens, truncated: *truncated }
    }

    /// What it takes in memory, table and order included.
    fn bytes(&self) -> usize {
        size_of_val(&*self.state) + ENTRY_BYTES
    }
}

fn too_long_at(error: &EmbedError, slot: usize) -> Option<(usize, usize)> {
    let EmbedError::TooLong(found) = error else { return None };
    found.iter().find(|found| found.index == slot).map(|found| (found.tokens, found.limit))
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests wait for futures")]
mod tests;
