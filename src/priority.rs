//! Threads that compute stand back behind the reactor.

/// Lowers the priority of the calling thread: the reactor must win a core at once, however much there is to compute.
pub(crate) fn lower() {
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::setpriority_process(Some(rustix::thread::gettid()), 10) {
        tracing::warn!(%error, "a compute thread runs at the reactor's priority");
    }
}
