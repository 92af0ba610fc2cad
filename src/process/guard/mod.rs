//! The guard of an engine: a process that outlives the host and then kills what the host has spawned.
//!
//! ```text
//! host side      mod.rs: starts the watcher, tags agents; ledger.rs: the cgroups to be removed
//! watcher side   watcher.rs: a process that waits for the death of the host; hunt.rs: what it does then
//! pure           tag.rs, census.rs: which processes belong to the agents
//! ```
//!
//! The watcher is a process with memory of its own: the kernel's out-of-memory killer ends all
//! processes that share a memory. It waits for the host's pidfd, which a forked copy of the host does not
//! hold back, and for the end of a socket, which an exec of the host closes. A byte on that socket says
//! that the engine has ended, and then nothing is killed.
//!
//! Agents are found by a tag that they inherit to all they ever start. An agent gets it between its clone
//! and its exec, and then looks whether the host lives, so there is no instant at which a death of the
//! host would leave it unknown.

mod census;
mod hunt;
mod ledger;
mod tag;
mod watcher;

use std::cell::Cell;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send};
use rustix::process::{
    PidfdFlags, Resource, Rlimit, WaitId, WaitIdOptions, getpid, getrlimit, pidfd_open, waitid,
};

use super::procfs;
use crate::error::{Error, ErrorKind};
use crate::origin::Origin;

pub(super) use tag::locks_of;

use ledger::{ENTRY, Entry, FOLDER, FOLDERS_MAX, entry_at, folder_at};
use tag::Word;
use watcher::WatcherPlan;

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
    word: Word,
    /// The hard limit of the agents for file locks: that of the host, if it is an agent itself.
    locks_max: u64,
    places: Mutex<Places>,
    origin: Origin,
}

/// The free places of the ledger.
#[derive(Debug, Default)]
struct Places {
    free: Vec<u64>,
    next: u64,
    /// How many agents were spawned.
    spawned: u64,
    /// The folders that hold cgroups of agents, in the order of the ledger.
    folders: Vec<std::path::PathBuf>,
}

/// One agent, from before its clone until it is gone: its tag, and its cgroup in the ledger.
#[derive(Debug)]
pub(super) struct GuardEntry {
    guard: Arc<Guard>,
    /// The place of its cgroup in the ledger, if it has one.
    place: Cell<Option<u64>>,
    /// The tag of the agent.
    tag: u64,
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
        let locks_max = getrlimit(Resource::Locks).maximum;
        let random = RandomState::new().build_hasher().finish();
        let word = Word::new(random, locks_max).ok_or_else(|| {
            unavailable("RLIMIT_LOCKS of this process, by which the agents are found, is too low")
                .remedy("leave it unlimited (LimitLOCKS=): Linux does not limit file locks by it")
        })?;
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
        let host = pidfd_open(getpid(), PidfdFlags::empty()).map_err(|errno| match errno {
            Errno::MFILE | Errno::NFILE => failed(no_descriptor)(errno),
            errno => unavailable("pidfd_open(2), by which the guard sees the host end, is refused")
                .remedy("allow it in the seccomp profile (Linux 5.3 has it), or do without a guard")
                .cause(errno.into()),
        })?;
        let plan = WatcherPlan {
            host: host.as_fd(),
            line: theirs.as_fd(),
            ledger: ledger.as_fd(),
            host_pid: std::process::id(),
            host_session: super::sys::session(),
            word,
        };
        let (pid, watcher) = watcher::start(&plan).map_err(|errno| match errno {
            Errno::AGAIN => unavailable("no process left for the guard")
                .remedy("raise RLIMIT_NPROC, pids.max or kernel.threads-max")
                .cause(errno.into()),
            errno => unavailable("the guard process cannot be started").cause(errno.into()),
        })?;
        // With our copy open the socket would not report the end of the watcher.
        drop(theirs);
        // From here on an error drops the guard, which ends the watcher.
        let guard = Self {
            ledger,
            line,
            watcher,
            watcher_pid: pid.as_raw_pid().unsigned_abs(),
            word,
            locks_max: locks_max.unwrap_or_else(|| word.last()),
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

    /// Returns the entry of a new agent.
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
        let mut places = self.places();
        places.spawned += 1;
        let tag = self.word.tag(places.spawned);
        drop(places);
        Ok(GuardEntry { guard: Arc::clone(self), place: Cell::new(None), tag })
    }

    fn places(&self) -> MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_place(&self) -> u64 {
        let mut places = self.places();
        places.free.pop().unwrap_or_else(|| {
            places.next += 1;
            places.next - 1
        })
    }

    /// Returns the number of a folder that holds cgroups, and writes its path into the ledger once.
    fn folder(&self, folder: &Path) -> Result<u64, Errno> {
        use std::os::unix::ffi::OsStrExt;
        // The watcher has another working directory.
        let folder = std::path::absolute(folder).map_err(|_| Errno::NOENT)?;
        let mut places = self.places();
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
    /// Notes the cgroup `agentpipe-HOST-<number>` in `folder`: before it is made, and after.
    pub(super) fn note_cgroup(
        &self,
        folder: &Path,
        number: u64,
        is_made: bool,
    ) -> Result<(), Errno> {
        let folder = self.guard.folder(folder)? + 1;
        let place = self.place.get().unwrap_or_else(|| self.guard.take_place());
        self.place.set(Some(place));
        let entry = Entry { folder, number, is_made: is_made.into() };
        ledger::write(self.guard.ledger.as_fd(), &entry.encode(), entry_at(place))
    }

    /// Returns the limit for file locks by which the processes of the agent are found.
    pub(super) fn tag(&self) -> Rlimit {
        Rlimit { current: Some(self.tag), maximum: Some(self.guard.locks_max) }
    }
}

impl Drop for GuardEntry {
    fn drop(&mut self) {
        let Some(place) = self.place.get() else { return };
        // A forked child shares the ledger of its parent.
        if self.guard.origin.is_here()
            // A place that cannot be freed is not given away: a cgroup that is gone does no harm.
            && ledger::write(self.guard.ledger.as_fd(), &[0; ENTRY], entry_at(place)).is_ok()
        {
            self.guard.places().free.push(place);
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
