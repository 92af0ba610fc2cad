//! Floor 3. The writing half of a local agent.

use std::rc::Rc;

use crate::counters::AgentStats;
use crate::error::Result;
use crate::transport;

use super::control::Control;

/// Sends records to an agent: [`AgentWriter`](crate::AgentWriter) without the threads. Cheap to
/// clone; made by [`LocalAgent::split`](super::LocalAgent::split).
///
/// Dropping the last one ends the agent's input once everything accepted is written.
#[derive(Clone, Debug)]
pub struct LocalAgentWriter {
    pub(super) control: Rc<Control>,
    _input: Rc<Input>,
}

/// What all writers of an agent share: with the last of them the input ends.
#[derive(Debug)]
struct Input(Rc<Control>);

impl Drop for Input {
    fn drop(&mut self) {
        transport::end_input(&*self.0);
    }
}

impl LocalAgentWriter {
    pub(super) fn new(control: Rc<Control>) -> Self {
        Self { _input: Rc::new(Input(Rc::clone(&control))), control }
    }

    /// Queues one record; the framing is added here. Resolves once it is accepted, which waits
    /// only while [`Limits::outbox_high`](crate::Limits::outbox_high) bytes are unsent. It is
    /// submitted when the tasks that are ready now have run.
    ///
    /// Cancel-safe: a record is accepted whole or not at all.
    ///
    /// # Errors
    /// As [`AgentWriter::send`](crate::AgentWriter::send).
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

    /// Ends the agent's input once everything accepted is written. Reading goes on. Does not
    /// wait; calling it again changes nothing.
    pub fn end_input(&self) {
        transport::end_input(&*self.control);
    }

    /// Says that a turn is open, with the record that interrupts it, or (`None`) that it is over:
    /// see [`AgentWriter::set_interrupt`](crate::AgentWriter::set_interrupt).
    ///
    /// # Errors
    /// As [`send`](Self::send), for a record that may not be sent.
    pub fn set_interrupt(&self, request: Option<&[u8]>) -> Result<()> {
        transport::set_interrupt(&*self.control, request)
    }

    /// The agent's process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.control.channel.pid
    }

    /// What was counted so far, at most one turn old.
    #[must_use]
    pub fn stats(&self) -> AgentStats {
        self.control.channel.stats()
    }
}
