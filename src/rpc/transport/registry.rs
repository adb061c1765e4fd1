//! How many connections are open, in all and from one address, and which one makes room for the next.

use std::{
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
    /// Whether a connection without a call makes room for a new one. Otherwise only one whose peer has not spoken yet
    /// does.
    pub evict_idle: bool,
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
    /// Connections that make room for others, oldest first.
    evictable: BTreeMap<u64, Evictable>,
    next: u64,
}

struct Evictable {
    address: Option<IpAddr>,
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

    /// Takes a place for a new connection. At the limit, the oldest connection that may be evicted makes room.
    ///
    /// # Errors
    /// [`ConnectionRefused`] if none may be.
    pub(super) fn admit(&self, address: Option<IpAddr>) -> Result<Place, ConnectionRefused> {
        let Shared { limits, metrics, .. } = &*self.0;
        let mut state = self.0.lock();
        let of_address = address.and_then(|address| state.by_address.get(&address)).copied().unwrap_or(0);
        let refused = if of_address >= limits.per_address {
            Some(ConnectionRefused::Address(limits.per_address))
                .filter(|_| !state.evict(|e| e.address == address))
        } else if state.open >= limits.all {
            Some(ConnectionRefused::All(limits.all)).filter(|_| !state.evict(|_| true))
        } else {
            None
        };
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
        let ticket = state.make_evictable(address, &evicted);
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
    /// Ends the oldest connection that fits; false if there is none.
    fn evict(&mut self, fits: impl Fn(&Evictable) -> bool) -> bool {
        let oldest = self.evictable.iter().find(|(_, evictable)| fits(evictable)).map(|(&ticket, _)| ticket);
        let evicted = oldest.and_then(|ticket| self.evictable.remove(&ticket));
        evicted.inspect(|evictable| evictable.evicted.cancel()).is_some()
    }

    fn make_evictable(&mut self, address: Option<IpAddr>, evicted: &CancellationToken) -> u64 {
        self.next += 1;
        self.evictable.insert(self.next, Evictable { address, evicted: evicted.clone() });
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
            let stays = was_there && self.shared.limits.evict_idle;
            let evictable = stays.then(|| state.make_evictable(self.address, &self.evicted));
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
            if *calls == 0 && self.shared.limits.evict_idle && !self.evicted.is_cancelled() {
                *evictable = Some(self.shared.lock().make_evictable(self.address, &self.evicted));
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

    fn connections(all: usize, per_address: usize, evict_idle: bool) -> Connections {
        let metrics = ConnectionMetrics::register(&mut Registry::default(), "test");
        Connections::new(ConnectionLimits { all, per_address, evict_idle }, metrics)
    }

    fn address(last: u8) -> Option<IpAddr> {
        Some([10, 0, 0, last].into())
    }

    #[test]
    fn the_oldest_silent_connection_makes_room() {
        let connections = connections(3, 3, false);
        let places = [1, 2, 3].map(|last| connections.admit(address(last)).expect("room"));
        places[0].establish();
        let newcomer = connections.admit(address(4)).expect("the second makes room");
        let evicted = places.each_ref().map(|place| place.evicted().is_cancelled());
        assert_eq!(evicted, [false, true, false]);
        places[2].establish();
        newcomer.establish();
        assert_eq!(connections.admit(address(5)).err(), Some(ConnectionRefused::All(3)));
        drop(places);
        connections.admit(address(5)).expect("room");
    }

    #[test]
    fn an_address_at_its_limit_leaves_others_alone() {
        let connections = connections(10, 2, false);
        let admit = |last| {
            let place = connections.admit(address(last))?;
            place.establish();
            Ok(place)
        };
        let _places = [admit(1), admit(1)].map(|place| place.expect("room"));
        assert_eq!(admit(1).err(), Some(ConnectionRefused::Address(2)));
        let _other: Place = admit(2).expect("room for another address");
    }

    #[test]
    fn an_idle_connection_makes_room_where_that_is_asked_for() {
        let connections = connections(2, 2, true);
        let busy = connections.admit(address(1)).expect("room");
        busy.begin_call();
        let idle = connections.admit(address(1)).expect("room");
        idle.begin_call();
        assert!(connections.admit(address(1)).is_err(), "both have calls");
        idle.end_call();
        let _newcomer = connections.admit(address(1)).expect("the idle one makes room");
        assert!(idle.evicted().is_cancelled() && !busy.evicted().is_cancelled());
    }
}
