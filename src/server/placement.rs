//! How many shards, and on which CPUs.
//!
//! - Shards = CPUs of the process's affinity, capped by the cgroup's CPU quota (rounded down, at least one). With four or more, one is left to
//!   the control thread, unless a number was asked for. What is online on the machine does not matter: it may belong to others.
//! - Shards take one hardware thread per core before a second one; the control and acceptor threads get what is left.
//! - Pinning `auto` pins only where the CPUs are ours for the whole time: there is no quota below the affinity (under a quota the kernel
//!   throttles and moves us, and other containers run on the same CPUs), and no more shards than CPUs.

use std::fs;
use std::io;
use std::path::Path;

use crate::config::PinChoice;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// The CPUs that this process may use.
#[derive(Clone, Debug, PartialEq)]
pub struct Cpus {
    /// Numbers from the affinity mask, in the order in which shards take them.
    pub allowed: Vec<usize>,
    /// CPUs' worth of time that the cgroup grants, where it is limited.
    pub quota: Option<f64>,
}

/// Where the threads go.
#[derive(Clone, Debug, PartialEq)]
pub struct Placement {
    /// Per shard: its CPU, if pinned.
    pub shards: Vec<Option<usize>>,
    /// CPUs for the control and acceptor threads; empty: anywhere.
    pub control: Vec<usize>,
    /// One line that says what was chosen and why.
    pub message: String,
}

impl Cpus {
    /// Reads affinity, quota and topology.
    pub fn detect() -> io::Result<Cpus> {
        let mask = sched_getaffinity(None)?;
        let mut allowed: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|&cpu| mask.is_set(cpu)).collect();
        allowed.sort_by_key(|&cpu| (sibling_rank(cpu), cpu));
        let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        Ok(Cpus { allowed, quota: quota(Path::new("/sys/fs/cgroup"), &groups) })
    }

    /// The rule of this module. `asked`: the number of shards, where the operator gave one (at least 1).
    pub fn place(&self, asked: Option<usize>, pin: PinChoice) -> Placement {
        let cpus = self.allowed.len().max(1);
        let granted = self.quota.map_or(cpus, |quota| (quota as usize).clamp(1, cpus));
        let limited = self.quota.is_some_and(|quota| quota < cpus as f64);
        let count = asked.unwrap_or(if granted >= CONTROL_CPU_FROM { granted - 1 } else { granted }).max(1);
        let pinned = match pin {
            PinChoice::Auto => !limited && count <= cpus,
            PinChoice::On => true,
            PinChoice::Off => false,
        } && !self.allowed.is_empty();
        let shards = (0..count).map(|shard| pinned.then(|| self.allowed[shard % cpus])).collect();
        let control = if pinned { self.allowed.iter().copied().skip(count).collect() } else { Vec::new() };
        let quota = self.quota.map_or("no quota".into(), |quota| format!("a quota of {quota:.2}"));
        let message = format!(
            "{count} shard(s), {}: {cpus} CPU(s) in the affinity mask, {quota}{}",
            if pinned { "pinned" } else { "not pinned" },
            if asked.is_some() { ", as asked" } else { "" }
        );
        Placement { shards, control, message }
    }
}

/// Binds the calling thread to one CPU. Error: it is not ours (any more).
pub fn pin_thread(cpu: usize) -> io::Result<()> {
    pin_thread_to(&[cpu])
}

/// Binds the calling thread to some CPUs; to none means: leave it.
pub fn pin_thread_to(cpus: &[usize]) -> io::Result<()> {
    if cpus.is_empty() {
        return Ok(());
    }
    let mut mask = CpuSet::new();
    for &cpu in cpus.iter().filter(|&&cpu| cpu < CpuSet::MAX_CPU) {
        mask.set(cpu);
    }
    sched_setaffinity(None, &mask).map_err(|error| io::Error::other(format!("cannot bind a thread to CPU {cpus:?}: {error}; try --pin no")))
}

/// Which hardware thread of its core a CPU is: 0 for the first.
fn sibling_rank(cpu: usize) -> usize {
    let path = format!("/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list");
    fs::read_to_string(path).map_or(0, |list| cpu_list(&list).iter().position(|&sibling| sibling == cpu).unwrap_or(0))
}

/// Parses `0-2,8`. What is no number is left out.
fn cpu_list(text: &str) -> Vec<usize> {
    let range = |part: &str| -> Option<std::ops::RangeInclusive<usize>> {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.parse().ok()?..=last.parse().ok()?)
    };
    text.trim().split(',').filter_map(range).flatten().collect()
}

/// The smallest CPU limit on the way from the process's cgroup (`groups`: `/proc/self/cgroup`) to the root of the hierarchy mounted at `mount`.
/// Version 2 (`cpu.max`) and version 1 (`cpu.cfs_quota_us`).
fn quota(mount: &Path, groups: &str) -> Option<f64> {
    let lines = groups.lines().filter_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        Some((fields.next()?, fields.next()?))
    });
    let mut least: Option<f64> = None;
    for (controllers, path) in lines {
        let unified = controllers.is_empty();
        if !unified && !controllers.split(',').any(|name| name == "cpu") {
            continue;
        }
        let read = if unified { quota_v2 } else { quota_v1 };
        let roots = if unified { vec![mount.to_path_buf()] } else { vec![mount.join(controllers), mount.join("cpu")] };
        for root in roots {
            // A path outside what is mounted here (a container) ends at the mount itself.
            for ancestor in Path::new(path.trim_start_matches('/')).ancestors() {
                if let Some(limit) = read(&root.join(ancestor)) {
                    least = Some(least.map_or(limit, |least| least.min(limit)));
                }
            }
        }
    }
    least
}

fn quota_v2(group: &Path) -> Option<f64> {
    let text = fs::read_to_string(group.join("cpu.max")).ok()?;
    let (quota, period) = text.trim().split_once(' ')?;
    ratio(quota, period)
}

fn quota_v1(group: &Path) -> Option<f64> {
    let read = |name| fs::read_to_string(group.join(name)).ok();
    ratio(read("cpu.cfs_quota_us")?.trim(), read("cpu.cfs_period_us")?.trim())
}

/// `max` and −1 mean: no limit.
fn ratio(quota: &str, period: &str) -> Option<f64> {
    let (quota, period) = (quota.parse::<f64>().ok()?, period.parse::<f64>().ok()?);
    (quota > 0.0 && period > 0.0).then(|| quota / period)
}

/// From so many CPUs on, one is left to the control thread.
const CONTROL_CPU_FROM: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_follow_affinity_quota_and_wish() {
        let cpus = |count: usize, quota| Cpus { allowed: (10..10 + count).collect(), quota };
        // (CPUs, quota, asked, pin) → (shards, first CPU, CPUs left to control)
        let cases = [
            ((1, None, None, PinChoice::Auto), (1, Some(10), 0)),
            ((2, None, None, PinChoice::Auto), (2, Some(10), 0)),
            ((3, None, None, PinChoice::Auto), (3, Some(10), 0)),
            ((4, None, None, PinChoice::Auto), (3, Some(10), 1)),
            ((16, None, None, PinChoice::Auto), (15, Some(10), 1)),
            ((4, None, Some(4), PinChoice::Auto), (4, Some(10), 0)),
            ((16, Some(2.5), None, PinChoice::Auto), (2, None, 0)),
            ((16, Some(0.5), None, PinChoice::Auto), (1, None, 0)),
            ((16, Some(4.0), None, PinChoice::Auto), (3, None, 0)),
            ((16, Some(16.0), None, PinChoice::Auto), (15, Some(10), 1)),
            ((16, Some(4.0), None, PinChoice::On), (3, Some(10), 13)),
            ((2, None, Some(5), PinChoice::Auto), (5, None, 0)),
            ((2, None, Some(5), PinChoice::On), (5, Some(10), 0)),
            ((2, None, None, PinChoice::Off), (2, None, 0)),
            ((2, None, Some(0), PinChoice::Off), (1, None, 0)),
        ];
        for ((count, quota, asked, pin), expected) in cases {
            let placement = cpus(count, quota).place(asked, pin);
            let found = (placement.shards.len(), placement.shards[0], placement.control.len());
            assert_eq!(found, expected, "{count} CPUs, quota {quota:?}, asked {asked:?}, pin {pin:?}: {}", placement.message);
        }
    }

    #[test]
    fn quotas_of_both_cgroup_versions() {
        let folder = tempfile::tempdir().expect("folder");
        let mount = folder.path();
        let put = |path: &str, text: &str| {
            let path = mount.join(path);
            fs::create_dir_all(path.parent().expect("parent")).expect("folder");
            fs::write(path, text).expect("file");
        };
        put("pod/cpu.max", "400000 100000\n");
        put("pod/box/cpu.max", "max 100000\n");
        put("cpu,cpuacct/pod/cpu.cfs_quota_us", "150000\n");
        put("cpu,cpuacct/pod/cpu.cfs_period_us", "100000\n");
        put("cpu,cpuacct/cpu.cfs_quota_us", "-1\n");
        put("cpu,cpuacct/cpu.cfs_period_us", "100000\n");
        let cases = [
            ("0::/pod/box\n", Some(4.0)),
            ("0::/pod\n", Some(4.0)),
            ("0::/\n", None),
            ("0::/elsewhere/x\n", None),
            ("4:cpu,cpuacct:/pod\n3:memory:/pod\n", Some(1.5)),
            ("4:cpu,cpuacct:/\n0::/\n", None),
            ("4:cpu,cpuacct:/pod\n0::/pod\n", Some(1.5)),
            ("", None),
            ("garbage\n", None),
        ];
        for (groups, expected) in cases {
            assert_eq!(quota(mount, groups), expected, "{groups:?}");
        }
    }

    #[test]
    fn lists_of_cpus() {
        for (text, expected) in [("0\n", vec![0]), ("0-2,8", vec![0, 1, 2, 8]), ("", vec![]), ("x,3", vec![3])] {
            assert_eq!(cpu_list(text), expected, "{text:?}");
        }
    }

    #[test]
    fn this_machine_has_a_cpu() {
        let cpus = Cpus::detect().expect("affinity");
        assert!(!cpus.allowed.is_empty());
        let first = cpus.allowed[0];
        std::thread::spawn(move || pin_thread(first)).join().expect("thread").expect("its own CPU");
    }
}
