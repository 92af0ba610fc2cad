//! Floor 0. The seam between a transport and the kernel interface that carries its pipes.
//!
//! The transport speaks only to [`PipeIo`]. `ring::Ring` is the io_uring tier; a second tier
//! (epoll) is a second implementation of this trait, chosen once at start, not a `cfg`.
//!
//! The descriptors belong to the implementation from [`adopt`](PipeIo::adopt) until
//! [`Completion::Closed`]: nobody else can close one, read one or reuse its number.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;

use crate::counters::{Backend, IoCounters};

/// A descriptor that a [`PipeIo`] owns. Carries a generation: a stale one is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct EndId {
    pub(crate) slot: u32,
    pub(crate) generation: u32,
}

/// What a descriptor is to its agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Role {
    Stdin,
    Stdout,
    Stderr,
    /// The pidfd.
    Exit,
    /// `cgroup.events` of its cgroup, while that is being emptied.
    Cgroup,
    /// The eventfd by which other threads wake the engine. Belongs to no agent.
    Wake,
}

/// Whose descriptor it is; given back with every completion.
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

/// Why a read will bring no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReadEnd {
    /// Every writer closed its end.
    Eof,
    /// An errno.
    Failed(i32),
}

/// Something that happened to a descriptor.
#[derive(Debug)]
pub(crate) enum Completion {
    /// Bytes arrived. The read stays wanted until it is paused.
    Data { tag: Tag, lease: Lease },
    /// The read is over for good.
    ReadEnd { tag: Tag, why: ReadEnd },
    /// A write ended. `result` may be short; -ECANCELED means that no byte moved.
    Wrote { tag: Tag, buf: Vec<u8>, result: io::Result<usize> },
    /// A watched descriptor became readable (a pidfd: the process exited). One shot.
    Ready { tag: Tag, result: io::Result<()> },
    /// The descriptor is closed and its last operation is final: nothing of it is in the kernel.
    Closed { tag: Tag, result: io::Result<()> },
}

/// A write that was not accepted: the payload comes back.
#[derive(Debug)]
pub(crate) struct WriteRefused {
    pub(crate) error: io::Error,
    pub(crate) buf: Vec<u8>,
}

/// Reads, writes, watches and closes descriptors it owns, and tells what became of them.
///
/// All calls are made on one thread. Nothing here blocks but [`wait`](Self::wait) and
/// [`drain`](Self::drain).
pub(crate) trait PipeIo {
    /// Which tier this is.
    fn backend(&self) -> Backend;

    /// Takes a descriptor over. It is closed by [`close`](Self::close) or with `self`.
    fn adopt(&mut self, fd: OwnedFd, tag: Tag) -> EndId;

    /// Wants bytes from this end from now on; nothing to do if it already does. The
    /// implementation re-arms after a burst, after an empty pool and after a pause by itself.
    fn read(&mut self, end: EndId);

    /// Wants no bytes for now. Data already on its way may still complete.
    fn pause(&mut self, end: EndId);

    /// Writes `buf[from..]`. At most one write per end may be pending.
    fn write(&mut self, end: EndId, buf: Vec<u8>, from: usize) -> Result<(), WriteRefused>;

    /// Bytes of this end are on their way here: in its pipe, or collected and not shown yet. May say
    /// so of an end without any where other completions are on their way.
    fn has_unread(&mut self, end: EndId) -> bool;

    /// Lends the descriptor, for questions and signals. `None` once its close was asked for.
    fn descriptor(&self, end: EndId) -> Option<BorrowedFd<'_>>;

    /// Reports once, as [`Completion::Ready`], when the descriptor is readable; for one of
    /// [`Role::Cgroup`], when it has POLLPRI.
    fn watch(&mut self, end: EndId);

    /// Cancels what is pending on each end and closes it, all in one submission, in the order
    /// given. Each ends in one [`Completion::Closed`], after that of its pending operation. An
    /// end already closing or closed is passed over.
    fn close(&mut self, ends: &[EndId]);

    /// Returns the leased bytes.
    fn bytes(&self, lease: &Lease) -> &[u8];

    /// Returns the buffer to the pool.
    fn give_back(&mut self, lease: Lease);

    /// Submits what is queued, waits for at least one completion or for `timeout` (`None`: no
    /// limit), and collects completions for [`next`](Self::next). Returns at once where some
    /// are collected already. An interrupted wait is `Ok`.
    fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()>;

    /// For a driver that waits elsewhere: registers an eventfd. It is silent until
    /// [`arm`](Self::arm), and again from the next [`turn`](Self::turn) on.
    #[cfg(feature = "local")]
    fn signal_by(&mut self, eventfd: &OwnedFd) -> io::Result<()>;

    /// Submits what is queued and collects what is there, without waiting.
    #[cfg(feature = "local")]
    fn turn(&mut self) -> io::Result<()>;

    /// Something waits for the next turn: queued submissions, or ones put off.
    #[cfg(feature = "local")]
    fn wants_turn(&self) -> bool;

    /// Asks for the eventfd to be written as soon as there is something to collect. False if there
    /// is already: then another turn is due, and the eventfd may stay silent.
    #[cfg(feature = "local")]
    fn arm(&mut self) -> bool;

    /// The next completion collected, oldest first. They are acted on only after all were
    /// collected: no recursion, no surprise in the order.
    fn next(&mut self) -> Option<Completion>;

    /// Operations whose final completion has not been collected.
    fn in_kernel(&self) -> usize;

    /// Counters since the start.
    fn counters(&self) -> IoCounters;

    /// Closes every end and waits until nothing is in the kernel. False if `limit` passed
    /// first: memory the kernel may still write to is then leaked on purpose, and said so.
    fn drain(&mut self, limit: Duration) -> bool;
}
