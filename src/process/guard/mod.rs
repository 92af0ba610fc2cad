//! The guard of an engine: a process that outlives the host and then kills what the host has spawned.
//!
//! ```text
//! host side      mod.rs: starts the watcher, enters agents in the ledger; ledger.rs: what is to be killed
//! watcher side   watcher.rs: a process that waits for the death of the host; hunt.rs: what it does then
//! pure           census.rs: which processes belong to the agents
//! ```
//!
//! The watcher is a process with memory of its own: the kernel's out-of-memory killer ends all
//! processes that share a memory. It waits for the host's pidfd, which a forked copy of the host does not
//! hold back, and for the end of a socket, which an exec of the host closes. A byte on that socket says
//! that the engine has ended, and then nothing is killed.
//!
//! The agents are in a memfd that both sides hold. A queue of messages could be full when the host
//! dies; the memfd has the state of that moment. An agent enters itself before its exec, so there is no
//! instant at which a death of the host would leave it unknown.

mod census;
mod hunt;
mod ledger;
mod watcher;

use std::collections::hash_map::RandomState;
use std::ffi::{OsStr, OsString};
use std::hash::{BuildHasher, Hasher};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send};
use rustix::process::{PidfdFlags, WaitId, WaitIdOptions, getpid, getsid, pidfd_open, waitid};

use super::procfs;
use crate::error::{Error, ErrorKind};
use crate::origin::Origin;

use ledger::{ENTRY, Entry, FOLDER, FOLDERS_MAX, entry_at, folder_at};
use watcher::WatcherPlan;

/// The variable by which the agents and all their descendants are found. Its value is that of the host,
/// if the host is an agent itself, and a random word of the engine.
pub(super) const MARKER: &str = "AGENTPIPE_GUARD";
/// How long a new watcher may take until it is ready, and how long an old one to end.
const PATIENCE: Duration = Duration::from_secs(5);
/// The flag `__WALL` of wait(2): also children that send no SIGCHLD.
const ALL_CHILDREN: WaitIdOptions = WaitIdOptions::from_bits_retain(0x4000_0000);

/// The guard of an engine. Dropped, it ends the watcher, which then kills nothing.
#[derive(Debug)]
pub(crate) struct Guard {
    ledger: OwnedFd,
    /// Our end of the socket. Closed on an exec.
    line: OwnedFd,
    watcher: OwnedFd,
    watcher_pid: u32,
    marker: OsString,
    places: Mutex<Places>,
    origin: Origin,
}

/// The free places of the ledger.
#[derive(Debug, Default)]
struct Places {
    free: Vec<u64>,
    next: u64,
    /// The folders that hold cgroups of agents, in the order of the ledger.
    folders: Vec<std::path::PathBuf>,
}

/// The entry of one agent in the ledger, from before its clone until it is gone. Dropping it frees the
/// place.
#[derive(Debug)]
pub(super) struct GuardEntry {
    guard: Arc<Guard>,
    place: u64,
}

impl Guard {
    /// Starts the watcher and waits until it is ready. Costs a fork of this process: about 1 ms for
    /// 100 MiB of its memory.
    ///
    /// # Errors
    /// [`GuardUnavailable`](ErrorKind::GuardUnavailable).
    pub(crate) fn start() -> Result<Arc<Self>, Error> {
        if !procfs::is_usable() {
            return Err(unavailable("/proc does not show this process")
                .remedy("mount the /proc of this PID namespace, or do without a guard"));
        }
        let failed = |what: &'static str| move |errno: Errno| unavailable(what).cause(errno.into());
        let no_descriptor = "no descriptors for the guard process";
        let ledger = memfd_create("agentpipe-guard", MemfdFlags::CLOEXEC)
            .and_then(super::spawn::above_standard)
            .map_err(failed(no_descriptor))?;
        let (ours, theirs) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::STREAM,
            SocketFlags::CLOEXEC,
            None,
        )
        .map_err(failed(no_descriptor))?;
        let line = super::spawn::above_standard(ours).map_err(failed(no_descriptor))?;
        let host = pidfd_open(getpid(), PidfdFlags::empty()).map_err(failed(no_descriptor))?;
        let word = format!("{:016x}", RandomState::new().build_hasher().finish());
        let plan = WatcherPlan {
            host: host.as_fd(),
            line: theirs.as_fd(),
            ledger: ledger.as_fd(),
            host_pid: std::process::id(),
            host_session: getsid(None).map_or(0, |pid| pid.as_raw_pid().unsigned_abs()),
            ticks_per_second: rustix::param::clock_ticks_per_second(),
            word: word.as_bytes().try_into().unwrap_or_default(),
        };
        let (pid, watcher) = watcher::start(&plan).map_err(|errno| match errno {
            Errno::AGAIN => unavailable("no process left for the guard")
                .remedy("raise RLIMIT_NPROC, pids.max or kernel.threads-max")
                .cause(errno.into()),
            errno => unavailable("the guard process cannot be started").cause(errno.into()),
        })?;
        // With our copy open the socket would not report the end of the watcher.
        drop(theirs);
        let mut marker = std::env::var_os(MARKER).unwrap_or_default();
        if !marker.is_empty() {
            marker.push(",");
        }
        marker.push(&word);
        // From here on an error drops the guard, which ends the watcher.
        let guard = Self {
            ledger,
            line,
            watcher,
            watcher_pid: pid.as_raw_pid().unsigned_abs(),
            marker,
            places: Mutex::default(),
            origin: Origin::here(),
        };
        guard.await_ready().map(|()| Arc::new(guard))
    }

    fn await_ready(&self) -> Result<(), Error> {
        let what = "the guard process cannot read /proc, or has no memory";
        let mut ready = [0; 1];
        if !is_readable(self.line.as_fd(), PATIENCE) {
            return Err(unavailable("the guard process does not start"));
        }
        match recv(&self.line, &mut ready, RecvFlags::empty()) {
            Ok((1, _)) => Ok(()),
            _ => Err(unavailable(what)),
        }
    }

    /// Returns the value of [`MARKER`] for the agents.
    pub(super) fn marker(&self) -> &OsStr {
        &self.marker
    }

    /// Takes a place in the ledger for a new agent.
    ///
    /// # Errors
    /// [`GuardUnavailable`](ErrorKind::GuardUnavailable) if the watcher has ended: an agent could
    /// outlive the host.
    pub(super) fn enter(self: &Arc<Self>) -> Result<GuardEntry, Error> {
        if is_readable(self.watcher.as_fd(), Duration::ZERO) {
            let what = format!("the guard process {} has ended", self.watcher_pid);
            return Err(Error::new(ErrorKind::GuardUnavailable, super::error::SPAWN, what)
                .remedy("find out what killed it, and make another engine"));
        }
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        let place = places.free.pop().unwrap_or_else(|| {
            places.next += 1;
            places.next - 1
        });
        drop(places);
        Ok(GuardEntry { guard: Arc::clone(self), place })
    }

    /// Returns the number of a folder that holds cgroups, and writes its path into the ledger once.
    fn folder(&self, folder: &Path) -> Result<u64, Errno> {
        use std::os::unix::ffi::OsStrExt;
        // The watcher has another working directory.
        let folder = std::path::absolute(folder).map_err(|_| Errno::NOENT)?;
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        let known = places.folders.iter().position(|known| *known == folder);
        let number = known.unwrap_or(places.folders.len()) as u64;
        if known.is_none() {
            let path = folder.as_os_str().as_bytes();
            if number >= FOLDERS_MAX || path.len() >= FOLDER {
                return Err(Errno::NOSPC);
            }
            ledger::write(self.ledger.as_fd(), path, folder_at(number))?;
            places.folders.push(folder);
        }
        Ok(number)
    }
}

/// Ends the watcher and reaps it, and waits for that: a watcher that is awake needs microseconds.
impl Drop for Guard {
    fn drop(&mut self) {
        // The watcher of a forked child is that of its parent.
        if !self.origin.is_here() {
            return;
        }
        // It may have ended, and then there is nothing to tell.
        let _sent = send(&self.line, b"e", SendFlags::NOSIGNAL);
        if !is_readable(self.watcher.as_fd(), PATIENCE) {
            crate::trace::warn!(pid = self.watcher_pid, "the guard process has not ended");
            return;
        }
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | ALL_CHILDREN;
        // Another part of this process may have reaped it.
        let _reaped = waitid(WaitId::PidFd(self.watcher.as_fd()), options);
    }
}

impl GuardEntry {
    /// Notes the cgroup `agentpipe-HOST-<number>` in `folder`, before it is made.
    pub(super) fn note_cgroup(&self, folder: &Path, number: u64) -> Result<(), Errno> {
        let folder = self.guard.folder(folder)?;
        self.write(&Entry { pid: 0, born: 0, folder: folder + 1, number })
    }

    /// Enters the calling process. For the agent, between its clone and its exec: system calls only.
    pub(super) fn claim(&self) -> Result<(), Errno> {
        ledger::claim(self.guard.ledger.as_fd(), entry_at(self.place))
    }

    fn write(&self, entry: &Entry) -> Result<(), Errno> {
        ledger::write(self.guard.ledger.as_fd(), &entry.encode(), entry_at(self.place))
    }
}

impl Drop for GuardEntry {
    fn drop(&mut self) {
        // A forked child shares the ledger of its parent, whose agents it must not free.
        if !self.guard.origin.is_here() {
            return;
        }
        // A place that cannot be freed is not given away: an entry of a process that is gone is
        // harmless, because the watcher compares the start times.
        if ledger::write(self.guard.ledger.as_fd(), &[0; ENTRY], entry_at(self.place)).is_ok() {
            let places = &self.guard.places;
            places.lock().unwrap_or_else(PoisonError::into_inner).free.push(self.place);
        }
    }
}

fn unavailable(what: &'static str) -> Error {
    Error::new(ErrorKind::GuardUnavailable, "start", what)
}

/// Returns whether a descriptor is readable, or at its end, within `limit`.
fn is_readable(fd: BorrowedFd<'_>, limit: Duration) -> bool {
    let limit = Timespec::try_from(limit).unwrap_or_default();
    poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&limit)).is_ok_and(|ready| ready > 0)
}
