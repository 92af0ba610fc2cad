//! The reading half of an agent.

use std::collections::VecDeque;
use std::task::{Context, Poll, ready};

use crate::counters::AgentStats;
use crate::record::{Event, Record};
use crate::transport::Request;

use super::{EngineKind, Remote};

/// Reads what an agent sends. Made by [`Agent::split`](super::Agent::split).
///
/// Dropping it does not block the agent: its output is still read, counted as discarded and dropped.
#[derive(Debug)]
pub struct AgentReader<E: EngineKind = Remote> {
    pub(super) connection: E::Pointer,
    /// Events taken from the inbox at once and not returned yet.
    events: VecDeque<Event>,
}

impl<E: EngineKind> AgentReader<E> {
    pub(super) fn new(connection: E::Pointer) -> Self {
        Self { connection, events: VecDeque::new() }
    }

    /// Returns the next event, in the order of arrival; `None` after [`Event::Exit`].
    ///
    /// Cancel-safe: no event is lost.
    pub async fn next(&mut self) -> Option<Event> {
        std::future::poll_fn(|context| self.poll_next(context)).await
    }

    /// Returns the next record and skips all other events; `None` at the end.
    ///
    /// Cancel-safe: no record is lost.
    pub async fn next_record(&mut self) -> Option<Record> {
        std::future::poll_fn(|context| {
            loop {
                match ready!(self.poll_next(context)) {
                    Some(Event::Record(record)) => return Poll::Ready(Some(record)),
                    Some(_) => {}
                    None => return Poll::Ready(None),
                }
            }
        })
        .await
    }

    /// Polls for the next event, for hand-written futures and streams.
    ///
    /// The waker is called on the thread that drives the agent, which serves other agents too: it
    /// must not block (docs/guide/operating.md, *Wakers, handlers and subscribers*).
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Event>> {
        // In a forked child the lock of the inbox may be taken for good.
        if !self.connection.is_here() {
            return Poll::Ready(None);
        }
        let channel = &self.connection.channel;
        // The inbox is taken whole, so a burst costs one lock and not one for each event.
        if self.events.is_empty() && !channel.inbox.take_events(&mut self.events, context.waker()) {
            return Poll::Ready(None);
        }
        // The inbox is empty, and `take_events` has registered the waker.
        let Some(event) = self.events.pop_front() else { return Poll::Pending };
        if self.events.is_empty() {
            // After a burst the room of its queue goes back, so that idle readers keep none.
            channel.inbox.recycle(&mut self.events);
        }
        // An event weighs until it is returned. The driver does not read on for a batch that lies
        // here unread.
        if channel.inbox.consume(event.weight()) {
            self.connection.request(Request::Resume);
        }
        Poll::Ready(Some(event))
    }

    /// Stops reading the agent's stderr, or reads it again, so that a slow consumer of its lines holds the
    /// agent back. Its stdout is read on.
    ///
    /// Takes effect with the next turn of the engine; lines that were read until then still arrive. A close
    /// reads stderr in any case, and so does the drop of this reader.
    pub fn hold_stderr(&mut self, held: bool) {
        if self.connection.is_here() && self.connection.channel.inbox.hold_stderr(held) {
            self.connection.request(Request::HoldStderr);
        }
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
}

impl AgentReader {
    /// Blocking form of [`next`](Self::next), for callers without a runtime.
    pub fn next_blocking(&mut self) -> Option<Event> {
        pollster::block_on(self.next())
    }

    /// Blocking form of [`next_record`](Self::next_record), for callers without a runtime.
    pub fn next_record_blocking(&mut self) -> Option<Record> {
        pollster::block_on(self.next_record())
    }
}

impl<E: EngineKind> Drop for AgentReader<E> {
    fn drop(&mut self) {
        if self.connection.is_here() {
            // The reader leaves before the request is sent: the driver that acts on it must find
            // none.
            self.connection.channel.inbox.drop_reader();
            // Reading may be paused, and without a reader it would stay so: the agent would block.
            self.connection.request(Request::Resume);
        }
    }
}
