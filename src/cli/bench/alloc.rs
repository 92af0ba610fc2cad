//! The global allocator of the command: counts calls and bytes while a scenario asks for it.
//!
//! Invariant: every call is handed on to `System` with its arguments unchanged, and counting allocates
//! nothing.

#![expect(unsafe_code, reason = "an allocator is an unsafe trait")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// The system's allocator. While nothing is counted, a call costs one relaxed load more.
struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

static ON: AtomicBool = AtomicBool::new(false);
static CALLS: AtomicU64 = AtomicU64::new(0);
static BYTES: AtomicU64 = AtomicU64::new(0);

/// What all threads allocated while one section ran.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Allocations {
    /// Allocations and reallocations.
    pub(super) calls: u64,
    /// Bytes asked for; a reallocation counts its new size.
    pub(super) bytes: u64,
}

/// Runs `act` and counts the allocations meanwhile. Calls must not overlap; scenarios run one at a time.
pub(super) fn counted<T>(act: impl FnOnce() -> T) -> (Allocations, T) {
    CALLS.store(0, Ordering::SeqCst);
    BYTES.store(0, Ordering::SeqCst);
    ON.store(true, Ordering::SeqCst);
    let value = act();
    ON.store(false, Ordering::SeqCst);
    let (calls, bytes) = (CALLS.load(Ordering::SeqCst), BYTES.load(Ordering::SeqCst));
    (Allocations { calls, bytes }, value)
}

/// Counts one call. Must not allocate, because it would call itself.
fn note(bytes: usize) {
    if ON.load(Ordering::Relaxed) {
        CALLS.fetch_add(1, Ordering::Relaxed);
        BYTES.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

// SAFETY: each method passes its arguments to `System` unchanged and returns the result of `System`.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(layout.size());
        // SAFETY: the caller keeps the contract of `GlobalAlloc`, which is that of `System`.
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

    // A count that misses one kind of call would hide a regression.
    #[test]
    fn every_kind_of_allocation_is_counted() {
        drop(vec![0_u8; 10]);
        let (made, kept) = counted(|| {
            let mut bytes: Vec<u8> = Vec::with_capacity(1000);
            bytes.reserve_exact(3000);
            (bytes, vec![0_u8; 500], Box::new([7_u8; 64]))
        });
        drop(kept);
        // Lower bounds only: other tests of this program allocate meanwhile.
        assert!(made.calls >= 4, "{made:?}");
        assert!(made.bytes >= 1000 + 3000 + 500 + 64, "{made:?}");
        let (none, ()) = counted(|| {});
        assert!(none.calls < made.calls + 1_000_000, "{none:?}");
    }
}
