//! Reused memory of one thread: chunks for the bytes of records, and queues for events.
//!
//! With both, a record in flight costs no allocation, and an idle agent holds no memory.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Bytes, BytesMut};

use crate::frame::{CarryBuffers, memcpy};
use crate::record::Event;

use super::bulk::BulkChunks;
use super::drain_budget::DrainBudget;

/// The reused memory of one thread. The fields are borrowed apart: a framer uses `carries` while
/// `chunks` takes the records that it finds.
#[derive(Debug)]
pub(crate) struct ReadBuffers {
    pub(super) chunks: RecordChunks,
    pub(super) carries: CarryBuffers,
    pub(super) bulk: BulkChunks,
    pub(super) queues: Arc<EventQueues>,
    /// What the closing agents of all threads hold together.
    pub(super) drain: Arc<DrainBudget>,
}

impl ReadBuffers {
    pub(super) fn new(drain: Arc<DrainBudget>) -> Self {
        Self {
            chunks: RecordChunks::default(),
            carries: CarryBuffers::default(),
            bulk: BulkChunks::default(),
            queues: Arc::default(),
            drain,
        }
    }
}

/// Size of a chunk. Larger chunks save allocations, but waste memory if few records are kept.
const CHUNK: usize = 32 << 10;

/// Records above this size get memory of their own.
const SHARED_MAX: usize = CHUNK / 4;

/// Full chunks that are kept for reuse: enough for a full inbox of one agent (1 MiB) and for the
/// turn that filled it.
const FULL_MAX: usize = 40;

/// Full chunks checked before a new one is allocated. The oldest are the likeliest to be free.
const CHECKED: usize = 4;

/// Copies records out of ring buffers into chunks that all agents of a thread share.
///
/// A record is a slice of a chunk. A chunk is reused once all its records are dropped, so nothing
/// is allocated while readers keep up. A record that is kept keeps its whole chunk alive, so chunks
/// are small.
#[derive(Debug, Default)]
pub(crate) struct RecordChunks {
    chunk: BytesMut,
    /// Oldest first.
    full: VecDeque<BytesMut>,
}

impl RecordChunks {
    /// Returns a copy of the bytes.
    pub(crate) fn copy(&mut self, bytes: &[u8]) -> Bytes {
        // The rest of a chunk that is too small for the next record is not used. With this limit
        // that is at most a quarter of the chunk.
        if bytes.len() > SHARED_MAX {
            return memcpy::owned(bytes);
        }
        if self.chunk.capacity() < bytes.len() {
            self.next_chunk();
        }
        memcpy::append(&mut self.chunk, bytes);
        self.chunk.split().freeze()
    }

    /// Continues in a chunk whose records are all dropped, or else in a new one.
    fn next_chunk(&mut self) {
        if self.chunk.capacity() > 0 && self.chunk.try_reclaim(CHUNK) {
            return;
        }
        let free = self.full.iter_mut().take(CHECKED).position(|chunk| chunk.try_reclaim(CHUNK));
        let next = free.and_then(|at| self.full.remove(at));
        let full = std::mem::replace(
            &mut self.chunk,
            next.unwrap_or_else(|| BytesMut::with_capacity(CHUNK)),
        );
        if self.full.len() == FULL_MAX {
            // Freed with the last of its records.
            self.full.pop_front();
        }
        self.full.push_back(full);
    }
}

/// The most events that an agent keeps room for while it is quiet, on either side.
pub(super) const QUIET_EVENTS: usize = 4;

/// Events that all idle queues of one thread have room for: about 600 KB.
const IDLE_EVENTS_MAX: usize = 8192;

/// Idle event queues of one thread, shared with the readers of its agents.
///
/// A quiet agent has room for a few events. During a burst it borrows a large queue, and its reader
/// returns that queue once it is read out. The lock is held for a few instructions.
#[derive(Debug, Default)]
pub(crate) struct EventQueues(Mutex<IdleQueues>);

#[derive(Debug, Default)]
struct IdleQueues {
    /// Empty queues, each with room for more than [`QUIET_EVENTS`].
    queues: Vec<VecDeque<Event>>,
    /// The sum of their capacities.
    events: usize,
}

impl EventQueues {
    /// Returns an empty queue, with room if one is idle.
    pub(super) fn take(&self) -> VecDeque<Event> {
        let mut idle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let queue = idle.queues.pop().unwrap_or_default();
        idle.events -= queue.capacity();
        queue
    }

    /// Keeps an empty queue for reuse. Frees it if it is small or there are enough.
    pub(super) fn give_back(&self, queue: VecDeque<Event>) {
        debug_assert!(queue.is_empty(), "events would be lost");
        if queue.capacity() <= QUIET_EVENTS {
            return;
        }
        let mut idle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // A queue that is not kept is freed without the lock: parameters are dropped after locals.
        if idle.events + queue.capacity() <= IDLE_EVENTS_MAX {
            idle.events += queue.capacity();
            idle.queues.push(queue);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns an upper bound for the chunks used by records of 1 KiB if `kept` are alive at a time.
    fn chunks(kept: usize) -> usize {
        let mut chunks = RecordChunks::default();
        let mut alive = VecDeque::new();
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..10_000 {
            let record = chunks.copy(&[b'x'; 1 << 10]);
            seen.insert(record.as_ptr().addr() / CHUNK);
            alive.push_back(record);
            if alive.len() > kept {
                alive.pop_front();
            }
        }
        seen.len()
    }

    #[test]
    fn chunks_are_reused_up_to_a_full_inbox() {
        // An allocation need not be aligned to its size, so each chunk may touch two ranges.
        assert!(chunks(0) <= 2 * 2, "{}", chunks(0));
        assert!(chunks(1024) <= 2 * (FULL_MAX + 2), "{}", chunks(1024));
    }

    #[test]
    fn kept_records_keep_their_bytes() {
        let mut chunks = RecordChunks::default();
        let records: Vec<Bytes> =
            (0..5000_u32).map(|n| chunks.copy(format!("record {n:0>60}").as_bytes())).collect();
        drop(chunks.copy(&[b'z'; SHARED_MAX + 1]));
        for (n, record) in records.iter().enumerate() {
            assert_eq!(&record[..], format!("record {n:0>60}").as_bytes());
        }
        assert!(chunks.full.len() <= FULL_MAX);
    }

    #[test]
    fn idle_queues_are_reused_and_bounded() {
        let queues = EventQueues::default();
        queues.give_back(VecDeque::with_capacity(QUIET_EVENTS));
        assert_eq!(queues.take().capacity(), 0, "a small queue is freed");
        let queue = VecDeque::with_capacity(100);
        let memory = queue.as_slices().0.as_ptr();
        queues.give_back(queue);
        let again = queues.take();
        assert_eq!((again.as_slices().0.as_ptr(), again.capacity()), (memory, 100));
        for _ in 0..1000 {
            queues.give_back(VecDeque::with_capacity(100));
        }
        let kept = (0..1000).filter(|_| queues.take().capacity() > 0).count();
        assert_eq!(kept, IDLE_EVENTS_MAX / 100);
    }
}
