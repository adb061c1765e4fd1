//! Reload of certificate and token files at runtime.
//!
//! A thread compares the contents of the files, because modification times are coarse and mounted secrets change by
//! replacing a symbolic link. A failed reload is logged once, and the previous version stays in use.

use std::{io, path::PathBuf, sync::mpsc, thread::JoinHandle, time::Duration};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;

/// Maximum size of a file in bytes.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// A value loaded from files, such as the TLS configuration.
pub(super) struct WatchedFiles {
    what: &'static str,
    paths: Vec<PathBuf>,
    apply: Box<Apply>,
    /// State of the files whose value is in use.
    applied: FilesState,
    /// State that failed to load at the last check. It is reported only if it still fails at the next check, because
    /// several files are not written at the same instant.
    suspect: Option<FilesState>,
    /// Failed state that was reported.
    reported: Option<FilesState>,
}

/// Loads the contents and puts them in use, or returns the error.
type Apply = dyn FnMut(&[Vec<u8>]) -> Result<(), String> + Send;

/// Digest of the contents, or the error of reading them.
type FilesState = Result<[u8; 32], String>;

impl WatchedFiles {
    /// Loads the files. The receiver has the current value.
    ///
    /// # Errors
    /// Name and error of the file that cannot be read or loaded.
    pub fn open<T: Send + Sync + 'static>(
        what: &'static str,
        paths: Vec<PathBuf>,
        make: impl Fn(&[Vec<u8>]) -> Result<T, String> + Send + 'static,
    ) -> Result<(watch::Receiver<T>, WatchedFiles), String> {
        let contents = read(&paths)?;
        let (sender, receiver) = watch::channel(make(&contents)?);
        let apply = Box::new(move |contents: &[Vec<u8>]| {
            make(contents).map(|made| {
                sender.send_replace(made);
            })
        });
        let applied = Ok(digest(&contents));
        Ok((receiver, WatchedFiles { what, paths, apply, applied, suspect: None, reported: None }))
    }

    /// Checks the files on request. A failure is reported immediately.
    fn check_now(&mut self, reloads: &Family<ReloadLabels, Counter>) -> CheckOutcome {
        match self.check(reloads) {
            CheckOutcome::Suspect => self.check(reloads),
            seen => seen,
        }
    }

    fn check(&mut self, reloads: &Family<ReloadLabels, Counter>) -> CheckOutcome {
        let contents = read(&self.paths);
        let state = contents.as_ref().map(|contents| digest(contents)).map_err(Clone::clone);
        if state == self.applied {
            (self.suspect, self.reported) = (None, None);
            return CheckOutcome::Unchanged;
        }
        if self.reported.as_ref() == Some(&state) {
            return CheckOutcome::Failed;
        }
        let result = contents.and_then(|contents| (self.apply)(&contents));
        let count = |outcome| reloads.get_or_create(&ReloadLabels { what: self.what, outcome }).inc();
        match result {
            Ok(()) => {
                (self.applied, self.suspect, self.reported) = (state, None, None);
                count("ok");
                tracing::info!(what = self.what, "files reloaded");
                CheckOutcome::Reloaded
            }
            Err(error) if self.suspect.as_ref() == Some(&state) => {
                (self.suspect, self.reported) = (None, Some(state));
                count("failed");
                tracing::warn!(
                    what = self.what,
                    error,
                    "changed files cannot be loaded; the previous version stays in use"
                );
                CheckOutcome::Failed
            }
            Err(_) => {
                self.suspect = Some(state);
                CheckOutcome::Suspect
            }
        }
    }
}

/// Outcome of one check of the files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CheckOutcome {
    Unchanged,
    Reloaded,
    /// Loading failed for the first time.
    Suspect,
    /// Loading failed, and the failure was reported.
    Failed,
}

/// Request to check all files immediately.
struct CheckNow;

/// Owner of the reload thread. Dropping it stops the thread.
pub(crate) struct Reloader {
    /// None if there is nothing to reload. The thread ends when this is dropped.
    requests: Option<mpsc::Sender<CheckNow>>,
    thread: Option<JoinHandle<()>>,
}

impl Reloader {
    /// Checks all `sources` every `every`.
    ///
    /// # Errors
    /// The error of the operating system if the thread cannot be started.
    pub(super) fn start(
        mut sources: Vec<WatchedFiles>,
        every: Duration,
        registry: &mut Registry,
    ) -> io::Result<Reloader> {
        let reloads = Family::<ReloadLabels, Counter>::default();
        registry.register(
            "assay_reloads",
            "Reloads of changed certificate or token files, by outcome",
            reloads.clone(),
        );
        if sources.is_empty() {
            return Ok(Reloader { requests: None, thread: None });
        }
        for source in &sources {
            for outcome in ["ok", "failed"] {
                let _ = reloads.get_or_create(&ReloadLabels { what: source.what, outcome });
            }
        }
        let (requests, requested) = mpsc::channel();
        let thread = std::thread::Builder::new().name("assay-reload".into()).spawn(move || {
            loop {
                match requested.recv_timeout(every) {
                    Ok(CheckNow) => check_all_now(&mut sources, &reloads),
                    Err(mpsc::RecvTimeoutError::Timeout) => {
                        for source in &mut sources {
                            source.check(&reloads);
                        }
                    }
                    Err(mpsc::RecvTimeoutError::Disconnected) => return,
                }
            }
        })?;
        Ok(Reloader { requests: Some(requests), thread: Some(thread) })
    }

    /// Requests a check of all files. The thread logs the outcome. Does not wait for it.
    pub fn reload_now(&self) {
        match &self.requests {
            // It fails only if the thread has panicked, which was logged.
            Some(requests) => drop(requests.send(CheckNow)),
            None => tracing::info!(
                "SIGHUP: nothing to reload: neither tls-cert nor token-file is set; other settings need a restart"
            ),
        }
    }
}

impl Drop for Reloader {
    fn drop(&mut self) {
        drop(self.requests.take());
        if let Some(thread) = self.thread.take() {
            // A panic was already logged.
            let _ = thread.join();
        }
    }
}

fn check_all_now(sources: &mut [WatchedFiles], reloads: &Family<ReloadLabels, Counter>) {
    let seen: Vec<_> = sources.iter_mut().map(|source| (source.what, source.check_now(reloads))).collect();
    let those = |wanted| {
        let names = seen.iter().filter(|(_, seen)| *seen == wanted).map(|(what, _)| *what);
        names.collect::<Vec<_>>().join(",")
    };
    tracing::info!(
        reloaded = those(CheckOutcome::Reloaded),
        unchanged = those(CheckOutcome::Unchanged),
        failed = those(CheckOutcome::Failed),
        "SIGHUP: certificates and tokens reloaded"
    );
}

#[expect(
    clippy::disallowed_methods,
    reason = "runs before the event loop starts, and later on the reload thread"
)]
fn read(paths: &[PathBuf]) -> Result<Vec<Vec<u8>>, String> {
    let read = |path: &PathBuf| {
        let reported = |error: io::Error| format!("{}: {error}", path.display());
        let bytes = std::fs::metadata(path).map_err(reported)?.len();
        if bytes > MAX_FILE_BYTES {
            return Err(format!("{}: {bytes} bytes, the limit is {MAX_FILE_BYTES}", path.display()));
        }
        std::fs::read(path).map_err(reported)
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
struct ReloadLabels {
    what: &'static str,
    outcome: &'static str,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "a test may block on its disk")]
    fn an_invalid_content_is_counted_once_and_only_if_it_stays() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("number");
        let write = |text: &str| std::fs::write(&path, text).expect("written");
        let parse = |contents: &[Vec<u8>]| {
            let text = String::from_utf8_lossy(&contents[0]).into_owned();
            text.trim().parse::<u32>().map_err(|error| error.to_string())
        };
        write("1");
        let (number, mut source) = WatchedFiles::open("number", vec![path.clone()], parse).expect("a number");
        let reloads = Family::<ReloadLabels, Counter>::default();
        let count = |outcome| reloads.get_or_create(&ReloadLabels { what: "number", outcome }).get();
        let mut check = |text: &str| {
            if text.is_empty() {
                std::fs::remove_file(&path).expect("removed");
            } else {
                write(text);
            }
            source.check(&reloads);
            (*number.borrow(), count("ok"), count("failed"))
        };
        assert_eq!(check("1"), (1, 0, 0));
        assert_eq!(check("2"), (2, 1, 0));
        assert_eq!(check("half"), (2, 1, 0), "the rest of the change may follow");
        assert_eq!(check("3"), (3, 2, 0));
        assert_eq!(check("x"), (3, 2, 0));
        assert_eq!(check("x"), (3, 2, 1));
        assert_eq!(check("x"), (3, 2, 1));
        assert_eq!(check(""), (3, 2, 1));
        write("3");
        assert_eq!(check("3"), (3, 2, 1), "the version in use came back");
        assert_eq!([check("x"), check("x")], [(3, 2, 1), (3, 2, 2)], "and is reported again");
        assert_eq!(check("4"), (4, 3, 2));
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "a test may block on its disk")]
    fn a_requested_check_reports_a_failure_immediately() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("text");
        let write = |text: &str| std::fs::write(&path, text).expect("written");
        write("good");
        let make = |contents: &[Vec<u8>]| if contents[0] == b"bad" { Err("bad".to_owned()) } else { Ok(()) };
        let (_, mut source) = WatchedFiles::open("text", vec![path.clone()], make).expect("good");
        let reloads = Family::<ReloadLabels, Counter>::default();
        let mut check = |text: &str| {
            write(text);
            source.check_now(&reloads)
        };
        assert_eq!(
            [check("good"), check("better"), check("bad"), check("bad"), check("better")],
            [
                CheckOutcome::Unchanged,
                CheckOutcome::Reloaded,
                CheckOutcome::Failed,
                CheckOutcome::Failed,
                CheckOutcome::Unchanged
            ]
        );
    }

    #[test]
    fn a_missing_file_at_startup_is_named() {
        let path = PathBuf::from("/nowhere/tokens");
        let made = WatchedFiles::open("tokens", vec![path], |_| Ok(()));
        assert!(made.err().expect("refused").contains("/nowhere/tokens"));
    }
}
