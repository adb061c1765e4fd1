//! CPU throttling of this process's cgroup by its quota.

#![allow(
    clippy::disallowed_methods,
    reason = "files are read on the watchdog's thread, never on the reactor"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Counters since the creation of the cgroup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Throttling {
    /// Quota periods in which a task was throttled.
    pub(super) periods: u64,
    /// Throttled time, summed over CPUs, so it may grow faster than the clock.
    pub(super) time: Duration,
}

impl Throttling {
    pub(super) fn since(self, earlier: Self) -> Self {
        Self {
            periods: self.periods.saturating_sub(earlier.periods),
            time: self.time.saturating_sub(earlier.time),
        }
    }
}

/// Reads `cpu.stat` of this process's cgroup, version 2 or 1.
#[derive(Debug)]
pub(super) struct ThrottleMeter {
    /// `None` without a cgroup or CPU controller, or if not on Linux.
    path: Option<PathBuf>,
}

impl ThrottleMeter {
    /// Locates the file once, because processes are rarely moved between cgroups.
    pub(super) fn locate() -> Self {
        let cgroups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let path = candidates(&cgroups).into_iter().find(|path| read(path).is_some());
        Self { path }
    }

    /// Reads the counters; `None` if unavailable. Takes about 10 us.
    pub(super) fn read(&self) -> Option<Throttling> {
        read(self.path.as_deref()?)
    }
}

fn read(path: &Path) -> Option<Throttling> {
    parse(&fs::read_to_string(path).ok()?)
}

/// `cpu.stat` paths to try for the contents of `/proc/self/cgroup`, best first.
///
/// In a container the path may be the host's, while the mount shows only the container's own cgroup at its root.
/// Therefore each mount is also tried without the path.
fn candidates(cgroups: &str) -> Vec<PathBuf> {
    let mut paths = Vec::new();
    for line in cgroups.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        let mounts: &[&str] = match controllers {
            "" => &["", "unified"],
            _ if controllers.split(',').any(|name| name == "cpu") => &["cpu,cpuacct", "cpu"],
            _ => continue,
        };
        for mount in mounts {
            let mount = Path::new("/sys/fs/cgroup").join(mount);
            paths.push(mount.join(path.trim_start_matches('/')).join("cpu.stat"));
            paths.push(mount.join("cpu.stat"));
        }
    }
    paths
}

/// Parses `cpu.stat`: version 2 has `throttled_usec`, version 1 `throttled_time` in nanoseconds.
fn parse(cpu_stat: &str) -> Option<Throttling> {
    let value = |name: &str| {
        let (_, value) =
            cpu_stat.lines().filter_map(|line| line.split_once(' ')).find(|(key, _)| *key == name)?;
        value.trim().parse::<u64>().ok()
    };
    let time = match value("throttled_usec") {
        Some(micros) => Duration::from_micros(micros),
        None => Duration::from_nanos(value("throttled_time")?),
    };
    Some(Throttling { periods: value("nr_throttled")?, time })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_cgroup_versions_are_parsed() {
        let expected = Some(Throttling { periods: 7, time: Duration::from_micros(1500) });
        let check = |cpu_stat: &str, expected| assert_eq!(parse(cpu_stat), expected, "for {cpu_stat:?}");
        check("usage_usec 9\nnr_periods 8\nnr_throttled 7\nthrottled_usec 1500\n", expected);
        check("nr_periods 8\nnr_throttled 7\nthrottled_time 1500000\n", expected);
        // A version 2 root, or a group without the CPU controller.
        check("usage_usec 9\nuser_usec 5\nsystem_usec 4\n", None);
        check("", None);
    }

    #[test]
    fn the_cgroup_path_is_tried_before_the_mount_root() {
        let check = |cgroups: &str, expected: &[&str]| {
            let expected: Vec<PathBuf> = expected.iter().map(PathBuf::from).collect();
            assert_eq!(candidates(cgroups), expected, "for {cgroups:?}");
        };
        check(
            "0::/kubepods/pod1\n",
            &[
                "/sys/fs/cgroup/kubepods/pod1/cpu.stat",
                "/sys/fs/cgroup/cpu.stat",
                "/sys/fs/cgroup/unified/kubepods/pod1/cpu.stat",
                "/sys/fs/cgroup/unified/cpu.stat",
            ],
        );
        check(
            "5:cpuset:/x\n4:cpu,cpuacct:/docker/a:b\n",
            &[
                "/sys/fs/cgroup/cpu,cpuacct/docker/a:b/cpu.stat",
                "/sys/fs/cgroup/cpu,cpuacct/cpu.stat",
                "/sys/fs/cgroup/cpu/docker/a:b/cpu.stat",
                "/sys/fs/cgroup/cpu/cpu.stat",
            ],
        );
        check("garbage\n", &[]);
    }
}
