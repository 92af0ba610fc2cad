//! What `/proc` says of a process or a thread.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::sync::OnceLock;

const PF_EXITING: u32 = 4;

/// The fields that matter here of `/proc/PID/stat` or `/proc/PID/task/TID/stat`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stat {
    /// `R`, `S` and so on: proc_pid_stat(5).
    pub(super) state: u8,
    pub(super) group: u32,
    /// `PF_*` of linux/sched.h.
    pub(super) flags: u32,
    pub(super) threads: u32,
    /// When it was started, in clock ticks since the boot: with the number, this names a process.
    pub(super) started: u64,
}

impl Stat {
    /// Reads the file `stat` in a folder of `/proc`. `None` where the process is gone or hidden.
    pub(super) fn read(folder: &Path) -> Option<Self> {
        // Long enough for all fields up to the last one that is wanted.
        let mut line = [0; 512];
        let mut file = fs::File::open(folder.join("stat")).ok()?;
        let len = file.read(&mut line).ok()?;
        Self::parse(&line[..len])
    }

    pub(super) fn of(pid: u32) -> Option<Self> {
        Self::read(Path::new(&format!("/proc/{pid}")))
    }

    fn parse(line: &[u8]) -> Option<Self> {
        // The name stands in parentheses, and may hold spaces and parentheses itself.
        let name_end = memchr::memrchr(b')', line)?;
        let rest = str::from_utf8(line.get(name_end + 1..)?).ok()?;
        let mut fields = rest.split_ascii_whitespace();
        let state = *fields.next()?.as_bytes().first()?;
        // A group that this PID namespace cannot name is 0.
        let group = fields.nth(1)?.parse().ok()?;
        let flags = fields.nth(3)?.parse().ok()?;
        let threads = fields.nth(10)?.parse().ok()?;
        let started = fields.nth(1)?.parse().ok()?;
        Some(Self { state, group, flags, threads, started })
    }

    /// Whether the process has ended, or is past the point of no return. One whose first thread has
    /// ended shows as a zombie while its other threads live on.
    pub(super) fn is_dead(&self) -> bool {
        let has_ended = matches!(self.state, b'Z' | b'X' | b'x') || self.flags & PF_EXITING != 0;
        has_ended && self.threads <= 1
    }
}

/// Whether `/proc` is there and numbers processes as this process does. In a PID namespace that has
/// the `/proc` of its parent, a number would name another process.
pub(super) fn is_usable() -> bool {
    static USABLE: OnceLock<bool> = OnceLock::new();
    *USABLE.get_or_init(|| {
        let seen = fs::read_link("/proc/self").ok().and_then(|link| link.to_str()?.parse().ok());
        let usable = seen == Some(std::process::id());
        if !usable {
            crate::trace::warn!(
                "/proc does not show this process: what an agent does cannot be seen"
            );
        }
        usable
    })
}

#[cfg(test)]
mod tests {
    use super::Stat;

    #[test]
    fn parentheses_in_a_name_are_not_its_end() {
        let line = b"7 (a) S (b) R 1 12 13 0 -1 4194560 1 0 0 0 9 8 0 0 20 0 3 0 4711 1 2 3";
        let stat = Stat { state: b'R', group: 12, flags: 4_194_560, threads: 3, started: 4711 };
        assert_eq!(Stat::parse(line), Some(stat));
        assert_eq!(Stat::parse(b"7 (a"), None);
        assert_eq!(Stat::parse(b""), None);
        assert_eq!(Stat::parse(b"7 (a) S 1"), None);
    }

    #[test]
    fn first_thread_that_ended_is_not_the_end_of_the_process() {
        let dead =
            |state, flags, threads| Stat { state, group: 1, flags, threads, started: 1 }.is_dead();
        assert!(dead(b'Z', 0, 1));
        assert!(!dead(b'Z', 0, 2));
        assert!(!dead(b'S', 0x40_0100, 1));
        assert!(dead(b'R', 0x40_0104, 1), "it is exiting");
    }
}
