//! Closes the descriptors that a new process must not have.
//!
//! Runs between a clone and an exec, in memory that is shared, and after a fork: system calls only, no
//! allocation, no lock, nothing that can panic.
//!
//! Invariant for the unsafe code: the calls take numbers only. They close descriptors in the caller's own
//! table, which is a copy of that of the host and of which the caller uses only what it keeps.
#![expect(unsafe_code, reason = "descriptors by number have no safe form")]

use std::ffi::{c_int, c_long};
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;

use rustix::fs::{Mode, OFlags, RawDir};
use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};

/// The most numbers that are tried where nothing lists the open ones: the kernel's default for the highest
/// limit that a process can have (`fs.nr_open`). Takes about 0.1 s.
const NUMBERS_MAX: u64 = 1 << 20;

/// Closes all descriptors from `first` on but those in `kept`, which ascend.
///
/// Kernels before 5.9 and some filters of containers refuse close_range(2). Then the open ones are listed, and
/// without `/proc` every number up to the limit is closed.
pub(super) fn close_all_but(first: c_int, kept: impl Iterator<Item = c_int> + Clone) {
    let by_range = close_ranges(first, kept.clone());
    if by_range.or_else(|_| close_listed(first, kept.clone())).is_err() {
        close_numbers(first, kept);
    }
}

fn close_ranges(first: c_int, kept: impl Iterator<Item = c_int>) -> Result<(), Errno> {
    let mut from = c_long::from(first);
    for number in kept.map(c_long::from) {
        if from < number {
            close_range(from, number - 1)?;
        }
        from = number.saturating_add(1);
    }
    close_range(from, c_long::from(u32::MAX))
}

fn close_range(first: c_long, last: c_long) -> Result<(), Errno> {
    // SAFETY: takes numbers; see the invariant.
    match unsafe { libc::syscall(libc::SYS_close_range, first, last, 0 as c_long) } {
        0 => Ok(()),
        // Any error means that the call cannot be used.
        _ => Err(Errno::NOSYS),
    }
}

fn close_listed(first: c_int, kept: impl Iterator<Item = c_int> + Clone) -> Result<(), Errno> {
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = rustix::fs::open(c"/proc/self/fd", flags, Mode::empty())?;
    let mut buffer = [MaybeUninit::uninit(); 2048];
    let mut entries = RawDir::new(&folder, &mut buffer);
    // The kernel lists by number, so what is closed on the way moves no entry behind it.
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = str::from_utf8(entry.file_name().to_bytes()).unwrap_or_default();
        let Ok(number) = name.parse::<c_int>() else { continue };
        if number >= first && number != folder.as_raw_fd() && !kept.clone().any(|it| it == number) {
            close(number);
        }
    }
    Ok(())
}

fn close_numbers(first: c_int, kept: impl Iterator<Item = c_int> + Clone) {
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(NUMBERS_MAX).min(NUMBERS_MAX);
    for number in first..c_int::try_from(limit).unwrap_or(c_int::MAX) {
        if !kept.clone().any(|it| it == number) {
            close(number);
        }
    }
}

fn close(number: c_int) {
    // SAFETY: takes a number; see the invariant. A number that is not open is an error without effect.
    unsafe { libc::syscall(libc::SYS_close, c_long::from(number)) };
}
