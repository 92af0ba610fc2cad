//! Floor 1. The one place where input is searched for a newline.

/// Where the next newline is.
pub(super) fn newline(bytes: &[u8]) -> Option<usize> {
    let at = memchr::memchr(b'\n', bytes);
    #[cfg(test)]
    work::add(at.map_or(bytes.len(), |at| at + 1));
    at
}

/// Counts the bytes searched and copied, so that a test can see a rescan without a stopwatch.
#[cfg(test)]
pub(super) mod work {
    use std::cell::Cell;

    thread_local!(static DONE: Cell<u64> = const { Cell::new(0) });

    pub(in crate::frame) fn add(bytes: usize) {
        DONE.set(DONE.get() + bytes as u64);
    }

    /// The count so far; starts it anew.
    pub(in crate::frame) fn take() -> u64 {
        DONE.replace(0)
    }
}
