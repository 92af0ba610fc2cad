//! The signals that end a run, and SIGCHLD, on a signalfd, and a defined signal state at the start. The state is
//! inherited: a launcher may have blocked SIGTERM or ignored SIGCHLD, or be `nohup`.
//!
//! Invariant: signal sets are initialised before they are read, no handler is installed (only SIG_DFL and
//! SIG_IGN), and the signalfd is new and has one owner. The mask is set before the process has a second
//! thread, so that every thread inherits it.
#![expect(unsafe_code, reason = "signalfd(2), the mask and the dispositions have no safe form")]

use std::cell::Cell;
use std::ffi::c_int;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{FromRawFd, OwnedFd};
use std::ptr;

use rustix::event::{PollFd, PollFlags};

/// The kernel's `struct signalfd_siginfo`; the signal's number is its first word.
const SIGINFO: usize = 128;

#[derive(Debug)]
pub(super) struct Signals {
    signalfd: OwnedFd,
    /// A SIGCHLD came.
    child_died: Cell<bool>,
}

/// The signals that close the agent. The last five would otherwise end this process at once, and
/// leave an agent that does not heed the end of its input.
const ENDING: [c_int; 7] = [
    libc::SIGTERM,
    libc::SIGINT,
    libc::SIGHUP,
    libc::SIGQUIT,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGALRM,
];

impl Signals {
    /// Blocks the signals and opens a signalfd for them. Must be called before the process has a second
    /// thread. The agent gets an empty mask.
    ///
    /// A signal that is ignored stays so, as under `nohup` and in the background of a script. SIGTERM
    /// does not, because without it there is no orderly end: the kernel keeps a blocked signal for
    /// the signalfd whatever its disposition.
    pub(super) fn take_over() -> io::Result<Self> {
        // If SIGCHLD is ignored, the kernel reaps the agent and its exit code is lost.
        set_disposition(libc::SIGCHLD, libc::SIG_DFL);
        // With SIGXFSZ ignored, a file at its size limit is an error of write(2) and does not kill.
        set_disposition(libc::SIGXFSZ, libc::SIG_IGN);
        let taken = |signal: &c_int| *signal == libc::SIGTERM || !is_ignored(*signal);
        let set = set_of(ENDING.into_iter().filter(taken).chain([libc::SIGCHLD]));
        // SAFETY: reads `set`, which `set_of` initialised; a null third argument asks for nothing
        // back. The mask is that of the calling thread.
        let refused =
            unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, ptr::null_mut()) };
        if refused != 0 {
            return Err(io::Error::from_raw_os_error(refused));
        }
        // SAFETY: reads `set`, which `set_of` initialised; -1 asks for a new descriptor.
        let fd =
            unsafe { libc::signalfd(-1, &raw const set, libc::SFD_NONBLOCK | libc::SFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor is new, and this is its only owner.
        Ok(Self { signalfd: unsafe { OwnedFd::from_raw_fd(fd) }, child_died: Cell::new(false) })
    }

    /// Returns the number of the next signal that ends the run, if one is pending.
    pub(super) fn next(&self) -> Option<i32> {
        loop {
            let mut siginfo = [0; SIGINFO];
            let len = rustix::io::read(&self.signalfd, &mut siginfo).unwrap_or(0);
            let number = siginfo.first_chunk().map(|word| i32::from_ne_bytes(*word))?;
            match number {
                _ if len < SIGINFO => return None,
                libc::SIGCHLD => self.child_died.set(true),
                number => return Some(number),
            }
        }
    }

    /// Returns whether a child died, as far as [`next`](Self::next) has seen, since the last call.
    pub(super) fn take_child_died(&self) -> bool {
        self.child_died.take()
    }

    pub(super) fn poll_fd(&self) -> PollFd<'_> {
        PollFd::new(&self.signalfd, PollFlags::IN)
    }
}

fn set_of(signals: impl Iterator<Item = c_int>) -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: writes the whole set, which is on this stack.
    unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    for signal in signals {
        // SAFETY: the set was initialised just above, and the number is one of a signal.
        unsafe { libc::sigaddset(set.as_mut_ptr(), signal) };
    }
    // SAFETY: `sigemptyset` initialised it.
    unsafe { set.assume_init() }
}

fn is_ignored(signal: c_int) -> bool {
    let mut now = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: a null second argument changes nothing; writes to `now`, which is on this stack.
    unsafe { libc::sigaction(signal, ptr::null(), now.as_mut_ptr()) };
    // SAFETY: all zero is a `sigaction`, too, where the call wrote nothing.
    unsafe { now.assume_init() }.sa_sigaction == libc::SIG_IGN
}

/// Sets a signal to SIG_DFL or SIG_IGN.
fn set_disposition(signal: c_int, disposition: libc::sighandler_t) {
    // SAFETY: neither disposition is a function, so no code runs in a signal handler.
    unsafe { libc::signal(signal, disposition) };
}
