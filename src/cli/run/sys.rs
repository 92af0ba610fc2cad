//! Descriptors that the parent left to this process, and an end without a wait.
//!
//! Invariant: each number above 2 is taken at most once, before this process opens a descriptor that is
//! not close-on-exec. So the one that takes it is its only owner.
#![expect(unsafe_code, reason = "descriptors by number, and _exit(2), have no safe form")]

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

/// Takes a descriptor that was inherited. An error if there is none of this number: what is close-on-exec was
/// opened by this process.
pub(super) fn take_inherited(number: u32) -> io::Result<OwnedFd> {
    let number = RawFd::try_from(number).map_err(|_| io::Error::from_raw_os_error(libc::EBADF))?;
    // SAFETY: takes no pointer; a number that is not open is an error.
    let flags = unsafe { libc::fcntl(number, libc::F_GETFD) };
    if flags < 0 {
        return Err(io::Error::last_os_error());
    }
    if flags & libc::FD_CLOEXEC != 0 || number <= libc::STDERR_FILENO {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: it is open, and has no other owner: see the invariant.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Ends this process at once, without a wait for an agent that does not end.
pub(super) fn exit_now(code: u8) -> ! {
    // SAFETY: takes no pointer and does not return. Nothing is buffered: every line was written.
    unsafe { libc::_exit(code.into()) }
}
