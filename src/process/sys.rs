//! System calls that rustix does not offer.
#![expect(
    unsafe_code,
    reason = "clock_gettime(2) of another process, and pidfd_send_signal(2) with flags"
)]

use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::Signal;

/// `PIDFD_SIGNAL_PROCESS_GROUP` of linux/pidfd.h, since Linux 6.9.
const SIGNAL_PROCESS_GROUP: libc::c_uint = 1 << 2;

/// Processor time of all threads of a process, to the nanosecond and up to this moment. `None` where
/// there is no such process.
pub(super) fn cpu_time(pid: u32) -> Option<Duration> {
    // From the kernel's posix-timers: the number inverted, then CPUCLOCK_SCHED for a whole process.
    let clock = !libc::clockid_t::try_from(pid).ok()? << 3 | 2;
    let mut time = MaybeUninit::<libc::timespec>::uninit();
    // SAFETY: the pointer is to a timespec on this stack, which the call fills in and does not keep.
    if unsafe { libc::clock_gettime(clock, time.as_mut_ptr()) } != 0 {
        return None;
    }
    // SAFETY: the call succeeded, so it has filled the timespec in.
    let time = unsafe { time.assume_init() };
    Some(Duration::new(time.tv_sec.try_into().ok()?, time.tv_nsec.try_into().ok()?))
}

/// Sends a signal to the process group that a pidfd's process leads, also after that process was
/// reaped: the pidfd keeps the group from being mistaken for another. `None` only asks whether the
/// group has a member; `ESRCH` says that it has none. `EINVAL` before Linux 6.9.
pub(super) fn signal_group(pidfd: BorrowedFd<'_>, signal: Option<Signal>) -> Result<(), Errno> {
    let signal = signal.map_or(0, Signal::as_raw);
    // SAFETY: passes numbers and a null pointer, which asks for the default siginfo. `pidfd` is open
    // for as long as it is borrowed.
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
