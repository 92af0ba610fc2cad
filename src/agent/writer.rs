//! The writing half of an agent.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use crate::close::{ClosePolicy, CloseReason, CloseReport};
use crate::counters::AgentStats;
use crate::error::{Error, ErrorKind, Result};
use crate::frame::encode;
use crate::framing::Framing;
use crate::origin::foreign;
use crate::sync::{SetOnce, WaitKey};
use crate::transport::{CatchUp, CaughtUp, Channel, CloseLimits, Offer, Request};

use super::{EngineKind, Remote};

/// Sends records to an agent. Cheap to clone; made by [`Agent::split`](super::Agent::split).
///
/// Dropping the last clone ends the agent's input once every accepted record is written, as the end
/// of any pipe does.
pub struct AgentWriter<E: EngineKind = Remote> {
    pub(super) connection: E::Pointer,
    #[cfg(feature = "stream")]
    pub(super) sink: SinkState,
}

impl<E: EngineKind> Clone for AgentWriter<E> {
    fn clone(&self) -> Self {
        // Relaxed as in `Arc::clone`: `self` keeps the count above 0.
        self.connection.writers.fetch_add(1, Ordering::Relaxed);
        Self::new(self.connection.clone())
    }
}

impl<E: EngineKind> fmt::Debug for AgentWriter<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AgentWriter").field("connection", &self.connection).finish()
    }
}

/// The state of a writer between two calls of a sink.
#[cfg(feature = "stream")]
#[derive(Debug, Default)]
pub(super) struct SinkState {
    /// A frame that was sent and for which there was no room yet.
    pub(super) pending: Option<Vec<u8>>,
    pub(super) key: WaitKey,
}

impl<E: EngineKind> AgentWriter<E> {
    pub(super) fn new(connection: E::Pointer) -> Self {
        Self {
            connection,
            #[cfg(feature = "stream")]
            sink: SinkState::default(),
        }
    }

    /// Queues one record and adds the framing. Resolves once the record is accepted, which waits
    /// only while [`Limits::outbox_high`](crate::Limits::outbox_high) bytes are unsent.
    ///
    /// Cancel-safe: a record is accepted whole or not at all. An accepted record is written
    /// whole, unless the agent exits or is closed first; the close report counts it as unsent then.
    ///
    /// # Errors
    /// [`InvalidRecord`](ErrorKind::InvalidRecord) and [`RecordTooLarge`](ErrorKind::RecordTooLarge)
    /// before a byte is sent, [`InputEnded`](ErrorKind::InputEnded) after
    /// [`end_input`](Self::end_input) or if the agent closed its stdin, [`Closed`](ErrorKind::Closed)
    /// if the agent has exited or is closed.
    pub async fn send(&self, record: impl AsRef<[u8]>) -> Result<()> {
        // The record is encoded before the wait: one that may not be sent is refused at once, and
        // the outbox is not locked meanwhile.
        let mut frame = Some(self.framed(record.as_ref())?);
        let mut waiting = Waiting::new(&self.connection.channel);
        std::future::poll_fn(|context| self.poll_send(&mut frame, &mut waiting.key, context)).await
    }

    /// Sets the framing of the records that are sent from now on, by any clone of this writer. Meant
    /// for [`Framing::Auto`], which writes lines by default.
    pub fn set_framing(&self, framing: Framing) {
        self.connection.channel.sent_framing.set(framing);
    }

    /// Queues one record without waiting. See [`send`](Self::send).
    ///
    /// # Errors
    /// [`Overloaded`](ErrorKind::Overloaded) if [`Limits::outbox_high`](crate::Limits::outbox_high)
    /// bytes are unsent: nothing is queued, and the record may be sent later. Otherwise see
    /// [`send`](Self::send).
    pub fn try_send(&self, record: impl AsRef<[u8]>) -> Result<()> {
        let frame = self.framed(record.as_ref())?;
        match self.try_offer(frame)? {
            None => Ok(()),
            Some(_) => {
                let what = "the agent does not read its stdin as fast as records are sent";
                Err(Error::new(ErrorKind::Overloaded, "write", what)
                    .on_agent(self.label())
                    .remedy("wait with send or flush, or raise Limits::outbox_high"))
            }
        }
    }

    /// Queues a frame, or returns it if there is no room now.
    pub(super) fn try_offer(&self, frame: Vec<u8>) -> Result<Option<Vec<u8>>> {
        self.check_here()?;
        match self.connection.channel.outbox.try_offer(frame) {
            Offer::Accepted { tell_driver } => {
                self.request_write(tell_driver);
                Ok(None)
            }
            Offer::Full(back) => Ok(Some(back)),
            Offer::Refused(error) => Err(self.explain(error)),
        }
    }

    fn request_write(&self, tell_driver: bool) {
        // If frames were queued already, the driver was told of the first and takes all of them.
        if tell_driver {
            self.connection.request(Request::Write);
        }
    }

    pub(super) fn poll_send(
        &self,
        frame: &mut Option<Vec<u8>>,
        key: &mut WaitKey,
        context: &mut Context<'_>,
    ) -> Poll<Result<()>> {
        self.check_here()?;
        let Some(offered) = frame.take() else { return Poll::Ready(Ok(())) };
        match self.connection.channel.outbox.offer(offered, key, context.waker()) {
            Offer::Accepted { tell_driver } => {
                self.request_write(tell_driver);
                Poll::Ready(Ok(()))
            }
            Offer::Full(back) => {
                *frame = Some(back);
                Poll::Pending
            }
            Offer::Refused(error) => Poll::Ready(Err(self.explain(error))),
        }
    }

    /// Resolves once every accepted byte is in the agent's stdin pipe. Cancel-safe.
    ///
    /// # Errors
    /// See [`send`](Self::send); only if accepted bytes will never be written.
    pub async fn flush(&self) -> Result<()> {
        let mut waiting = Waiting::new(&self.connection.channel);
        std::future::poll_fn(|context| self.poll_flushed(&mut waiting.key, context)).await
    }

    pub(super) fn poll_flushed(
        &self,
        key: &mut WaitKey,
        context: &mut Context<'_>,
    ) -> Poll<Result<()>> {
        self.check_here()?;
        match self.connection.channel.outbox.poll_flushed(key, context.waker()) {
            Some(result) => Poll::Ready(result.map_err(|error| self.explain(error))),
            None => Poll::Pending,
        }
    }

    /// Ends the agent's input: later writes are refused, and stdin is closed once every accepted
    /// record is written. Reading goes on. Does not wait; further calls have no effect.
    pub fn end_input(&self) {
        if !self.connection.is_here() {
            return;
        }
        let error = Error::new(ErrorKind::InputEnded, "write", "the input was ended")
            .on_agent(self.label())
            .remedy("send before end_input, or spawn another agent");
        if self.connection.channel.outbox.refuse(error) {
            self.connection.request(Request::EndInput);
        }
    }

    /// Declares that a turn is open, with the record that interrupts it, or (`None`) that it is over.
    ///
    /// While a turn is open, a graceful close sends that record first and waits, at most
    /// [`ClosePolicy::interrupt`](crate::ClosePolicy::interrupt), until the turn is over: an agent
    /// in the middle of an answer finishes the answer before it looks at the end of its input.
    ///
    /// # Errors
    /// See [`send`](Self::send), for a record that may not be sent.
    pub fn set_interrupt(&self, request: Option<&[u8]>) -> Result<()> {
        self.check_here()?;
        let frame = request.map(|record| self.framed(record)).transpose()?;
        let is_over = frame.is_none();
        let was_open = self.connection.channel.outbox.set_interrupt(frame);
        // A graceful close may wait for this.
        if is_over && was_open {
            self.connection.request(Request::TurnEnded);
        }
        Ok(())
    }

    /// Returns the agent's process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.connection.channel.pid
    }

    /// Returns the agent's counters, at most one engine turn old.
    #[must_use]
    pub fn stats(&self) -> AgentStats {
        self.connection.channel.stats()
    }

    pub(super) fn framed(&self, record: &[u8]) -> Result<Vec<u8>> {
        let channel = &self.connection.channel;
        let mut frame = Vec::new();
        encode(channel.sent_framing.get(), record, &channel.limits, &mut frame)
            .map_err(|error| error.on_agent(self.label()))?;
        Ok(frame)
    }

    fn check_here(&self) -> Result<()> {
        if self.is_here() { Ok(()) } else { Err(foreign("write").on_agent(self.label())) }
    }

    /// Replaces "the agent is closed" by how it ended, once that is known.
    fn explain(&self, error: Error) -> Error {
        match self.connection.channel.close_report() {
            // An ended input is the nearer cause, even if the agent has ended since.
            Some(report) if error.kind() != ErrorKind::InputEnded => {
                let what = format!("the agent is gone: {}", report.exit());
                Error::new(ErrorKind::Closed, "write", what)
                    .on_agent(self.label())
                    .stderr(report.stderr_tail())
            }
            _ => error,
        }
    }

    /// Returns false in a forked child.
    pub(crate) fn is_here(&self) -> bool {
        self.connection.is_here()
    }

    /// Returns `pid 123 (claude)`, for errors.
    pub(crate) fn label(&self) -> &str {
        self.connection.channel.label.as_str()
    }
}

impl AgentWriter {
    /// Blocking form of [`send`](Self::send), for callers without a runtime.
    ///
    /// # Errors
    /// See [`send`](Self::send).
    pub fn send_blocking(&self, record: impl AsRef<[u8]>) -> Result<()> {
        pollster::block_on(self.send(record))
    }

    /// Blocking form of [`flush`](Self::flush), for callers without a runtime.
    ///
    /// # Errors
    /// See [`flush`](Self::flush).
    pub fn flush_blocking(&self) -> Result<()> {
        pollster::block_on(self.flush())
    }
}

/// For sessions and agent pools.
impl AgentWriter {
    /// Asks whether everything that the agent had written before this call is with its reader.
    pub(crate) fn catch_up(&self) -> Arc<SetOnce<CaughtUp>> {
        let (question, answer) = CatchUp::new();
        self.connection.request(Request::CatchUp(question));
        answer
    }

    /// Declares the farewell of a session: the record that a graceful close sends before it ends the
    /// input, like an interrupt, and those that follow once [`set_interrupt`](Self::set_interrupt)
    /// takes it back, because it is answered.
    pub(crate) fn set_farewell(&self, request: &[u8], then: &[Vec<u8>]) -> Result<()> {
        let then = then.iter().map(|record| self.framed(record)).collect::<Result<_>>()?;
        self.connection.channel.outbox.set_farewell(then);
        self.set_interrupt(Some(request))
    }

    /// See [`Limits::record_max`](crate::Limits::record_max).
    pub(crate) fn record_max(&self) -> usize {
        self.connection.channel.limits.record_max
    }

    /// See [`Limits::drain_max`](crate::Limits::drain_max).
    pub(crate) fn drain_max(&self) -> usize {
        self.connection.channel.limits.drain_max
    }

    /// Returns why a close began, if one did.
    pub(crate) fn close_reason(&self) -> Option<CloseReason> {
        self.connection.channel.close_reason()
    }

    /// Waits until a close begins.
    pub(crate) async fn close_begun(&self) -> CloseReason {
        self.connection.channel.close_begun().await
    }

    /// [`close_begun`](Self::close_begun) as a poll function.
    pub(crate) fn poll_closing(
        &self,
        key: &mut WaitKey,
        context: &mut Context<'_>,
    ) -> Poll<CloseReason> {
        self.connection.channel.poll_close_begun(key, context)
    }

    /// [`closed`](Self::closed) as a poll function.
    pub(crate) fn poll_closed(
        &self,
        key: &mut WaitKey,
        context: &mut Context<'_>,
    ) -> Poll<CloseReport> {
        self.connection.channel.poll_closed(key, context)
    }

    /// Closes the agent without waiting: the last handle dropped neither aborts nor counts it.
    pub(crate) fn close_unattended(&self, policy: ClosePolicy) {
        self.release();
        let limits = CloseLimits::Given(policy);
        self.connection.request(Request::Close(limits, CloseReason::Requested));
    }

    /// Leaves a close that is under way to itself: the last handle dropped neither aborts nor counts.
    pub(crate) fn release(&self) {
        self.connection.release();
    }

    /// Aborts the agent as if every handle had been dropped, although some are left.
    pub(crate) fn abandon(&self) {
        self.connection.abandon();
    }
}

impl<E: EngineKind> Drop for AgentWriter<E> {
    fn drop(&mut self) {
        // A sink keeps its key between calls, so no `Waiting` removes its task from the list.
        #[cfg(feature = "stream")]
        self.connection.channel.cancel_wait(&mut self.sink.key);
        // AcqRel as in the drop of `Arc`: all that other clones have sent comes before the end of
        // the input.
        if self.connection.writers.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.end_input();
        }
    }
}

/// A task that waits for room or for the flush. Dropped, it leaves its wait list.
struct Waiting<'a> {
    channel: &'a Channel,
    key: WaitKey,
}

impl<'a> Waiting<'a> {
    fn new(channel: &'a Channel) -> Self {
        Self { channel, key: WaitKey::default() }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.channel.cancel_wait(&mut self.key);
    }
}
