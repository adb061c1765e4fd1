use std::{
    fs,
    pin::Pin,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    task::Poll,
    time::Duration,
};

use futures::future::join_all;
use serde_json::json;
use tempfile::TempDir;
use tokio::sync::oneshot;

use super::*;

fn parts() -> KeyParts<'static> {
    KeyParts {
        endpoint: "http://judge/v1",
        model: "m",
        prompt: [1; 32],
        template: "t",
        template_hash: [2; 32],
        verdict: "v",
        verdict_version: 1,
        decoding: json!({ "temperature": 0.0 }),
        seed: Some(7),
        samples: 0,
    }
}

fn key(samples: u32) -> Key {
    Key::new(&KeyParts { samples, ..parts() })
}

fn answer(text: &str) -> Answer {
    let message = Message { content: Some(text.to_owned()), ..Message::default() };
    let usage = Usage { prompt_tokens: 3, ..Usage::default() };
    Answer { messages: vec![message], usage, model: Some("m-1".to_owned()), fingerprint: None }
}

fn in_memory() -> Store {
    Store::open(&Mode::Off, 1 << 20).expect("no file")
}

async fn ask(store: &Store, samples: u32, text: &str) -> (Answer, Hit) {
    store.get_or_ask(key(samples), true, async { Ok(answer(text)) }).await.expect("an answer")
}

async fn not_asked() -> Result<Answer, JudgeError> {
    panic!("it is known")
}

type Asking<'a> = Pin<Box<dyn Future<Output = Result<(Answer, Hit), JudgeError>> + 'a>>;

/// Polls each once, so that they run into whatever they wait for.
async fn start(futures: &mut [Asking<'_>]) {
    for future in futures {
        assert!(futures::poll!(future.as_mut()).is_pending());
    }
}

#[test]
fn a_key_covers_all_that_an_answer_depends_on() {
    let base = Key::new(&parts()).hash;
    let others = [
        KeyParts { endpoint: "http://other/v1", ..parts() },
        KeyParts { model: "n", ..parts() },
        KeyParts { prompt: [3; 32], ..parts() },
        KeyParts { verdict: "w", ..parts() },
        KeyParts { verdict_version: 2, ..parts() },
        KeyParts { decoding: json!({ "temperature": 0.7 }), ..parts() },
        KeyParts { seed: None, ..parts() },
        KeyParts { samples: 1, ..parts() },
        KeyParts { endpoint: "http://judge/v1m", model: "", ..parts() },
    ];
    let hashes: std::collections::HashSet<_> = others.iter().map(|parts| Key::new(parts).hash).collect();
    assert_eq!(hashes.len(), others.len());
    assert!(!hashes.contains(&base));
    assert_eq!(Key::new(&parts()).hash, base);
}

#[tokio::test]
async fn what_is_known_is_not_asked_again() {
    let store = in_memory();
    assert_eq!(ask(&store, 0, "a").await, (answer("a"), Hit::Asked));
    assert_eq!(store.get_or_ask(key(0), true, not_asked()).await, Ok((answer("a"), Hit::Memory)));
    assert_eq!(ask(&store, 1, "b").await, (answer("b"), Hit::Asked));
}

#[tokio::test]
async fn the_cache_can_be_passed_by() {
    let store = in_memory();
    ask(&store, 0, "a").await;
    let asked = store.get_or_ask(key(0), false, async { Ok(answer("b")) }).await;
    assert_eq!(asked, Ok((answer("b"), Hit::Asked)));
    assert_eq!(ask(&store, 0, "c").await, (answer("a"), Hit::Memory));
}

#[tokio::test]
async fn errors_are_not_remembered() {
    let store = in_memory();
    let failed = store.get_or_ask(key(0), true, async { Err(JudgeError::Refused) }).await;
    assert_eq!(failed, Err(JudgeError::Refused));
    assert_eq!(ask(&store, 0, "a").await, (answer("a"), Hit::Asked));
}

#[tokio::test]
async fn callers_that_want_the_same_ask_once() {
    let (store, asked) = (in_memory(), AtomicUsize::new(0));
    let ask = || {
        store.get_or_ask(key(0), true, async {
            asked.fetch_add(1, Relaxed);
            tokio::task::yield_now().await;
            Ok(answer("a"))
        })
    };
    let answers = join_all((0..50).map(|_| ask())).await;
    assert_eq!(asked.load(Relaxed), 1);
    let hits = |hit| answers.iter().filter(|found| **found == Ok((answer("a"), hit))).count();
    assert_eq!((hits(Hit::Asked), hits(Hit::Shared)), (1, 49));
}

#[tokio::test]
async fn a_cancelled_caller_leaves_the_others_their_answer() {
    let store = in_memory();
    let never = std::future::pending::<Result<Answer, JudgeError>>();
    let mut first = vec![Box::pin(store.get_or_ask(key(0), true, never)) as _];
    start(&mut first).await;
    let others = (0..3).map(|_| store.get_or_ask(key(0), true, async { Ok(answer("b")) }));
    let mut others: Vec<_> = others.map(|other| Box::pin(other) as _).collect();
    start(&mut others).await;
    drop(first);
    let hits: Vec<_> = join_all(others).await.into_iter().map(|found| found.expect("an answer").1).collect();
    assert_eq!(hits.iter().filter(|hit| **hit == Hit::Asked).count(), 1, "{hits:?}");
    assert_eq!(hits.iter().filter(|hit| **hit == Hit::Shared).count(), 2, "{hits:?}");
}

/// What a second caller gets when the first one's question ends like this.
async fn second_after(error: JudgeError) -> Result<(Answer, Hit), JudgeError> {
    let store = in_memory();
    let (fail, failed) = oneshot::channel();
    let first = store.get_or_ask(key(0), true, async { Err(failed.await.expect("an error")) });
    let mut first = vec![Box::pin(first) as _];
    start(&mut first).await;
    let mut second = Box::pin(store.get_or_ask(key(0), true, async { Ok(answer("b")) }));
    assert_eq!(futures::poll!(second.as_mut()), Poll::Pending);
    fail.send(error.clone()).expect("someone waits");
    assert_eq!(first.remove(0).await, Err(error));
    second.await
}

#[tokio::test]
async fn a_callers_own_limits_are_not_the_others() {
    assert_eq!(second_after(JudgeError::DeadlineExceeded).await, Ok((answer("b"), Hit::Asked)));
}

#[tokio::test]
async fn the_judges_trouble_is_told_to_all_who_waited() {
    let trouble = JudgeError::Unavailable { detail: "status 503".to_owned(), retry_in: None };
    assert_eq!(second_after(trouble.clone()).await, Err(trouble));
}

#[tokio::test]
async fn memory_is_bounded() {
    let store = Store::open(&Mode::Off, 64 << 10).expect("no file");
    let long = "x".repeat(1 << 10);
    for samples in 0..500 {
        ask(&store, samples, &long).await;
    }
    store.memory.run_pending_tasks().await;
    assert!((1..=64 << 10).contains(&store.memory.weighted_size()), "{}", store.memory.weighted_size());
}

struct Files {
    dir: TempDir,
}

impl Files {
    fn new() -> Files {
        Files { dir: tempfile::tempdir().expect("a directory") }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("answers.jsonl")
    }

    fn open(&self, mode: fn(PathBuf) -> Mode) -> Store {
        self.try_open(mode).expect("a sound file")
    }

    fn try_open(&self, mode: fn(PathBuf) -> Mode) -> Result<Store, StoreError> {
        Store::open(&mode(self.path()), 1 << 20)
    }

    fn text(&self) -> String {
        fs::read_to_string(self.path()).expect("a file")
    }

    fn write(&self, text: &str) {
        fs::write(self.path(), text).expect("a file");
    }
}

#[tokio::test]
async fn a_replay_answers_what_was_recorded_and_asks_nothing() {
    let files = Files::new();
    ask(&files.open(Mode::Record), 0, "天").await;
    let replay = files.open(Mode::Replay);
    for use_cache in [true, false] {
        let other = replay.get_or_ask(key(1), use_cache, not_asked()).await;
        assert_eq!(other, Err(JudgeError::NotRecorded));
    }
    assert_eq!(replay.get_or_ask(key(0), false, not_asked()).await, Ok((answer("天"), Hit::File)));
    assert_eq!(replay.get_or_ask(key(0), true, not_asked()).await, Ok((answer("天"), Hit::File)));
    assert_eq!(replay.get_or_ask(key(0), true, not_asked()).await, Ok((answer("天"), Hit::Memory)));
}

#[tokio::test]
async fn a_line_tells_where_an_answer_is_from() {
    let files = Files::new();
    ask(&files.open(Mode::Record), 0, "天").await;
    let text = files.text();
    let lines: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(lines[0], json!({ "kind": "assay-judge-answers", "version": 1 }));
    let line = &lines[1];
    assert_eq!(
        (&line["template"], &line["verdict"], &line["model"]),
        (&json!("t"), &json!("v"), &json!("m-1"))
    );
    assert_eq!((&line["seed"], &line["template_hash"]), (&json!(7), &json!("02".repeat(32))));
    assert!(text.contains("天") && text.ends_with('\n') && lines.len() == 2, "{text}");
}

#[tokio::test]
async fn a_journal_goes_on_where_it_ended() {
    let files = Files::new();
    ask(&files.open(Mode::Journal), 0, "a").await;
    let journal = files.open(Mode::Journal);
    assert_eq!(ask(&journal, 0, "x").await, (answer("a"), Hit::File));
    assert_eq!(ask(&journal, 1, "b").await, (answer("b"), Hit::Asked));
    drop(journal);
    let journal = files.open(Mode::Journal);
    assert_eq!(ask(&journal, 1, "x").await, (answer("b"), Hit::File));
}

#[tokio::test]
async fn a_recording_is_added_to_and_the_last_answer_counts() {
    let files = Files::new();
    ask(&files.open(Mode::Record), 0, "a").await;
    assert_eq!(ask(&files.open(Mode::Record), 0, "b").await, (answer("b"), Hit::Asked));
    assert_eq!(ask(&files.open(Mode::Replay), 0, "x").await, (answer("b"), Hit::File));
}

#[tokio::test]
async fn a_half_line_is_cut_off_wherever_the_process_was_killed() {
    let files = Files::new();
    let store = files.open(Mode::Record);
    ask(&store, 0, "a").await;
    let whole = files.text().len();
    ask(&store, 1, "天").await;
    drop(store);
    let text = files.text().into_bytes();
    for length in (0..text.len()).filter(|length| *length < 60 || *length >= whole) {
        files.write(&String::from_utf8_lossy(&text[..length]));
        let journal = files.open(Mode::Journal);
        let known = if length >= whole { Hit::File } else { Hit::Asked };
        assert_eq!(ask(&journal, 0, "a").await, (answer("a"), known), "{length}");
        assert_eq!(ask(&journal, 1, "c").await, (answer("c"), Hit::Asked), "{length}");
        drop(journal);
        assert_eq!(ask(&files.open(Mode::Replay), 1, "x").await, (answer("c"), Hit::File), "{length}");
    }
}

#[tokio::test]
async fn one_process_writes_at_a_time() {
    let files = Files::new();
    let first = files.open(Mode::Journal);
    for mode in [Mode::Journal, Mode::Record] {
        assert!(matches!(files.try_open(mode), Err(StoreError::Locked { .. })));
    }
    files.open(Mode::Replay);
    drop(first);
    files.open(Mode::Record);
}

#[test]
fn what_is_no_recording_is_refused_and_left_alone() {
    let files = Files::new();
    assert!(matches!(files.try_open(Mode::Replay), Err(StoreError::Open { .. })));
    for text in ["a report\n", "a report", "{\"kind\":\"assay-judge-answers\",\"version\":2}\n"] {
        files.write(text);
        assert!(matches!(files.try_open(Mode::Journal), Err(StoreError::Format { expected: 1, .. })));
        assert_eq!(files.text(), text);
    }
    files.write("{\"kind\":\"assay-judge-answers\",\"version\":1}\n{\"key\":\"00\"}\n");
    assert!(matches!(files.try_open(Mode::Replay), Err(StoreError::Line { line: 2, .. })));
    files.write("");
    assert!(matches!(files.try_open(Mode::Replay), Err(StoreError::Format { .. })));
}

#[tokio::test]
async fn an_answer_is_in_the_file_when_it_is_handed_out() {
    let (files, asked) = (Files::new(), AtomicUsize::new(0));
    let journal = files.open(Mode::Journal);
    let each = (0..40).map(|samples| {
        let (files, journal, asked) = (&files, &journal, &asked);
        async move {
            asked.fetch_add(1, Relaxed);
            ask(journal, samples, &format!("number {samples}.")).await;
            assert!(files.text().contains(&format!("number {samples}.")));
        }
    });
    tokio::time::timeout(Duration::from_secs(20), join_all(each)).await.expect("no deadlock");
    assert_eq!(asked.load(Relaxed), 40);
}
