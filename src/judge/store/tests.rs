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

fn parts() -> AnswerKeyParts<'static> {
    AnswerKeyParts {
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

fn key(samples: u32) -> AnswerKey {
    AnswerKey::new(&AnswerKeyParts { samples, ..parts() })
}

fn answer(text: &str) -> StoredAnswer {
    let message = ChatMessage { content: Some(text.to_owned()), ..ChatMessage::default() };
    let usage = TokenUsage { prompt_tokens: 3, ..TokenUsage::default() };
    StoredAnswer { messages: vec![message], usage, model: Some("m-1".to_owned()), fingerprint: None }
}

fn in_memory() -> AnswerStore {
    AnswerStore::open(&StoreMode::Off, 1 << 20).expect("no file")
}

async fn ask(store: &AnswerStore, samples: u32, text: &str) -> (StoredAnswer, AnswerSource) {
    store.get_or_ask(key(samples), true, async { Ok(answer(text)) }).await.expect("an answer")
}

async fn not_asked() -> Result<StoredAnswer, JudgeError> {
    panic!("it is known")
}

type Asking<'a> = Pin<Box<dyn Future<Output = Result<(StoredAnswer, AnswerSource), JudgeError>> + 'a>>;

/// Polls each future once, so that it starts waiting.
async fn start(futures: &mut [Asking<'_>]) {
    for future in futures {
        assert!(futures::poll!(future.as_mut()).is_pending());
    }
}

#[test]
fn a_key_covers_all_inputs_of_an_answer() {
    let base = AnswerKey::new(&parts()).hash;
    let others = [
        AnswerKeyParts { endpoint: "http://other/v1", ..parts() },
        AnswerKeyParts { model: "n", ..parts() },
        AnswerKeyParts { prompt: [3; 32], ..parts() },
        AnswerKeyParts { verdict: "w", ..parts() },
        AnswerKeyParts { verdict_version: 2, ..parts() },
        AnswerKeyParts { decoding: json!({ "temperature": 0.7 }), ..parts() },
        AnswerKeyParts { seed: None, ..parts() },
        AnswerKeyParts { samples: 1, ..parts() },
        AnswerKeyParts { endpoint: "http://judge/v1m", model: "", ..parts() },
    ];
    let hashes: std::collections::HashSet<_> =
        others.iter().map(|parts| AnswerKey::new(parts).hash).collect();
    assert_eq!(hashes.len(), others.len());
    assert!(!hashes.contains(&base));
    assert_eq!(AnswerKey::new(&parts()).hash, base);
}

#[tokio::test]
async fn a_cached_answer_is_not_asked_again() {
    let store = in_memory();
    assert_eq!(ask(&store, 0, "a").await, (answer("a"), AnswerSource::Asked));
    assert_eq!(store.get_or_ask(key(0), true, not_asked()).await, Ok((answer("a"), AnswerSource::Memory)));
    assert_eq!(ask(&store, 1, "b").await, (answer("b"), AnswerSource::Asked));
}

#[tokio::test]
async fn the_cache_can_be_bypassed() {
    let store = in_memory();
    ask(&store, 0, "a").await;
    let asked = store.get_or_ask(key(0), false, async { Ok(answer("b")) }).await;
    assert_eq!(asked, Ok((answer("b"), AnswerSource::Asked)));
    assert_eq!(ask(&store, 0, "c").await, (answer("a"), AnswerSource::Memory));
}

#[tokio::test]
async fn errors_are_not_cached() {
    let store = in_memory();
    let failed = store.get_or_ask(key(0), true, async { Err(JudgeError::Refused) }).await;
    assert_eq!(failed, Err(JudgeError::Refused));
    assert_eq!(ask(&store, 0, "a").await, (answer("a"), AnswerSource::Asked));
}

#[tokio::test]
async fn identical_questions_are_asked_once() {
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
    assert_eq!((hits(AnswerSource::Asked), hits(AnswerSource::Shared)), (1, 49));
}

#[tokio::test]
async fn a_cancelled_caller_does_not_cancel_the_others() {
    let store = in_memory();
    let never = std::future::pending::<Result<StoredAnswer, JudgeError>>();
    let mut first = vec![Box::pin(store.get_or_ask(key(0), true, never)) as _];
    start(&mut first).await;
    let others = (0..3).map(|_| store.get_or_ask(key(0), true, async { Ok(answer("b")) }));
    let mut others: Vec<_> = others.map(|other| Box::pin(other) as _).collect();
    start(&mut others).await;
    drop(first);
    let hits: Vec<_> = join_all(others).await.into_iter().map(|found| found.expect("an answer").1).collect();
    assert_eq!(hits.iter().filter(|hit| **hit == AnswerSource::Asked).count(), 1, "{hits:?}");
    assert_eq!(hits.iter().filter(|hit| **hit == AnswerSource::Shared).count(), 2, "{hits:?}");
}

/// Result of a second caller after the first one's question failed with `error`.
async fn second_after(error: JudgeError) -> Result<(StoredAnswer, AnswerSource), JudgeError> {
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
async fn an_exceeded_deadline_is_not_shared() {
    assert_eq!(second_after(JudgeError::DeadlineExceeded).await, Ok((answer("b"), AnswerSource::Asked)));
}

#[tokio::test]
async fn an_error_of_the_judge_is_shared() {
    let trouble = JudgeError::Unavailable { detail: "status 503".to_owned(), retry_in: None };
    assert_eq!(second_after(trouble.clone()).await, Err(trouble));
}

#[tokio::test]
async fn memory_is_bounded() {
    let store = AnswerStore::open(&StoreMode::Off, 64 << 10).expect("no file");
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

    fn open(&self, mode: fn(PathBuf) -> StoreMode) -> AnswerStore {
        self.try_open(mode).expect("a sound file")
    }

    fn try_open(&self, mode: fn(PathBuf) -> StoreMode) -> Result<AnswerStore, StoreError> {
        AnswerStore::open(&mode(self.path()), 1 << 20)
    }

    fn text(&self) -> String {
        fs::read_to_string(self.path()).expect("a file")
    }

    fn write(&self, text: &str) {
        fs::write(self.path(), text).expect("a file");
    }
}

#[tokio::test]
async fn a_replay_answers_only_recorded_questions() {
    let files = Files::new();
    ask(&files.open(StoreMode::Record), 0, "天").await;
    let replay = files.open(StoreMode::Replay);
    for use_cache in [true, false] {
        let other = replay.get_or_ask(key(1), use_cache, not_asked()).await;
        assert_eq!(other, Err(JudgeError::NotRecorded));
    }
    assert_eq!(replay.get_or_ask(key(0), false, not_asked()).await, Ok((answer("天"), AnswerSource::File)));
    assert_eq!(replay.get_or_ask(key(0), true, not_asked()).await, Ok((answer("天"), AnswerSource::File)));
    assert_eq!(replay.get_or_ask(key(0), true, not_asked()).await, Ok((answer("天"), AnswerSource::Memory)));
}

#[tokio::test]
async fn a_record_holds_the_origin_of_its_answer() {
    let files = Files::new();
    ask(&files.open(StoreMode::Record), 0, "天").await;
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
async fn a_journal_is_resumed() {
    let files = Files::new();
    ask(&files.open(StoreMode::Journal), 0, "a").await;
    let journal = files.open(StoreMode::Journal);
    assert_eq!(ask(&journal, 0, "x").await, (answer("a"), AnswerSource::File));
    assert_eq!(ask(&journal, 1, "b").await, (answer("b"), AnswerSource::Asked));
    drop(journal);
    let journal = files.open(StoreMode::Journal);
    assert_eq!(ask(&journal, 1, "x").await, (answer("b"), AnswerSource::File));
}

#[tokio::test]
async fn a_recording_is_appended_to_and_the_last_answer_counts() {
    let files = Files::new();
    ask(&files.open(StoreMode::Record), 0, "a").await;
    assert_eq!(ask(&files.open(StoreMode::Record), 0, "b").await, (answer("b"), AnswerSource::Asked));
    assert_eq!(ask(&files.open(StoreMode::Replay), 0, "x").await, (answer("b"), AnswerSource::File));
}

#[tokio::test]
async fn an_incomplete_line_is_removed() {
    let files = Files::new();
    let store = files.open(StoreMode::Record);
    ask(&store, 0, "a").await;
    let whole = files.text().len();
    ask(&store, 1, "天").await;
    drop(store);
    let text = files.text().into_bytes();
    for length in (0..text.len()).filter(|length| *length < 60 || *length >= whole) {
        files.write(&String::from_utf8_lossy(&text[..length]));
        let journal = files.open(StoreMode::Journal);
        let known = if length >= whole { AnswerSource::File } else { AnswerSource::Asked };
        assert_eq!(ask(&journal, 0, "a").await, (answer("a"), known), "{length}");
        assert_eq!(ask(&journal, 1, "c").await, (answer("c"), AnswerSource::Asked), "{length}");
        drop(journal);
        assert_eq!(
            ask(&files.open(StoreMode::Replay), 1, "x").await,
            (answer("c"), AnswerSource::File),
            "{length}"
        );
    }
}

#[tokio::test]
async fn only_one_process_writes_at_a_time() {
    let files = Files::new();
    let first = files.open(StoreMode::Journal);
    for mode in [StoreMode::Journal, StoreMode::Record] {
        assert!(matches!(files.try_open(mode), Err(StoreError::Locked { .. })));
    }
    files.open(StoreMode::Replay);
    drop(first);
    files.open(StoreMode::Record);
}

#[test]
fn other_files_are_rejected_and_not_modified() {
    let files = Files::new();
    assert!(matches!(files.try_open(StoreMode::Replay), Err(StoreError::Open { .. })));
    for text in ["a report\n", "a report", "{\"kind\":\"assay-judge-answers\",\"version\":2}\n"] {
        files.write(text);
        assert!(matches!(files.try_open(StoreMode::Journal), Err(StoreError::Format { expected: 1, .. })));
        assert_eq!(files.text(), text);
    }
    files.write("{\"kind\":\"assay-judge-answers\",\"version\":1}\n{\"key\":\"00\"}\n");
    assert!(matches!(files.try_open(StoreMode::Replay), Err(StoreError::Line { line: 2, .. })));
    files.write("");
    assert!(matches!(files.try_open(StoreMode::Replay), Err(StoreError::Format { .. })));
}

#[tokio::test]
async fn an_answer_is_written_before_it_is_returned() {
    let (files, asked) = (Files::new(), AtomicUsize::new(0));
    let journal = files.open(StoreMode::Journal);
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
