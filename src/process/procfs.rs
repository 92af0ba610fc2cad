//! What `/proc` tells about processes, process groups and the mounts of the cgroup hierarchies.

use std::ffi::OsString;
use std::fs;
use std::io::Read;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::guard::locks_of;

/// A flag of linux/sched.h: the process is in exit(2).
const PF_EXITING: u32 = 4;

/// Returns whether `/proc` exists and numbers processes as this process does. In a PID namespace
/// with the `/proc` of its parent a number would name another process.
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

/// Some fields of `/proc/PID/stat` or `/proc/PID/task/TID/stat`: see proc_pid_stat(5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ProcStat {
    /// `R`, `S` and so on.
    pub(super) state: u8,
    pub(super) parent: u32,
    pub(super) group: u32,
    pub(super) session: u32,
    /// `PF_*` of linux/sched.h.
    flags: u32,
    threads: u32,
    /// The start time in clock ticks since the boot: with the number it identifies a process.
    pub(super) started: u64,
}

impl ProcStat {
    /// Reads the file `stat` in a folder of `/proc`. `None` if the process is gone or hidden.
    pub(super) fn read(folder: &Path) -> Option<Self> {
        // Long enough for all fields up to the last one that is needed.
        let mut line = [0; 512];
        let mut file = fs::File::open(folder.join("stat")).ok()?;
        // One read is enough: the kernel produces the whole line at the first one.
        let len = file.read(&mut line).ok()?;
        Self::parse(&line[..len])
    }

    pub(super) fn of(pid: u32) -> Option<Self> {
        Self::read(Path::new(&format!("/proc/{pid}")))
    }

    /// Parses the line of that file. Allocates nothing.
    pub(super) fn parse(line: &[u8]) -> Option<Self> {
        // The name is in parentheses, and may itself contain spaces and parentheses.
        let name_end = memchr::memrchr(b')', line)?;
        let rest = str::from_utf8(line.get(name_end + 1..)?).ok()?;
        // The numbers of the fields in proc_pid_stat(5): state 3, parent 4, group 5, session
        // 6, flags 9, threads 20, start 22.
        let mut fields = rest.split_ascii_whitespace();
        let state = *fields.next()?.as_bytes().first()?;
        // What has no number in this PID namespace is 0.
        let parent = fields.next()?.parse().ok()?;
        let group = fields.next()?.parse().ok()?;
        let session = fields.next()?.parse().ok()?;
        let flags = fields.nth(2)?.parse().ok()?;
        let threads = fields.nth(10)?.parse().ok()?;
        let started = fields.nth(1)?.parse().ok()?;
        Some(Self { state, parent, group, session, flags, threads, started })
    }

    /// Returns whether the process has ended or is in exit(2). A process whose first thread has ended
    /// shows as a zombie while its other threads live on.
    pub(super) fn is_dead(&self) -> bool {
        let has_ended = matches!(self.state, b'Z' | b'X' | b'x') || self.flags & PF_EXITING != 0;
        has_ended && self.threads <= 1
    }
}

/// A process, identified by its number and its start time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GroupMember {
    pid: u32,
    started: u64,
}

impl GroupMember {
    pub(super) fn new(pid: u32, stat: &ProcStat) -> Self {
        Self { pid, started: stat.started }
    }

    /// Kills it, if it is still this process.
    pub(super) fn kill(&self) {
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw);
        let Some(pidfd) = pid.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok()) else {
            return;
        };
        // After the pidfd: it names the process that is looked at, or a later one that does not match.
        if self.is_alive()
            && let Err(error) = pidfd_send_signal(&pidfd, Signal::KILL)
        {
            crate::trace::warn!(pid = self.pid, %error, "a stray process of an agent was not killed");
        }
    }

    /// Returns a process of a simulation.
    #[cfg(test)]
    pub(crate) fn simulated(pid: u32) -> Self {
        Self { pid, started: 0 }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// Returns whether it still runs. A zombie does not.
    pub(super) fn is_alive(&self) -> bool {
        let stat = ProcStat::of(self.pid);
        stat.is_some_and(|stat| stat.started == self.started && !stat.is_dead())
    }
}

/// Returns the living processes of each group, without zombies, after one pass over `/proc`. If
/// `/proc` cannot be read, or hides the processes of other users, some are missing.
pub(super) fn living_members<const N: usize>(groups: [u32; N]) -> [Vec<GroupMember>; N] {
    let mut found = [const { Vec::new() }; N];
    find_members(&groups, |index, member| found[index].push(member));
    found
}

/// Calls `found` with each living member of the groups and the index of its group.
pub(super) fn find_members(groups: &[u32], mut found: impl FnMut(usize, GroupMember)) {
    if groups.is_empty() || !is_usable() {
        return;
    }
    let processes = match fs::read_dir("/proc") {
        Ok(processes) => processes,
        Err(error) => {
            crate::trace::warn!(%error, "/proc cannot be read: processes left in a group are not counted");
            return;
        }
    };
    for process in processes.flatten() {
        let name = process.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
        let Some(stat) = ProcStat::read(&process.path()).filter(|stat| !stat.is_dead()) else {
            continue;
        };
        for (index, _) in groups.iter().enumerate().filter(|(_, group)| **group == stat.group) {
            found(index, GroupMember { pid, started: stat.started });
        }
    }
}

/// Returns the living descendants of a process in its group, which has its number, and those outside of
/// the group, as the kernel lists the children of each thread. A descendant whose parent has ended is not
/// among them.
pub(super) fn descendants(pid: u32) -> (Vec<GroupMember>, Vec<GroupMember>) {
    let mut members: Vec<GroupMember> = Vec::new();
    let mut strays: Vec<GroupMember> = Vec::new();
    let mut parents = vec![pid];
    while let Some(parent) = parents.pop() {
        for child in children(parent) {
            let Some(stat) = ProcStat::of(child).filter(|stat| !stat.is_dead()) else { continue };
            let found = if stat.group == pid { &mut members } else { &mut strays };
            let member = GroupMember::new(child, &stat);
            if !found.contains(&member) {
                found.push(member);
                parents.push(child);
            }
        }
    }
    (members, strays)
}

/// Calls `found` with each living process that has one of these tags as its soft limit for file locks: the
/// index of the tag, the process, and its group.
pub(super) fn find_tagged(tags: &[u64], mut found: impl FnMut(usize, GroupMember, u32)) {
    if tags.is_empty() || !is_usable() {
        return;
    }
    let Ok(processes) = fs::read_dir("/proc") else { return };
    let mut text = [0; 2048];
    for process in processes.flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let file = fs::File::open(process.path().join("limits"));
        let Ok(len) = file.and_then(|mut file| file.read(&mut text)) else { continue };
        let Some([soft, _]) = locks_of(&text[..len]) else { continue };
        let Some(index) = tags.iter().position(|tag| *tag == soft) else { continue };
        if let Some(stat) = ProcStat::of(pid).filter(|stat| !stat.is_dead()) {
            found(index, GroupMember::new(pid, &stat), stat.group);
        }
    }
}

fn children(pid: u32) -> Vec<u32> {
    if !is_usable() {
        return Vec::new();
    }
    // The kernel lists a child under the thread that has started it, so all threads are read.
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let lists =
        threads.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    lists
        .flat_map(|list| list.split_ascii_whitespace().flat_map(str::parse).collect::<Vec<u32>>())
        .collect()
}

/// Returns the path of this process in a cgroup hierarchy, from the text of `/proc/self/cgroup`. An
/// empty `controller` stands for version 2, any other for the version 1 hierarchy that has it.
pub(super) fn cgroup_path<'a>(cgroups: &'a str, controller: &str) -> Option<&'a str> {
    cgroups.lines().find_map(|line| {
        let (_, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        controllers.split(',').any(|name| name == controller).then_some(path)
    })
}

/// Returns the folder of this process's cgroup in a hierarchy, from the texts of `/proc/self/cgroup` and
/// `/proc/self/mountinfo`.
pub(super) fn cgroup_folder(cgroups: &str, mounts: &[u8], controller: &str) -> Option<PathBuf> {
    let path = cgroup_path(cgroups, controller)?;
    CgroupMount::find(path, mounts, controller)?.folder(path)
}

/// The mount of a cgroup hierarchy.
#[derive(Debug)]
pub(super) struct CgroupMount {
    /// The cgroup that is mounted: the root of the hierarchy, or a part of it in a container.
    pub(super) root: PathBuf,
    pub(super) point: PathBuf,
}

impl CgroupMount {
    /// Finds the first mount of the hierarchy in which `path` is visible, in the text of
    /// `/proc/self/mountinfo`.
    pub(super) fn find(path: &str, mounts: &[u8], controller: &str) -> Option<Self> {
        mounts.split(|byte| *byte == b'\n').find_map(|line| {
            let mount = Self::parse(line, controller.as_bytes())?;
            mount.folder(path).is_some().then_some(mount)
        })
    }

    /// `None` for the mount of anything else.
    fn parse(line: &[u8], controller: &[u8]) -> Option<Self> {
        // The fields of mountinfo: root is the fourth, mount point the fifth; after the dash come
        // the type, the source and the options of the file system, which name the controllers of
        // version 1.
        let mut fields = line.split(|byte| *byte == b' ');
        let root = unescape(fields.nth(3)?);
        let point = unescape(fields.next()?);
        // A dash ends the optional fields.
        fields.find(|field| *field == b"-")?;
        let kind = fields.next()?;
        let mut options = fields.nth(1)?.split(|byte| *byte == b',');
        let fits = if controller.is_empty() {
            kind == b"cgroup2"
        } else {
            kind == b"cgroup" && options.any(|name| name == controller)
        };
        fits.then_some(Self { root, point })
    }

    /// Returns the folder of a cgroup. A container may see a part of the hierarchy only; a cgroup
    /// outside of it has no folder.
    pub(super) fn folder(&self, path: &str) -> Option<PathBuf> {
        Some(self.point.join(Path::new(path).strip_prefix(&self.root).ok()?))
    }
}

/// Spaces and other special characters are written as a backslash and three octal digits.
fn unescape(text: &[u8]) -> PathBuf {
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, after)) = rest.split_first() {
        // The kernel escapes a backslash as well, so each one begins an escape.
        let octal = after.get(..3).and_then(|digits| str::from_utf8(digits).ok());
        let byte = octal.and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match byte.filter(|_| *first == b'\\') {
            Some(byte) => {
                plain.push(byte);
                rest = &after[3..];
            }
            None => {
                plain.push(*first);
                rest = after;
            }
        }
    }
    PathBuf::from(OsString::from_vec(plain))
}

#[cfg(test)]
mod tests {
    use super::ProcStat;

    #[test]
    fn name_may_contain_parentheses() {
        let line = b"7 (a) S (b) R 1 12 13 0 -1 4194560 1 0 0 0 9 8 0 0 20 0 3 0 4711 1 2 3";
        let stat = ProcStat {
            state: b'R',
            parent: 1,
            group: 12,
            session: 13,
            flags: 4_194_560,
            threads: 3,
            started: 4711,
        };
        assert_eq!(ProcStat::parse(line), Some(stat));
        assert_eq!(ProcStat::parse(b"7 (a"), None);
        assert_eq!(ProcStat::parse(b""), None);
        assert_eq!(ProcStat::parse(b"7 (a) S 1"), None);
    }

    #[test]
    fn process_outlives_its_first_thread() {
        let dead = |state, flags, threads| {
            let (parent, group, session, started) = (1, 1, 1, 1);
            ProcStat { state, parent, group, session, flags, threads, started }.is_dead()
        };
        assert!(dead(b'Z', 0, 1));
        assert!(!dead(b'Z', 0, 2));
        assert!(!dead(b'S', 0x40_0100, 1));
        assert!(dead(b'R', 0x40_0104, 1), "it is exiting");
    }
}
