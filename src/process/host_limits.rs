//! The limits of this process, its user, its cgroup and the host that bound the number of agents. They
//! are read at each call, because others use up the same limits.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::process::{Resource, getrlimit, getuid};

use super::procfs::cgroup_folder;
use crate::stats::{Capacity, CapacityLimit};

/// The descriptors that an agent holds: three pipes and a pidfd.
const DESCRIPTORS: u64 = 4;
/// The other ends of the pipes, held while an agent is spawned.
const WHILE_SPAWNING: u64 = 3;
/// The open files behind them: both ends of each pipe, and the pidfd.
const OPEN_FILES: u64 = 7;
/// The share of an agent in the pipe limits: three pipes of 64 KiB.
const PIPE_PAGES: u64 = 3 * 16;
/// Bits of the capability set that lift limits of the user.
const SYS_ADMIN: u64 = 1 << 21;
const SYS_RESOURCE: u64 = 1 << 24;

/// Returns all limits that are found.
pub(crate) fn capacity() -> Capacity {
    let mut limits = Vec::new();
    limits.extend(descriptors());
    limits.extend(open_files());
    limits.extend(processes());
    limits.extend(pipe_pages());
    Capacity { limits }
}

fn descriptors() -> Option<CapacityLimit> {
    let value = getrlimit(Resource::Nofile).current?;
    // Minus the descriptor that reads the folder.
    let used = fs::read_dir("/proc/self/fd").map_or(0, |open| open.count().saturating_sub(1));
    Some(CapacityLimit {
        name: "RLIMIT_NOFILE",
        value,
        used: used as u64 + WHILE_SPAWNING,
        per_agent: DESCRIPTORS,
        refuses: true,
    })
}

/// Returns the limit on the open files of all processes of the host.
fn open_files() -> Option<CapacityLimit> {
    if has_capability(SYS_ADMIN) {
        return None;
    }
    let value = number(Path::new("/proc/sys/fs/file-max"))?;
    // `594 0 2466183`: open, free, limit.
    let text = fs::read_to_string("/proc/sys/fs/file-nr").unwrap_or_default();
    let used = text.split_ascii_whitespace().next().and_then(|open| open.parse().ok()).unwrap_or(0);
    Some(CapacityLimit { name: "fs.file-max", value, used, per_agent: OPEN_FILES, refuses: true })
}

/// Returns the limits on processes. An agent is at least one.
pub(super) fn processes() -> Vec<CapacityLimit> {
    let one = |name, value, used| CapacityLimit { name, value, used, per_agent: 1, refuses: true };
    let mut limits = Vec::new();
    if let Some(value) = getrlimit(Resource::Nproc).current
        && !is_exempt()
    {
        limits.push(one("RLIMIT_NPROC of the user", value, threads_of(getuid().as_raw())));
    }
    limits
        .extend(pids_of_cgroups().map(|(value, used)| one("pids.max of the cgroup", value, used)));
    // Each thread takes a process number, so both limits of the host count threads.
    let threads = all_threads().unwrap_or(0);
    for (name, path) in [
        ("kernel.threads-max", "/proc/sys/kernel/threads-max"),
        ("kernel.pid_max", "/proc/sys/kernel/pid_max"),
    ] {
        limits.extend(number(Path::new(path)).map(|value| one(name, value, threads)));
    }
    limits
}

/// Returns the limits on the pipes of an unprivileged user. The kernel does not tell what the user's
/// other processes hold.
fn pipe_pages() -> Vec<CapacityLimit> {
    let mut limits = Vec::new();
    if is_exempt() {
        return limits;
    }
    for (name, path, refuses) in [
        ("fs.pipe-user-pages-soft", "/proc/sys/fs/pipe-user-pages-soft", false),
        ("fs.pipe-user-pages-hard", "/proc/sys/fs/pipe-user-pages-hard", true),
    ] {
        // 0 stands for no limit.
        if let Some(value) = number(Path::new(path)).filter(|value| *value > 0) {
            limits.push(CapacityLimit { name, value, used: 0, per_agent: PIPE_PAGES, refuses });
        }
    }
    limits
}

/// RLIMIT_NPROC and the pipe limits do not apply to a process with one of two capabilities.
fn is_exempt() -> bool {
    has_capability(SYS_ADMIN | SYS_RESOURCE)
}

/// Whether the calling thread has one of these capabilities.
fn has_capability(wanted: u64) -> bool {
    // Capabilities belong to a thread, so those of the calling thread are read.
    let status = fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    let set = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let set = set.and_then(|set| u64::from_str_radix(set.trim(), 16).ok()).unwrap_or(0);
    set & wanted != 0
}

/// Counts the threads of a user, as RLIMIT_NPROC does.
fn threads_of(uid: u32) -> u64 {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let ours = processes.map(|entry| entry.path()).filter(|path| {
        let name = path.file_name().is_some_and(|name| name.as_encoded_bytes()[0].is_ascii_digit());
        name && fs::metadata(path).is_ok_and(|data| data.uid() == uid)
    });
    // A process that has ended since it was listed counts 0.
    ours.map(|path| fs::read_dir(path.join("task")).map_or(0, |tasks| tasks.count() as u64)).sum()
}

/// Returns the number of threads on the host, from a line like `0.00 0.01 0.05 1/234 5678`.
fn all_threads() -> Option<u64> {
    let text = fs::read_to_string("/proc/loadavg").ok()?;
    text.split_ascii_whitespace().nth(3)?.split_once('/')?.1.parse().ok()
}

/// Returns limit and use of the tightest `pids.max` from the own cgroup up to the root, in both cgroup
/// versions.
fn pids_of_cgroups() -> Option<(u64, u64)> {
    let cgroups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let mounts = fs::read("/proc/self/mountinfo").ok()?;
    let folders =
        ["", "pids"].into_iter().filter_map(|name| cgroup_folder(&cgroups, &mounts, name));
    folders.filter_map(|folder| tightest(&folder)).min_by_key(|(value, used)| value - used)
}

/// `max` stands for no limit and does not parse as a number.
pub(super) fn tightest(folder: &Path) -> Option<(u64, u64)> {
    let limits = folder.ancestors().filter_map(|folder| {
        let value = number(&folder.join("pids.max"))?;
        // A limit that was lowered later may be below the use. The minimum keeps the difference
        // from underflow.
        Some((value, number(&folder.join("pids.current"))?.min(value)))
    });
    limits.min_by_key(|(value, used)| value - used)
}

fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}
