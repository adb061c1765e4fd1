//! File descriptor limit: raised to the hard limit, with some descriptors reserved for probes, files and the judge.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors reserved for other uses than client connections: connections of the admin port, files of the model,
/// certificates and tokens, connections to the hub, the judges and a collector, and the runtimes.
const RESERVE: usize = 64 + crate::admin::CONNECTIONS;

/// Raises the limit of open files to the hard limit. Returns the number of client connections that fit within it, at most
/// `wanted`.
pub(crate) fn connections_within_limit(wanted: usize) -> usize {
    let limit = raise();
    let room = connections_below(limit, wanted);
    if room < wanted {
        tracing::warn!(
            max_connections = room,
            wanted,
            open_files = limit.unwrap_or(u64::MAX),
            "max-connections lowered to fit the limit of open files; raise ulimit -n to allow more"
        );
    }
    room
}

/// Raises the limit and returns it; None for no limit.
fn raise() -> Option<u64> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    if raised.is_ok() { maximum } else { current }
}

/// The number of connections within `limit`: at least one eighth of the descriptors.
fn connections_below(limit: Option<u64>, wanted: usize) -> usize {
    let Some(limit) = limit else { return wanted };
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    wanted.min(limit.saturating_sub(RESERVE).max(limit / 8)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_descriptors_reserved() {
        for (limit, expected) in
            [(None, 1024), (Some(1 << 20), 1024), (Some(1024), 896), (Some(256), 128), (Some(64), 8)]
        {
            assert_eq!(connections_below(limit, 1024), expected, "{limit:?}");
        }
    }
}
