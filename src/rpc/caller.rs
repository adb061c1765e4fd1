//! Who calls, and what one caller may have under way and begin in a minute.

use std::{
    collections::HashMap,
    fmt,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

/// By what callers are told apart.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Caller {
    /// The name that the token has in its file.
    Token(Arc<str>),
    /// The name in the client certificate.
    Certificate(Arc<str>),
    Address(IpAddr),
    /// The user at the other end of a Unix socket.
    User(u32),
    /// Nothing is known.
    Unknown,
    /// All for whom there was no place of their own.
    Others,
}

impl Caller {
    /// Of a connection from there. Who has one address of IPv6 has the 2^64 beside it.
    pub fn at(address: IpAddr) -> Caller {
        Caller::Address(match address.to_canonical() {
            IpAddr::V6(v6) => {
                let [a, b, c, d, ..] = v6.segments();
                Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
            }
            v4 @ IpAddr::V4(_) => v4,
        })
    }

    /// The address that stands for the caller, if it is known by one.
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

/// What each caller may take; None for any number.
#[derive(Clone, Debug)]
pub struct CallerLimits {
    /// Calls and streams under way.
    pub calls: Option<usize>,
    /// Calls and streams begun.
    pub requests_per_minute: Option<u32>,
    /// That are told apart; those beyond share one allowance.
    pub callers: usize,
}

impl Default for CallerLimits {
    fn default() -> CallerLimits {
        CallerLimits { calls: None, requests_per_minute: None, callers: 4096 }
    }
}

/// A caller has taken all that it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Exceeded {
    #[error("{limit} calls of this caller are under way, and that is the most")]
    Calls { limit: usize },
    #[error("this caller has begun {limit} calls within a minute, and that is the most")]
    Rate { limit: u32, retry_in: Duration },
}

const WINDOW: Duration = Duration::from_mins(1);
/// How often a full table is searched for callers that have left.
const SWEEP: Duration = Duration::from_secs(1);

#[derive(Clone)]
pub(super) struct Quotas {
    limits: CallerLimits,
    table: Arc<Mutex<Table>>,
}

#[derive(Default)]
struct Table {
    // Invariant: as many as `callers`, and one for the others.
    usages: HashMap<Caller, Usage>,
    swept: Option<Instant>,
}

struct Usage {
    calls: usize,
    /// Each call begun moves this on by its share of a minute; a minute ahead of now, the minute is used up.
    paid_until: Instant,
}

/// One call under way; dropping it gives the place back.
pub(super) struct Place {
    quotas: Quotas,
    caller: Caller,
}

impl Quotas {
    /// None where nothing is limited.
    pub fn new(limits: &CallerLimits) -> Option<Quotas> {
        let limited = limits.calls.is_some() || limits.requests_per_minute.is_some();
        limited.then(|| Quotas { limits: limits.clone(), table: Arc::default() })
    }

    pub fn take(&self, caller: &Caller, now: Instant) -> Result<Place, Exceeded> {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let caller = table.place_of(caller, self.limits.callers, now);
        let usage = table.usages.entry(caller.clone()).or_insert(Usage { calls: 0, paid_until: now });
        usage.take(&self.limits, now)?;
        Ok(Place { quotas: self.clone(), caller })
    }
}

impl Table {
    /// The caller itself, or the others where the table is full of callers that count.
    fn place_of(&mut self, caller: &Caller, most: usize, now: Instant) -> Caller {
        if self.usages.contains_key(caller) || self.usages.len() < most {
            return caller.clone();
        }
        if self.swept.is_none_or(|swept| now.duration_since(swept) >= SWEEP) {
            self.swept = Some(now);
            self.usages.retain(|_, usage| usage.counts(now));
        }
        if self.usages.len() < most { caller.clone() } else { Caller::Others }
    }
}

impl Usage {
    fn take(&mut self, limits: &CallerLimits, now: Instant) -> Result<(), Exceeded> {
        if let Some(limit) = limits.calls
            && self.calls >= limit
        {
            return Err(Exceeded::Calls { limit });
        }
        if let Some(limit) = limits.requests_per_minute {
            let paid_until = self.paid_until.max(now) + WINDOW / limit;
            let retry_in = paid_until.duration_since(now).saturating_sub(WINDOW);
            if !retry_in.is_zero() {
                return Err(Exceeded::Rate { limit, retry_in });
            }
            self.paid_until = paid_until;
        }
        self.calls += 1;
        Ok(())
    }

    /// Whether it differs from the usage of a caller that was never seen.
    fn counts(&self, now: Instant) -> bool {
        self.calls > 0 || self.paid_until > now
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut table = self.quotas.table.lock().unwrap_or_else(PoisonError::into_inner);
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
    fn calls_under_way_are_counted_for_each_caller_until_they_end() {
        let (quotas, now) = (quotas(Some(2), None, 10), Instant::now());
        let take = |last| quotas.take(&caller(last), now);
        let first = take(1).expect("a place");
        let _second = take(1).expect("a place");
        assert_eq!(take(1).err(), Some(Exceeded::Calls { limit: 2 }));
        let _other = take(2).expect("a place of its own");
        drop(first);
        take(1).expect("the place that was given back");
    }

    #[test]
    fn a_minute_is_used_up_at_once_or_evenly_and_comes_back_evenly() {
        let (quotas, start) = (quotas(None, Some(4), 10), Instant::now());
        let take = |seconds: u64| quotas.take(&caller(1), start + Duration::from_secs(seconds)).map(drop);
        for _ in 0..4 {
            take(0).expect("within the limit");
        }
        let refused = |seconds| Err(Exceeded::Rate { limit: 4, retry_in: Duration::from_secs(seconds) });
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
    fn the_table_is_bounded_and_those_beyond_share_one_allowance() {
        let (quotas, start) = (quotas(Some(1), Some(60), 2), Instant::now());
        let take = |last, seconds| quotas.take(&caller(last), start + Duration::from_secs(seconds));
        let (one, two) = (take(1, 0).expect("a place"), take(2, 0).expect("a place"));
        let _shared = take(3, 0).expect("the place of the others");
        assert!(take(4, 0).is_err());
        drop((one, two));
        assert!(take(5, 0).is_err(), "callers that have just left still count");
        for last in 5..250 {
            drop(take(last, u64::from(last) * 2).expect("a place of one that left"));
            assert!(quotas.table.lock().expect("whole").usages.len() <= 3);
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
