//! Floor 1. A cgroup (version 2) for one agent: made before it, killed and removed after it.
//!
//! Where to make one is in `cgroup_place`. It costs no descriptor while the agent runs.

use std::cell::Cell;
use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::cgroup_place::{must_be_cgroups, place_of};
use super::failure;
use super::refusal::of_cgroup;
use crate::command::CgroupPlace;
use crate::error::{Error, ErrorKind};

/// Names tried: one is taken where a host with our process number was killed before it could
/// clean up.
const NAMES_MAX: usize = 4096;
/// An agent that makes cgroups of its own makes no deeper and no more than these.
const DEPTH_MAX: usize = 32;
const FOLDERS_MAX: usize = 4096;
/// How long a drop waits for killed processes to be gone.
const DROP_MAX: Duration = Duration::from_secs(1);

/// What became of a removal.
#[derive(Debug)]
pub(crate) enum Removal {
    /// It is gone, or given up with a warning.
    Done,
    /// Processes are left in it. The descriptor has POLLPRI when that changes.
    Busy(OwnedFd),
}

/// A cgroup of our making. Dropped, it is killed and removed, which may block for [`DROP_MAX`].
#[derive(Debug)]
pub(crate) struct Cgroup {
    path: PathBuf,
    /// Kept from the first failed removal on: a read of it is what re-arms its POLLPRI.
    events: Option<File>,
    /// The most processes beside the leader that a kill found.
    killed: Cell<u64>,
    gone: bool,
}

impl Cgroup {
    /// Makes one.
    pub(super) fn create(place: &CgroupPlace) -> Result<Self, Error> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let parent = place_of(place)?;
        must_be_cgroups(&parent)?;
        for _ in 0..NAMES_MAX {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let path = parent.join(format!("agentpipe-{}-{number}", std::process::id()));
            match fs::create_dir(&path) {
                Ok(()) => {
                    let killed = Cell::new(0);
                    return Ok(Self { path, events: None, killed, gone: false });
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(of_cgroup("made", &path, error)),
            }
        }
        let what = format!("{NAMES_MAX} cgroups of dead hosts are left in {}", parent.display());
        Err(Error::new(ErrorKind::CgroupUnavailable, failure::SPAWN, what)
            .remedy("remove them: `rmdir agentpipe-*` there"))
    }

    /// Its folder, for the birth of a process in it.
    pub(super) fn folder(&self) -> Result<OwnedFd, Error> {
        self.open("", OFlags::DIRECTORY)
    }

    /// Where a process writes "0" to join by itself.
    pub(super) fn procs(&self) -> Result<OwnedFd, Error> {
        self.open("cgroup.procs", OFlags::WRONLY)
    }

    fn open(&self, name: &str, flags: OFlags) -> Result<OwnedFd, Error> {
        let path = self.path.join(name);
        rustix::fs::open(&path, flags | OFlags::CLOEXEC, Mode::empty()).map_err(|errno| {
            failure::descriptors(errno).unwrap_or_else(|| of_cgroup("opened", &path, errno.into()))
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// SIGKILL to everybody in it, those that are being born included. True if it could be said.
    pub(super) fn kill(&self, leader: u32) -> bool {
        if self.gone {
            return false;
        }
        let others = members(&self.path).filter(|pid| *pid != leader).count() as u64;
        self.killed.set(self.killed.get().max(others));
        let said = File::options().write(true).open(self.path.join("cgroup.kill"));
        match said.and_then(|mut file| file.write_all(b"1")) {
            Ok(()) => true,
            Err(error) => {
                let cgroup = self.path.display();
                crate::trace::warn!(%cgroup, %error, "cgroup not killed");
                false
            }
        }
    }

    /// The most processes beside the leader that a kill found in it.
    pub(super) fn killed(&self) -> u64 {
        self.killed.get()
    }

    /// Removes it if it is empty. Never blocks.
    pub(super) fn remove(&mut self) -> Removal {
        if self.gone {
            return Removal::Done;
        }
        // Before the attempt: what changes after this read is what POLLPRI tells.
        let watched = self.read_events();
        let error = match remove_tree(&self.path, 0, &mut 0) {
            Ok(()) => {
                self.gone = true;
                self.events = None;
                return Removal::Done;
            }
            Err(error) => error,
        };
        let busy = Errno::from_io_error(&error) == Some(Errno::BUSY);
        if let (true, Some(events)) = (busy, watched) {
            return Removal::Busy(events);
        }
        let cgroup = self.path.display();
        crate::trace::warn!(%cgroup, %error, "cgroup not removed");
        self.gone = true;
        Removal::Done
    }

    /// Leaves it and who lives in it alone, as was asked for; an empty one is removed.
    pub(super) fn leave(&mut self) {
        if !self.gone && remove_tree(&self.path, 0, &mut 0).is_err() {
            crate::trace::debug!(cgroup = %self.path.display(), "left with its processes");
        }
        self.gone = true;
        self.events = None;
    }

    fn read_events(&mut self) -> Option<OwnedFd> {
        if self.events.is_none() {
            self.events = File::open(self.path.join("cgroup.events")).ok();
        }
        let events = self.events.as_mut()?;
        events.rewind().ok()?;
        let mut text = [0; 64];
        let _what_it_says = events.read(&mut text).ok()?;
        // The same open file: a read of ours re-arms what the copy waits for.
        events.as_fd().try_clone_to_owned().ok()
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if self.gone {
            return;
        }
        self.kill(0);
        while let Removal::Busy(events) = self.remove() {
            let limit = Timespec::try_from(DROP_MAX).unwrap_or_default();
            let mut polled = [PollFd::new(&events, PollFlags::PRI)];
            if poll(&mut polled, Some(&limit)) != Ok(1) {
                crate::trace::warn!(cgroup = %self.path.display(), "cgroup not removed: it is not empty");
                return;
            }
        }
    }
}

/// The processes in it; none where it cannot be read.
fn members(path: &Path) -> impl Iterator<Item = u32> {
    let text = fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).collect::<Vec<u32>>().into_iter()
}

/// The agent may have made cgroups below its own.
fn remove_tree(path: &Path, depth: usize, seen: &mut usize) -> io::Result<()> {
    match fs::remove_dir(path) {
        Err(error) if Errno::from_io_error(&error) == Some(Errno::BUSY) && depth < DEPTH_MAX => {
            for entry in fs::read_dir(path)?.flatten() {
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) && *seen < FOLDERS_MAX {
                    *seen += 1;
                    remove_tree(&entry.path(), depth + 1, seen)?;
                }
            }
            fs::remove_dir(path)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}
