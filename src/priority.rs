//! Scheduling priority of threads that compute: lower than that of the reactor.

/// Nice value of a thread, relative to the thread that starts it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Priority {
    /// Tokenization and decompression, which compute threads wait for.
    Text = 5,
    /// Forward passes.
    Compute = 10,
    /// Evaluation metrics. They compute for seconds, and would slow a forward pass on the same core down several times.
    Score = 19,
}

impl Priority {
    /// Sets the priority of the calling thread, so that the reactor gets a core at once under any compute load. To be
    /// called once per thread.
    pub fn apply(self) {
        #[cfg(target_os = "linux")]
        if let Err(error) = rustix::process::nice(self as i32) {
            tracing::warn!(%error, "cannot lower the priority of a {self:?} thread; it runs at the reactor's priority");
        }
    }
}
