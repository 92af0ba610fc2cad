//! Floor 3. The reading half of an agent.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll};

use crate::counters::AgentStats;
use crate::record::Event;
use crate::record::Record;
use crate::transport;

use super::control::Control;

/// Takes what an agent says. Made by [`Agent::split`](super::Agent::split).
///
/// Dropping it means that nobody listens: the agent's output is read on, counted as discarded
/// and dropped, so the agent is never blocked by it.
#[derive(Debug)]
pub struct AgentReader {
    pub(super) control: Arc<Control>,
    /// Events taken over in one go and not yet given out.
    local: VecDeque<Event>,
}

impl AgentReader {
    pub(super) fn new(control: Arc<Control>) -> Self {
        Self { control, local: VecDeque::new() }
    }

    /// The next event, in the order it came; `None` after [`Event::Exit`].
    ///
    /// Cancel-safe: an event is either returned or still there.
    pub async fn next(&mut self) -> Option<Event> {
        std::future::poll_fn(|context| self.poll_next(context)).await
    }

    /// The next record; other events but the exit are passed over. `None` at the end.
    ///
    /// Cancel-safe.
    pub async fn next_record(&mut self) -> Option<Record> {
        while let Some(event) = self.next().await {
            if let Event::Record(record) = event {
                return Some(record);
            }
        }
        None
    }

    /// [`next`](Self::next) as a poll function, for hand-written futures and streams. The waker is
    /// called on a thread of the engine, which serves other agents too: it must not block
    /// (docs/operating.md, *WaitList, handlers and subscribers*).
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Event>> {
        transport::poll_next(&*self.control, &mut self.local, context)
    }

    /// [`next`](Self::next) for callers without a runtime. Blocks the thread.
    pub fn next_blocking(&mut self) -> Option<Event> {
        pollster::block_on(self.next())
    }

    /// [`next_record`](Self::next_record) for callers without a runtime. Blocks the thread.
    pub fn next_record_blocking(&mut self) -> Option<Record> {
        pollster::block_on(self.next_record())
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
}

impl Drop for AgentReader {
    fn drop(&mut self) {
        transport::drop_reader(&*self.control);
    }
}
