//! Answers in a file of JSON lines: a header, then one answer a line, the last one of a key counts.
//!
//! An answer is handed out after its line was written to the operating system, so that the end of this process
//! loses nothing, however sudden. It isn't synced to the disk: after a power cut the last answers may be asked again.

use std::{
    collections::HashMap,
    fs::{File, OpenOptions},
    io::{self, BufRead, BufReader},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    thread::JoinHandle,
};

use parking_lot::{Mutex, MutexGuard};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};
use tracing::warn;

use super::{Answer, Key, StoreError};
use crate::{
    judge::wire::{Message, Usage},
    log_limit::{LogLimit, Site},
};

const FORMAT: u32 = 1;
const KIND: &str = "assay-judge-answers";

/// Answers that wait for the file; more make their callers wait.
const QUEUE: usize = 256;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Recording {
    Off,
    Read,
    Write,
    ReadAndWrite,
}

/// The file's thread, and where each answer is.
pub(super) struct AnswerFile {
    spans: Spans,
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

/// 50 bytes an answer, whatever its length.
type Spans = Arc<Mutex<HashMap<[u8; 32], Span>>>;

#[derive(Clone, Copy)]
struct Span {
    start: u64,
    bytes: usize,
}

enum Job {
    Read { span: Span, line: oneshot::Sender<Vec<u8>> },
    Append { hash: [u8; 32], line: Vec<u8>, done: oneshot::Sender<()> },
}

#[derive(Serialize, Deserialize)]
struct Header {
    kind: String,
    version: u32,
}

/// A line as it is written; it is read as a [`Named`] and an [`Answer`].
#[derive(Serialize)]
struct Line<'a> {
    key: &'a str,
    template: &'a str,
    template_hash: &'a str,
    verdict: &'a str,
    model: Option<&'a str>,
    fingerprint: Option<&'a str>,
    seed: Option<u64>,
    usage: &'a Usage,
    messages: &'a [Message],
}

#[derive(Deserialize)]
struct Named {
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
            // A half line is what a kill left of an answer that nobody got.
            file.set_len(end).map_err(failed)?;
            if end == 0 {
                end = write_header(&file).map_err(failed)?;
            }
        } else if end == 0 {
            return Err(StoreError::Format { path: path.to_owned(), expected: FORMAT });
        }
        let spans = Arc::new(Mutex::new(spans));
        let worker =
            Worker { file, path: path.to_owned(), end, spans: Arc::clone(&spans), is_failing: false };
        let (jobs, queue) = mpsc::channel(QUEUE);
        let thread = std::thread::Builder::new().name("assay-judge".to_owned());
        let thread = thread.spawn(move || worker.run(queue)).map_err(failed)?;
        Ok(AnswerFile { spans, jobs: Some(jobs), thread: Some(thread) })
    }

    /// None also if the file became unreadable: an answer can be asked for again.
    pub async fn find(&self, key: &Key) -> Option<Answer> {
        let span = *guard(&self.spans).get(&key.hash)?;
        let (line, read) = oneshot::channel();
        self.jobs.as_ref()?.send(Job::Read { span, line }).await.ok()?;
        serde_json::from_slice(&read.await.ok()?).ok()
    }

    /// Returns when the answer is written. If it can't be, that is logged and costs a repetition some day.
    pub async fn append(&self, key: &Key, answer: &Answer) {
        let (done, written) = oneshot::channel();
        let job = Job::Append { hash: key.hash, line: line_of(key, answer), done };
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
    /// What is queued is written first.
    fn drop(&mut self) {
        drop(self.jobs.take());
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// Answers repeat what they judge: nobody else is to read them.
fn options(writes: bool) -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(writes).create(writes).mode(0o600);
    options
}

/// Held until the file is closed, by the end of the process at the latest.
fn lock(file: &File, path: &Path) -> Result<(), StoreError> {
    flock(file, FlockOperation::NonBlockingLockExclusive).map_err(|error| match error {
        rustix::io::Errno::WOULDBLOCK => StoreError::Locked { path: path.to_owned() },
        other => StoreError::Open { path: path.to_owned(), reason: other.to_string() },
    })
}

/// Where each answer is, and where the last whole line ends.
fn scan(file: &File, path: &Path) -> Result<(HashMap<[u8; 32], Span>, u64), StoreError> {
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
            let header: Option<Header> = serde_json::from_slice(&line).ok();
            header
                .filter(|header| header.kind == KIND && header.version == FORMAT)
                .ok_or_else(|| StoreError::Format { path: path(), expected: FORMAT })?;
        } else {
            let named = serde_json::from_slice::<Named>(&line).ok();
            let hash = named.and_then(|named| parse_hash(&named.key));
            let hash = hash.ok_or_else(|| StoreError::Line { path: path(), line: number })?;
            spans.insert(hash, Span { start, bytes });
        }
        start += bytes as u64;
    }
    Ok((spans, start))
}

fn header_line() -> Vec<u8> {
    let header = Header { kind: KIND.to_owned(), version: FORMAT };
    let mut line = serde_json::to_vec(&header).expect("a text and a number can be written as JSON");
    line.push(b'\n');
    line
}

fn write_header(file: &File) -> io::Result<u64> {
    let line = header_line();
    file.write_all_at(&line, 0)?;
    Ok(line.len() as u64)
}

struct Worker {
    file: File,
    path: PathBuf,
    /// Invariant: the end of the last whole line.
    end: u64,
    spans: Spans,
    is_failing: bool,
}

impl Worker {
    /// Until the other side is dropped and all is done.
    fn run(mut self, mut jobs: mpsc::Receiver<Job>) {
        while let Some(job) = jobs.blocking_recv() {
            match job {
                Job::Read { span, line } => {
                    let mut bytes = vec![0; span.bytes];
                    if self.file.read_exact_at(&mut bytes, span.start).is_ok() {
                        let _ = line.send(bytes);
                    }
                }
                Job::Append { hash, line, done } => {
                    self.append(hash, &line);
                    let _ = done.send(());
                }
            }
        }
    }

    fn append(&mut self, hash: [u8; 32], line: &[u8]) {
        match self.file.write_all_at(line, self.end) {
            Ok(()) => {
                guard(&self.spans).insert(hash, Span { start: self.end, bytes: line.len() });
                self.end += line.len() as u64;
                self.is_failing = false;
            }
            Err(error) => {
                // The next line overwrites a half one; without a next line, the cut at opening removes it.
                let _ = self.file.set_len(self.end);
                static LINES: LogLimit = LogLimit::new(Site::JudgeStore);
                if !self.is_failing && LINES.admits() {
                    warn!(path = %self.path.display(), %error, "answers of the judge are not recorded");
                }
                self.is_failing = true;
            }
        }
    }
}

fn line_of(key: &Key, answer: &Answer) -> Vec<u8> {
    let line = Line {
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

/// Every change of the map is complete before anything that could panic runs.
fn guard(spans: &Spans) -> MutexGuard<'_, HashMap<[u8; 32], Span>> {
    spans.lock()
}
