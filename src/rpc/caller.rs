//! Identity of clients, and limits on the concurrent calls and the call rate of each client.

use std::{
    collections::HashMap,
    fmt,
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

/// Identity of a client for rate limits and logs.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Caller {
    /// Name of the bearer token in the token file.
    Token(Arc<str>),
    /// Name in the client certificate.
    Certificate(Arc<str>),
    /// IP address of the connection.
    Address(IpAddr),
    /// User id of the client of a Unix socket.
    User(u32),
    /// Identity not available.
    Unknown,
    /// All clients above the limit of tracked clients.
    Others,
}

impl Caller {
    /// The client of a connection from `address`. An IPv6 address is reduced to its /64 network, because one host can
    /// use all of its addresses.
    pub fn at(address: IpAddr) -> Caller {
        Caller::Address(match address.to_canonical() {
            IpAddr::V6(v6) => {
                let [a, b, c, d, ..] = v6.segments();
                Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
            }
            v4 @ IpAddr::V4(_) => v4,
        })
    }

    /// The IP address, if the client is identified by one.
    pub fn address(&self) -> Option<IpAddr> {
        match self {
            Caller::Address(address) => Some(*address),
            _ => None,
        }
    }
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Caller::Token(name) => write!(f, "token {name}"),
            Caller::Certificate(name) => write!(f, "certificate {name}"),
            Caller::Address(address) => write!(f, "address {address}"),
            Caller::User(id) => write!(f, "user {id}"),
            Caller::Unknown => f.write_str("unknown"),
            Caller::Others => f.write_str("others"),
        }
    }
}

/// Limits per client; None for no limit.
#[derive(Clone, Debug)]
pub struct CallerLimits {
    /// Maximum concurrent calls and streams.
    pub calls: Option<usize>,
    /// Maximum calls and streams started per minute.
    pub requests_per_minute: Option<u32>,
    /// Maximum number of tracked clients. Further clients share one limit.
    pub callers: usize,
}

impl Default for CallerLimits {
    fn default() -> CallerLimits {
        CallerLimits { calls: None, requests_per_minute: None, callers: 4096 }
    }
}

/// A client is over one of its limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum CallerLimitExceeded {
    #[error("concurrent call limit exceeded: {limit} calls in flight (caller-calls)")]
    Calls { limit: usize },
    #[error("rate limit exceeded: {limit} calls per minute (caller-requests-per-minute)")]
    Rate { limit: u32, retry_in: Duration },
}

const WINDOW: Duration = Duration::from_mins(1);
/// Minimum interval between searches of a full table for inactive clients.
const SWEEP: Duration = Duration::from_secs(1);

/// Usage of all clients, checked against the limits per client.
#[derive(Clone)]
pub(super) struct Quotas {
    limits: CallerLimits,
    table: Arc<Mutex<UsageTable>>,
}

#[derive(Default)]
struct UsageTable {
    // Invariant: at most `callers` entries, plus one for `Caller::Others`.
    usages: HashMap<Caller, CallerUsage>,
    last_sweep: Option<Instant>,
}

struct CallerUsage {
    calls: usize,
    /// Each started call adds its share of a minute. The rate limit is reached when this is one minute ahead of now.
    paid_until: Instant,
}

/// Permit of one call in flight. Dropping it ends the call.
pub(super) struct CallerPermit {
    quotas: Quotas,
    caller: Caller,
}

impl Quotas {
    /// None if no limit is set.
    pub fn new(limits: &CallerLimits) -> Option<Quotas> {
        let limited = limits.calls.is_some() || limits.requests_per_minute.is_some();
        limited.then(|| Quotas { limits: limits.clone(), table: Arc::default() })
    }

    /// Starts a call of `caller`.
    ///
    /// # Errors
    /// [`CallerLimitExceeded`] if the client is over one of its limits.
    pub fn take(&self, caller: &Caller, now: Instant) -> Result<CallerPermit, CallerLimitExceeded> {
        let mut table = self.table.lock();
        let caller = table.entry_of(caller, self.limits.callers, now);
        let usage = table.usages.entry(caller.clone()).or_insert(CallerUsage { calls: 0, paid_until: now });
        usage.take(&self.limits, now)?;
        Ok(CallerPermit { quotas: self.clone(), caller })
    }
}

impl UsageTable {
    /// The entry of `caller`: its own, or [`Caller::Others`] if the table is full of active clients.
    fn entry_of(&mut self, caller: &Caller, max_callers: usize, now: Instant) -> Caller {
        if self.usages.contains_key(caller) || self.usages.len() < max_callers {
            return caller.clone();
        }
        if self.last_sweep.is_none_or(|last_sweep| now.duration_since(last_sweep) >= SWEEP) {
            self.last_sweep = Some(now);
            self.usages.retain(|_, usage| usage.is_active(now));
        }
        if self.usages.len() < max_callers { caller.clone() } else { Caller::Others }
    }
}

impl CallerUsage {
    fn take(&mut self, limits: &CallerLimits, now: Instant) -> Result<(), CallerLimitExceeded> {
        if let Some(limit) = limits.calls
            && self.calls >= limit
        {
            return Err(CallerLimitExceeded::Calls { limit });
        }
        if let Some(limit) = limits.requests_per_minute {
            let paid_until = self.paid_until.max(now) + WINDOW / limit;
            let retry_in = paid_until.duration_since(now).saturating_sub(WINDOW);
            if !retry_in.is_zero() {
                return Err(CallerLimitExceeded::Rate { limit, retry_in });
            }
            self.paid_until = paid_until;
        }
        self.calls += 1;
        Ok(())
    }

    /// Whether the entry differs from that of a new client.
    fn is_active(&self, now: Instant) -> bool {
        self.calls > 0 || self.paid_until > now
    }
}

impl Drop for CallerPermit {
    fn drop(&mut self) {
        let mut table = self.quotas.table.lock();
        if let Some(usage) = table.usages.get_mut(&self.caller) {
            usage.calls -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quotas(calls: Option<usize>, requests_per_minute: Option<u32>, callers: usize) -> Quotas {
        Quotas::new(&CallerLimits { calls, requests_per_minute, callers }).expect("limits")
    }

    fn caller(last: u8) -> Caller {
        Caller::at([10, 0, 0, last].into())
    }

    #[test]
    fn calls_in_flight_are_limited_per_caller() {
        let (quotas, now) = (quotas(Some(2), None, 10), Instant::now());
        let take = |last| quotas.take(&caller(last), now);
        let first = take(1).expect("a permit");
        let _second = take(1).expect("a permit");
        assert_eq!(take(1).err(), Some(CallerLimitExceeded::Calls { limit: 2 }));
        let _other = take(2).expect("a permit of its own");
        drop(first);
        take(1).expect("the released permit");
    }

    #[test]
    fn the_call_rate_allows_bursts_and_refills_evenly() {
        let (quotas, start) = (quotas(None, Some(4), 10), Instant::now());
        let take = |seconds: u64| quotas.take(&caller(1), start + Duration::from_secs(seconds)).map(drop);
        for _ in 0..4 {
            take(0).expect("within the limit");
        }
        let refused =
            |seconds| Err(CallerLimitExceeded::Rate { limit: 4, retry_in: Duration::from_secs(seconds) });
        assert_eq!(take(0), refused(15));
        assert_eq!(take(14), refused(1));
        assert_eq!(take(15), Ok(()));
        assert_eq!(take(15), refused(15));
        for _ in 0..4 {
            assert_eq!(take(100), Ok(()));
        }
        assert_eq!(take(100), refused(15));
    }

    #[test]
    fn callers_beyond_the_table_share_one_limit() {
        let (quotas, start) = (quotas(Some(1), Some(60), 2), Instant::now());
        let take = |last, seconds| quotas.take(&caller(last), start + Duration::from_secs(seconds));
        let (one, two) = (take(1, 0).expect("a permit"), take(2, 0).expect("a permit"));
        let _shared = take(3, 0).expect("the permit of the others");
        assert!(take(4, 0).is_err());
        drop((one, two));
        assert!(take(5, 0).is_err(), "callers that have just finished still count");
        for last in 5..250 {
            drop(take(last, u64::from(last) * 2).expect("the entry of an inactive caller"));
            assert!(quotas.table.lock().usages.len() <= 3);
        }
    }

    #[test]
    fn addresses_of_one_host_are_one_caller() {
        let at = |text: &str| Caller::at(text.parse().expect("an address"));
        assert_eq!(at("2001:db8::1"), at("2001:db8::ffff:1"));
        assert_ne!(at("2001:db8::1"), at("2001:db8:0:1::1"));
        assert_eq!(at("::ffff:10.0.0.1"), at("10.0.0.1"));
        assert_ne!(at("10.0.0.1"), at("10.0.0.2"));
    }
}
