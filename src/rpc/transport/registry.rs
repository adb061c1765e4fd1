//! The open connections: limits in total and per address, and eviction of idle connections.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::Arc,
};

use parking_lot::{Mutex, MutexGuard};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};
use tokio_util::sync::CancellationToken;

/// Maximum number of open connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// Maximum in total.
    pub all: usize,
    /// Maximum per IP address. Connections of Unix sockets count in `all` only.
    pub per_address: usize,
}

/// The open connections of one or more ports that share limits.
#[derive(Clone)]
pub(crate) struct Connections(Arc<ConnectionsInner>);

struct ConnectionsInner {
    limits: ConnectionLimits,
    metrics: ConnectionMetrics,
    state: Mutex<ConnectionTable>,
}

#[derive(Default)]
struct ConnectionTable {
    open: usize,
    by_address: HashMap<IpAddr, usize>,
    /// Connections without calls, oldest first. They can be evicted.
    evictable: BTreeMap<u64, Evictable>,
    next: u64,
}

/// A connection without calls.
struct Evictable {
    address: Option<IpAddr>,
    /// Whether the client has sent its first frame.
    is_established: bool,
    evicted: CancellationToken,
}

/// Reason to refuse a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ConnectionRefused {
    #[error("connection limit reached (max-connections {0})")]
    All(usize),
    #[error("connection limit per address reached (max-connections-per-address {0})")]
    Address(usize),
}

/// Metrics of the connections of a port.
#[derive(Clone)]
pub(crate) struct ConnectionMetrics {
    open: Gauge,
    ended: Family<ConnectionEndLabels, Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ConnectionEndLabels {
    reason: &'static str,
}

/// Reasons to refuse or close a connection: values of the label `reason`.
const REASONS: [&str; 7] =
    ["limit", "address_limit", "evicted", "handshake_timeout", "idle", "age", "control_frames"];

impl ConnectionMetrics {
    /// Registers the metrics with a name prefix such as `assay`.
    pub fn register(registry: &mut Registry, prefix: &str) -> ConnectionMetrics {
        let metrics = ConnectionMetrics { open: Gauge::default(), ended: Family::default() };
        for reason in REASONS {
            let _ = metrics.ended.get_or_create(&ConnectionEndLabels { reason });
        }
        registry.register(format!("{prefix}_connections_open"), "Open connections", metrics.open.clone());
        registry.register(
            format!("{prefix}_connections_refused"),
            "Connections refused or closed by a limit, by reason",
            metrics.ended.clone(),
        );
        metrics
    }

    pub(super) fn refused(&self, reason: &'static str) {
        self.ended.get_or_create(&ConnectionEndLabels { reason }).inc();
    }
}

impl Connections {
    pub fn new(limits: ConnectionLimits, metrics: ConnectionMetrics) -> Connections {
        Connections(Arc::new(ConnectionsInner { limits, metrics, state: Mutex::default() }))
    }

    /// Acquires a permit for a new connection. At a limit, a connection without calls is evicted: at the limit per
    /// address, one of the same address; at the total limit, one of the address with the most connections, if it has
    /// more than the new one. Connections whose client has sent nothing are evicted first, then the oldest.
    ///
    /// # Errors
    /// [`ConnectionRefused`] if no connection can be evicted.
    pub(super) fn admit(&self, address: Option<IpAddr>) -> Result<ConnectionPermit, ConnectionRefused> {
        let ConnectionsInner { limits, metrics, .. } = &*self.0;
        let mut state = self.0.lock();
        let (refused, only_own) = if state.count(address) >= limits.per_address {
            (ConnectionRefused::Address(limits.per_address), true)
        } else {
            (ConnectionRefused::All(limits.all), false)
        };
        let full = only_own || state.open >= limits.all;
        let refused = Some(refused).filter(|_| full && !state.evict_for(address, only_own));
        if let Some(refused) = refused {
            metrics.refused(match refused {
                ConnectionRefused::All(_) => "limit",
                ConnectionRefused::Address(_) => "address_limit",
            });
            return Err(refused);
        }
        state.open += 1;
        if let Some(address) = address {
            *state.by_address.entry(address).or_default() += 1;
        }
        metrics.open.inc();
        let evicted = CancellationToken::new();
        let ticket = state.make_evictable(address, &evicted, false);
        drop(state);
        Ok(ConnectionPermit {
            shared: Arc::clone(&self.0),
            address,
            evicted,
            phase: Mutex::new(ConnectionPhase::Waiting(ticket)),
        })
    }
}

impl ConnectionsInner {
    fn lock(&self) -> MutexGuard<'_, ConnectionTable> {
        self.state.lock()
    }
}

impl ConnectionTable {
    /// Number of open connections of an address; 0 for None.
    fn count(&self, address: Option<IpAddr>) -> usize {
        address.and_then(|address| self.by_address.get(&address)).copied().unwrap_or(0)
    }

    /// Evicts a connection in favour of one of `address`. Returns false if none can be evicted.
    fn evict_for(&mut self, address: Option<IpAddr>, only_own: bool) -> bool {
        let own = self.count(address);
        let fits = |evictable: &Evictable| {
            evictable.address == address || (!only_own && self.count(evictable.address) > own)
        };
        let fitting = self.evictable.iter().filter(|(_, evictable)| fits(evictable));
        let first = fitting.min_by_key(|&(&ticket, evictable)| {
            (Reverse(self.count(evictable.address)), evictable.is_established, ticket)
        });
        let first = first.map(|(&ticket, _)| ticket);
        let evicted = first.and_then(|ticket| self.evictable.remove(&ticket));
        evicted.inspect(|evictable| evictable.evicted.cancel()).is_some()
    }

    fn make_evictable(
        &mut self,
        address: Option<IpAddr>,
        evicted: &CancellationToken,
        is_established: bool,
    ) -> u64 {
        self.next += 1;
        self.evictable.insert(self.next, Evictable { address, is_established, evicted: evicted.clone() });
        self.next
    }
}

/// Permit of one open connection. Dropping it releases the permit.
pub(crate) struct ConnectionPermit {
    shared: Arc<ConnectionsInner>,
    address: Option<IpAddr>,
    evicted: CancellationToken,
    phase: Mutex<ConnectionPhase>,
}

#[derive(Clone, Copy)]
enum ConnectionPhase {
    /// The client has sent nothing yet. The value is the key in `evictable`.
    Waiting(u64),
    /// The client has sent its first frame.
    Established { calls: usize, begun: u64, evictable: Option<u64> },
}

impl ConnectionPermit {
    /// Cancelled when the connection is evicted.
    pub fn evicted(&self) -> &CancellationToken {
        &self.evicted
    }

    pub fn is_established(&self) -> bool {
        matches!(*self.phase(), ConnectionPhase::Established { .. })
    }

    /// Records that the client has sent its first frame.
    pub fn establish(&self) {
        let mut phase = self.phase();
        if let ConnectionPhase::Waiting(waiting) = *phase {
            let mut state = self.shared.lock();
            // A connection that was evicted meanwhile stays evicted.
            let was_there = state.evictable.remove(&waiting).is_some();
            let evictable = was_there.then(|| state.make_evictable(self.address, &self.evicted, true));
            *phase = ConnectionPhase::Established { calls: 0, begun: 0, evictable };
        }
    }

    /// Records the start of a call. Call [`ConnectionPermit::end_call`] at its end.
    pub fn begin_call(&self) {
        self.establish();
        if let ConnectionPhase::Established { calls, begun, evictable } = &mut *self.phase() {
            *calls += 1;
            *begun += 1;
            if let Some(ticket) = evictable.take() {
                self.shared.lock().evictable.remove(&ticket);
            }
        }
    }

    /// Records the end of a call.
    pub fn end_call(&self) {
        if let ConnectionPhase::Established { calls, evictable, .. } = &mut *self.phase() {
            *calls -= 1;
            if *calls == 0 && !self.evicted.is_cancelled() {
                *evictable = Some(self.shared.lock().make_evictable(self.address, &self.evicted, true));
            }
        }
    }

    pub fn open_calls(&self) -> usize {
        match *self.phase() {
            ConnectionPhase::Waiting(_) => 0,
            ConnectionPhase::Established { calls, .. } => calls,
        }
    }

    /// Number of calls since the start of the connection.
    pub fn calls_begun(&self) -> u64 {
        match *self.phase() {
            ConnectionPhase::Waiting(_) => 0,
            ConnectionPhase::Established { begun, .. } => begun,
        }
    }

    /// Counts the connection as closed for `reason`.
    pub fn note_end(&self, reason: &'static str) {
        self.shared.metrics.refused(reason);
    }

    pub fn note_flood(&self) {
        self.note_end("control_frames");
        tracing::debug!(address = ?self.address, "connection closed: too many control frames");
    }

    fn phase(&self) -> MutexGuard<'_, ConnectionPhase> {
        self.phase.lock()
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        let phase = *self.phase();
        let mut state = self.shared.lock();
        state.open -= 1;
        if let Some(address) = self.address
            && let Some(count) = state.by_address.get_mut(&address)
        {
            *count -= 1;
            if *count == 0 {
                state.by_address.remove(&address);
            }
        }
        if let ConnectionPhase::Waiting(ticket)
        | ConnectionPhase::Established { evictable: Some(ticket), .. } = phase
        {
            state.evictable.remove(&ticket);
        }
        self.shared.metrics.open.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connections(all: usize, per_address: usize) -> Connections {
        let metrics = ConnectionMetrics::register(&mut Registry::default(), "test");
        Connections::new(ConnectionLimits { all, per_address }, metrics)
    }

    fn address(last: u8) -> Option<IpAddr> {
        Some([10, 0, 0, last].into())
    }

    fn are_evicted(permits: &[ConnectionPermit]) -> Vec<bool> {
        permits.iter().map(|permit| permit.evicted().is_cancelled()).collect()
    }

    #[test]
    fn silent_connections_are_evicted_first_then_idle_ones() {
        let connections = connections(3, 3);
        let admit = || connections.admit(address(1));
        let permits: Vec<ConnectionPermit> = (0..3).map(|_| admit().expect("room")).collect();
        permits[0].establish();
        permits[1].begin_call();
        let silent = admit().expect("the third makes room");
        assert_eq!(are_evicted(&permits), [false, false, true]);
        silent.begin_call();
        let idle = admit().expect("the first makes room");
        assert_eq!(are_evicted(&permits), [true, false, true]);
        idle.begin_call();
        assert_eq!(admit().err(), Some(ConnectionRefused::Address(3)));
        permits[1].end_call();
        admit().expect("the second is idle now");
    }

    #[test]
    fn an_address_at_its_limit_evicts_only_its_own() {
        let connections = connections(10, 2);
        let other = connections.admit(address(2)).expect("room");
        let busy = [1, 1].map(|last| connections.admit(address(last)).expect("room"));
        busy.iter().for_each(ConnectionPermit::begin_call);
        assert_eq!(connections.admit(address(1)).err(), Some(ConnectionRefused::Address(2)));
        assert!(!other.evicted().is_cancelled());
    }

    #[test]
    fn the_address_with_the_most_connections_is_evicted() {
        let connections = connections(6, 6);
        let admit = |last| connections.admit(address(last));
        let polite = admit(1).expect("room");
        let crowd: Vec<ConnectionPermit> = [2, 3, 3, 3, 2].map(|last| admit(last).expect("room")).into();
        // All of them have spoken, and none has a call.
        polite.establish();
        crowd.iter().for_each(ConnectionPermit::establish);
        let newcomer = admit(4).expect("the oldest of address 3 makes room");
        assert_eq!(are_evicted(&crowd), [false, true, false, false, false]);
        assert!(!polite.evicted().is_cancelled());
        drop(crowd);
        let crowd: Vec<ConnectionPermit> = (0..4).map(|_| admit(3).expect("room")).collect();
        crowd.iter().for_each(ConnectionPermit::begin_call);
        assert_eq!(admit(3).err(), Some(ConnectionRefused::All(6)), "no address has more than its own");
        assert_eq!(are_evicted(&[polite, newcomer]), [false, false]);
    }
}
