//! Tells a process from a fork of it.
//!
//! A forked child has the handles of its parent's engines and none of the threads that serve them.
//! It may find any lock taken for good, it shares every descriptor, and the memory of the rings is
//! not mapped in it. So what belongs to an engine remembers its process, and does nothing elsewhere.
//!
//! Invariant: one page of zeroes that is never unmapped; only its first number is accessed, atomically.
//! The kernel wipes it in a forked child before the child runs.
#![expect(unsafe_code, reason = "one page that the kernel wipes in a forked child")]

use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous};

use crate::error::{Error, ErrorKind, Result};

/// The process in which something was made.
///
/// Compared by a number in a page that is all zeroes after a fork, by whatever call that was made.
/// A `getpid` would be a system call in every `send`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Origin(u64);

/// Numbers given out, here and in the processes that this one was forked from.
static GIVEN: AtomicU64 = AtomicU64::new(0);

static MARK: OnceLock<Option<&'static AtomicU64>> = OnceLock::new();

impl Origin {
    /// This process.
    pub(crate) fn here() -> Self {
        let Some(mark) = MARK.get_or_init(map) else { return Self(0) };
        let known = mark.load(Relaxed);
        if known != 0 {
            return Self(known);
        }
        let new = GIVEN.fetch_add(1, Relaxed) + 1;
        Self(mark.compare_exchange(0, new, Relaxed, Relaxed).map_or_else(|first| first, |_| new))
    }

    /// Whether this is that process, and no fork of it.
    pub(crate) fn is_here(self) -> bool {
        MARK.get().copied().flatten().map_or(0, |mark| mark.load(Relaxed)) == self.0
    }

    /// Differs from that of each process between this one and the one it was forked from, as long as
    /// those are not 65,536 deep.
    pub(crate) fn number(self) -> u32 {
        (self.0 & 0xffff) as u32
    }

    /// An error of the operation `stage` where this is a fork.
    pub(crate) fn check(self, stage: &'static str) -> Result<()> {
        if self.is_here() { Ok(()) } else { Err(foreign(stage)) }
    }
}

/// The error of every call on a handle in a forked child.
pub(crate) fn foreign(stage: &'static str) -> Error {
    let what = "the engine belongs to another process, of which this one is a fork";
    Error::new(ErrorKind::EngineStopped, stage, what).remedy("make an engine after the fork")
}

/// None where the page cannot be had: then a fork is not told from its parent. No ring can be
/// mapped there either.
fn map() -> Option<&'static AtomicU64> {
    let len = rustix::param::page_size();
    let (prot, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
    // SAFETY: a new mapping at an address of the kernel's choice touches nothing of ours.
    let page = unsafe { mmap_anonymous(ptr::null_mut(), len, prot, flags) }.ok()?;
    // SAFETY: the range is the mapping made above, which holds zeroes only.
    unsafe { madvise(page, len, Advice::LinuxWipeOnFork) }.ok()?;
    // SAFETY: the page is aligned, valid for the number, and never unmapped; it is accessed
    // atomically only, and a wipe happens before the child runs.
    Some(unsafe { AtomicU64::from_ptr(page.cast()) })
}
