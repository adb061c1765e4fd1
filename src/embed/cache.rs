//! A bounded cache of pooled states, with single-flight computation of misses.
//!
//! One entry serves every number of dimensions, scaling and encoding, because these are applied when the vector is
//! returned. The missing texts of a request are computed in one shared computation. Concurrent requests for one of these
//! texts wait for it (single-flight). It is cancelled when its last waiter goes away. Results are cached, errors are not.
//!
//! Lookups and encoding run on the reactor and yield regularly. Another thread would add a hand-off to each hit, and
//! hits would wait behind texts that are being tokenized.

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

/// The parts of the cache that a shared computation uses.
struct CacheShared {
    cached: MokaCache<EmbedCacheKey, Arc<PooledState>>,
    in_flight: InFlight,
    keys: CacheKeyHasher,
    metrics: EmbedMetrics,
}

/// Pooled state of one input, not yet truncated, scaled or encoded.
#[derive(Debug)]
struct PooledState {
    /// `[model dimensions]`
    state: Box<[f32]>,
    tokens: usize,
    truncated: bool,
}

/// Size of the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CacheStats {
    pub entries: u64,
    pub bytes: u64,
    pub limit_bytes: u64,
}

/// Lookup of the texts of one request. [`CacheLookup::compute`] starts the computation of the
/// [missing](CacheLookup::missing) texts and [`CacheLookup::results`] waits for it; both are repeated until it returns the
/// vectors.
pub(super) struct CacheLookup {
    shared: Arc<CacheShared>,
    options: VectorOptions,
    texts: Vec<DistinctText>,
    /// For each input, its index in `texts`.
    inputs: Vec<usize>,
    computations: Vec<SharedComputation>,
    /// Index in `computations` of the computation that this request started.
    own_computation: Option<usize>,
    /// Set after the computation of another request failed. This request then no longer joins others, so that it cannot
    /// fail repeatedly with them.
    bypass_in_flight: bool,
    /// Longest time spent tokenizing, queued and computing.
    durations: [Duration; 3],
}

/// One of the different texts of a request.
struct DistinctText {
    key: EmbedCacheKey,
    text: String,
    state: CacheState,
    origin: CacheOutcome,
}

/// State of a text in a lookup.
enum CacheState {
    Missing,
    InFlight { computation: usize, slot: usize },
    Cached(Arc<PooledState>),
}

/// Memory of an entry without its numbers, in bytes: its key and the overhead of the table and the eviction policy.
/// Measured as growth of the process: 422 bytes per entry for 500,000 entries, and up to 461 bytes after evictions.
const ENTRY_BYTES: usize = 464;

/// Cost of one lookup, as the number of bytes that can be hashed in the same time.
const LOOK_UP_BYTES: usize = 512;

impl VectorCache {
    /// Creates a cache of at most `limit_bytes`. Returns `None` if that is 0.
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
        let (in_flight, keys) = (InFlight::default(), CacheKeyHasher::for_model(model));
        let shared = CacheShared { cached, in_flight, keys, metrics: metrics.clone() };
        (limit_bytes > 0).then(|| VectorCache(Arc::new(shared)))
    }

    /// Looks up `texts`. Equal texts are looked up once.
    pub async fn look_up(&self, texts: Vec<String>, options: &InputOptions) -> CacheLookup {
        let keys = self.0.keys.for_call(&options.prompt, options.truncation);
        let mut lookup = CacheLookup {
            shared: Arc::clone(&self.0),
            options: options.vector,
            inputs: Vec::with_capacity(texts.len()),
            texts: Vec::new(),
            computations: Vec::new(),
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

    /// Current size, after pending evictions.
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
    /// Texts that are neither cached nor in flight.
    pub fn missing(&self) -> impl Iterator<Item = &str> {
        let missing = self.texts.iter().filter(|text| matches!(text.state, CacheState::Missing));
        missing.map(|text| text.text.as_str())
    }

    /// Starts the computation of the missing texts with `run`, which returns their unchanged pooled states in order. Other
    /// requests may join the computation. `run` is not called if no text is missing.
    pub fn compute(
        &mut self,
        run: impl FnOnce(Vec<String>) -> BoxFuture<'static, Result<Embedded, EmbedError>>,
    ) {
        let shared = Arc::clone(&self.shared);
        // The table stays locked until the computation is registered, so no other request starts the same text.
        let mut table = shared.in_flight.lock();
        let (mut keys, mut texts, mut positions) = (Vec::new(), Vec::new(), Vec::new());
        for position in 0..self.texts.len() {
            if !matches!(self.texts[position].state, CacheState::Missing) {
                continue;
            }
            let key = self.texts[position].key;
            if let Some(pooled) = shared.cached.get(&key) {
                self.texts[position].state = CacheState::Cached(pooled);
            } else if !self.bypass_in_flight
                && let Some((computation, slot)) = table.find(&key)
            {
                self.join(position, computation, slot);
            } else {
                keys.push(key);
                texts.push(std::mem::take(&mut self.texts[position].text));
                positions.push(position);
            }
        }
        if keys.is_empty() {
            return;
        }
        let computation = table.start(&shared, keys, run(texts));
        drop(table);
        self.own_computation = Some(self.computations.len());
        for (slot, position) in positions.into_iter().enumerate() {
            self.texts[position].origin = CacheOutcome::Miss;
            self.texts[position].state = CacheState::InFlight { computation: self.computations.len(), slot };
        }
        self.computations.push(computation);
    }

    /// Waits for all computations and returns the vectors. Returns `None` if the computation of another request failed, so
    /// that some texts are missing again.
    ///
    /// # Errors
    /// The error of the computation that this request started, and [`EmbedError::TooLong`] of any computation.
    pub async fn results(&mut self) -> Result<Option<Embedded>, EmbedError> {
        let own_computation = self.own_computation.take();
        let results = join_all(std::mem::take(&mut self.computations)).await;
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
            let CacheState::InFlight { computation, slot } = text.state else { continue };
            text.state = match &results[computation] {
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
        let found = is_missing.then(|| self.shared.in_flight.lock().find(&key)).flatten();
        if let Some((computation, slot)) = found {
            self.join(position, computation, slot);
        }
    }

    fn join(&mut self, position: usize, computation: SharedComputation, slot: usize) {
        let same = self.computations.iter().position(|cached| cached.ptr_eq(&computation));
        let computation = same.unwrap_or_else(|| {
            self.computations.push(computation);
            self.computations.len() - 1
        });
        self.texts[position].state = CacheState::InFlight { computation, slot };
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

    /// Memory of the entry in bytes, overhead included.
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
