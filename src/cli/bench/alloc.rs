//! F5, bench: counts what this program asks of its allocator, while a scenario wants to know.

#![expect(unsafe_code, reason = "an allocator is an unsafe trait")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// The system's allocator. Where nothing is counted it costs a relaxed load more.
struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

static ON: AtomicBool = AtomicBool::new(false);
static CALLS: AtomicU64 = AtomicU64::new(0);
static BYTES: AtomicU64 = AtomicU64::new(0);

/// What was asked for between two moments, by all threads.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Asked {
    /// Allocations and reallocations.
    pub(super) calls: u64,
    /// Of a reallocation the new size.
    pub(super) bytes: u64,
}

/// Runs `act` and counts meanwhile. One at a time: scenarios run one after another.
pub(super) fn counted<T>(act: impl FnOnce() -> T) -> (Asked, T) {
    CALLS.store(0, Ordering::SeqCst);
    BYTES.store(0, Ordering::SeqCst);
    ON.store(true, Ordering::SeqCst);
    let value = act();
    ON.store(false, Ordering::SeqCst);
    let asked = Asked { calls: CALLS.load(Ordering::SeqCst), bytes: BYTES.load(Ordering::SeqCst) };
    (asked, value)
}

/// Allocates nothing, or it would call itself.
fn note(bytes: usize) {
    if ON.load(Ordering::Relaxed) {
        CALLS.fetch_add(1, Ordering::Relaxed);
        BYTES.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

// SAFETY: each method hands its arguments to `System` as they came and returns what it gave.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(layout.size());
        // SAFETY: the caller keeps the same contract for `layout` that `System` asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        note(layout.size());
        // SAFETY: as in `alloc`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note(size);
        // SAFETY: `pointer` came from `System` with this `layout`, by the methods above.
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: `pointer` came from `System` with this `layout`, by the methods above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[cfg(test)]
mod tests {
    use super::counted;

    // A count that misses one kind of request would call a regression clean.
    #[test]
    fn every_kind_of_request_is_counted_and_nothing_outside() {
        drop(vec![0_u8; 10]);
        let (asked, kept) = counted(|| {
            let mut bytes: Vec<u8> = Vec::with_capacity(1000);
            bytes.reserve_exact(3000);
            (bytes, vec![0_u8; 500], Box::new([7_u8; 64]))
        });
        drop(kept);
        // Other tests of this program run meanwhile: at least.
        assert!(asked.calls >= 4, "{asked:?}");
        assert!(asked.bytes >= 1000 + 3000 + 500 + 64, "{asked:?}");
        let (none, ()) = counted(|| {});
        assert!(none.calls < asked.calls + 1_000_000, "{none:?}");
    }
}
