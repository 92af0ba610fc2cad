//! Floor 2. Where the bytes of records live: chunks shared by all agents of a thread.
//!
//! A record is a slice of a chunk. A chunk whose records are all gone serves again, so nothing is
//! allocated as long as readers are no further behind than the chunks that are waited for. A
//! record that is kept keeps its chunk, so chunks are small.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use crate::frame::Spares;
use crate::frame::memcpy;

use super::batches::Batches;

/// A chunk. Larger ones save allocations and cost memory where few records are kept.
const CHUNK: usize = 32 << 10;

/// Records above this get memory of their own.
const OWN: usize = CHUNK / 4;

/// Full chunks that are waited for: a full inbox of one agent (1 MiB), and what came in the turn
/// that filled it.
const FULL_MAX: usize = 40;

/// Of these so many are asked for each new one: the longest full are the likeliest to be free.
const ASKED: usize = 4;

/// Copies records out of ring buffers, and lends what is needed on the way: buffers for those that
/// span reads, queues for their events.
#[derive(Debug, Default)]
pub(crate) struct Arena {
    chunk: BytesMut,
    /// Longest full first.
    full: VecDeque<BytesMut>,
    spares: Spares,
    pub(super) batches: Arc<Batches>,
}

impl Arena {
    /// Lends a framer its spare buffers while the arena takes what it finds.
    pub(super) fn with_spares(&mut self, use_them: impl FnOnce(&mut Self, &mut Spares)) {
        let mut spares = std::mem::take(&mut self.spares);
        use_them(self, &mut spares);
        self.spares = spares;
    }

    /// The bytes, owned.
    pub(crate) fn copy(&mut self, bytes: &[u8]) -> Bytes {
        if bytes.len() > OWN {
            return memcpy::owned(bytes);
        }
        if self.chunk.capacity() < bytes.len() {
            self.next_chunk();
        }
        memcpy::append(&mut self.chunk, bytes);
        self.chunk.split().freeze()
    }

    /// Goes on in a chunk whose records are all gone, or else in a new one.
    fn next_chunk(&mut self) {
        if self.chunk.capacity() > 0 && self.chunk.try_reclaim(CHUNK) {
            return;
        }
        let free = self.full.iter_mut().take(ASKED).position(|chunk| chunk.try_reclaim(CHUNK));
        let next = free.and_then(|at| self.full.remove(at));
        let full = std::mem::replace(
            &mut self.chunk,
            next.unwrap_or_else(|| BytesMut::with_capacity(CHUNK)),
        );
        if self.full.len() == FULL_MAX {
            // Left to its records.
            self.full.pop_front();
        }
        self.full.push_back(full);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Records of 1 KiB, of which `kept` are alive at any time: the distinct chunks they were in.
    fn chunks(kept: usize) -> usize {
        let mut arena = Arena::default();
        let mut alive = VecDeque::new();
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..10_000 {
            let record = arena.copy(&[b'x'; 1 << 10]);
            seen.insert(record.as_ptr().addr() / CHUNK);
            alive.push_back(record);
            if alive.len() > kept {
                alive.pop_front();
            }
        }
        seen.len()
    }

    #[test]
    fn a_reader_that_keeps_up_or_is_a_full_inbox_behind_costs_no_new_memory() {
        // An allocation need not begin where a block of its size does: two blocks for each.
        assert!(chunks(0) <= 2 * 2, "{}", chunks(0));
        assert!(chunks(1024) <= 2 * (FULL_MAX + 2), "{}", chunks(1024));
    }

    #[test]
    fn records_that_are_kept_keep_their_bytes() {
        let mut arena = Arena::default();
        let records: Vec<Bytes> =
            (0..5000_u32).map(|n| arena.copy(format!("record {n:0>60}").as_bytes())).collect();
        drop(arena.copy(&[b'z'; OWN + 1]));
        for (n, record) in records.iter().enumerate() {
            assert_eq!(&record[..], format!("record {n:0>60}").as_bytes());
        }
        assert!(arena.full.len() <= FULL_MAX);
    }
}
