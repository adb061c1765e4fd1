//! A fake model hub that serves a directory as a repository, with faults that tests can switch on.
//!
//! It responds like the real hub: the list of files, and each file with ETags, size and ranges. Each server has its own
//! thread and runtime, so synchronous and asynchronous tests can use it.

mod answer;

use std::{
    net::SocketAddr,
    path::Path,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use self::answer::{Inner, Role, Shared, UnsizedFile, router};
use super::server::Server;

/// Id of the only repository.
pub const MODEL_ID: &str = "test/model";

/// Time that a test waits for a request before it fails.
const SIGNAL_LIMIT: Duration = Duration::from_secs(20);

/// A fault. Faults of bodies affect only the weights, the others affect every request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Accepts the request and never responds.
    Silent,
    /// Sends this many bytes of the body, then nothing, and keeps the connection open.
    Stall { after_bytes: usize },
    /// Announces the whole body and closes the connection after this many bytes.
    Short { after_bytes: usize },
    /// Sends other bytes of the announced length.
    WrongBytes,
    /// Responds with 503, and with Retry-After if there are seconds.
    Unavailable { retry_after_seconds: Option<u64> },
    /// The port is closed.
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
        // Another address, so that the host differs and not only the port.
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

    /// Switches a fault on until `clear_fault`.
    pub fn set_fault(&self, fault: Fault) {
        self.set_fault_times(fault, usize::MAX);
    }

    /// Switches a fault on for the next requests that it affects.
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

    /// Uses redirects like the real hub: an absolute one to another host for weights, and a relative one for small files.
    pub fn use_storage(&self) {
        lock(&self.shared.inner).uses_storage = true;
    }

    pub fn ignore_ranges(&self) {
        lock(&self.shared.inner).ignores_ranges = true;
    }

    /// Makes the repository gated: it requires this token.
    pub fn require_token(&self, token: &str) {
        lock(&self.shared.inner).required_token = Some(token.to_owned());
    }

    pub fn list_without_end(&self) {
        lock(&self.shared.inner).lists_without_end = true;
    }

    /// Adds files to the list that do not exist.
    pub fn list_beside(&self, files: usize) {
        lock(&self.shared.inner).listed_beside = files;
    }

    /// Announces neither size nor checksum of this file.
    pub fn hide_size(&self, name: &str, is_endless: bool) {
        lock(&self.shared.inner).unsized_file = Some(UnsizedFile { name: name.to_owned(), is_endless });
    }

    /// Whether any request for storage carried an Authorization header.
    pub fn storage_saw_token(&self) -> bool {
        lock(&self.shared.inner).storage_saw_token
    }

    /// Requests in order: `GET list`, `HEAD config.json`,
    /// `GET model.safetensors from 1000`, `GET storage model.safetensors`.
    pub fn requests(&self) -> Vec<String> {
        lock(&self.shared.inner).requests.clone()
    }

    /// Blocks until a request with this prefix was received.
    pub fn wait_for(&self, start: &str) {
        let seen = |inner: &mut Inner| inner.requests.iter().any(|request| request.starts_with(start));
        let inner = lock(&self.shared.inner);
        let waited = self.shared.changed.wait_timeout_while(inner, SIGNAL_LIMIT, |inner| !seen(inner));
        let (inner, outcome) = waited.unwrap_or_else(PoisonError::into_inner);
        assert!(!outcome.timed_out(), "no request {start:?} in {:?}", inner.requests);
    }

    /// Current commit of `main`, which depends on the files of the directory.
    pub fn commit(&self) -> String {
        self.shared.commit()
    }

    fn listen(&self, hub: &mut Option<Server>) {
        if hub.is_none() {
            *hub = Some(Server::start(self.address, router(&self.shared, Role::Hub)));
        }
    }
}

/// Locks a mutex even if it is poisoned, so that the message of the failed test is not hidden.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
