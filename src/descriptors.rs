//! File descriptors: as many as the system allows, and some of them always free for probes, files and the judge.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors that connections of callers leave free: the admin port's connections, files of the model, certificates
/// and tokens, connections to the hub, the judges and a collector, and the runtimes' own.
const RESERVE: usize = 64 + crate::admin::CONNECTIONS;

/// Raises the limit of open files to the highest that the process may set, and returns how many connections of callers
/// fit below it: `wanted`, or fewer.
pub(crate) fn connections_within_limit(wanted: usize) -> usize {
    let limit = raise();
    let room = connections_below(limit, wanted);
    if room < wanted {
        tracing::warn!(
            max_connections = room,
            wanted,
            open_files = limit.unwrap_or(u64::MAX),
            "max-connections is lowered: the process may not open enough files (raise ulimit -n)"
        );
    }
    room
}

/// The limit that is in force then; None for none.
fn raise() -> Option<u64> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    if raised.is_ok() { maximum } else { current }
}

/// At least one of eight descriptors is left to connections, however few there are.
fn connections_below(limit: Option<u64>, wanted: usize) -> usize {
    let Some(limit) = limit else { return wanted };
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    wanted.min(limit.saturating_sub(RESERVE).max(limit / 8)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_descriptors_free() {
        for (limit, expected) in
            [(None, 1024), (Some(1 << 20), 1024), (Some(1024), 896), (Some(256), 128), (Some(64), 8)]
        {
            assert_eq!(connections_below(limit, 1024), expected, "{limit:?}");
        }
    }
}
