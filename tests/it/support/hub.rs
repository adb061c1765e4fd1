//! A stand-in for the model hub: serves a directory as a repository, with faults that a test switches.
//!
//! It answers what the real one does: the list of files, and each file with its tags, sizes and ranges.
//! Each server has a thread and runtime of its own, so synchronous and asynchronous tests can use it.

mod answer;

use std::{
    net::SocketAddr,
    path::Path,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use self::answer::{Inner, Role, Shared, UnsizedFile, router};
use super::server::Server;

/// The only repository of the stand-in.
pub const MODEL_ID: &str = "test/model";

/// How long a test waits for a request before it fails.
const SIGNAL_LIMIT: Duration = Duration::from_secs(20);

/// What goes wrong. Faults of bodies concern the weights alone, the others every request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Takes the request and never answers.
    Silent,
    /// Sends this much of the body, then nothing, and keeps the connection.
    Stall { after_bytes: usize },
    /// Announces the whole body and closes after this much.
    Short { after_bytes: usize },
    /// As many bytes as announced, but others.
    WrongBytes,
    /// 503, with Retry-After if there are seconds.
    Unavailable { retry_after_seconds: Option<u64> },
    /// Nobody listens on the port.
    Refuse,
}

impl Fault {
    fn concerns_bodies(self) -> bool {
        matches!(self, Self::Stall { .. } | Self::Short { .. } | Self::WrongBytes)
    }
}

pub struct Hub {
    shared: Arc<Shared>,
    hub: Mutex<Option<Server>>,
    storage: Server,
    address: SocketAddr,
}

impl Hub {
    pub fn start(model_dir: impl AsRef<Path>) -> Self {
        let shared = Arc::new(Shared {
            model_dir: model_dir.as_ref().to_owned(),
            storage_url: Mutex::default(),
            inner: Mutex::default(),
            changed: Condvar::new(),
        });
        // Another address, so that the host differs and not the port alone.
        let storage = Server::start(([127, 0, 0, 2], 0).into(), router(&shared, Role::Storage));
        *lock(&shared.storage_url) = format!("http://{}", storage.address);
        let hub = Server::start(([127, 0, 0, 1], 0).into(), router(&shared, Role::Hub));
        let address = hub.address;
        Self { shared, hub: Mutex::new(Some(hub)), storage, address }
    }

    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn storage_address(&self) -> SocketAddr {
        self.storage.address
    }

    /// Until `clear_fault`.
    pub fn set_fault(&self, fault: Fault) {
        self.set_fault_times(fault, usize::MAX);
    }

    /// For the next requests that it concerns, then all is well again.
    pub fn set_fault_times(&self, fault: Fault, times: usize) {
        lock(&self.shared.inner).fault = Some((fault, times));
        let mut hub = lock(&self.hub);
        if fault == Fault::Refuse {
            drop(hub.take());
        } else {
            self.listen(&mut hub);
        }
    }

    pub fn clear_fault(&self) {
        lock(&self.shared.inner).fault = None;
        self.listen(&mut lock(&self.hub));
    }

    /// From now on as on the real hub: weights lie on another host behind an absolute redirect,
    /// small files on the same host behind a relative one.
    pub fn use_storage(&self) {
        lock(&self.shared.inner).uses_storage = true;
    }

    pub fn ignore_ranges(&self) {
        lock(&self.shared.inner).ignores_ranges = true;
    }

    /// Whoever comes without this token meets a gated repository.
    pub fn require_token(&self, token: &str) {
        lock(&self.shared.inner).required_token = Some(token.to_owned());
    }

    pub fn list_without_end(&self) {
        lock(&self.shared.inner).lists_without_end = true;
    }

    /// So many more files in the list, none of which is there.
    pub fn list_beside(&self, files: usize) {
        lock(&self.shared.inner).listed_beside = files;
    }

    /// Tells neither size nor checksum of this file.
    pub fn hide_size(&self, name: &str, is_endless: bool) {
        lock(&self.shared.inner).unsized_file = Some(UnsizedFile { name: name.to_owned(), is_endless });
    }

    /// Whether any request for storage carried an Authorization header.
    pub fn storage_saw_token(&self) -> bool {
        lock(&self.shared.inner).storage_saw_token
    }

    /// What was asked for, in order: `GET list`, `HEAD config.json`,
    /// `GET model.safetensors from 1000`, `GET storage model.safetensors`.
    pub fn requests(&self) -> Vec<String> {
        lock(&self.shared.inner).requests.clone()
    }

    /// Blocks until a request was logged that starts like this.
    pub fn wait_for(&self, start: &str) {
        let seen = |inner: &mut Inner| inner.requests.iter().any(|request| request.starts_with(start));
        let inner = lock(&self.shared.inner);
        let waited = self.shared.changed.wait_timeout_while(inner, SIGNAL_LIMIT, |inner| !seen(inner));
        let (inner, outcome) = waited.unwrap_or_else(PoisonError::into_inner);
        assert!(!outcome.timed_out(), "no request {start:?} in {:?}", inner.requests);
    }

    /// The commit that `main` is now; it follows the files of the directory.
    pub fn commit(&self) -> String {
        self.shared.commit()
    }

    fn listen(&self, hub: &mut Option<Server>) {
        if hub.is_none() {
            *hub = Some(Server::start(self.address, router(&self.shared, Role::Hub)));
        }
    }
}

/// A test that failed with the lock held must not hide its own message.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
