//! System calls that rustix does not offer. Each passes numbers, null pointers, or pointers to locals of
//! the call.
//!
//! Invariant for the unsafe code: each call passes numbers and one pointer, to this stack frame or null;
//! the timespec is read only if the call succeeded.
#![expect(
    unsafe_code,
    reason = "clock_gettime(2) of another process, pidfd_send_signal(2) with flags, getsid(2)"
)]

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::Signal;

/// `PIDFD_SIGNAL_PROCESS_GROUP` of linux/pidfd.h, since Linux 6.9.
const SIGNAL_PROCESS_GROUP: libc::c_uint = 1 << 2;

/// Returns the processor time that all threads of a process have used until now, in nanoseconds. `None`
/// if there is no such process.
pub(super) fn cpu_time(pid: u32) -> Option<Duration> {
    // As clock_getcpuclockid(3) computes it: the number inverted, then CPUCLOCK_SCHED.
    // CPUCLOCK_SCHED counts nanoseconds; the other clocks may count ticks, which hide a short run.
    let clock = !libc::clockid_t::try_from(pid).ok()? << 3 | 2;
    let mut time = MaybeUninit::<libc::timespec>::uninit();
    // SAFETY: the call writes to a timespec on this stack and does not keep the pointer.
    if unsafe { libc::clock_gettime(clock, time.as_mut_ptr()) } != 0 {
        return None;
    }
    // SAFETY: the call succeeded, so it has written the timespec.
    let time = unsafe { time.assume_init() };
    Some(Duration::new(time.tv_sec.try_into().ok()?, time.tv_nsec.try_into().ok()?))
}

/// Sends a signal to the process group that the process of `pidfd` leads, also after that process was
/// reaped: the pidfd still names this group and no other. `None` only tests whether the group has a
/// member.
///
/// # Errors
/// `ESRCH` if the group has no member, `EINVAL` before Linux 6.9.
pub(super) fn signal_group(pidfd: BorrowedFd<'_>, signal: Option<Signal>) -> Result<(), Errno> {
    let signal = signal.map_or(0, Signal::as_raw);
    // SAFETY: passes numbers and a null pointer, which stands for the default siginfo. `pidfd` is open
    // while it is borrowed.
    let result = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            SIGNAL_PROCESS_GROUP,
        )
    };
    if result == 0 {
        return Ok(());
    }
    let error = std::io::Error::last_os_error();
    Err(Errno::from_io_error(&error).unwrap_or(Errno::IO))
}

/// Returns the session of this process; 0 if its leader is outside of the pid namespace, as for the first
/// process of a container, where `rustix::process::getsid` panics.
pub(super) fn session() -> u32 {
    // SAFETY: passes a number.
    u32::try_from(unsafe { libc::getsid(0) }).unwrap_or(0)
}

/// Waits for an event on a descriptor until the given time. Returns whether it came.
///
/// # Errors
/// `EINTR` if a signal handler of this process ran: the caller waits for the rest of its time.
pub(super) fn poll_until(fd: impl AsFd, flags: PollFlags, until: Instant) -> Result<bool, Errno> {
    let left = until.saturating_duration_since(Instant::now());
    // A time that does not fit is no limit.
    let left = Timespec::try_from(left).ok();
    poll(&mut [PollFd::new(&fd, flags)], left.as_ref()).map(|ready| ready > 0)
}
