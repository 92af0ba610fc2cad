//! Floor 1. The io_uring tier: every pipe read and write is an operation of one ring.
//!
//! The only place that names io_uring. One thread, one [`Ring`]; it implements
//! [`PipeIo`] and knows neither agents nor records.
//!
//! | file | holds |
//! | --- | --- |
//! | `setup`, `refusal`, `probe` | the flags, why a host says no, what the kernel can do |
//! | `queue` | the submission and completion queues, `io_uring_enter`, the trace |
//! | `op`, `end`, `buffer` | operations in the kernel, descriptors, the pool |
//! | `read`, `write`, `watch`, `cancel`, `close` | one verb each: submit it, act on its completion |
//! | `drive`, `signal`, `drain` | one turn of the ring, one for a driver that waits elsewhere, its end |
//! | `window` | a wait that collects what comes within a while |
//! | `sigpipe` | keeps a dead reader from killing the process |
//!
//! Pitfalls, each with its guard in `tests`: a read without MORE has ended whatever its result
//! says; a read armed on an empty pool spins; a close without cancel leaves the writer alive; a
//! pair of cancel and close split over two submissions is no pair; memory named by an operation
//! is the kernel's until the final completion.

mod buffer;
mod cancel;
mod close;
mod drain;
mod drive;
mod end;
mod op;
mod probe;
mod queue;
mod read;
mod refusal;
mod setup;
#[cfg(feature = "local")]
mod signal;
mod sigpipe;
#[cfg(test)]
mod tests;
mod watch;
mod window;
mod write;

use std::collections::VecDeque;
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

pub(crate) use setup::RingConfig;
pub(crate) use sigpipe::block_sigpipe;

use crate::counters::KernelFeatures;
use crate::counters::{Backend, IoCounters};
use crate::io::{Completion, EndId, Lease, PipeIo, Tag, WriteRefused};

/// One ring, its pool and everything it has in flight. Stays on the thread that made it.
///
/// Dropping it drains it first. The order of the fields is the order of teardown: the ring goes
/// before the memory its operations name.
pub(crate) struct Ring {
    queue: queue::Queue,
    pool: buffer::Pool,
    ops: op::Ops,
    ends: end::Ends,
    /// Completions taken from the kernel and not yet acted on.
    reaped: VecDeque<queue::Cqe>,
    /// What they came to, for [`PipeIo::next`].
    ready: VecDeque<Completion>,
    /// Reads that wait for pool buffers, longest first.
    starved: VecDeque<EndId>,
    /// What the kernel was too busy to take: tried again with every turn.
    deferred: Vec<drive::Deferred>,
    features: KernelFeatures,
    starved_count: u64,
    stale: u64,
    /// Descriptors whose CLOSE did not run and that close(2) closed.
    closed_by_hand: u64,
    /// A SINGLE_ISSUER ring refuses other threads: `IoUring` itself would be Send.
    not_send: PhantomData<*const ()>,
}

impl PipeIo for Ring {
    fn backend(&self) -> Backend {
        Backend::IoUring
    }

    fn adopt(&mut self, fd: OwnedFd, tag: Tag) -> EndId {
        self.ends.insert(fd, tag)
    }

    fn read(&mut self, end: EndId) {
        self.want_read(end);
    }

    fn pause(&mut self, end: EndId) {
        self.pause_read(end);
    }

    fn has_unread(&mut self, end: EndId) -> bool {
        self.is_unread(end)
    }

    fn descriptor(&self, end: EndId) -> Option<BorrowedFd<'_>> {
        let end = self.ends.get(end).filter(|end| !end.doomed)?;
        end.pipe().map(AsFd::as_fd)
    }

    fn write(&mut self, end: EndId, buf: Vec<u8>, from: usize) -> Result<(), WriteRefused> {
        self.submit_write(end, buf, from)
    }

    fn watch(&mut self, end: EndId) {
        self.submit_watch(end);
    }

    fn close(&mut self, ends: &[EndId]) {
        self.close_all(ends);
    }

    fn bytes(&self, lease: &Lease) -> &[u8] {
        self.pool.bytes(lease.buffer, lease.len)
    }

    fn give_back(&mut self, lease: Lease) {
        self.pool.give_back(lease.buffer);
    }

    fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.turn_and_wait(timeout)
    }

    #[cfg(feature = "local")]
    fn signal_by(&mut self, eventfd: &OwnedFd) -> io::Result<()> {
        self.signal_on(eventfd)
    }

    #[cfg(feature = "local")]
    fn turn(&mut self) -> io::Result<()> {
        self.turn_at_once()
    }

    #[cfg(feature = "local")]
    fn wants_turn(&self) -> bool {
        self.has_more()
    }

    #[cfg(feature = "local")]
    fn arm(&mut self) -> bool {
        self.signal_from_now()
    }

    fn next(&mut self) -> Option<Completion> {
        self.ready.pop_front()
    }

    fn in_kernel(&self) -> usize {
        self.ops.len()
    }

    fn counters(&self) -> IoCounters {
        self.count()
    }

    fn drain(&mut self, limit: Duration) -> bool {
        self.close_and_wait(limit)
    }
}
