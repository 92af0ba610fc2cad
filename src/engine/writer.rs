//! Floor 3. The writing half of an agent.

use std::sync::Arc;

use crate::counters::AgentStats;
use crate::error::Result;
#[cfg(feature = "claude")]
use crate::process::Executable;
use crate::sync::SetOnce;
use crate::transport::{self, CatchUp, Line, Request};

use super::control::Control;

/// Sends records to an agent. Cheap to clone; made by [`Agent::split`](super::Agent::split).
///
/// Dropping the last one ends the agent's input once everything accepted is written, as the end
/// of any pipe does.
#[derive(Clone, Debug)]
pub struct AgentWriter {
    pub(super) control: Arc<Control>,
    _input: Arc<Input>,
}

/// What all writers of an agent share: with the last of them the input ends.
#[derive(Debug)]
struct Input(Arc<Control>);

impl Drop for Input {
    fn drop(&mut self) {
        transport::end_input(&*self.0);
    }
}

impl AgentWriter {
    pub(super) fn new(control: Arc<Control>) -> Self {
        Self { _input: Arc::new(Input(Arc::clone(&control))), control }
    }

    /// Queues one record; the framing is added here. Resolves once it is accepted, which waits
    /// only while [`Limits::outbox_high`](crate::Limits::outbox_high) bytes are unsent.
    ///
    /// Cancel-safe: a record is accepted whole or not at all. An accepted record is written
    /// whole, unless the agent goes away or is closed; the report then counts it as unsent.
    ///
    /// # Errors
    /// [`InvalidRecord`](crate::ErrorKind::InvalidRecord) and
    /// [`RecordTooLarge`](crate::ErrorKind::RecordTooLarge) before a byte is sent,
    /// [`InputEnded`](crate::ErrorKind::InputEnded) after [`end_input`](Self::end_input) or where the
    /// agent closed its stdin, [`Closed`](crate::ErrorKind::Closed) where the agent is gone or closed.
    pub async fn send(&self, record: impl AsRef<[u8]>) -> Result<()> {
        transport::send(&*self.control, record).await
    }

    /// Resolves once every accepted byte is on the agent's stdin pipe. Cancel-safe.
    ///
    /// # Errors
    /// As [`send`](Self::send), where accepted bytes will never be written.
    pub async fn flush(&self) -> Result<()> {
        transport::flush(&self.control.channel).await
    }

    /// Ends the agent's input: later writes are refused, and stdin is closed once everything
    /// accepted is written. Reading goes on. Does not wait; calling it again changes nothing.
    pub fn end_input(&self) {
        transport::end_input(&*self.control);
    }

    /// Says that a turn is open, with the record that interrupts it, or (`None`) that it is over.
    ///
    /// While one is open, a graceful close sends that record first and waits, at most
    /// [`ClosePolicy::interrupt`](crate::ClosePolicy::interrupt), until the turn is over: an agent
    /// in the middle of an answer finishes the answer before it looks at the end of its input.
    ///
    /// # Errors
    /// As [`send`](Self::send), for a record that may not be sent.
    pub fn set_interrupt(&self, request: Option<&[u8]>) -> Result<()> {
        transport::set_interrupt(&*self.control, request)
    }

    /// [`send`](Self::send) for callers without a runtime. Blocks the thread.
    ///
    /// # Errors
    /// As `send`.
    pub fn send_blocking(&self, record: impl AsRef<[u8]>) -> Result<()> {
        pollster::block_on(self.send(record))
    }

    /// [`flush`](Self::flush) for callers without a runtime. Blocks the thread.
    ///
    /// # Errors
    /// As `flush`.
    pub fn flush_blocking(&self) -> Result<()> {
        pollster::block_on(self.flush())
    }

    /// The agent's process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.control.channel.pid
    }

    /// What was counted so far, at most one engine turn old.
    #[must_use]
    pub fn stats(&self) -> AgentStats {
        self.control.channel.stats()
    }

    /// False in a forked child, where no lock of a session is free for sure either.
    pub(crate) fn is_here(&self) -> bool {
        self.control.is_here()
    }

    /// `pid 123 (claude)`, for errors.
    pub(crate) fn label(&self) -> &str {
        self.control.channel.label.as_str()
    }

    /// Set once all that the agent had written before this call is with its reader. `false`: the
    /// reader has to catch up first.
    pub(crate) fn catch_up(&self) -> Arc<SetOnce<bool>> {
        let (question, answer) = CatchUp::new();
        self.control.request(Request::CatchUp(question));
        answer
    }

    /// The file that was executed.
    #[cfg(feature = "claude")]
    pub(crate) fn program(&self) -> &Executable {
        &self.control.program
    }

    /// See [`Limits::record_max`](crate::Limits::record_max).
    pub(crate) fn record_max(&self) -> usize {
        self.control.channel.limits.record_max
    }

    /// See [`Limits::drain_max`](crate::Limits::drain_max).
    pub(crate) fn drain_max(&self) -> usize {
        self.control.channel.limits.drain_max
    }
}
