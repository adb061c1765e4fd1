//! Pooled states that were computed before, kept within a bound of memory, and computations that callers share.
//!
//! A state serves every cut, scale and encoding, for these are applied as it leaves. Texts of which nothing is known
//! are computed in a flight, one for each call, that whoever wants one of its texts waits for. It belongs to nobody:
//! it goes on until it lands or the last who waits for it has left. Only what landed is kept, never an error.
//!
//! Looking up and writing run in the reactor, in short turns: another thread would cost each hit a hand-off, and
//! have it wait behind the texts that are being cut into tokens.

mod flights;
mod key;
mod turn;

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures::future::{BoxFuture, join_all};
use moka::{notification::RemovalCause, sync::Cache as Memory};

use self::{
    flights::{Flight, Flights},
    key::{Key, KeyMaker},
    turn::Turn,
};
use super::{
    EmbedError, Embedded, EmbeddedInput, InputOptions, TooLong, Vector, VectorOptions,
    metrics::{Metrics, Origin},
};
use crate::model::ModelInfo;

/// The cache of one model.
pub(super) struct Cache(Arc<Shelf>);

/// What a flight needs of it.
struct Shelf {
    known: Memory<Key, Arc<Pooled>>,
    flights: Flights,
    keys: KeyMaker,
    metrics: Metrics,
}

/// One input's numbers before anything is done to them.
#[derive(Debug)]
struct Pooled {
    /// `[model dimensions]`
    state: Box<[f32]>,
    tokens: usize,
    truncated: bool,
}

/// What the memory holds, as of now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Held {
    pub entries: u64,
    pub bytes: u64,
    pub limit_bytes: u64,
}

/// The way of one call through the cache: [`Lookup::compute`] what is [missing](Lookup::missing), then
/// [`Lookup::landed`], and both again where that gives none.
pub(super) struct Lookup {
    shelf: Arc<Shelf>,
    options: VectorOptions,
    texts: Vec<Distinct>,
    /// For each input, its place in `texts`.
    inputs: Vec<usize>,
    flights: Vec<Flight>,
    /// Which of the flights computes for this call.
    own: Option<usize>,
    /// Set once a flight of another call failed, so that nobody fails with ever new ones.
    alone: bool,
    took: [Duration; 3],
}

struct Distinct {
    key: Key,
    text: String,
    state: State,
    origin: Origin,
}

enum State {
    Missing,
    Awaited { flight: usize, seat: usize },
    Known(Arc<Pooled>),
}

/// What an entry takes besides its numbers: its key, and what the memory spends on order and table. The growth of the
/// process was 422 bytes for each of 500,000 entries, and up to 461 with a full memory that had dropped others.
const ENTRY_BYTES: usize = 464;

/// Looking a key up takes as long as hashing so much.
const LOOK_UP_BYTES: usize = 512;

impl Cache {
    /// None where it may hold nothing.
    pub fn new(limit_bytes: usize, model: &ModelInfo, metrics: &Metrics) -> Option<Cache> {
        let evictions = metrics.clone();
        let known = Memory::builder()
            .max_capacity(limit_bytes as u64)
            .weigher(|_, pooled: &Arc<Pooled>| u32::try_from(pooled.bytes()).unwrap_or(u32::MAX))
            .eviction_listener(move |_, _, cause| {
                if cause == RemovalCause::Size {
                    evictions.evicted();
                }
            })
            .build();
        let (flights, keys) = (Flights::default(), KeyMaker::of_model(model));
        let shelf = Shelf { known, flights, keys, metrics: metrics.clone() };
        (limit_bytes > 0).then(|| Cache(Arc::new(shelf)))
    }

    /// Looks up `texts`; equal ones are one from here on.
    pub async fn look_up(&self, texts: Vec<String>, options: &InputOptions) -> Lookup {
        let keys = self.0.keys.of_call(&options.prompt, options.truncation);
        let mut lookup = Lookup {
            shelf: Arc::clone(&self.0),
            options: options.vector,
            inputs: Vec::with_capacity(texts.len()),
            texts: Vec::new(),
            flights: Vec::new(),
            own: None,
            alone: false,
            took: [Duration::ZERO; 3],
        };
        let (mut turn, mut places) = (Turn::default(), HashMap::new());
        for text in texts {
            let key = keys.key(&text, &mut turn).await;
            let place = *places.entry(key).or_insert(lookup.texts.len());
            lookup.inputs.push(place);
            if place == lookup.texts.len() {
                lookup.add(key, text);
            }
            turn.worked(LOOK_UP_BYTES).await;
        }
        lookup
    }

    /// Does what the memory has put off, so that the numbers are those of now.
    pub fn held(&self) -> Held {
        let known = &self.0.known;
        known.run_pending_tasks();
        let limit_bytes = known.policy().max_capacity().unwrap_or_default();
        Held { entries: known.entry_count(), bytes: known.weighted_size(), limit_bytes }
    }
}

impl Shelf {
    async fn keep(&self, keys: &[Key], states: &[Arc<Pooled>]) {
        let mut turn = Turn::default();
        for (key, pooled) in keys.iter().zip(states) {
            self.known.insert(*key, Arc::clone(pooled));
            turn.worked(pooled.bytes()).await;
        }
    }
}

impl Lookup {
    /// Texts that are neither known nor under way.
    pub fn missing(&self) -> impl Iterator<Item = &str> {
        let missing = self.texts.iter().filter(|text| matches!(text.state, State::Missing));
        missing.map(|text| text.text.as_str())
    }

    /// Gives `run` the texts that are still missing, and shares what it computes: whole states, in their order. It
    /// is not called if none is missing any more.
    pub fn compute(
        &mut self,
        run: impl FnOnce(Vec<String>) -> BoxFuture<'static, Result<Embedded, EmbedError>>,
    ) {
        let shelf = Arc::clone(&self.shelf);
        // Between here and the take-off nobody else takes one of the texts.
        let mut flights = shelf.flights.lock();
        let (mut keys, mut texts, mut places) = (Vec::new(), Vec::new(), Vec::new());
        for place in 0..self.texts.len() {
            if !matches!(self.texts[place].state, State::Missing) {
                continue;
            }
            let key = self.texts[place].key;
            if let Some(pooled) = shelf.known.get(&key) {
                self.texts[place].state = State::Known(pooled);
            } else if !self.alone
                && let Some((flight, seat)) = flights.find(&key)
            {
                self.join(place, flight, seat);
            } else {
                keys.push(key);
                texts.push(std::mem::take(&mut self.texts[place].text));
                places.push(place);
            }
        }
        if keys.is_empty() {
            return;
        }
        let flight = flights.take_off(&shelf, keys, run(texts));
        drop(flights);
        self.own = Some(self.flights.len());
        for (seat, place) in places.into_iter().enumerate() {
            self.texts[place].origin = Origin::Miss;
            self.texts[place].state = State::Awaited { flight: self.flights.len(), seat };
        }
        self.flights.push(flight);
    }

    /// The answer, once all that is under way has landed; none if the flight of another call failed, and some texts
    /// are missing again.
    ///
    /// # Errors
    /// Those of this call's own flight; [`EmbedError::TooLong`] whoever found it out.
    pub async fn landed(&mut self) -> Result<Option<Embedded>, EmbedError> {
        let own = self.own.take();
        let results = join_all(std::mem::take(&mut self.flights)).await;
        if let Some(Err(error)) = own.map(|own| &results[own])
            && !matches!(error, EmbedError::TooLong(_))
        {
            return Err(error.clone());
        }
        for landed in results.iter().flatten() {
            let took = self.took.iter_mut().zip(landed.took);
            took.for_each(|(longest, took)| *longest = took.max(*longest));
        }
        let mut too_long = HashMap::new();
        for (place, text) in self.texts.iter_mut().enumerate() {
            let State::Awaited { flight, seat } = text.state else { continue };
            text.state = match &results[flight] {
                Ok(landed) => State::Known(Arc::clone(&landed.states[seat])),
                Err(error) => {
                    too_long.extend(too_long_at(error, seat).map(|found| (place, found)));
                    State::Missing
                }
            };
        }
        if !too_long.is_empty() {
            return Err(self.too_long(&too_long));
        }
        self.alone = true;
        if self.missing().next().is_some() { Ok(None) } else { self.write().await.map(Some) }
    }

    fn add(&mut self, key: Key, text: String) {
        let known = self.shelf.known.get(&key);
        let place = self.texts.len();
        let (state, origin) =
            known.map_or((State::Missing, Origin::Joined), |pooled| (State::Known(pooled), Origin::Hit));
        let is_missing = matches!(state, State::Missing);
        self.texts.push(Distinct { key, text, state, origin });
        let found = is_missing.then(|| self.shelf.flights.lock().find(&key)).flatten();
        if let Some((flight, seat)) = found {
            self.join(place, flight, seat);
        }
    }

    fn join(&mut self, place: usize, flight: Flight, seat: usize) {
        let same = self.flights.iter().position(|known| known.ptr_eq(&flight));
        let flight = same.unwrap_or_else(|| {
            self.flights.push(flight);
            self.flights.len() - 1
        });
        self.texts[place].state = State::Awaited { flight, seat };
    }

    fn too_long(&self, places: &HashMap<usize, (usize, usize)>) -> EmbedError {
        let inputs = self.inputs.iter().enumerate();
        let found = inputs.filter_map(|(index, place)| {
            let &(tokens, limit) = places.get(place)?;
            Some(TooLong { index, tokens, limit })
        });
        EmbedError::TooLong(found.collect())
    }

    async fn write(&self) -> Result<Embedded, EmbedError> {
        let (mut turn, mut first) = (Turn::default(), vec![true; self.texts.len()]);
        let mut inputs = Vec::with_capacity(self.inputs.len());
        for &place in &self.inputs {
            let Distinct { state: State::Known(pooled), origin, .. } = &self.texts[place] else {
                return Err(EmbedError::Defect);
            };
            let again = !std::mem::replace(&mut first[place], false);
            let origin = if again && *origin == Origin::Miss { Origin::Joined } else { *origin };
            self.shelf.metrics.looked_up(origin);
            inputs.push(pooled.input(self.options));
            turn.worked(pooled.bytes()).await;
        }
        let [tokenize, queue, compute] = self.took;
        Ok(Embedded { inputs, tokenize, queue, compute })
    }
}

impl Pooled {
    fn new(input: EmbeddedInput) -> Result<Pooled, EmbedError> {
        let EmbeddedInput { vector, tokens, truncated } = input;
        match vector {
            Vector::Values(state) => Ok(Pooled { state: state.into(), tokens, truncated }),
            Vector::Bytes(_) | Vector::Int8 { .. } => Err(EmbedError::Defect),
        }
    }

    fn input(&self, options: VectorOptions) -> EmbeddedInput {
        let Pooled { state, tokens, truncated } = self;
        EmbeddedInput { vector: Vector::new(state, options), tokens: *tokens, truncated: *truncated }
    }

    /// What it takes in memory, table and order included.
    fn bytes(&self) -> usize {
        size_of_val(&*self.state) + ENTRY_BYTES
    }
}

fn too_long_at(error: &EmbedError, seat: usize) -> Option<(usize, usize)> {
    let EmbedError::TooLong(found) = error else { return None };
    found.iter().find(|found| found.index == seat).map(|found| (found.tokens, found.limit))
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests wait for futures")]
mod tests;
