//! The state that operations work on: queues, pool buffers, operations and descriptors.

use std::collections::VecDeque;

use super::buffer::BufferPool;
use super::fd_table::FdTable;
use super::op::{OpToken, Ops};
use super::queue::{Cqe, Queue};
use crate::io::{Completion, EndId};

/// A submission that found no room in the queue even after an enter. Retried in every turn.
#[derive(Clone, Copy, Debug)]
pub(super) enum DeferredSubmission {
    Arm(EndId),
    Poll(EndId),
    Write(EndId, OpToken),
    Cancel(EndId, OpToken),
    Close(EndId),
}

/// The operations that the kernel holds, and the completions that are not handed out yet.
///
/// There are two queues of completions because they are written at different times: `cqes` grows
/// during any enter, also one that only makes room in the middle of a submission. Acting on them
/// there would recurse. A turn acts on all `cqes` when no submission is under way, and `completions`
/// holds the results in order.
///
/// The order of the fields is the order of teardown: the queue goes before the memory that its
/// operations name.
pub(super) struct InFlight {
    pub(super) queue: Queue,
    pub(super) pool: BufferPool,
    pub(super) ops: Ops,
    pub(super) fds: FdTable,
    /// Completions of the kernel, not yet acted on.
    pub(super) cqes: VecDeque<Cqe>,
    /// Results for [`PipeIo::next`](crate::io::PipeIo::next).
    pub(super) completions: VecDeque<Completion>,
    /// Reads that wait for pool buffers, the longest waiting first.
    pub(super) starved: VecDeque<EndId>,
    /// How often a read ended because the pool was empty.
    pub(super) starved_count: u64,
    pub(super) deferred: Vec<DeferredSubmission>,
    /// Reads are READ_MULTISHOT, else READ.
    pub(super) multishot: bool,
    /// The kernel takes `RWF_NOSIGNAL`.
    pub(super) nosignal: bool,
    /// Descriptors whose CLOSE did not run, closed by `close(2)`. Zero on a correct kernel.
    pub(super) closed_by_hand: u64,
}

impl InFlight {
    pub(super) fn new(queue: Queue, pool: BufferPool, multishot: bool) -> Self {
        Self {
            queue,
            pool,
            ops: Ops::default(),
            fds: FdTable::default(),
            cqes: VecDeque::new(),
            completions: VecDeque::new(),
            starved: VecDeque::new(),
            starved_count: 0,
            deferred: Vec::new(),
            multishot,
            nosignal: false,
            closed_by_hand: 0,
        }
    }

    /// Makes room for `entries` submissions, if necessary by submitting what is queued.
    pub(super) fn make_room(&mut self, entries: usize) -> bool {
        // An enter that fails because the kernel is busy may succeed once its completions are
        // collected. The attempts are few, because callers can defer and a turn must not hang here.
        for _ in 0..3 {
            if self.queue.room() >= entries {
                return true;
            }
            self.submit_and_collect();
        }
        self.queue.room() >= entries
    }

    /// Submits what is queued and collects completions without acting on them.
    pub(super) fn submit_and_collect(&mut self) {
        // Reads that are submitted here take buffers at once.
        self.pool.publish();
        let entered = self.queue.enter(0, None);
        self.collect();
        // The error is not returned: the caller finds no room and defers, and the enter of the turn
        // meets an error that lasts.
        if let Err(error) = entered {
            crate::trace::debug!(%error, "submission refused for now");
        }
    }

    /// Moves completions out of the queue shared with the kernel, so that it does not overflow.
    pub(super) fn collect(&mut self) {
        let Self { queue, pool, cqes, .. } = self;
        queue.collect(|cqe| {
            // The buffer counts as lent from here and not from the moment that the completion is
            // acted on: `arm` reads the number of free buffers in between.
            if let Some(buffer) = cqe.buffer {
                pool.note_lent(buffer);
            }
            cqes.push_back(cqe);
        });
    }

    /// Whether a starved read could be armed now.
    pub(super) fn can_arm_starved(&self) -> bool {
        !self.starved.is_empty() && self.pool.free() > 0
    }

    pub(super) fn return_buffer(&mut self, buffer: Option<u16>) {
        if let Some(buffer) = buffer {
            self.pool.give_back(buffer);
        }
    }
}
