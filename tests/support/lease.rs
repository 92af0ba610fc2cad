//! A program whose exec hangs, as on a file server that does not answer: the file is under a write
//! lease, and an open waits until the lease is given up.
#![expect(unsafe_code, reason = "leases need a raw fcntl")]

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;

use super::wait_until;

/// The number on every Linux; libc does not name it.
const F_SETSIG: i32 = 10;

/// The lease; given up when dropped.
pub(crate) struct Lease {
    file: File,
}

impl Lease {
    /// On a file that is not open elsewhere. The kernel gives it up after `fs.lease-break-time` (45 s).
    pub(crate) fn take(path: &Path) -> Self {
        // For reading: a program that is open for writing cannot be run, and the exec goes
        // on a moment before a descriptor that is being closed is closed.
        let file = File::open(path).expect("ours");
        let set = |command, value: i32| {
            // SAFETY: passes numbers only; the descriptor is open.
            let set = || unsafe { libc::fcntl(file.as_raw_fd(), command, value) } == 0;
            // A child that another thread spawns has a copy of the descriptor until its exec.
            wait_until("the file is not open elsewhere", set);
        };
        // The signal to the holder of a lease when another process opens the file: an ignored one,
        // because the default one ends the process.
        set(F_SETSIG, libc::SIGURG);
        set(libc::F_SETLEASE, libc::F_WRLCK);
        Self { file }
    }

    /// Whether an open or an exec waits for it.
    pub(crate) fn is_wanted(&self) -> bool {
        // SAFETY: passes numbers only; the descriptor is open.
        let lease = unsafe { libc::fcntl(self.file.as_raw_fd(), libc::F_GETLEASE) };
        lease != libc::F_WRLCK
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // SAFETY: passes numbers only; the descriptor is open.
        unsafe { libc::fcntl(self.file.as_raw_fd(), libc::F_SETLEASE, libc::F_UNLCK) };
    }
}
