//! What the watcher does once the host is dead: finds what the agents have left, stops it, kills it and
//! removes its cgroups, until nothing is left.
//!
//! Everything is stopped before anything is killed: a process whose parent dies has another parent, and
//! one that is created meanwhile could be missed. Runs after a fork: system calls only, no allocation.

use std::ffi::CStr;
use std::io::Write;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::{Timespec, poll};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir, openat, unlinkat};
use rustix::io::{Errno, pread, read, write};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open, pidfd_send_signal};
use rustix::time::{ClockId, clock_gettime};

use super::super::procfs::ProcStat;
use super::census::{Census, Process};
use super::ledger::{ENTRY, Entry, FOLDER, entry_at, folder_at};
use super::tag::locks_of;
use super::watcher::WatcherPlan;

/// How long the watcher tries: a process in uninterruptible sleep may not end.
const HUNT_MAX: Duration = Duration::from_secs(10);
/// How many passes stop processes before one kills: a process that forks in a pass shows in the next.
const STOPS_MAX: u32 = 4;
/// The pause before a pass that looks for what the last one has killed.
const PAUSE: Duration = Duration::from_millis(2);
/// The pause before the last pass: a process that was forked while `/proc` was listed may be missing.
const LAST_PAUSE: Duration = Duration::from_millis(20);
/// How deep the cgroups are removed that an agent has made below its own.
const DEPTH_MAX: u32 = 16;

/// A hunt, and what it needs to read.
pub(super) struct Hunt<'a> {
    plan: &'a WatcherPlan<'a>,
    proc: OwnedFd,
    census: Census<'a>,
}

impl<'a> Hunt<'a> {
    /// Opens `/proc`. Fails if it does not show this process.
    pub(super) fn prepare(
        plan: &'a WatcherPlan<'a>,
        table: &'a mut [Process],
    ) -> Result<Self, Errno> {
        let proc = rustix::fs::open(c"/proc", OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let census = Census::new(table, plan.host_session);
        let hunt = Self { plan, proc, census };
        // The code that matters later runs once while the host can still report a failure.
        let own = rustix::process::getpid().as_raw_pid().unsigned_abs();
        hunt.stat(own).ok_or(Errno::NOENT)?;
        hunt.is_tagged(own);
        Ok(hunt)
    }

    /// Kills until nothing is left, or [`HUNT_MAX`] is over.
    pub(super) fn run(&mut self) {
        let begun = clock_gettime(ClockId::Monotonic);
        let is_late = || (clock_gettime(ClockId::Monotonic) - begun) > timespec(HUNT_MAX);
        let mut stops = 0;
        let mut is_clean = false;
        while !is_late() {
            self.take_census();
            let cgroups_left = self.end_cgroups();
            let is_empty = self.census.ours().next().is_none() && !cgroups_left;
            if is_empty && is_clean {
                return;
            }
            is_clean = is_empty;
            let is_moving = self.census.ours().any(|process| !process.is_stopped);
            let signal = if is_moving && stops < STOPS_MAX { Signal::STOP } else { Signal::KILL };
            stops += 1;
            for process in self.census.ours() {
                self.signal(process, signal);
            }
            match signal {
                _ if is_empty => pause(LAST_PAUSE),
                Signal::KILL => pause(PAUSE),
                _ => {}
            }
        }
    }

    /// Lists all processes and marks those of the agents.
    fn take_census(&mut self) {
        self.census.clear();
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
        let Ok(folder) = openat(&self.proc, c".", flags, Mode::empty()) else { return };
        let own = rustix::process::getpid().as_raw_pid().unsigned_abs();
        let mut buffer = [MaybeUninit::uninit(); 8192];
        let mut entries = RawDir::new(folder, &mut buffer);
        while let Some(Ok(entry)) = entries.next() {
            let name = str::from_utf8(entry.file_name().to_bytes()).unwrap_or_default();
            let Ok(pid) = name.parse::<u32>() else { continue };
            if pid <= 1 || pid == own || pid == self.plan.host_pid {
                continue;
            }
            let Some(stat) = self.stat(pid) else { continue };
            let is_ours = !stat.is_dead() && self.is_tagged(pid);
            self.census.add(pid, &stat, is_ours);
        }
        self.census.spread();
    }

    fn stat(&self, pid: u32) -> Option<ProcStat> {
        let mut line = [0; 512];
        let file = self.open(pid, "stat")?;
        let len = read(&file, &mut line).ok()?;
        ProcStat::parse(line.get(..len)?)
    }

    /// Returns whether the process has the tag of an agent of this engine.
    fn is_tagged(&self, pid: u32) -> bool {
        let mut text = [0; 2048];
        let len = self.open(pid, "limits").and_then(|file| read(&file, &mut text).ok());
        let locks = len.and_then(|len| locks_of(text.get(..len)?));
        locks.is_some_and(|locks| locks.iter().any(|limit| self.plan.word.is_of(*limit)))
    }

    fn open(&self, pid: u32, file: &str) -> Option<OwnedFd> {
        let mut buffer = [0; 64];
        let path = path(&mut buffer, format_args!("{pid}/{file}"))?;
        openat(&self.proc, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()
    }

    /// Signals the process that the census has seen, and no later one with its number.
    fn signal(&self, process: &Process, signal: Signal) {
        let pid = i32::try_from(process.pid).ok().and_then(Pid::from_raw);
        let Some(pidfd) = pid.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok()) else {
            return;
        };
        if self.stat(process.pid).is_some_and(|stat| stat.started == process.started) {
            let sent = pidfd_send_signal(&pidfd, signal);
            // A filter refuses the call, or the process is one of another user, and kill(2) is refused,
            // too. The process existed a moment ago, so its number is not that of another yet.
            if let (Err(Errno::NOSYS | Errno::PERM), Some(pid)) = (sent, pid) {
                let _refused = kill_process(pid, signal);
            }
        }
    }

    /// Kills the cgroups of the agents and removes those that are empty. Returns whether one is left.
    fn end_cgroups(&self) -> bool {
        let mut left = false;
        for_each_entry(self.plan.ledger, |entry| {
            if entry.folder != 0 {
                left |= end_cgroup(self.plan, &entry);
            }
        });
        left
    }
}

fn for_each_entry(ledger: BorrowedFd<'_>, mut found: impl FnMut(Entry)) {
    let mut buffer = [0; 128 * ENTRY];
    let mut at = entry_at(0);
    while let Ok(len @ 1..) = pread(ledger, &mut buffer, at) {
        let filled = buffer.get(..len).unwrap_or_default();
        filled.chunks_exact(ENTRY).for_each(|bytes| found(Entry::decode(bytes)));
        at += len as u64;
    }
}

/// Kills a cgroup and removes it. Returns whether it is still there.
fn end_cgroup(plan: &WatcherPlan<'_>, entry: &Entry) -> bool {
    let mut folder = [0; FOLDER];
    let at = folder_at(entry.folder.saturating_sub(1));
    if pread(plan.ledger, &mut folder, at).is_err() {
        return false;
    }
    let Ok(folder) = CStr::from_bytes_until_nul(&folder) else { return false };
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
    let Ok(folder) = rustix::fs::open(folder, flags, Mode::empty()) else { return false };
    let mut buffer = [0; 64];
    let (host, number) = (plan.host_pid, entry.number);
    let name = path(&mut buffer, format_args!("agentpipe-{host}-{number}"));
    let Some(name) = name else { return false };
    // One that the host has not made is only removed, and only if it is empty.
    if entry.is_made != 0
        && let Ok(cgroup) = openat(&folder, name, flags, Mode::empty())
        && let Ok(file) = openat(&cgroup, c"cgroup.kill", OFlags::WRONLY, Mode::empty())
    {
        let _killed = write(&file, b"1");
    }
    !matches!(remove(folder.as_fd(), name, 0), Ok(()) | Err(Errno::NOENT))
}

/// Removes a cgroup and those below it.
fn remove(folder: BorrowedFd<'_>, name: &CStr, depth: u32) -> Result<(), Errno> {
    let removed = unlinkat(folder, name, AtFlags::REMOVEDIR);
    if removed != Err(Errno::BUSY) || depth == DEPTH_MAX {
        return removed;
    }
    let inner = openat(folder, name, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let mut buffer = [MaybeUninit::uninit(); 2048];
    let mut entries = RawDir::new(inner.as_fd(), &mut buffer);
    while let Some(Ok(entry)) = entries.next() {
        let is_dots = entry.file_name().to_bytes().iter().all(|byte| *byte == b'.');
        if entry.file_type() == FileType::Directory && !is_dots {
            // One that cannot be removed shows below, as this one cannot be then.
            let _left = remove(inner.as_fd(), entry.file_name(), depth + 1);
        }
    }
    unlinkat(folder, name, AtFlags::REMOVEDIR)
}

/// Writes a path and its NUL into a buffer. `None` if it does not fit.
fn path<'a>(buffer: &'a mut [u8], text: std::fmt::Arguments<'_>) -> Option<&'a CStr> {
    let room = buffer.len();
    let mut rest = &mut *buffer;
    rest.write_fmt(text).ok()?;
    rest.write_all(&[0]).ok()?;
    let used = room - rest.len();
    CStr::from_bytes_with_nul(buffer.get(..used)?).ok()
}

fn pause(time: Duration) {
    // Nothing to wait for but the time: the dead do not report to this process.
    let _over = poll(&mut [], Some(&timespec(time)));
}

fn timespec(time: Duration) -> Timespec {
    Timespec::try_from(time).unwrap_or_default()
}
