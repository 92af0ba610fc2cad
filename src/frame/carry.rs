//! The carry: the start of a record whose end is in a later read, and the buffers it is kept in.
//!
//! Few agents of a thread are in the middle of a record at one time, so a few buffers serve all of
//! them. A carry takes a buffer when it needs one and returns it as soon as the record is
//! complete, so a framer between two records holds no memory.

use std::ops::Range;

use crate::frame::memcpy;

use super::payload::Payload;

/// Size of a reusable buffer: a carried record up to this size costs no allocation.
const BUFFER: usize = 8 << 10;

/// The first allocation for a record that outgrew [`BUFFER`]. A quarter of it is filled by then.
const LARGE: usize = 4 * BUFFER;

/// Idle buffers that one thread keeps: 256 KiB.
const IDLE_MAX: usize = 32;

/// The idle carry buffers of one thread.
#[derive(Debug, Default)]
pub(crate) struct CarryBuffers(Vec<Vec<u8>>);

impl CarryBuffers {
    /// Returns an empty buffer of [`BUFFER`] bytes if one is idle, else one without memory.
    fn take(&mut self) -> Vec<u8> {
        self.0.pop().unwrap_or_default()
    }

    /// Keeps the buffer if it has the common size and there is room; frees it otherwise.
    fn give_back(&mut self, mut buffer: Vec<u8>) {
        // A buffer that grew for one large record must not stay behind in the list.
        if buffer.capacity() == BUFFER && self.0.len() < IDLE_MAX {
            buffer.clear();
            self.0.push(buffer);
        }
    }
}

/// An unfinished record. Holds memory only while it holds bytes.
#[derive(Debug, Default)]
pub(super) struct Carry {
    bytes: Vec<u8>,
    /// The record was handed out by [`lend`](Self::lend): its bytes are of no more use.
    lent: bool,
}

impl Carry {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Appends a part and grows so that copying stays linear. A buffer above [`BUFFER`] never
    /// grows past `ceiling`, the largest size that this record can reach. The caller has checked
    /// that `part` fits below it.
    pub(super) fn append(&mut self, part: &[u8], ceiling: usize, buffers: &mut CarryBuffers) {
        let need = self.bytes.len() + part.len();
        debug_assert!(need <= ceiling, "{need} bytes for a carry of at most {ceiling}");
        if need > self.bytes.capacity() {
            #[cfg(test)]
            work::add(self.bytes.len());
            self.grow(need, ceiling, buffers);
        }
        memcpy::append(&mut self.bytes, part);
        #[cfg(test)]
        work::add(part.len());
    }

    fn grow(&mut self, need: usize, ceiling: usize, buffers: &mut CarryBuffers) {
        let room = room(need, self.bytes.capacity(), ceiling);
        if self.bytes.capacity() > BUFFER {
            // The growth is exact, because `room` has planned it and `Vec` would go past the
            // ceiling.
            return self.bytes.reserve_exact(room - self.bytes.len());
        }
        let mut larger = if room == BUFFER { buffers.take() } else { Vec::new() };
        // A reused buffer has this size already.
        larger.reserve_exact(room);
        memcpy::append(&mut larger, &self.bytes);
        buffers.give_back(std::mem::replace(&mut self.bytes, larger));
    }

    /// Returns the complete record in `range`. A small one is lent until the next call of
    /// [`end_loan`](Self::end_loan); a large one is handed over with its memory.
    pub(super) fn lend(&mut self, range: Range<usize>) -> Payload<'_> {
        if range.len() <= BUFFER {
            self.lent = true;
            return Payload::Borrowed(&self.bytes[range]);
        }
        Payload::Owned(self.take(range))
    }

    /// Returns the bytes in `range` with their memory and leaves the carry empty.
    pub(super) fn take(&mut self, range: Range<usize>) -> Vec<u8> {
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes.truncate(range.end);
        bytes.drain(..range.start);
        // The inbox counts a record by its length, so it must not hold twice that.
        bytes.shrink_to_fit();
        bytes
    }

    /// Frees the record handed out last, if it was lent.
    pub(super) fn end_loan(&mut self, buffers: &mut CarryBuffers) {
        if self.lent {
            self.clear(buffers);
        }
    }

    /// Drops the bytes and returns the buffer.
    pub(super) fn clear(&mut self, buffers: &mut CarryBuffers) {
        self.lent = false;
        buffers.give_back(std::mem::take(&mut self.bytes));
    }

    #[cfg(any(test, fuzzing))]
    pub(super) fn capacity(&self) -> usize {
        self.bytes.capacity()
    }
}

/// Returns how much to allocate where `capacity` is too small for `need`: a reusable buffer first,
/// then four times that, then twice as much each time.
fn room(need: usize, capacity: usize, ceiling: usize) -> usize {
    if need <= BUFFER {
        return BUFFER;
    }
    need.max(ceiling.min(LARGE.max(capacity * 2)))
}

/// Returns the index of the first newline. Both framings search through this function alone, so
/// that a test can count how often a byte is searched.
pub(super) fn newline(bytes: &[u8]) -> Option<usize> {
    let at = memchr::memchr(b'\n', bytes);
    #[cfg(test)]
    work::add(at.map_or(bytes.len(), |at| at + 1));
    at
}

/// Counts the bytes searched and copied, so that a test can detect a rescan without a stopwatch.
#[cfg(test)]
pub(super) mod work {
    use std::cell::Cell;

    thread_local!(static DONE: Cell<u64> = const { Cell::new(0) });

    pub(in crate::frame) fn add(bytes: usize) {
        DONE.set(DONE.get() + bytes as u64);
    }

    /// Returns the count and resets it.
    pub(in crate::frame) fn take() -> u64 {
        DONE.replace(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_buffers_are_reused_and_bounded() {
        let mut buffers = CarryBuffers::default();
        assert_eq!(buffers.take().capacity(), 0, "no buffer is made before it is needed");
        let buffer = Vec::with_capacity(BUFFER);
        let memory = buffer.as_ptr();
        buffers.give_back(buffer);
        buffers.give_back(Vec::with_capacity(BUFFER + 1));
        let again = buffers.take();
        assert_eq!((again.as_ptr(), again.capacity()), (memory, BUFFER));
        assert_eq!(buffers.take().capacity(), 0, "a buffer of another size is freed");
        for _ in 0..1000 {
            buffers.give_back(Vec::with_capacity(BUFFER));
        }
        assert_eq!(buffers.0.len(), IDLE_MAX);
    }

    #[test]
    fn growing_record_takes_and_returns_buffers() {
        // Each allocation is planned: one idle buffer, four times that, then doubled and exact.
        let mut buffers = CarryBuffers(vec![Vec::with_capacity(BUFFER)]);
        let idle = buffers.0[0].as_ptr();
        let mut carry = Carry::default();
        carry.append(b"[", 1 << 20, &mut buffers);
        assert_eq!((carry.bytes.as_ptr(), carry.capacity()), (idle, BUFFER));
        assert_eq!(buffers.0.len(), 0, "the idle buffer is in use");
        carry.append(&[b' '; BUFFER], 1 << 20, &mut buffers);
        assert_eq!(carry.capacity(), LARGE);
        assert_eq!(buffers.0.len(), 1, "it came back");
        carry.append(&[b' '; LARGE], 1 << 20, &mut buffers);
        assert_eq!((carry.capacity(), carry.len()), (2 * LARGE, 1 + BUFFER + LARGE));
        assert_eq!(buffers.0.len(), 1);
    }
}
