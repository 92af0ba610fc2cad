//! The interface between a transport and the kernel backend that carries its pipes.
//!
//! The transport uses only [`PipeIo`]. `ring::Ring` implements it with io_uring, and `epoll::Epoll`
//! with epoll and non-blocking calls. `backend` chooses one of them when an engine starts.
//!
//! The implementation owns a descriptor from [`adopt`](PipeIo::adopt) until [`Completion::Closed`]:
//! no other code can close it, read it or reuse its number in between.

mod end_table;

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;

use bytes::BytesMut;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::counters::IoCounters;

pub(crate) use end_table::EndTable;

/// A descriptor that a [`PipeIo`] owns. The generation makes a stale one detectable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct EndId {
    pub(crate) slot: u32,
    pub(crate) generation: u32,
}

/// The purpose of a descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Role {
    Stdin,
    Stdout,
    Stderr,
    /// The pidfd.
    Exit,
    /// `cgroup.events` of the agent's cgroup, while that is being emptied.
    Cgroup,
    /// An eventfd that is written when the agent's container is removed.
    Container,
    /// The eventfd by which other threads wake the driver. Belongs to no agent.
    Wake,
}

/// The agent and purpose of a descriptor, returned with every completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Tag {
    pub(crate) agent: u32,
    pub(crate) role: Role,
}

/// Bytes in a pool buffer. Must go back through [`PipeIo::give_back`] in the same turn, so that a
/// slow reader can never starve the pool.
#[derive(Debug)]
#[must_use = "a lease that is not given back is a buffer lost to the pool"]
pub(crate) struct Lease {
    pub(crate) buffer: u16,
    pub(crate) len: u32,
}

/// Why a read is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReadEnd {
    /// Every writer closed its end.
    Eof,
    /// An errno.
    Failed(i32),
}

/// An event of a descriptor.
#[derive(Debug)]
pub(crate) enum Completion {
    /// Bytes arrived. The read continues until it is paused.
    Data { tag: Tag, lease: Lease },
    /// A [`read_into`](PipeIo::read_into) ended. `buf` is longer by what it read: by nothing if it was
    /// cancelled or has met the end, which follows as a `ReadEnd`.
    Filled { tag: Tag, buf: BytesMut },
    /// The read is over for good.
    ReadEnd { tag: Tag, why: ReadEnd },
    /// A write ended. `result` may be short; -ECANCELED means that no byte was written.
    Wrote { tag: Tag, buf: Vec<u8>, result: io::Result<usize> },
    /// A watched descriptor became readable (a pidfd: the process exited). Reported once.
    Ready { tag: Tag, result: io::Result<()> },
    /// The descriptor is closed and the kernel holds no operation of it. Always its last event.
    Closed { tag: Tag, result: io::Result<()> },
}

/// A write that was not accepted, with its payload.
#[derive(Debug)]
pub(crate) struct WriteRefused {
    pub(crate) error: io::Error,
    pub(crate) buf: Vec<u8>,
}

/// Reads, writes, watches and closes the descriptors that it owns, and returns their completions.
///
/// All calls come from one thread. Only [`wait`](Self::wait) and [`drain`](Self::drain) block.
pub(crate) trait PipeIo {
    /// Takes ownership of a descriptor. [`close`](Self::close) or the drop of `self` closes it.
    fn adopt(&mut self, fd: OwnedFd, tag: Tag) -> EndId;

    /// Starts reading. Does nothing if the read has started. The implementation re-arms the read by
    /// itself after a burst, an empty pool or a pause.
    fn read(&mut self, end: EndId);

    /// Reads once, at most `len` bytes, into the room behind `buf`. Ends a read that has started: what
    /// that brings arrives first. [`read`](Self::read) may be called again after [`Completion::Filled`],
    /// which follows in any case, also a [`pause`](Self::pause) or a close.
    fn read_into(&mut self, end: EndId, buf: BytesMut, len: usize);

    /// Stops reading. Data on its way may still arrive.
    fn pause(&mut self, end: EndId);

    /// Whether bytes of this descriptor are in its pipe or collected and not returned yet. May
    /// return true for a descriptor without any while other completions are on their way.
    fn has_unread(&mut self, end: EndId) -> bool;

    /// Whether a process still has the other end of this output. Not known: true. False once its close was
    /// requested.
    fn has_writer(&self, end: EndId) -> bool {
        self.descriptor(end).is_some_and(has_writer)
    }

    /// Returns the leased bytes.
    fn bytes(&self, lease: &Lease) -> &[u8];

    /// Returns the buffer to the pool.
    fn give_back(&mut self, lease: Lease);

    /// Writes `buf[from..]`. At most one write per descriptor may be pending.
    fn write(&mut self, end: EndId, buf: Vec<u8>, from: usize) -> Result<(), WriteRefused>;

    /// Reports once, as [`Completion::Ready`], when the descriptor is readable, or has POLLPRI for
    /// [`Role::Cgroup`].
    fn watch(&mut self, end: EndId);

    /// Lends the descriptor for signals and queries. Returns `None` once its close was requested.
    fn descriptor(&self, end: EndId) -> Option<BorrowedFd<'_>>;

    /// Cancels what is pending on each descriptor and closes it, all in one submission, in the given
    /// order. Each ends with one [`Completion::Closed`], after the completion of its pending
    /// operation. Ignores descriptors that are closing or closed.
    fn close(&mut self, ends: &[EndId]);

    /// Submits what is queued, waits for at least one completion or for `timeout` (`None`: no
    /// limit), and collects completions for [`next`](Self::next). Returns at once if some are
    /// collected already. An interrupted wait is `Ok`.
    fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()>;

    /// Returns a descriptor for a driver that waits elsewhere: it becomes readable anew, as an edge,
    /// when there is something to collect after [`notify`](Self::notify).
    #[cfg(feature = "local")]
    fn readiness(&mut self) -> io::Result<OwnedFd>;

    /// Submits what is queued and collects completions without waiting.
    #[cfg(feature = "local")]
    fn turn(&mut self) -> io::Result<()>;

    /// Whether submissions are queued or deferred, so that another turn is due.
    #[cfg(feature = "local")]
    fn wants_turn(&self) -> bool;

    /// Lets the kernel signal the next completion by the descriptor of [`readiness`](Self::readiness),
    /// until the next [`turn`](Self::turn). Returns false if a completion is there already: then the
    /// signal may not come, and another turn is due.
    #[cfg(feature = "local")]
    fn notify(&mut self) -> bool;

    /// Returns the oldest collected completion.
    fn next(&mut self) -> Option<Completion>;

    /// The number of operations whose final completion was not collected.
    fn in_kernel(&self) -> usize;

    /// Counters since the start.
    fn counters(&self) -> IoCounters;

    /// Closes every descriptor and waits until the kernel holds no operation. Returns false if
    /// `limit` passed first.
    fn drain(&mut self, limit: Duration) -> bool;
}

/// A pipe without a writer reports POLLHUP, whatever is left in it.
fn has_writer(pipe: BorrowedFd<'_>) -> bool {
    let mut polled = [PollFd::new(&pipe, PollFlags::IN)];
    // The driver must not wait here. A `None` would mean a wait without an end.
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    match poll(&mut polled, Some(&at_once)) {
        Ok(_) => !polled[0].revents().contains(PollFlags::HUP),
        // If it cannot be known, the pipe counts as held.
        Err(_) => true,
    }
}
