//! The cgroup (version 2) of one agent: made before the agent, killed and removed after it. It costs
//! no descriptor while the agent runs.

use std::cell::Cell;
use std::collections::HashSet;
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
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

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
/// How often the processes of a cgroup are listed to kill them one by one.
const PASSES_MAX: usize = 32;
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

    /// Kills all processes in it, those that are being forked included. Returns whether a process was
    /// killed.
    pub(super) fn kill(&self, leader: u32) -> bool {
        if self.gone {
            return false;
        }
        // The members are counted before the kill, because a dead process is no longer in
        // `cgroup.procs`.
        let others = members(&self.path).filter(|pid| *pid != leader).count() as u64;
        // A close may kill more than once, and a later kill finds fewer processes.
        self.killed.set(self.killed.get().max(others));
        self.kill_by("cgroup.kill")
    }

    /// One write to the file kills all processes in the tree. It exists from Linux 5.14 on.
    fn kill_by(&self, file: &str) -> bool {
        let file = File::options().write(true).open(self.path.join(file));
        match file.and_then(|mut file| file.write_all(b"1")) {
            Ok(()) => true,
            Err(error) => {
                let cgroup = self.path.display();
                crate::trace::debug!(%cgroup, %error, "its processes are killed one by one");
                self.kill_each()
            }
        }
    }

    /// Kills the processes one by one, until a pass finds none that was not killed before. Returns
    /// whether one was.
    fn kill_each(&self) -> bool {
        // A frozen process does not fork, and SIGKILL ends it all the same. The freeze takes a moment
        // and may be refused, so a pass may still find new processes.
        let freeze = |value: &str| fs::write(self.path.join("cgroup.freeze"), value);
        let _refused = freeze("1");
        let mut killed = HashSet::new();
        for _ in 0..PASSES_MAX {
            let before = killed.len();
            let open = |pid: u32| {
                let number = Pid::from_raw(i32::try_from(pid).ok()?)?;
                Some((pid, pidfd_open(number, PidfdFlags::empty()).ok()?))
            };
            let new = all_members(&self.path).into_iter().filter(|pid| !killed.contains(pid));
            let opened: Vec<_> = new.filter_map(open).collect();
            // A number that is listed again still means the process of its pidfd, or that one is dead:
            // no process outside of the cgroup is killed.
            let members = all_members(&self.path);
            for (pid, pidfd) in opened {
                if members.contains(&pid) && pidfd_send_signal(&pidfd, Signal::KILL).is_ok() {
                    killed.insert(pid);
                }
            }
            if killed.len() == before {
                break;
            }
        }
        // For those that this process may not kill.
        let _refused = freeze("0");
        !killed.is_empty()
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

/// Returns the processes in a cgroup and in those below it.
fn all_members(path: &Path) -> HashSet<u32> {
    let (mut found, mut seen) = (HashSet::new(), 1);
    let mut folders = vec![path.to_owned()];
    while let Some(folder) = folders.pop() {
        found.extend(members(&folder));
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        let below = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        let below: Vec<_> = below.take(FOLDERS_MAX - seen).map(|entry| entry.path()).collect();
        seen += below.len();
        folders.extend(below);
    }
    found
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

    /// Joins the cgroup `$0`, starts a process in one below it and another in a session of its own, and goes
    /// on starting processes.
    const CROWD: &str = "echo $$ >$0/cgroup.procs && mkdir $0/inner || exit 1
        sh -c 'echo $$ >$0/inner/cgroup.procs; exec sleep 1000' $0 &
        setsid sleep 1000 &
        sleep 0.05; echo
        while :; do sleep 1000 & sleep 0.001; done";

    #[test]
    fn kernel_without_cgroup_kill_kills_each_process() {
        // Before Linux 5.14 only the process group was killed, and the daemons of an agent lived on.
        for file in ["cgroup.kill", "no-such-file"] {
            let mut cgroup = match Cgroup::create(&CgroupPlace::Own, None) {
                Ok(cgroup) => cgroup,
                // This process can make no cgroup here.
                Err(error) => return assert_eq!(error.kind(), ErrorKind::CgroupUnavailable),
            };
            let mut crowd = std::process::Command::new("/bin/sh");
            crowd.args(["-c", CROWD]).arg(&cgroup.path).stdout(std::process::Stdio::piped());
            let mut crowd = crowd.spawn().expect("starts");
            let mut byte = [0; 1];
            crowd.stdout.as_mut().expect("piped").read_exact(&mut byte).expect("it is up");
            assert!(all_members(&cgroup.path).len() >= 3);
            assert!(cgroup.kill_by(file), "{file}");
            let until = Instant::now() + Duration::from_secs(20);
            while let Removal::Busy(events) = cgroup.remove() {
                let changed = poll_until(&events, PollFlags::PRI, until).expect("poll");
                assert!(changed, "{file}: alive are {:?}", all_members(&cgroup.path));
            }
            assert!(!crowd.wait().expect("ours").success(), "{file}");
        }
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
