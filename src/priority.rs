//! Threads that compute stand back behind the reactor.

/// How much nicer than the thread that started it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Priority {
    /// What compute threads wait for.
    Text = 5,
    Compute = 10,
    /// Metrics are computed for seconds, and a forward pass that waits for them takes several times as long.
    Score = 19,
}

impl Priority {
    /// Once, of the calling thread: the reactor must win a core at once, however much there is to compute.
    pub fn take(self) {
        #[cfg(target_os = "linux")]
        if let Err(error) = rustix::process::nice(self as i32) {
            tracing::warn!(%error, "a {self:?} thread runs at the reactor's priority");
        }
    }
}
