//! The buffer pool: one ring of provided buffers, shared by all reads.
//!
//! The kernel takes a buffer per chunk of data, and the driver returns it in the same turn. The
//! returned buffers are published with one tail store before the next enter.
//!
//! Invariant for the unsafe code: a buffer is in the ring or lent, never both (`lent`). The kernel
//! writes only to buffers in the ring, and this process reads only lent ones.
#![expect(unsafe_code, reason = "memory shared with the kernel")]

use std::ffi::c_void;
use std::io;
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::Submitter;
use io_uring::types::BufRingEntry;
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};

/// The only buffer group.
pub(super) const GROUP: u16 = 0;

// Offsets of the fields of `struct io_uring_buf`.
const ADDR: usize = 0;
const LEN: usize = 8;
const BID: usize = 12;
const _: () = assert!(size_of::<BufRingEntry>() == 16 && align_of::<BufRingEntry>() == 8);

/// Anonymous memory of whole pages, unmapped on drop unless leaked.
#[derive(Debug)]
struct Mapping {
    base: NonNull<c_void>,
    len: usize,
    leak: bool,
}

impl Mapping {
    fn new(len: usize) -> io::Result<Self> {
        // The memory is mapped and not taken from the heap, because the kernel requires that the
        // ring begins a page, and it copies out of a pipe faster to a buffer that does
        // (docs/design/performance-notes.md).
        let page = rustix::param::page_size();
        let len = len.next_multiple_of(page);
        let (prot, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
        // SAFETY: a new mapping at an address that the kernel chooses overlaps no other.
        let base = unsafe { mmap_anonymous(ptr::null_mut(), len, prot, flags) }?;
        let base = NonNull::new(base).ok_or_else(|| io::Error::from(io::ErrorKind::OutOfMemory))?;
        let mapping = Self { base, len, leak: false };
        // After a fork, copy-on-write must not replace the pages that the kernel has pinned.
        // SAFETY: the range is the mapping made above.
        unsafe { madvise(base.as_ptr(), len, Advice::LinuxDontFork) }?;
        Ok(mapping)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        if self.leak {
            return;
        }
        // A failure could only leak the mapping, so a release build ignores it.
        // SAFETY: `base` and `len` are those of `new`, and no reference into it outlives `BufferPool`.
        let unmapped = unsafe { munmap(self.base.as_ptr(), self.len) };
        debug_assert!(unmapped.is_ok(), "munmap of our own mapping");
    }
}

/// The buffers and the ring that offers them to the kernel.
#[derive(Debug)]
pub(super) struct BufferPool {
    /// `buffers` entries. The tail is the reserved field of the first.
    ring: Mapping,
    memory: Mapping,
    buffers: u16,
    size: u32,
    tail: u16,
    published: u16,
    free: u16,
    free_min: u16,
    /// The lent buffers. A lease returned twice must not put its buffer in the ring twice.
    lent: Vec<bool>,
}

impl BufferPool {
    /// Offers all buffers to the kernel. `buffers` is a power of two.
    pub(super) fn new(submitter: &Submitter<'_>, buffers: u16, size: u32) -> io::Result<Self> {
        let count = usize::from(buffers);
        let ring = Mapping::new(count * size_of::<BufRingEntry>())?;
        let memory = Mapping::new(count * size as usize)?;
        let mut pool = Self {
            ring,
            memory,
            buffers,
            size,
            tail: 0,
            published: 0,
            free: 0,
            free_min: buffers,
            // All buffers begin as lent, so that the loop below offers them by the same path as a
            // return.
            lent: vec![true; count],
        };
        for buffer in 0..buffers {
            pool.give_back(buffer);
        }
        pool.publish();
        // The entries and the tail are written before the registration, so the first read finds
        // buffers.
        let address = pool.ring.base.as_ptr() as u64;
        // SAFETY: `pool.ring` holds `buffers` entries, and `Ring` unregisters before `pool` goes.
        unsafe { submitter.register_buf_ring_with_flags(address, buffers, GROUP, 0) }?;
        Ok(pool)
    }

    /// The number of buffers that the kernel may still take.
    pub(super) fn free(&self) -> u16 {
        self.free
    }

    /// The smallest number of free buffers so far.
    pub(super) fn free_min(&self) -> u16 {
        self.free_min
    }

    /// Bytes per buffer.
    pub(super) fn buffer_size(&self) -> u32 {
        self.size
    }

    pub(super) fn buffers(&self) -> u16 {
        self.buffers
    }

    /// Resets [`free_min`](Self::free_min).
    pub(super) fn restart_minimum(&mut self) {
        self.free_min = self.free;
    }

    /// Notes that a completion named this buffer: it is lent until [`give_back`](Self::give_back).
    pub(super) fn note_lent(&mut self, buffer: u16) {
        match self.lent.get_mut(usize::from(buffer)) {
            // The kernel names a buffer once until it is returned. A second time must not lower the
            // count of free buffers again.
            Some(lent) if !*lent => *lent = true,
            _ => return,
        }
        self.free -= 1;
        self.free_min = self.free_min.min(self.free);
    }

    /// Returns what the kernel wrote; nothing for a buffer that is not lent.
    pub(super) fn bytes(&self, buffer: u16, len: u32) -> &[u8] {
        let index = usize::from(buffer);
        // The lease is not trusted: the unsafe code below relies on these checks.
        if self.lent.get(index) != Some(&true) || len > self.size {
            return &[];
        }
        let base = self.memory.base.cast::<u8>();
        // SAFETY: `index < buffers`, so the offset stays inside `memory`.
        let start = unsafe { base.add(index * self.size as usize) };
        // SAFETY: `len <= size`; the buffer is lent, so the kernel does not write to it, and the
        // shared borrow of `self` keeps it from being given back.
        unsafe { slice::from_raw_parts(start.as_ptr(), len as usize) }
    }

    /// Puts a lent buffer behind the tail. The kernel sees it after [`publish`](Self::publish).
    pub(super) fn give_back(&mut self, buffer: u16) {
        let index = usize::from(buffer);
        match self.lent.get_mut(index) {
            Some(lent) if *lent => *lent = false,
            _ => return,
        }
        let base = self.memory.base.as_ptr() as u64;
        // The number of buffers is a power of two, so the mask is right also after the 16-bit tail
        // wraps.
        let slot = usize::from(self.tail & (self.buffers - 1));
        let entry = self.ring.base.as_ptr().wrapping_byte_add(slot * size_of::<BufRingEntry>());
        let address = base + (index * self.size as usize) as u64;
        // Written by field and not as a whole: in the first entry the next field is the tail of the
        // ring, which the kernel reads at any time.
        // SAFETY: `slot < buffers`, and `ring` holds that many entries. No more than `buffers` are
        // ever out of the kernel's hands (`lent`), so these fields are behind its tail.
        unsafe { entry.wrapping_byte_add(ADDR).cast::<u64>().write(address) };
        // SAFETY: the same.
        unsafe { entry.wrapping_byte_add(LEN).cast::<u32>().write(self.size) };
        // SAFETY: the same.
        unsafe { entry.wrapping_byte_add(BID).cast::<u16>().write(buffer) };
        self.tail = self.tail.wrapping_add(1);
        self.free += 1;
    }

    /// Makes the returned buffers visible to the kernel.
    pub(super) fn publish(&mut self) {
        if self.published == self.tail {
            return;
        }
        self.published = self.tail;
        let first = self.ring.base.cast::<BufRingEntry>().as_ptr();
        // SAFETY: `first` is the first entry of the ring, alive and initialised.
        let tail = unsafe { BufRingEntry::tail(first) };
        // SAFETY: the field is aligned, lives as long as `ring`, and after registration is only
        // accessed atomically, here and by the kernel.
        let tail = unsafe { AtomicU16::from_ptr(tail.cast_mut()) };
        // Release: the entries must be visible before the tail that covers them.
        tail.store(self.tail, Ordering::Release);
    }

    /// Never unmaps the memory: the kernel may still write to it.
    pub(super) fn leak(&mut self) {
        self.ring.leak = true;
        self.memory.leak = true;
    }
}
