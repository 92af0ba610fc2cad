//! Floor 1. The bytes of one record that spans reads.

use std::ops::Range;

use crate::frame::memcpy;

use super::payload::Payload;
use super::spares::{SPARE, Spares};

/// What a record is given that outgrew the spare buffer. Of this a quarter is there by then.
const LARGE: usize = 4 * SPARE;

/// Holds memory while it holds bytes, and a lent buffer during a feed.
#[derive(Debug, Default)]
pub(super) struct Carry {
    bytes: Vec<u8>,
    /// A buffer of [`SPARE`] bytes that is not in use, or none. There is none while `bytes` is one.
    spare: Vec<u8>,
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

    /// Before a feed: it may come to need a buffer.
    pub(super) fn borrow(&mut self, spares: &mut Spares) {
        if self.bytes.capacity() != SPARE {
            self.spare = spares.take();
        }
    }

    /// After a feed: what it did not need, or needs no more.
    pub(super) fn give_back(&mut self, spares: &mut Spares) {
        spares.give_back(std::mem::take(&mut self.spare));
    }

    /// Grows so that copying stays linear. Above a spare buffer never past `ceiling`: the most this
    /// record can become. The caller has checked that `part` fits under it.
    pub(super) fn append(&mut self, part: &[u8], ceiling: usize) {
        let need = self.bytes.len() + part.len();
        debug_assert!(need <= ceiling, "{need} bytes for a carry of at most {ceiling}");
        if need > self.bytes.capacity() {
            #[cfg(test)]
            super::scan::work::add(self.bytes.len());
            self.grow(need, ceiling);
        }
        memcpy::append(&mut self.bytes, part);
        #[cfg(test)]
        super::scan::work::add(part.len());
    }

    fn grow(&mut self, need: usize, ceiling: usize) {
        let room = room(need, self.bytes.capacity(), ceiling);
        if self.bytes.capacity() > SPARE {
            return self.bytes.reserve_exact(room - self.bytes.len());
        }
        let mut larger = if room == SPARE { std::mem::take(&mut self.spare) } else { Vec::new() };
        larger.reserve_exact(room);
        memcpy::append(&mut larger, &self.bytes);
        self.clear();
        self.bytes = larger;
    }

    /// Shows the complete record in `range` and forgets it.
    pub(super) fn hand_over(&mut self, range: Range<usize>, see: impl FnOnce(Payload<'_>)) {
        if range.len() <= SPARE {
            see(Payload::Borrowed(&self.bytes[range]));
            self.clear();
        } else {
            let mut bytes = std::mem::take(&mut self.bytes);
            bytes.truncate(range.end);
            bytes.drain(..range.start);
            // In the inbox it counts for its length: it must not hold twice that.
            bytes.shrink_to_fit();
            see(Payload::Owned(bytes));
        }
    }

    /// Nothing held, nothing allocated but the spare buffer, which the next record may need.
    pub(super) fn clear(&mut self) {
        let mut bytes = std::mem::take(&mut self.bytes);
        if bytes.capacity() == SPARE {
            bytes.clear();
            self.spare = bytes;
        }
    }

    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.bytes.capacity() + self.spare.capacity()
    }
}

/// How much to allocate where `capacity` is not enough for `need`: a spare buffer, then four of
/// them, then twice as much each time. So at most four times what is there, or a spare buffer.
fn room(need: usize, capacity: usize, ceiling: usize) -> usize {
    if need <= SPARE {
        return SPARE;
    }
    need.max(ceiling.min(LARGE.max(capacity * 2)))
}
