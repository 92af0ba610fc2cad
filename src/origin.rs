//! Distinguishes a process from a fork of it.
//!
//! A forked child has the handles of its parent's engines and none of the threads behind them. Any lock
//! may be taken for good there, every descriptor is shared, and the memory of the rings is not mapped. So
//! every part of an engine remembers its process, and does nothing in another.
//!
//! The process is identified by a number in a page that the kernel fills with zeroes in a forked child
//! (MADV_WIPEONFORK). The page is never unmapped and accessed only as one `AtomicU64`.
//!
//! Invariant: one page of zeroes that is never unmapped; only its first number is accessed, atomically.
//! The kernel wipes it in a forked child before the child runs.
#![expect(unsafe_code, reason = "one page that the kernel wipes in a forked child")]

use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous};

use crate::error::{Error, ErrorKind, Result};

/// The process in which a value was made. A comparison costs one load; `getpid` would be a system call in
/// every `send`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Origin(u64);

/// The numbers given out in this process and in those that it was forked from.
static GIVEN: AtomicU64 = AtomicU64::new(0);

static MARK: OnceLock<Option<&'static AtomicU64>> = OnceLock::new();

impl Origin {
    /// Returns this process.
    pub(crate) fn here() -> Self {
        let Some(mark) = MARK.get_or_init(map) else { return Self(0) };
        let known = mark.load(Relaxed);
        if known != 0 {
            return Self(known);
        }
        // The numbers begin at 1, because 0 is the wiped page. Several threads may come here at
        // once: the first exchange wins, and all use its number. The number stands for itself, so
        // relaxed is enough.
        let new = GIVEN.fetch_add(1, Relaxed) + 1;
        Self(mark.compare_exchange(0, new, Relaxed, Relaxed).map_or_else(|first| first, |_| new))
    }

    /// Returns whether the calling process is this one, and not a fork of it.
    pub(crate) fn is_here(self) -> bool {
        // In a fork the page holds 0 or a later number: both differ from that of the parent.
        MARK.get().copied().flatten().map_or(0, |mark| mark.load(Relaxed)) == self.0
    }

    /// Returns a number that differs from those of all processes that this one descends from by forks, up
    /// to 65,535 generations.
    pub(crate) fn number(self) -> u32 {
        (self.0 & 0xffff) as u32
    }

    /// Fails with an error of `operation` in a fork of this process.
    pub(crate) fn check(self, operation: &'static str) -> Result<()> {
        if self.is_here() { Ok(()) } else { Err(foreign(operation)) }
    }
}

/// Returns the error of a call on a handle in a forked child.
pub(crate) fn foreign(operation: &'static str) -> Error {
    let what = "the engine belongs to another process, of which this one is a fork";
    Error::new(ErrorKind::EngineStopped, operation, what).remedy("make an engine after the fork")
}

/// Maps the page. `None` if that fails: a fork is then not detected, but no ring can be mapped either.
fn map() -> Option<&'static AtomicU64> {
    let len = rustix::param::page_size();
    let (prot, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
    // SAFETY: a new mapping, at an address that the kernel chooses.
    let page = unsafe { mmap_anonymous(ptr::null_mut(), len, prot, flags) }.ok()?;
    // SAFETY: the range is the new mapping, which holds only zeroes.
    unsafe { madvise(page, len, Advice::LinuxWipeOnFork) }.ok()?;
    // SAFETY: the page is aligned, large enough, and never unmapped; it is accessed only atomically, and
    // the kernel wipes it before the child runs.
    Some(unsafe { AtomicU64::from_ptr(page.cast()) })
}
