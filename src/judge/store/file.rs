//! File of recorded answers as JSON lines: a header, then one answer per line. The last line of a key counts.
//!
//! An answer is returned after its line was written to the operating system, so a crash of the process loses nothing.
//! The file is not synced to disk: after a power failure the last answers may have to be asked again.

use std::{
    collections::HashMap,
    fs::{File, OpenOptions},
    io::{self, BufRead, BufReader},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    thread::JoinHandle,
};

use parking_lot::Mutex;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};
use tracing::warn;

use super::{AnswerKey, StoreError, StoredAnswer};
use crate::{
    judge::wire::{ChatMessage, TokenUsage},
    log_limit::{LogLimit, Site},
};

const FORMAT: u32 = 1;
const KIND: &str = "assay-judge-answers";

/// Capacity of the queue to the file's thread. Callers wait if it is full.
const QUEUE: usize = 256;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Recording {
    Off,
    Read,
    Write,
    ReadAndWrite,
}

/// Handle of the file: its thread, and the position of each answer.
pub(super) struct AnswerFile {
    spans: RecordIndex,
    jobs: Option<mpsc::Sender<FileJob>>,
    thread: Option<JoinHandle<()>>,
}

/// Positions of records by key: about 50 bytes per answer.
type RecordIndex = Arc<Mutex<HashMap<[u8; 32], RecordSpan>>>;

#[derive(Clone, Copy)]
struct RecordSpan {
    start: u64,
    bytes: usize,
}

enum FileJob {
    Read { span: RecordSpan, line: oneshot::Sender<Vec<u8>> },
    Append { hash: [u8; 32], line: Vec<u8>, done: oneshot::Sender<()> },
}

#[derive(Serialize, Deserialize)]
struct AnswerFileHeader {
    kind: String,
    version: u32,
}

/// Record as it is written. It is read as a [`RecordKey`] and a [`StoredAnswer`].
#[derive(Serialize)]
struct AnswerRecord<'a> {
    key: &'a str,
    template: &'a str,
    template_hash: &'a str,
    verdict: &'a str,
    model: Option<&'a str>,
    fingerprint: Option<&'a str>,
    seed: Option<u64>,
    usage: &'a TokenUsage,
    messages: &'a [ChatMessage],
}

#[derive(Deserialize)]
struct RecordKey {
    key: String,
}

impl AnswerFile {
    pub fn open(path: &Path, recording: Recording) -> Result<AnswerFile, StoreError> {
        let failed = |error: io::Error| StoreError::Open { path: path.to_owned(), reason: error.to_string() };
        let writes = recording != Recording::Read;
        let file = options(writes).open(path).map_err(failed)?;
        if writes {
            lock(&file, path)?;
        }
        let (spans, mut end) = scan(&file, path)?;
        if writes {
            // An incomplete line belongs to an answer that was never returned.
            file.set_len(end).map_err(failed)?;
            if end == 0 {
                end = write_header(&file).map_err(failed)?;
            }
        } else if end == 0 {
            return Err(StoreError::Format { path: path.to_owned(), expected: FORMAT });
        }
        let spans = Arc::new(Mutex::new(spans));
        let worker = AnswerFileWriter {
            file,
            path: path.to_owned(),
            end,
            spans: Arc::clone(&spans),
            is_failing: false,
        };
        let (jobs, queue) = mpsc::channel(QUEUE);
        let thread = std::thread::Builder::new().name("assay-judge".to_owned());
        let thread = thread.spawn(move || worker.run(queue)).map_err(failed)?;
        Ok(AnswerFile { spans, jobs: Some(jobs), thread: Some(thread) })
    }

    /// Reads an answer; returns `None` also if the file is unreadable, because the question can be asked again.
    pub async fn find(&self, key: &AnswerKey) -> Option<StoredAnswer> {
        let span = *self.spans.lock().get(&key.hash)?;
        let (line, read) = oneshot::channel();
        self.jobs.as_ref()?.send(FileJob::Read { span, line }).await.ok()?;
        serde_json::from_slice(&read.await.ok()?).ok()
    }

    /// Appends an answer and returns when it is written. A failure is logged; the question is then asked again later.
    pub async fn append(&self, key: &AnswerKey, answer: &StoredAnswer) {
        let (done, written) = oneshot::channel();
        let job = FileJob::Append { hash: key.hash, line: line_of(key, answer), done };
        let sent = match &self.jobs {
            Some(jobs) => jobs.send(job).await.is_ok(),
            None => false,
        };
        if sent {
            let _ = written.await;
        }
    }
}

impl Drop for AnswerFile {
    /// Writes queued answers first.
    fn drop(&mut self) {
        drop(self.jobs.take());
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// Open options; mode 0600, because answers may quote the judged texts.
fn options(writes: bool) -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(writes).create(writes).mode(0o600);
    options
}

/// Locks the file until it is closed.
fn lock(file: &File, path: &Path) -> Result<(), StoreError> {
    flock(file, FlockOperation::NonBlockingLockExclusive).map_err(|error| match error {
        rustix::io::Errno::WOULDBLOCK => StoreError::Locked { path: path.to_owned() },
        other => StoreError::Open { path: path.to_owned(), reason: other.to_string() },
    })
}

/// Returns the position of each answer, and the end of the last complete line.
fn scan(file: &File, path: &Path) -> Result<(HashMap<[u8; 32], RecordSpan>, u64), StoreError> {
    let path = || path.to_owned();
    let (mut spans, mut start) = (HashMap::new(), 0_u64);
    let (mut reader, mut line) = (BufReader::new(file), Vec::new());
    for number in 1.. {
        line.clear();
        let read = reader.read_until(b'\n', &mut line);
        let bytes = read.map_err(|error| StoreError::Open { path: path(), reason: error.to_string() })?;
        if line.last() != Some(&b'\n') {
            if number == 1 && !header_line().starts_with(&line) {
                return Err(StoreError::Format { path: path(), expected: FORMAT });
            }
            break;
        }
        if number == 1 {
            let header: Option<AnswerFileHeader> = serde_json::from_slice(&line).ok();
            header
                .filter(|header| header.kind == KIND && header.version == FORMAT)
                .ok_or_else(|| StoreError::Format { path: path(), expected: FORMAT })?;
        } else {
            let named = serde_json::from_slice::<RecordKey>(&line).ok();
            let hash = named.and_then(|named| parse_hash(&named.key));
            let hash = hash.ok_or_else(|| StoreError::Line { path: path(), line: number })?;
            spans.insert(hash, RecordSpan { start, bytes });
        }
        start += bytes as u64;
    }
    Ok((spans, start))
}

fn header_line() -> Vec<u8> {
    let header = AnswerFileHeader { kind: KIND.to_owned(), version: FORMAT };
    let mut line = serde_json::to_vec(&header).expect("a text and a number can be written as JSON");
    line.push(b'\n');
    line
}

fn write_header(file: &File) -> io::Result<u64> {
    let line = header_line();
    file.write_all_at(&line, 0)?;
    Ok(line.len() as u64)
}

struct AnswerFileWriter {
    file: File,
    path: PathBuf,
    /// Invariant: the end of the last complete line.
    end: u64,
    spans: RecordIndex,
    is_failing: bool,
}

impl AnswerFileWriter {
    /// Processes jobs until the queue is closed and empty.
    fn run(mut self, mut jobs: mpsc::Receiver<FileJob>) {
        while let Some(job) = jobs.blocking_recv() {
            match job {
                FileJob::Read { span, line } => {
                    let mut bytes = vec![0; span.bytes];
                    if self.file.read_exact_at(&mut bytes, span.start).is_ok() {
                        let _ = line.send(bytes);
                    }
                }
                FileJob::Append { hash, line, done } => {
                    self.append(hash, &line);
                    let _ = done.send(());
                }
            }
        }
    }

    fn append(&mut self, hash: [u8; 32], line: &[u8]) {
        match self.file.write_all_at(line, self.end) {
            Ok(()) => {
                self.spans.lock().insert(hash, RecordSpan { start: self.end, bytes: line.len() });
                self.end += line.len() as u64;
                self.is_failing = false;
            }
            Err(error) => {
                // A partial line is overwritten by the next one, or removed when the file is opened again.
                let _ = self.file.set_len(self.end);
                static LINES: LogLimit = LogLimit::new(Site::JudgeStore);
                if !self.is_failing && LINES.admits() {
                    warn!(path = %self.path.display(), %error, "cannot record an answer of the judge");
                }
                self.is_failing = true;
            }
        }
    }
}

fn line_of(key: &AnswerKey, answer: &StoredAnswer) -> Vec<u8> {
    let line = AnswerRecord {
        key: &hex::encode(key.hash),
        template: key.template,
        template_hash: &hex::encode(key.template_hash),
        verdict: key.verdict,
        model: answer.model.as_deref(),
        fingerprint: answer.fingerprint.as_deref(),
        seed: key.seed,
        usage: &answer.usage,
        messages: &answer.messages,
    };
    let mut line = serde_json::to_vec(&line).expect("texts and numbers can be written as JSON");
    line.push(b'\n');
    line
}

fn parse_hash(text: &str) -> Option<[u8; 32]> {
    let mut hash = [0; 32];
    hex::decode_to_slice(text, &mut hash).ok().map(|()| hash)
}
