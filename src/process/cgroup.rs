//! The cgroup (version 2) of one agent: made before the agent, killed and removed after it. It costs
//! no descriptor while the agent runs.

use std::cell::Cell;
use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::event::PollFlags;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::error::{self, SPAWN, of_cgroup, of_guard, quoted};
use super::guard::GuardEntry;
use super::procfs::{CgroupMount, cgroup_path};
use super::sys::poll_until;
use crate::command::CgroupPlace;
use crate::error::{Error, ErrorKind};

/// The magic number of the cgroup2 file system.
const CGROUP2_MAGIC: rustix::fs::FsWord = 0x6367_7270;
/// How many names are tried. A name is taken if a host with the same process number was killed
/// before it removed its cgroups.
const NAMES_MAX: usize = 4096;
/// How deep the cgroups are removed that an agent has made below its own.
const DEPTH_MAX: usize = 32;
/// How many of them are removed.
const FOLDERS_MAX: usize = 4096;
/// How long a drop waits until the killed processes are gone.
const DROP_MAX: Duration = Duration::from_secs(1);

/// The outcome of an attempt to remove a cgroup.
#[derive(Debug)]
pub(crate) enum Removal {
    /// The cgroup is gone, or was given up with a warning.
    Done,
    /// Processes are left in it. The descriptor reports POLLPRI when that changes.
    Busy(OwnedFd),
}

/// A cgroup that this process made. Dropping it kills and removes it, which may block for
/// [`DROP_MAX`].
#[derive(Debug)]
pub(crate) struct Cgroup {
    path: PathBuf,
    /// `cgroup.events`, kept from the first failed removal on: a read re-arms its POLLPRI.
    events: Option<File>,
    /// The most processes beside the leader that a kill has found.
    killed: Cell<u64>,
    gone: bool,
}

impl Cgroup {
    /// Makes a cgroup with a new name, which a guard knows before it is there.
    pub(super) fn create(place: &CgroupPlace, guarded: Option<&GuardEntry>) -> Result<Self, Error> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let parent = parent_folder(place)?;
        // On another file system the mkdir below would succeed and make an ordinary folder.
        check_cgroup2(&parent)?;
        for _ in 0..NAMES_MAX {
            // Relaxed is enough: the numbers only have to differ.
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let path = parent.join(format!("agentpipe-{}-{number}", std::process::id()));
            if let Some(entry) = guarded {
                entry.note_cgroup(&parent, number, false).map_err(of_guard)?;
            }
            match fs::create_dir(&path) {
                Ok(()) => {
                    if let Some(entry) = guarded {
                        entry.note_cgroup(&parent, number, true).map_err(of_guard)?;
                    }
                    let killed = Cell::new(0);
                    return Ok(Self { path, events: None, killed, gone: false });
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(of_cgroup("made", &path, error)),
            }
        }
        let what = format!("{NAMES_MAX} cgroups of dead hosts are left in {}", parent.display());
        Err(Error::new(ErrorKind::CgroupUnavailable, SPAWN, what)
            .remedy("remove them: `rmdir agentpipe-*` there"))
    }

    /// Opens its folder, for clone3(2) with CLONE_INTO_CGROUP.
    pub(super) fn folder(&self) -> Result<OwnedFd, Error> {
        self.open("", OFlags::DIRECTORY)
    }

    /// Opens the file into which a process writes "0" to join.
    pub(super) fn procs(&self) -> Result<OwnedFd, Error> {
        self.open("cgroup.procs", OFlags::WRONLY)
    }

    fn open(&self, name: &str, flags: OFlags) -> Result<OwnedFd, Error> {
        let path = self.path.join(name);
        rustix::fs::open(&path, flags | OFlags::CLOEXEC, Mode::empty()).map_err(|errno| {
            error::descriptors(errno).unwrap_or_else(|| of_cgroup("opened", &path, errno.into()))
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Kills all processes in it, those that are being forked included. Returns whether the kernel
    /// accepted the kill.
    pub(super) fn kill(&self, leader: u32) -> bool {
        if self.gone {
            return false;
        }
        // The members are counted before the kill, because a dead process is no longer in
        // `cgroup.procs`.
        let others = members(&self.path).filter(|pid| *pid != leader).count() as u64;
        // A close may kill more than once, and a later kill finds fewer processes.
        self.killed.set(self.killed.get().max(others));
        // One write kills all processes in the tree. The file exists from Linux 5.14 on; on older
        // kernels only the process group is killed.
        let file = File::options().write(true).open(self.path.join("cgroup.kill"));
        match file.and_then(|mut file| file.write_all(b"1")) {
            Ok(()) => true,
            Err(error) => {
                let cgroup = self.path.display();
                crate::trace::warn!(%cgroup, %error, "cgroup not killed");
                false
            }
        }
    }

    /// Returns the most processes beside the leader that a kill has found in it.
    pub(super) fn killed(&self) -> u64 {
        self.killed.get()
    }

    /// Removes it if it is empty. Never blocks.
    pub(super) fn remove(&mut self) -> Removal {
        if self.gone {
            return Removal::Done;
        }
        // Read before the attempt: POLLPRI reports what changes after the read.
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
        // No event would report a later chance: the error is not EBUSY, or the events cannot be
        // read. So the cgroup is given up.
        let cgroup = self.path.display();
        crate::trace::warn!(%cgroup, %error, "cgroup not removed");
        self.gone = true;
        Removal::Done
    }

    /// Leaves the cgroup and the processes in it alone; an empty one is removed.
    pub(super) fn leave(&mut self) {
        if !self.gone && remove_tree(&self.path, 0, &mut 0).is_err() {
            crate::trace::debug!(cgroup = %self.path.display(), "cgroup left with its processes");
        }
        self.gone = true;
        self.events = None;
    }

    fn read_events(&mut self) -> Option<OwnedFd> {
        if self.events.is_none() {
            self.events = File::open(self.path.join("cgroup.events")).ok();
        }
        let events = self.events.as_mut()?;
        // The kernel re-arms POLLPRI when it produces the text, which it does for a read from the
        // beginning only. The text itself does not matter: the attempt to remove the cgroup shows
        // whether it is empty.
        events.rewind().ok()?;
        let mut text = [0; 64];
        let _length = events.read(&mut text).ok()?;
        // The copy shares the open file, so the next read here re-arms its POLLPRI.
        events.as_fd().try_clone_to_owned().ok()
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if self.gone {
            return;
        }
        // No leader is left out of the count, which nothing reads after a drop.
        self.kill(0);
        let until = Instant::now() + DROP_MAX;
        while let Removal::Busy(events) = self.remove() {
            // After a signal handler of the host the wait goes on: the loop tries again.
            if !matches!(poll_until(&events, PollFlags::PRI, until), Ok(true) | Err(Errno::INTR)) {
                crate::trace::warn!(cgroup = %self.path.display(), "cgroup not removed: it is not empty");
                return;
            }
        }
    }
}

/// Returns the processes in a cgroup; none if it cannot be read.
fn members(path: &Path) -> impl Iterator<Item = u32> {
    let text = fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).collect::<Vec<u32>>().into_iter()
}

/// Removes a cgroup and those that the agent has made below it.
fn remove_tree(path: &Path, depth: usize, seen: &mut usize) -> io::Result<()> {
    match fs::remove_dir(path) {
        // EBUSY may mean processes, or cgroups below it, which have to be removed first.
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

/// Returns the folder in which to make the cgroup of an agent.
fn parent_folder(place: &CgroupPlace) -> Result<PathBuf, Error> {
    match place {
        CgroupPlace::Beneath(folder) => Ok(folder.clone()),
        CgroupPlace::Own => own_folder().ok_or_else(|| {
            Error::new(
                ErrorKind::CgroupUnavailable,
                SPAWN,
                "no cgroup2 file system that holds this process is mounted here",
            )
            .remedy("mount one, or do without AgentCommand::cgroup")
        }),
    }
}

/// The mount that the last look-up found.
static LAST: Mutex<Option<CgroupMount>> = Mutex::new(None);

/// Returns the folder of this process's own cgroup. Looked up for each agent, because a service
/// manager may move the process.
pub(super) fn own_folder() -> Option<PathBuf> {
    let cgroups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let is_there = |folder: &Path| check_cgroup2(folder).is_ok();
    let mounts = || fs::read("/proc/self/mountinfo").ok();
    match LAST.try_lock() {
        Ok(mut last) => cached_folder(&cgroups, &mut last, is_there, mounts),
        // Another thread lists the mounts. It may not exist: a fork copies a lock that is held.
        Err(_) => cached_folder(&cgroups, &mut None, is_there, mounts),
    }
}

/// Reads the list of mounts once, and again when the known mount no longer has the cgroup: a host
/// with a thousand mounts needs milliseconds to list them.
fn cached_folder(
    cgroups: &str,
    last: &mut Option<CgroupMount>,
    is_there: impl Fn(&Path) -> bool,
    mounts: impl FnOnce() -> Option<Vec<u8>>,
) -> Option<PathBuf> {
    let path = cgroup_path(cgroups, "")?;
    let known = last.as_ref().and_then(|mount| mount.folder(path));
    known.filter(|folder| is_there(folder)).or_else(|| {
        let mount = CgroupMount::find(path, &mounts()?, "")?;
        let folder = mount.folder(path);
        *last = Some(mount);
        folder
    })
}

/// Fails unless the folder is on a cgroup2 file system: one that a user named may be anywhere, and
/// another file system may have been mounted over a known one.
fn check_cgroup2(folder: &Path) -> Result<(), Error> {
    let kind =
        rustix::fs::statfs(folder).map_err(|errno| of_cgroup("made", folder, errno.into()))?;
    if kind.f_type == CGROUP2_MAGIC {
        return Ok(());
    }
    let what = format!("{} is on no cgroup2 file system", quoted(folder));
    Err(Error::new(ErrorKind::CgroupUnavailable, SPAWN, what)
        .remedy("give a folder of the cgroup2 mount (`findmnt -t cgroup2`)"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fork_with_a_held_lock_does_not_hang() {
        // A child of fork has no thread that would release the lock.
        let found = own_folder();
        let _held = LAST.lock();
        assert_eq!(own_folder(), found);
    }

    #[test]
    fn mounts_are_listed_again_only_after_a_move() {
        // A host of containers has a thousand mounts, and every spawn listed them all.
        let at = |point: &str| {
            let line = format!("24 1 0:22 / {point} rw - cgroup2 cgroup2 rw\n");
            move || Some(line.clone().into_bytes())
        };
        let is = |path: &str| Some(PathBuf::from(path));
        let unread = || -> Option<Vec<u8>> { panic!("listed again") };
        let mut last = None;
        assert_eq!(cached_folder("0::/a\n", &mut last, |_| true, at("/one")), is("/one/a"));
        assert_eq!(cached_folder("0::/b\n", &mut last, |_| true, unread), is("/one/b"));
        let moved = |folder: &Path| folder.starts_with("/two");
        assert_eq!(cached_folder("0::/b\n", &mut last, moved, at("/two")), is("/two/b"));
        assert_eq!(cached_folder("0::/c\n", &mut last, moved, unread), is("/two/c"));
        // A cgroup that is not visible in the known mount may be visible in another.
        let mut part = Some(CgroupMount { root: "/docker".into(), point: "/part".into() });
        assert_eq!(cached_folder("0::/x\n", &mut part, |_| true, at("/all")), is("/all/x"));
    }
}
