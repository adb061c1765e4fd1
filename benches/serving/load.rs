//! Load generation: a closed loop of callers, or an open loop with Poisson arrivals.

use std::{
    cell::{Cell, RefCell},
    time::{Duration, Instant},
};

use futures::{StreamExt, future::join_all, stream};
use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::{Error, percentile, timer::Timer};

/// Duration of the warm-up and of the measurement.
#[derive(Clone, Copy)]
pub struct Window {
    pub warm: Duration,
    pub measured: Duration,
}

/// Texts and tokens of one response.
pub struct Answered {
    pub texts: u64,
    pub tokens: u64,
}

/// Measurements of one window.
#[derive(Default)]
pub struct Seen {
    /// Sorted latencies of successful calls.
    latencies: Vec<Duration>,
    texts: u64,
    tokens: u64,
    seconds: f64,
    pub errors: u64,
    pub first_error: Option<String>,
}

impl Seen {
    pub fn calls(&self) -> usize {
        self.latencies.len()
    }

    /// Percentile in milliseconds; `None` if there are too few samples.
    pub fn percentile_ms(&self, share: f64) -> Option<f64> {
        let needed = 1.0 / (1.0 - share);
        let enough = self.calls() as f64 >= needed.floor();
        enough.then(|| percentile(&self.latencies, share).as_secs_f64() * 1e3)
    }

    pub fn texts_per_second(&self) -> f64 {
        self.texts as f64 / self.seconds
    }

    pub fn tokens_per_second(&self) -> f64 {
        self.tokens as f64 / self.seconds
    }

    /// Adds the measurements of another window.
    pub fn merge(&mut self, other: Seen) {
        self.latencies.extend(other.latencies);
        self.latencies.sort_unstable();
        self.texts += other.texts;
        self.tokens += other.tokens;
        self.seconds += other.seconds;
        self.errors += other.errors;
        self.first_error = self.first_error.take().or(other.first_error);
    }

    fn note(&mut self, latency: Duration, result: Result<Answered, Error>) {
        match result {
            Ok(answered) => {
                self.latencies.push(latency);
                self.texts += answered.texts;
                self.tokens += answered.tokens;
            }
            Err(error) => {
                self.errors += 1;
                self.first_error.get_or_insert_with(|| error.to_string());
            }
        }
    }

    fn finished(mut self, seconds: f64) -> Seen {
        self.latencies.sort_unstable();
        Seen { seconds, ..self }
    }
}

/// Sequential calls: at least one in the warm-up and one in the measurement.
pub async fn one_after_another(window: Window, call: impl AsyncFn(usize) -> Result<Answered, Error>) -> Seen {
    let mut number = 0;
    let mut seen = Seen::default();
    for length in [window.warm, window.measured] {
        let begin = Instant::now();
        // Discards the measurements of the warm-up.
        seen = Seen::default();
        while seen.seconds == 0.0 || begin.elapsed() < length {
            let started = Instant::now();
            let result = call(number).await;
            seen.note(started.elapsed(), result);
            seen.seconds = begin.elapsed().as_secs_f64();
            number += 1;
        }
    }
    let seconds = seen.seconds;
    seen.finished(seconds)
}

/// A closed loop: each caller sends its next call after the response. `call` receives the number of the call.
pub async fn closed(
    callers: usize,
    window: Window,
    call: impl AsyncFn(usize) -> Result<Answered, Error>,
) -> Seen {
    let begin = Instant::now() + window.warm;
    let end = begin + window.measured;
    let (seen, next) = (RefCell::new(Seen::default()), Cell::new(0));
    let caller = async |_| {
        while Instant::now() < end {
            let started = Instant::now();
            let result = call(next.replace(next.get() + 1)).await;
            let now = Instant::now();
            // A call counts if its response arrives in the window.
            if (begin..end).contains(&now) {
                seen.borrow_mut().note(now - started, result);
            }
        }
    };
    join_all((0..callers).map(caller)).await;
    seen.into_inner().finished(window.measured.as_secs_f64())
}

/// An open loop with Poisson arrivals, `rate` per second. Latency counts from the intended start of a call, so that neither a
/// slow response nor the generator hides waiting time (coordinated omission).
pub async fn open(
    rate: f64,
    window: Window,
    call: impl AsyncFn(usize) -> Result<Answered, Error>,
) -> Result<Seen, Error> {
    let timer = Timer::new()?;
    let start = Instant::now();
    let (begin, end) = (start + window.warm, start + window.warm + window.measured);
    let arrivals =
        stream::unfold((0, start, StdRng::seed_from_u64(42)), async |(number, last, mut random)| {
            let uniform: f64 = random.random();
            let meant = last + Duration::from_secs_f64(-(1.0 - uniform).ln() / rate);
            if meant >= end {
                return None;
            }
            timer.until(meant).await;
            Some(((number, meant), (number + 1, meant, random)))
        });
    let seen = RefCell::new(Seen::default());
    let answer = async |(number, meant): (usize, Instant)| {
        let result = call(number).await;
        if meant >= begin {
            seen.borrow_mut().note(meant.elapsed(), result);
        }
    };
    arrivals.for_each_concurrent(None, answer).await;
    // The last responses arrive after the end, so the rate of an overloaded server is below that of the arrivals.
    Ok(seen.into_inner().finished((Instant::now() - begin).as_secs_f64()))
}
