//! Files that are read again while the server runs: certificates and tokens.
//!
//! A thread looks at their contents, since times of change are coarse and mounted secrets change by a link. What can't
//! be used is told once, and what was read before stays in force.

use std::{io, path::PathBuf, sync::mpsc, thread::JoinHandle, time::Duration};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;

/// More than any list of certificates or tokens has.
const MOST_BYTES: u64 = 1 << 20;

/// One thing that is made of files.
pub(super) struct Source {
    what: &'static str,
    paths: Vec<PathBuf>,
    apply: Box<Apply>,
    /// Of the contents in force.
    applied: State,
    /// What could not be used at the last look. It is only told if it is still so at the next: of two files, one is
    /// written before the other.
    suspect: Option<State>,
    told: Option<State>,
}

/// Puts contents in force, or says what is wrong with them.
type Apply = dyn FnMut(&[Vec<u8>]) -> Result<(), String> + Send;

/// A digest of the contents, or why they can't be read.
type State = Result<[u8; 32], String>;

impl Source {
    /// Reads the files for the first time; the receiver has what they make, now and later.
    ///
    /// # Errors
    /// Which file cannot be read or used, and why.
    pub fn open<T: Send + Sync + 'static>(
        what: &'static str,
        paths: Vec<PathBuf>,
        make: impl Fn(&[Vec<u8>]) -> Result<T, String> + Send + 'static,
    ) -> Result<(watch::Receiver<T>, Source), String> {
        let contents = read(&paths)?;
        let (sender, receiver) = watch::channel(make(&contents)?);
        let apply = Box::new(move |contents: &[Vec<u8>]| {
            make(contents).map(|made| {
                sender.send_replace(made);
            })
        });
        let applied = Ok(digest(&contents));
        Ok((receiver, Source { what, paths, apply, applied, suspect: None, told: None }))
    }

    /// Looks at once at what was just said to have changed: what cannot be used is not given time to become whole.
    fn look_now(&mut self, reloads: &Family<Labels, Counter>) -> Seen {
        match self.look(reloads) {
            Seen::Suspect => self.look(reloads),
            seen => seen,
        }
    }

    fn look(&mut self, reloads: &Family<Labels, Counter>) -> Seen {
        let contents = read(&self.paths);
        let state = contents.as_ref().map(|contents| digest(contents)).map_err(Clone::clone);
        if state == self.applied {
            (self.suspect, self.told) = (None, None);
            return Seen::Unchanged;
        }
        if self.told.as_ref() == Some(&state) {
            return Seen::Failed;
        }
        let result = contents.and_then(|contents| (self.apply)(&contents));
        let count = |outcome| reloads.get_or_create(&Labels { what: self.what, outcome }).inc();
        match result {
            Ok(()) => {
                (self.applied, self.suspect, self.told) = (state, None, None);
                count("ok");
                tracing::info!(what = self.what, "its files have changed and are in force");
                Seen::Reloaded
            }
            Err(mistake) if self.suspect.as_ref() == Some(&state) => {
                (self.suspect, self.told) = (None, Some(state));
                count("failed");
                tracing::warn!(
                    what = self.what,
                    mistake,
                    "its files have changed and cannot be used; what was read before stays in force"
                );
                Seen::Failed
            }
            Err(_) => {
                self.suspect = Some(state);
                Seen::Suspect
            }
        }
    }
}

/// The outcome of one look at the files of a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    Unchanged,
    Reloaded,
    /// They cannot be used, for the first time.
    Suspect,
    /// They cannot be used, and this was told.
    Failed,
}

/// Asks for a look at all sources at once.
struct LookNow;

/// Owns the thread; dropping it ends it.
pub(crate) struct Reloader {
    /// None where there is nothing to reload. The thread ends when this is dropped.
    requests: Option<mpsc::Sender<LookNow>>,
    thread: Option<JoinHandle<()>>,
}

impl Reloader {
    /// Looks at all `sources` once in `every`.
    ///
    /// # Errors
    /// If the operating system gives no thread.
    pub(super) fn start(
        mut sources: Vec<Source>,
        every: Duration,
        registry: &mut Registry,
    ) -> io::Result<Reloader> {
        let reloads = Family::<Labels, Counter>::default();
        registry.register("assay_reloads", "Changes of files with certificates or tokens", reloads.clone());
        if sources.is_empty() {
            return Ok(Reloader { requests: None, thread: None });
        }
        for source in &sources {
            for outcome in ["ok", "failed"] {
                let _ = reloads.get_or_create(&Labels { what: source.what, outcome });
            }
        }
        let (requests, requested) = mpsc::channel();
        let thread = std::thread::Builder::new().name("assay-reload".into()).spawn(move || {
            loop {
                match requested.recv_timeout(every) {
                    Ok(LookNow) => look_at_all_now(&mut sources, &reloads),
                    Err(mpsc::RecvTimeoutError::Timeout) => {
                        for source in &mut sources {
                            source.look(&reloads);
                        }
                    }
                    Err(mpsc::RecvTimeoutError::Disconnected) => return,
                }
            }
        })?;
        Ok(Reloader { requests: Some(requests), thread: Some(thread) })
    }

    /// Has all files read again at once, on the thread, which logs what came of it. Does not wait.
    pub fn reload_now(&self) {
        match &self.requests {
            // It fails if the thread has panicked, which was logged.
            Some(requests) => drop(requests.send(LookNow)),
            None => tracing::info!(
                "SIGHUP: nothing to reload: neither tls-cert nor token-file is set, and other settings need a restart"
            ),
        }
    }
}

impl Drop for Reloader {
    fn drop(&mut self) {
        drop(self.requests.take());
        if let Some(thread) = self.thread.take() {
            // A panic was logged where it happened.
            let _ = thread.join();
        }
    }
}

fn look_at_all_now(sources: &mut [Source], reloads: &Family<Labels, Counter>) {
    let seen: Vec<_> = sources.iter_mut().map(|source| (source.what, source.look_now(reloads))).collect();
    let those = |wanted| {
        let names = seen.iter().filter(|(_, seen)| *seen == wanted).map(|(what, _)| *what);
        names.collect::<Vec<_>>().join(",")
    };
    tracing::info!(
        reloaded = those(Seen::Reloaded),
        unchanged = those(Seen::Unchanged),
        failed = those(Seen::Failed),
        "SIGHUP: certificates and tokens were read again"
    );
}

#[expect(clippy::disallowed_methods, reason = "before the reactor starts, and on a thread of its own after")]
fn read(paths: &[PathBuf]) -> Result<Vec<Vec<u8>>, String> {
    let read = |path: &PathBuf| {
        let told = |error: io::Error| format!("{}: {error}", path.display());
        let bytes = std::fs::metadata(path).map_err(told)?.len();
        if bytes > MOST_BYTES {
            return Err(format!("{}: {bytes} bytes, the most are {MOST_BYTES}", path.display()));
        }
        std::fs::read(path).map_err(told)
    };
    paths.iter().map(read).collect()
}

fn digest(contents: &[Vec<u8>]) -> [u8; 32] {
    let mut digest = Sha256::new();
    for content in contents {
        digest.update((content.len() as u64).to_le_bytes());
        digest.update(content);
    }
    digest.finalize().into()
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    what: &'static str,
    outcome: &'static str,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "a test may wait for its disk")]
    fn a_bad_content_is_counted_once_and_only_if_it_stays() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("number");
        let write = |text: &str| std::fs::write(&path, text).expect("written");
        let parse = |contents: &[Vec<u8>]| {
            let text = String::from_utf8_lossy(&contents[0]).into_owned();
            text.trim().parse::<u32>().map_err(|error| error.to_string())
        };
        write("1");
        let (number, mut source) = Source::open("number", vec![path.clone()], parse).expect("a number");
        let reloads = Family::<Labels, Counter>::default();
        let count = |outcome| reloads.get_or_create(&Labels { what: "number", outcome }).get();
        let mut look = |text: &str| {
            if text.is_empty() {
                std::fs::remove_file(&path).expect("removed");
            } else {
                write(text);
            }
            source.look(&reloads);
            (*number.borrow(), count("ok"), count("failed"))
        };
        assert_eq!(look("1"), (1, 0, 0));
        assert_eq!(look("2"), (2, 1, 0));
        assert_eq!(look("half"), (2, 1, 0), "the other half may be on its way");
        assert_eq!(look("3"), (3, 2, 0));
        assert_eq!(look("x"), (3, 2, 0));
        assert_eq!(look("x"), (3, 2, 1));
        assert_eq!(look("x"), (3, 2, 1));
        assert_eq!(look(""), (3, 2, 1));
        write("3");
        assert_eq!(look("3"), (3, 2, 1), "what is in force came back");
        assert_eq!([look("x"), look("x")], [(3, 2, 1), (3, 2, 2)], "and is told anew");
        assert_eq!(look("4"), (4, 3, 2));
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "a test may wait for its disk")]
    fn a_look_that_was_asked_for_tells_at_once() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("text");
        let write = |text: &str| std::fs::write(&path, text).expect("written");
        write("good");
        let make = |contents: &[Vec<u8>]| if contents[0] == b"bad" { Err("bad".to_owned()) } else { Ok(()) };
        let (_, mut source) = Source::open("text", vec![path.clone()], make).expect("good");
        let reloads = Family::<Labels, Counter>::default();
        let mut look = |text: &str| {
            write(text);
            source.look_now(&reloads)
        };
        assert_eq!(
            [look("good"), look("better"), look("bad"), look("bad"), look("better")],
            [Seen::Unchanged, Seen::Reloaded, Seen::Failed, Seen::Failed, Seen::Unchanged]
        );
    }

    #[test]
    fn what_is_not_there_at_the_start_is_named() {
        let path = PathBuf::from("/nowhere/tokens");
        let made = Source::open("tokens", vec![path], |_| Ok(()));
        assert!(made.err().expect("refused").contains("/nowhere/tokens"));
    }
}
