//! Work of the reactor's own, in pieces between which others have their turn.

/// What is done at a stretch: hashing so much takes 24 µs with SHA instructions, and some 100 µs without.
pub(super) const YIELD_BYTES: usize = 32 << 10;

/// How much was done since others had their turn.
#[derive(Default)]
pub(super) struct YieldBudget {
    bytes: usize,
}

impl YieldBudget {
    /// To be awaited after every piece of work; it ends the turn when it is long enough.
    pub async fn spend(&mut self, bytes: usize) {
        self.bytes += bytes;
        if self.bytes >= YIELD_BYTES {
            self.bytes = 0;
            tokio::task::yield_now().await;
        }
    }
}
