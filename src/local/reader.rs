//! Floor 3. The reading half of a local agent.

use std::collections::VecDeque;
use std::rc::Rc;
use std::task::{Context, Poll};

use crate::counters::AgentStats;
use crate::record::Event;
use crate::record::Record;
use crate::transport;

use super::control::Control;

/// Takes what an agent says: [`AgentReader`](crate::AgentReader) without the threads. Made by
/// [`LocalAgent::split`](super::LocalAgent::split).
///
/// Dropping it means that nobody listens: the agent's output is read on, counted as discarded
/// and dropped.
#[derive(Debug)]
pub struct LocalAgentReader {
    pub(super) control: Rc<Control>,
    /// Events taken over in one go and not yet given out.
    local: VecDeque<Event>,
}

impl LocalAgentReader {
    pub(super) fn new(control: Rc<Control>) -> Self {
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

    /// [`next`](Self::next) as a poll function, for hand-written futures and streams.
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Event>> {
        transport::poll_next(&*self.control, &mut self.local, context)
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

impl Drop for LocalAgentReader {
    fn drop(&mut self) {
        transport::drop_reader(&*self.control);
    }
}
