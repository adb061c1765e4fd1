use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use futures::{FutureExt, future::join_all};
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use tokio::sync::Semaphore;

use super::*;
use crate::{embed::VectorEncoding, model::Truncation};

const DIMENSIONS: usize = 2;
const LIMIT_TOKENS: usize = 100;

/// A cache in front of a fake model, which records its texts and computes only while it is open.
struct Fixture {
    cache: VectorCache,
    registry: Registry,
    computed: Arc<Mutex<Vec<String>>>,
    dropped: Arc<AtomicUsize>,
    gate: Arc<Semaphore>,
}

struct CountDrop(Arc<AtomicUsize>);

impl Drop for CountDrop {
    fn drop(&mut self) {
        self.0.fetch_add(1, Relaxed);
    }
}

impl Fixture {
    fn new(limit_bytes: usize) -> Fixture {
        let mut registry = Registry::default();
        let metrics = EmbedMetrics::register(&mut registry);
        let cache = VectorCache::new(limit_bytes, &model(), &metrics).expect("room for some");
        let (computed, dropped) = (Arc::default(), Arc::default());
        Fixture { cache, registry, computed, dropped, gate: Arc::new(Semaphore::new(Semaphore::MAX_PERMITS)) }
    }

    /// A fixture that computes nothing until it is [opened](Fixture::open).
    fn closed() -> Fixture {
        Fixture { gate: Arc::new(Semaphore::new(0)), ..Fixture::new(1 << 20) }
    }

    fn open(&self) {
        self.gate.add_permits(1 << 20);
    }

    async fn ask(&self, texts: &[&str]) -> Result<Embedded, EmbedError> {
        self.ask_with(texts, &options(VectorOptions::unchanged(DIMENSIONS))).await
    }

    async fn ask_with(&self, texts: &[&str], options: &InputOptions) -> Result<Embedded, EmbedError> {
        let texts = texts.iter().map(|&text| text.to_owned()).collect();
        let mut lookup = self.cache.look_up(texts, options).await;
        loop {
            lookup.compute(|texts| self.compute(texts));
            if let Some(embedded) = lookup.results().await? {
                return Ok(embedded);
            }
        }
    }

    fn compute(&self, texts: Vec<String>) -> BoxFuture<'static, Result<Embedded, EmbedError>> {
        let (computed, gate) = (Arc::clone(&self.computed), Arc::clone(&self.gate));
        let dropped = CountDrop(Arc::clone(&self.dropped));
        async move {
            let _dropped = dropped;
            gate.acquire().await.map_err(|_| EmbedError::Stopping)?.forget();
            computed.lock().extend(texts.iter().cloned());
            embed(&texts)
        }
        .boxed()
    }

    /// Texts in the order of their computation.
    fn computed(&self) -> Vec<String> {
        self.computed.lock().clone()
    }

    fn is_idle(&self) -> bool {
        self.cache.0.in_flight.lock().is_empty()
    }

    /// Hits, misses, joined.
    fn counts(&self) -> [u64; 3] {
        ["hits", "misses", "joined"].map(|kind| self.metric(kind))
    }

    fn metric(&self, kind: &str) -> u64 {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).expect("text");
        let name = format!("assay_embed_cache_{kind}_total ");
        let value = text.lines().find_map(|line| line.strip_prefix(&name));
        value.and_then(|value| value.parse().ok()).expect("a counter")
    }
}

/// Fake embedding: length and first byte of a text. Texts that begin with `x` are too long, and `!` fails.
fn embed(texts: &[String]) -> Result<Embedded, EmbedError> {
    let is = |first: char| move |(_, text): &(usize, &String)| text.starts_with(first);
    let too_long = texts.iter().enumerate().filter(is('x'));
    let too_long: Vec<_> = too_long
        .map(|(index, text)| TooLong { index, tokens: LIMIT_TOKENS + text.len(), limit: LIMIT_TOKENS })
        .collect();
    if !too_long.is_empty() {
        return Err(EmbedError::TooLong(too_long));
    }
    if texts.iter().enumerate().any(|input| is('!')(&input)) {
        return Err(EmbedError::Defect);
    }
    let inputs = texts.iter().map(|text| EmbeddedInput {
        vector: Vector::Values(state(text)),
        tokens: text.len() + 2,
        truncated: text.starts_with('t'),
    });
    let second = Duration::from_secs(1);
    Ok(Embedded { inputs: inputs.collect(), tokenize: second, queue: second, compute: second })
}

fn state(text: &str) -> Vec<f32> {
    vec![text.len() as f32, f32::from(text.as_bytes()[0])]
}

fn values(embedded: &Embedded) -> Vec<Vec<f32>> {
    let values = embedded.inputs.iter().map(|input| match &input.vector {
        Vector::Values(values) => values.clone(),
        other => panic!("{other:?}"),
    });
    values.collect()
}

fn options(vector: VectorOptions) -> InputOptions {
    InputOptions { prompt: "query: ".into(), truncation: Truncation::End, vector }
}

fn model() -> ModelInfo {
    ModelInfo { dimensions: DIMENSIONS, max_tokens: LIMIT_TOKENS, ..ModelInfo::example() }
}

type Asking<'a> = BoxFuture<'a, Result<Embedded, EmbedError>>;

/// Polls each future once, so that it starts waiting.
async fn start(asking: &mut [Asking<'_>]) {
    for one in asking {
        assert!(futures::poll!(one.as_mut()).is_pending());
    }
}

#[tokio::test]
async fn a_cache_hit_is_not_computed_again_and_takes_no_time() {
    let model = Fixture::new(1 << 20);
    let first = model.ask(&["one", "two"]).await.expect("vectors");
    let again = model.ask(&["two", "one"]).await.expect("vectors");
    assert_eq!(model.computed(), ["one", "two"]);
    assert_eq!(values(&first), [state("one"), state("two")]);
    assert_eq!(values(&again), [state("two"), state("one")]);
    assert_eq!(
        again.inputs.iter().map(|i| (i.tokens, i.truncated)).collect::<Vec<_>>(),
        [(5, true), (5, false)]
    );
    assert_eq!([first.tokenize, first.queue, first.compute], [Duration::from_secs(1); 3]);
    assert_eq!([again.tokenize, again.queue, again.compute], [Duration::ZERO; 3]);
    assert_eq!(model.counts(), [2, 2, 0]);
    assert!(model.is_idle());
}

#[tokio::test]
async fn one_entry_serves_all_dimensions_scales_and_encodings() {
    let model = Fixture::new(1 << 20);
    model.ask(&["one"]).await.expect("vectors");
    for (dimensions, normalize, encoding) in
        [(1, true, VectorEncoding::Float32Values), (2, true, VectorEncoding::Int8Bytes)]
    {
        let vector = VectorOptions { dimensions, normalize, encoding };
        let embedded = model.ask_with(&["one"], &options(vector)).await.expect("vectors");
        assert_eq!(embedded.inputs[0].vector, Vector::new(&state("one"), vector));
    }
    assert_eq!(model.computed(), ["one"]);
}

#[tokio::test]
async fn only_misses_are_computed_and_equal_inputs_once() {
    let model = Fixture::new(1 << 20);
    model.ask(&["one"]).await.expect("vectors");
    let embedded = model.ask(&["one", "two", "one", "two", "three"]).await.expect("vectors");
    let expected = ["one", "two", "one", "two", "three"].map(state);
    assert_eq!(values(&embedded), expected);
    assert_eq!(model.computed(), ["one", "two", "three"]);
    assert_eq!(model.counts(), [2, 3, 1]);
}

#[tokio::test]
async fn concurrent_misses_share_one_computation() {
    let model = Fixture::closed();
    let mut asking: Vec<Asking> = (0..50).map(|_| model.ask(&["one", "two"]).boxed()).collect();
    start(&mut asking).await;
    model.open();
    for embedded in join_all(asking).await {
        assert_eq!(values(&embedded.expect("vectors")), [state("one"), state("two")]);
    }
    assert_eq!(model.computed(), ["one", "two"]);
    assert_eq!(model.counts(), [0, 2, 98]);
}

#[tokio::test]
async fn a_cancelled_caller_does_not_fail_other_waiters() {
    let model = Fixture::closed();
    let mut first = vec![model.ask(&["one", "two"]).boxed()];
    start(&mut first).await;
    let mut others: Vec<Asking> = (0..3).map(|_| model.ask(&["two", "three"]).boxed()).collect();
    start(&mut others).await;
    drop(first);
    others.pop();
    model.open();
    for embedded in join_all(others).await {
        assert_eq!(values(&embedded.expect("vectors")), [state("two"), state("three")]);
    }
    let mut computed = model.computed();
    computed.sort();
    assert_eq!(computed, ["one", "three", "two"]);
    assert!(model.is_idle());
}

#[tokio::test]
async fn a_computation_is_cancelled_with_its_last_waiter() {
    let model = Fixture::closed();
    let mut asking = vec![model.ask(&["one"]).boxed(), model.ask(&["one"]).boxed()];
    start(&mut asking).await;
    asking.pop();
    assert_eq!((model.dropped.load(Relaxed), model.is_idle()), (0, false));
    asking.pop();
    assert_eq!((model.dropped.load(Relaxed), model.is_idle()), (1, true));
    model.open();
    assert_eq!(values(&model.ask(&["one"]).await.expect("vectors")), [state("one")]);
    assert_eq!(model.computed(), ["one"]);
}

#[tokio::test]
async fn errors_are_not_cached_or_shared() {
    let model = Fixture::closed();
    let mut first = vec![model.ask(&["!", "fine"]).boxed()];
    start(&mut first).await;
    let mut others = vec![model.ask(&["fine"]).boxed(), model.ask(&["fine", "also"]).boxed()];
    start(&mut others).await;
    model.open();
    assert!(matches!(first.remove(0).await, Err(EmbedError::Defect)));
    for embedded in join_all(others).await {
        assert_eq!(values(&embedded.expect("vectors"))[0], state("fine"));
    }
    for _ in 0..2 {
        assert!(matches!(model.ask(&["!"]).await, Err(EmbedError::Defect)));
    }
    assert_eq!(model.computed().iter().filter(|text| *text == "!").count(), 3);
    assert!(model.is_idle());
}

fn too_long(result: Result<Embedded, EmbedError>) -> Vec<(usize, usize)> {
    match result {
        Err(EmbedError::TooLong(found)) => {
            assert!(found.iter().all(|found| found.limit == LIMIT_TOKENS));
            found.iter().map(|found| (found.index, found.tokens)).collect()
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn every_text_that_is_too_long_is_reported_by_its_index() {
    let model = Fixture::new(1 << 20);
    model.ask(&["cached"]).await.expect("vectors");
    for _ in 0..2 {
        let refused = model.ask(&["cached", "x", "fine", "xx", "x"]).await;
        assert_eq!(too_long(refused), [(1, 101), (3, 102), (4, 101)]);
    }
}

#[tokio::test]
async fn too_long_texts_found_by_another_call_are_reported_too() {
    let model = Fixture::closed();
    let mut asking = vec![model.ask(&["a", "x"]).boxed(), model.ask(&["xx", "fine", "x", "a"]).boxed()];
    start(&mut asking).await;
    model.open();
    let results = join_all(asking).await;
    let found: Vec<_> = results.into_iter().map(too_long).collect();
    assert_eq!(found, [vec![(1, 101)], vec![(0, 102), (2, 101)]]);
}

#[tokio::test]
async fn memory_is_bounded_and_evictions_are_counted() {
    let limit = 20 * (DIMENSIONS * 4 + ENTRY_BYTES);
    let model = Fixture::new(limit);
    for number in 0..500 {
        let text = format!("number {number}");
        assert_eq!(values(&model.ask(&[&text]).await.expect("a vector")), [state(&text)]);
    }
    let stats = model.cache.stats();
    assert!((1..=20).contains(&stats.entries), "{stats:?}");
    assert_eq!((stats.bytes, stats.limit_bytes), (stats.entries * (limit / 20) as u64, limit as u64));
    assert_eq!(model.metric("evictions"), 500 - stats.entries);
}

#[test]
fn zero_bytes_disable_the_cache() {
    let metrics = EmbedMetrics::register(&mut Registry::default());
    assert!(VectorCache::new(0, &model(), &metrics).is_none());
}
