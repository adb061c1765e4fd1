//! How many connections are open, in all and from one address, and which one makes room for the next.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};
use tokio_util::sync::CancellationToken;

/// Connections that may be open at one time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionLimits {
    pub all: usize,
    /// Connections from one IP address; those of Unix sockets count in `all` alone.
    pub per_address: usize,
}

/// The open connections of one port, or of several that share their limits.
#[derive(Clone)]
pub(crate) struct Connections(Arc<Shared>);

struct Shared {
    limits: ConnectionLimits,
    metrics: ConnectionMetrics,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    open: usize,
    by_address: HashMap<IpAddr, usize>,
    /// Connections that make room for others, oldest first: those without a call.
    evictable: BTreeMap<u64, Evictable>,
    next: u64,
}

struct Evictable {
    address: Option<IpAddr>,
    /// Whether the peer has sent its first frame.
    is_established: bool,
    evicted: CancellationToken,
}

/// Why a connection is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ConnectionRefused {
    #[error("connection limit reached (max-connections {0})")]
    All(usize),
    #[error("connection limit of the address reached (max-connections-per-address {0})")]
    Address(usize),
}

/// Gauge and counter of connections, by port.
#[derive(Clone)]
pub(crate) struct ConnectionMetrics {
    open: Gauge,
    ended: Family<Reason, Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

/// Why a connection is refused or ended.
const REASONS: [&str; 7] =
    ["limit", "address_limit", "evicted", "handshake_timeout", "idle", "age", "control_frames"];

impl ConnectionMetrics {
    /// Registers the metrics with `prefix`, such as `assay`.
    pub fn register(registry: &mut Registry, prefix: &str) -> ConnectionMetrics {
        let metrics = ConnectionMetrics { open: Gauge::default(), ended: Family::default() };
        for reason in REASONS {
            let _ = metrics.ended.get_or_create(&Reason { reason });
        }
        registry.register(format!("{prefix}_connections_open"), "Open connections", metrics.open.clone());
        registry.register(
            format!("{prefix}_connections_refused"),
            "Connections that were refused or ended by a limit",
            metrics.ended.clone(),
        );
        metrics
    }

    pub(super) fn refused(&self, reason: &'static str) {
        self.ended.get_or_create(&Reason { reason }).inc();
    }
}

impl Connections {
    pub fn new(limits: ConnectionLimits, metrics: ConnectionMetrics) -> Connections {
        Connections(Arc::new(Shared { limits, metrics, state: Mutex::default() }))
    }

    /// Takes a place for a new connection. At a limit, a connection without a call makes room: one of the same address
    /// at that limit; at the limit of all, one of the address that has the most connections, if it has more than the
    /// new one's. Those whose peer has sent nothing go first, then the oldest.
    ///
    /// # Errors
    /// [`ConnectionRefused`] if none does.
    pub(super) fn admit(&self, address: Option<IpAddr>) -> Result<Place, ConnectionRefused> {
        let Shared { limits, metrics, .. } = &*self.0;
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
        Ok(Place {
            shared: Arc::clone(&self.0),
            address,
            evicted,
            ticket: Mutex::new(Ticket::Waiting(ticket)),
        })
    }
}

impl Shared {
    /// A panic while the lock was held leaves counts that are whole: nothing in between can panic.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Open connections of an address; 0 without one.
    fn count(&self, address: Option<IpAddr>) -> usize {
        address.and_then(|address| self.by_address.get(&address)).copied().unwrap_or(0)
    }

    /// Ends a connection that makes room for one of `address`; false if there is none.
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

/// One open connection; dropping it frees its place.
pub(crate) struct Place {
    shared: Arc<Shared>,
    address: Option<IpAddr>,
    evicted: CancellationToken,
    ticket: Mutex<Ticket>,
}

#[derive(Clone, Copy)]
enum Ticket {
    /// The peer has not spoken, and the connection may be evicted.
    Waiting(u64),
    /// The peer has spoken.
    Established { calls: usize, begun: u64, evictable: Option<u64> },
}

impl Place {
    /// Cancelled when the connection has to make room for another.
    pub fn evicted(&self) -> &CancellationToken {
        &self.evicted
    }

    pub fn is_established(&self) -> bool {
        matches!(*self.ticket(), Ticket::Established { .. })
    }

    /// Takes note that the peer has spoken.
    pub fn establish(&self) {
        let mut ticket = self.ticket();
        if let Ticket::Waiting(waiting) = *ticket {
            let mut state = self.shared.lock();
            // A connection that speaks at last, and that was evicted a moment ago, ends all the same.
            let was_there = state.evictable.remove(&waiting).is_some();
            let evictable = was_there.then(|| state.make_evictable(self.address, &self.evicted, true));
            *ticket = Ticket::Established { calls: 0, begun: 0, evictable };
        }
    }

    /// Takes note that a call began. The caller tells its end by [`Place::end_call`].
    pub fn begin_call(&self) {
        self.establish();
        if let Ticket::Established { calls, begun, evictable } = &mut *self.ticket() {
            *calls += 1;
            *begun += 1;
            if let Some(ticket) = evictable.take() {
                self.shared.lock().evictable.remove(&ticket);
            }
        }
    }

    pub fn end_call(&self) {
        if let Ticket::Established { calls, evictable, .. } = &mut *self.ticket() {
            *calls -= 1;
            if *calls == 0 && !self.evicted.is_cancelled() {
                *evictable = Some(self.shared.lock().make_evictable(self.address, &self.evicted, true));
            }
        }
    }

    pub fn open_calls(&self) -> usize {
        match *self.ticket() {
            Ticket::Waiting(_) => 0,
            Ticket::Established { calls, .. } => calls,
        }
    }

    /// Calls since the connection's start.
    pub fn calls_begun(&self) -> u64 {
        match *self.ticket() {
            Ticket::Waiting(_) => 0,
            Ticket::Established { begun, .. } => begun,
        }
    }

    /// Counts the connection's end as one that a limit caused.
    pub fn note_end(&self, reason: &'static str) {
        self.shared.metrics.refused(reason);
    }

    pub fn note_flood(&self) {
        self.note_end("control_frames");
        tracing::debug!(address = ?self.address, "a connection is ended: it floods the server with control frames");
    }

    fn ticket(&self) -> MutexGuard<'_, Ticket> {
        self.ticket.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let ticket = *self.ticket();
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
        if let Ticket::Waiting(ticket) | Ticket::Established { evictable: Some(ticket), .. } = ticket {
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

    fn are_evicted(places: &[Place]) -> Vec<bool> {
        places.iter().map(|place| place.evicted().is_cancelled()).collect()
    }

    #[test]
    fn silent_connections_make_room_first_then_idle_ones_then_none() {
        let connections = connections(3, 3);
        let admit = || connections.admit(address(1));
        let places: Vec<Place> = (0..3).map(|_| admit().expect("room")).collect();
        places[0].establish();
        places[1].begin_call();
        let silent = admit().expect("the third makes room");
        assert_eq!(are_evicted(&places), [false, false, true]);
        silent.begin_call();
        let idle = admit().expect("the first makes room");
        assert_eq!(are_evicted(&places), [true, false, true]);
        idle.begin_call();
        assert_eq!(admit().err(), Some(ConnectionRefused::Address(3)));
        places[1].end_call();
        admit().expect("the second is idle now");
    }

    #[test]
    fn an_address_at_its_limit_leaves_others_alone() {
        let connections = connections(10, 2);
        let other = connections.admit(address(2)).expect("room");
        let busy = [1, 1].map(|last| connections.admit(address(last)).expect("room"));
        busy.iter().for_each(Place::begin_call);
        assert_eq!(connections.admit(address(1)).err(), Some(ConnectionRefused::Address(2)));
        assert!(!other.evicted().is_cancelled());
    }

    #[test]
    fn the_address_with_the_most_connections_makes_room() {
        let connections = connections(6, 6);
        let admit = |last| connections.admit(address(last));
        let polite = admit(1).expect("room");
        let crowd: Vec<Place> = [2, 3, 3, 3, 2].map(|last| admit(last).expect("room")).into();
        // All of them have spoken, and none has a call.
        polite.establish();
        crowd.iter().for_each(Place::establish);
        let newcomer = admit(4).expect("the oldest of address 3 makes room");
        assert_eq!(are_evicted(&crowd), [false, true, false, false, false]);
        assert!(!polite.evicted().is_cancelled());
        drop(crowd);
        let crowd: Vec<Place> = (0..4).map(|_| admit(3).expect("room")).collect();
        crowd.iter().for_each(Place::begin_call);
        assert_eq!(admit(3).err(), Some(ConnectionRefused::All(6)), "no address has more than its own");
        assert_eq!(are_evicted(&[polite, newcomer]), [false, false]);
    }
}
