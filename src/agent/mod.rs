//! The handles of an agent: one set for both kinds of engine.
//!
//! A handle reads and writes the agent's [`Channel`] itself. What the driver has to do (write, read
//! on, close) is a [`Request`], which a [`Link`] carries to it: through the mailbox of an engine
//! thread, or directly on the caller's thread. [`Connection`] is what all handles of one agent share.

mod close;
mod reader;
#[cfg(feature = "stream")]
mod stream;
mod writer;

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::close::{CloseMode, CloseReason};
use crate::counters::AgentStats;
use crate::error::Result;
use crate::record::{Event, Record};
use crate::transport::{Channel, CloseLimits, Request};

pub use reader::AgentReader;
pub use writer::AgentWriter;

/// The kind of engine that drives an agent: [`Remote`] or `Local`. Sealed.
///
/// The handles are generic over it, so that both kinds have the same methods. Code that names
/// [`Agent`], [`AgentReader`] or [`AgentWriter`] without a parameter gets the handles of
/// [`Engine`](crate::Engine); `LocalAgent` and its like are those of `LocalEngine`.
#[expect(private_bounds, reason = "sealed: the two kinds are those of this crate")]
pub trait EngineKind: Connect {}

/// Agents of an [`Engine`](crate::Engine), driven by its threads. Their handles are `Send` and
/// `Sync`, and every async method has a blocking twin.
#[derive(Debug)]
pub enum Remote {}

/// Agents of a [`LocalEngine`](crate::LocalEngine), driven by the thread that made it. Their
/// handles stay on that thread, and there are no blocking twins: blocking the thread would stop the
/// engine.
#[cfg(feature = "local")]
#[derive(Debug)]
pub enum Local {}

impl EngineKind for Remote {}
#[cfg(feature = "local")]
impl EngineKind for Local {}

/// How the handles of a kind of engine hold their [`Connection`].
pub(crate) trait Connect: 'static {
    type Link: Link + ?Sized;
    type Pointer: Deref<Target = Connection<Self::Link>> + Clone + fmt::Debug + Unpin;
}

impl Connect for Remote {
    type Link = dyn Link + Send + Sync;
    type Pointer = Arc<Connection<Self::Link>>;
}

/// `Rc` makes every handle `!Send` by itself.
#[cfg(feature = "local")]
impl Connect for Local {
    type Link = dyn Link;
    type Pointer = std::rc::Rc<Connection<Self::Link>>;
}

/// The way from the handles of an agent to its driver.
pub(crate) trait Link: fmt::Debug {
    /// Passes a request on. Where the driver has ended it is dropped: the agent was closed with it.
    /// Not called in a forked child.
    fn request(&self, channel: &Arc<Channel>, request: Request);

    /// Counts an agent whose handles were all dropped without a close. Its abort is requested next.
    fn note_abandoned(&self, channel: &Channel);
}

/// The state that all handles of one agent share. Dropping it, with the last of them, aborts the agent unless
/// it was closed.
#[derive(Debug)]
pub(crate) struct Connection<L: Link + ?Sized> {
    pub(crate) channel: Arc<Channel>,
    /// With the last of them the agent's input ends.
    writers: AtomicUsize,
    /// No handle is expected to close the agent any more: it is aborted, or closed unattended.
    released: AtomicBool,
    link: L,
}

impl<L: Link> Connection<L> {
    fn new(channel: Arc<Channel>, link: L) -> Self {
        Self { channel, writers: AtomicUsize::new(1), released: AtomicBool::new(false), link }
    }
}

impl<L: Link + ?Sized> Connection<L> {
    /// Returns false in a forked child, where the handles touch no lock and request nothing.
    fn is_here(&self) -> bool {
        self.channel.origin.is_here()
    }

    fn request(&self, request: Request) {
        if self.is_here() {
            self.link.request(&self.channel, request);
        }
    }

    /// Marks the agent as one whose close is under way and whose report no handle waits for: the last
    /// handle dropped neither aborts nor counts it.
    fn release(&self) {
        // Relaxed: the flag guards no other data, and the drop of the last handle, which reads it,
        // comes after every use of a handle.
        self.released.store(true, Ordering::Relaxed);
    }

    /// Aborts and counts the agent, once, unless it was closed or [released](Self::release).
    fn abandon(&self) {
        // In a forked child there is a report as well: the agent belongs to the parent.
        if self.released.swap(true, Ordering::Relaxed) || self.channel.close_report().is_some() {
            return;
        }
        let agent = self.channel.label.as_str();
        crate::trace::warn!(agent, "dropped without a close; it is aborted");
        // Counted first: the agent may be gone by the time the request is sent.
        self.link.note_abandoned(&self.channel);
        self.request(Request::Close(CloseLimits::Own(CloseMode::Abort), CloseReason::Dropped));
    }
}

impl<L: Link + ?Sized> Drop for Connection<L> {
    fn drop(&mut self) {
        self.abandon();
    }
}

/// A running agent: both halves in one handle.
///
/// Without a parameter it is an agent of an [`Engine`](crate::Engine): `Send`, `Sync`, usable from
/// any runtime and from none. `LocalAgent` is the same handle for an agent of a `LocalEngine`; it
/// stays on its thread and has no blocking methods.
///
/// Close it with [`close`](Self::close) or [`abort`](Self::abort). Dropping it without starts an
/// abort inside the engine, which counts it ([`Engine::abandoned`](crate::Engine::abandoned)).
#[derive(Debug)]
pub struct Agent<E: EngineKind = Remote> {
    reader: AgentReader<E>,
    writer: AgentWriter<E>,
}

impl<E: EngineKind> Agent<E> {
    fn new(connection: E::Pointer) -> Self {
        Self { reader: AgentReader::new(connection.clone()), writer: AgentWriter::new(connection) }
    }

    /// Splits the agent into its two halves, for two tasks. Either can close the agent.
    #[must_use]
    pub fn split(self) -> (AgentReader<E>, AgentWriter<E>) {
        (self.reader, self.writer)
    }

    /// Returns the next event. See [`AgentReader::next`].
    pub async fn next(&mut self) -> Option<Event> {
        self.reader.next().await
    }

    /// Returns the next record. See [`AgentReader::next_record`].
    pub async fn next_record(&mut self) -> Option<Record> {
        self.reader.next_record().await
    }

    /// Queues one record. See [`AgentWriter::send`].
    ///
    /// # Errors
    /// See [`AgentWriter::send`].
    pub async fn send(&self, record: impl AsRef<[u8]>) -> Result<()> {
        self.writer.send(record).await
    }

    /// Queues one record without waiting. See [`AgentWriter::try_send`].
    ///
    /// # Errors
    /// See [`AgentWriter::try_send`].
    pub fn try_send(&self, record: impl AsRef<[u8]>) -> Result<()> {
        self.writer.try_send(record)
    }

    /// Waits until every accepted record is written. See [`AgentWriter::flush`].
    ///
    /// # Errors
    /// See [`AgentWriter::flush`].
    pub async fn flush(&self) -> Result<()> {
        self.writer.flush().await
    }

    /// Ends the agent's input. See [`AgentWriter::end_input`].
    pub fn end_input(&self) {
        self.writer.end_input();
    }

    /// Returns the agent's process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.writer.pid()
    }

    /// Returns the agent's counters, at most one engine turn old.
    #[must_use]
    pub fn stats(&self) -> AgentStats {
        self.writer.stats()
    }
}

#[cfg(feature = "local")]
impl Agent<Local> {
    /// Makes the handles of an agent that is driven by this thread.
    pub(crate) fn local(channel: Arc<Channel>, link: impl Link + 'static) -> Self {
        let connection: std::rc::Rc<Connection<dyn Link>> =
            std::rc::Rc::new(Connection::new(channel, link));
        Self::new(connection)
    }
}

impl Agent {
    /// Makes the handles of an agent that is driven by an engine thread.
    pub(crate) fn remote(channel: Arc<Channel>, link: impl Link + Send + Sync + 'static) -> Self {
        let connection: Arc<Connection<dyn Link + Send + Sync>> =
            Arc::new(Connection::new(channel, link));
        Self::new(connection)
    }

    pub(crate) fn writer(&self) -> &AgentWriter {
        &self.writer
    }

    pub(crate) fn reader_mut(&mut self) -> &mut AgentReader {
        &mut self.reader
    }

    /// Blocking form of [`next`](Self::next), for callers without a runtime.
    pub fn next_blocking(&mut self) -> Option<Event> {
        self.reader.next_blocking()
    }

    /// Blocking form of [`next_record`](Self::next_record), for callers without a runtime.
    pub fn next_record_blocking(&mut self) -> Option<Record> {
        self.reader.next_record_blocking()
    }

    /// Blocking form of [`send`](Self::send), for callers without a runtime.
    ///
    /// # Errors
    /// See [`AgentWriter::send`].
    pub fn send_blocking(&self, record: impl AsRef<[u8]>) -> Result<()> {
        self.writer.send_blocking(record)
    }

    /// Blocking form of [`flush`](Self::flush), for callers without a runtime.
    ///
    /// # Errors
    /// See [`AgentWriter::flush`].
    pub fn flush_blocking(&self) -> Result<()> {
        self.writer.flush_blocking()
    }
}
