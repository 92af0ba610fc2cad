//! Floor 1. What is left of a process group.

use std::fs;
use std::io::Read;
use std::path::Path;

use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process_group};

/// Nobody is left in the group, not even a zombie. Ask it of a group whose leader was reaped.
///
/// Only a probe: once the group is empty its number may be given to a stranger, so the answer
/// "not empty" is no licence to signal.
pub(crate) fn group_is_empty(group: u32) -> bool {
    let Some(group) = i32::try_from(group).ok().and_then(Pid::from_raw) else {
        return true;
    };
    test_kill_process_group(group) == Err(Errno::SRCH)
}

/// How many living processes each of the groups has, in one pass over `/proc` for all of them.
///
/// Zombies are not counted: a leader that waits for its reap is none of "what is left". Where
/// `/proc` cannot be read, or hides the processes of others, fewer are seen.
pub(crate) fn count_members(groups: &[u32]) -> Vec<usize> {
    let mut counts = vec![0; groups.len()];
    if groups.is_empty() {
        return counts;
    }
    let processes = match fs::read_dir("/proc") {
        Ok(processes) => processes,
        Err(error) => {
            crate::trace::warn!(%error, "/proc cannot be read: processes left in a group go uncounted");
            return counts;
        }
    };
    for process in processes.flatten() {
        let name = process.file_name();
        if !name.as_encoded_bytes().first().is_some_and(u8::is_ascii_digit) {
            continue;
        }
        let Some(group) = read_group(&process.path()) else { continue };
        for (wanted, count) in groups.iter().zip(&mut counts) {
            if *wanted == group {
                *count += 1;
            }
        }
    }
    counts
}

/// The group a living process is in; `None` once it is dead or where `/proc` hides it.
///
/// Zero is a group that our PID namespace cannot name: getpgid(2) says the same, and its
/// wrapper takes that for a bug of the kernel.
pub(super) fn group_of(pid: u32) -> Option<u32> {
    read_group(Path::new(&format!("/proc/{pid}")))
}

fn read_group(process: &Path) -> Option<u32> {
    // Fits what is wanted of the longest line; a process may end while we look.
    let mut stat = [0; 512];
    let len =
        fs::File::open(process.join("stat")).and_then(|mut file| file.read(&mut stat)).ok()?;
    living_group(&stat[..len])
}

/// The group in a line of `/proc/*/stat`; `None` for a zombie or a line that is none.
pub(super) fn living_group(stat: &[u8]) -> Option<u32> {
    // The name stands in parentheses, and may hold spaces and parentheses itself.
    let name_end = memchr::memrchr(b')', stat)?;
    let rest = str::from_utf8(stat.get(name_end + 1..)?).ok()?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?;
    let group = fields.nth(1)?.parse().ok()?;
    // A process whose first thread ended shows as a zombie while its other threads live on.
    let threads: u32 = fields.nth(14)?.parse().ok()?;
    let dead = matches!(state, "Z" | "X" | "x") && threads <= 1;
    (!dead).then_some(group)
}
