//! Floor 3. One agent, both halves.

use std::sync::Arc;
use std::task::{Context, Poll};

use crate::counters::AgentStats;
use crate::error::Result;
use crate::record::Event;
use crate::record::Record;

use super::control::Control;
use super::reader::AgentReader;
use super::writer::AgentWriter;

/// A running agent. `Send` and `Sync`; usable from any runtime and from none.
///
/// Close it with [`close`](Self::close) or [`abort`](Self::abort). Dropping it without starts an
/// abort inside the engine, which counts it ([`Engine::abandoned`](super::Engine::abandoned)).
#[derive(Debug)]
pub struct Agent {
    reader: AgentReader,
    pub(super) writer: AgentWriter,
}

impl Agent {
    pub(super) fn new(control: Arc<Control>) -> Self {
        let writer = AgentWriter::new(Arc::clone(&control));
        Self { reader: AgentReader::new(control), writer }
    }

    pub(crate) fn writer(&self) -> &AgentWriter {
        &self.writer
    }

    pub(super) fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Event>> {
        self.reader.poll_next(context)
    }

    /// The two halves, for two tasks. Either can close the agent.
    #[must_use]
    pub fn split(self) -> (AgentReader, AgentWriter) {
        (self.reader, self.writer)
    }

    /// See [`AgentReader::next`].
    pub async fn next(&mut self) -> Option<Event> {
        self.reader.next().await
    }

    /// See [`AgentReader::next_record`].
    pub async fn next_record(&mut self) -> Option<Record> {
        self.reader.next_record().await
    }

    /// See [`AgentReader::next_blocking`].
    pub fn next_blocking(&mut self) -> Option<Event> {
        self.reader.next_blocking()
    }

    /// See [`AgentReader::next_record_blocking`].
    pub fn next_record_blocking(&mut self) -> Option<Record> {
        self.reader.next_record_blocking()
    }

    /// See [`AgentWriter::send`].
    ///
    /// # Errors
    /// As there.
    pub async fn send(&self, record: impl AsRef<[u8]>) -> Result<()> {
        self.writer.send(record).await
    }

    /// See [`AgentWriter::send_blocking`].
    ///
    /// # Errors
    /// As there.
    pub fn send_blocking(&self, record: impl AsRef<[u8]>) -> Result<()> {
        self.writer.send_blocking(record)
    }

    /// See [`AgentWriter::flush`].
    ///
    /// # Errors
    /// As there.
    pub async fn flush(&self) -> Result<()> {
        self.writer.flush().await
    }

    /// See [`AgentWriter::flush_blocking`].
    ///
    /// # Errors
    /// As there.
    pub fn flush_blocking(&self) -> Result<()> {
        self.writer.flush_blocking()
    }

    /// See [`AgentWriter::end_input`].
    pub fn end_input(&self) {
        self.writer.end_input();
    }

    /// The agent's process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.writer.pid()
    }

    /// What was counted so far, at most one engine turn old.
    #[must_use]
    pub fn stats(&self) -> AgentStats {
        self.writer.stats()
    }
}
