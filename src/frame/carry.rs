//! Floor 1. The bytes of one record that spans reads.

use std::ops::Range;

use super::payload::Payload;

/// Above this a complete record takes its buffer along; below, the buffer stays and is lent.
const LEND_MAX: usize = 16 << 10;

/// Above this an almost empty buffer is shrunk between reads.
const KEEP_MAX: usize = 4 << 10;

#[derive(Debug, Default)]
pub(super) struct Carry(Vec<u8>);

impl Carry {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Grows by doubling, so that copying stays linear, but never past `ceiling`: the most this
    /// record can become. The caller has checked that `part` fits under it.
    pub(super) fn append(&mut self, part: &[u8], ceiling: usize) {
        let need = self.0.len() + part.len();
        debug_assert!(need <= ceiling, "{need} bytes for a carry of at most {ceiling}");
        if need > self.0.capacity() {
            let target = need.max((self.0.capacity() * 2).min(ceiling));
            #[cfg(test)]
            super::scan::work::add(self.0.len());
            self.0.reserve_exact(target - self.0.len());
        }
        self.0.extend_from_slice(part);
        #[cfg(test)]
        super::scan::work::add(part.len());
    }

    /// Shows the complete record in `range` and forgets it.
    pub(super) fn hand_over(&mut self, range: Range<usize>, see: impl FnOnce(Payload<'_>)) {
        if range.len() <= LEND_MAX {
            see(Payload::Borrowed(&self.0[range]));
            self.0.clear();
        } else {
            let mut bytes = std::mem::take(&mut self.0);
            bytes.truncate(range.end);
            bytes.drain(..range.start);
            // In the inbox it counts for its length: it must not hold twice that.
            bytes.shrink_to_fit();
            see(Payload::Owned(bytes));
        }
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// Between reads: an idle framer holds no buffer, one that waits for the rest of a small
    /// record no large one.
    pub(super) fn settle(&mut self) {
        if self.0.is_empty() {
            self.0 = Vec::new();
        } else if self.0.capacity() > KEEP_MAX && self.0.len() < self.0.capacity() / 4 {
            self.0.shrink_to(KEEP_MAX);
        }
    }

    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.0.capacity()
    }
}
