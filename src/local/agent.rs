//! Floor 3. One local agent, both halves.

use std::rc::Rc;

use crate::counters::AgentStats;
use crate::error::Result;
use crate::record::Event;
use crate::record::Record;

use super::control::Control;
use super::reader::LocalAgentReader;
use super::writer::LocalAgentWriter;

/// A running agent on the caller's thread: [`Agent`](crate::Agent) without the threads. Not `Send`.
///
/// Close it with [`close`](Self::close) or [`abort`](Self::abort). Dropping it without starts an
/// abort, which the engine carries out and counts
/// ([`LocalEngine::abandoned`](super::LocalEngine::abandoned)).
#[derive(Debug)]
pub struct LocalAgent {
    reader: LocalAgentReader,
    pub(super) writer: LocalAgentWriter,
}

impl LocalAgent {
    pub(super) fn new(control: Rc<Control>) -> Self {
        let writer = LocalAgentWriter::new(Rc::clone(&control));
        Self { reader: LocalAgentReader::new(control), writer }
    }

    /// The two halves, for two tasks. Either can close the agent.
    #[must_use]
    pub fn split(self) -> (LocalAgentReader, LocalAgentWriter) {
        (self.reader, self.writer)
    }

    /// See [`LocalAgentReader::next`].
    pub async fn next(&mut self) -> Option<Event> {
        self.reader.next().await
    }

    /// See [`LocalAgentReader::next_record`].
    pub async fn next_record(&mut self) -> Option<Record> {
        self.reader.next_record().await
    }

    /// See [`LocalAgentWriter::send`].
    ///
    /// # Errors
    /// As there.
    pub async fn send(&self, record: impl AsRef<[u8]>) -> Result<()> {
        self.writer.send(record).await
    }

    /// See [`LocalAgentWriter::flush`].
    ///
    /// # Errors
    /// As there.
    pub async fn flush(&self) -> Result<()> {
        self.writer.flush().await
    }

    /// See [`LocalAgentWriter::end_input`].
    pub fn end_input(&self) {
        self.writer.end_input();
    }

    /// The agent's process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.writer.pid()
    }

    /// What was counted so far, at most one turn old.
    #[must_use]
    pub fn stats(&self) -> AgentStats {
        self.writer.stats()
    }
}
