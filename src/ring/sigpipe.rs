//! Floor 1. Keeps SIGPIPE from the thread that writes to pipes.
#![expect(unsafe_code, reason = "signal masks have no safe interface")]

use std::io;
use std::mem::MaybeUninit;
use std::ptr;

/// Blocks SIGPIPE in the calling thread, whatever the host program does with it. A write to a
/// dead reader is an EPIPE completion and nothing else.
///
/// The mask is inherited by what this thread spawns: spawning must reset it.
pub(crate) fn block_sigpipe() -> io::Result<()> {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: writes the whole set.
    unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    // SAFETY: the set was initialised above.
    unsafe { libc::sigaddset(set.as_mut_ptr(), libc::SIGPIPE) };
    // SAFETY: reads the set and changes the mask of this thread only.
    match unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, set.as_ptr(), ptr::null_mut()) } {
        0 => Ok(()),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}
