//! Floor 2. Frames become events of this turn, counted; what nobody can take is counted, too.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::counters::AgentStats;
use crate::frame::{Frame, Payload};
use crate::record::Event;
use crate::record::Outline;
use crate::record::Record;

use super::arena::Arena;
use super::batches::KEPT;
use super::channel::Channel;

/// Where an agent's framers put what they find.
#[derive(Debug)]
pub(super) struct Intake {
    pub(super) channel: Arc<Channel>,
    pub(super) stats: AgentStats,
    pub(super) stderr_events: bool,
    /// Set by a close: the reading goes on whatever the reader does, within the drain budget.
    pub(super) draining: bool,
    batch: VecDeque<Event>,
    weight: usize,
}

impl Intake {
    pub(super) fn new(channel: Arc<Channel>, stats: AgentStats, stderr_events: bool) -> Self {
        Self { channel, stats, stderr_events, draining: false, batch: VecDeque::new(), weight: 0 }
    }

    /// Hands the turn's events to the reader. Returns the weight now unread.
    pub(super) fn deliver(&mut self) -> usize {
        let weight = std::mem::take(&mut self.weight);
        let unread = self.channel.deliver(&mut self.batch, weight, &self.stats);
        if self.batch.capacity() > KEPT {
            self.channel.give_back(std::mem::take(&mut self.batch));
        }
        unread
    }

    pub(super) fn push(&mut self, event: Event) {
        if self.channel.reader_is_gone() {
            return;
        }
        self.weight += event.weight();
        if self.batch.len() == self.batch.capacity() {
            self.make_room();
        }
        self.batch.push_back(event);
    }

    /// A burst goes on in a queue that has served before, if there is one.
    fn make_room(&mut self) {
        let mut queue = self.channel.borrow();
        if queue.capacity() > self.batch.capacity() {
            queue.append(&mut self.batch);
            std::mem::swap(&mut queue, &mut self.batch);
        }
        self.channel.give_back(queue);
    }

    pub(super) fn frame(&mut self, arena: &mut Arena, frame: Frame<'_>) {
        match &frame {
            Frame::Record(..) => {}
            Frame::Noise(_) => self.stats.noise += 1,
            Frame::Oversized(_) => self.stats.oversized += 1,
            Frame::Malformed { .. } => self.stats.malformed += 1,
            Frame::Truncated(sample) => {
                self.stats.truncated += 1;
                self.stats.truncated_tail_bytes += sample.len();
            }
        }
        match frame {
            Frame::Record(payload, outline) => self.record(arena, payload, outline),
            other => self.push_if_room(other.into_event()),
        }
    }

    /// Stderr is never held back: a line for which there is no room is dropped and counted. Nor
    /// does it take the inbox over the mark at which stdout is paused, unless it is all there is.
    pub(super) fn stderr_line(&mut self, line: &str) {
        let event = Event::Stderr(line.to_owned());
        let unread = self.unread();
        if unread > 0 && unread + event.weight() > self.channel.limits.inbox_high {
            self.stats.stderr_lines_dropped += 1;
            return;
        }
        self.push(event);
    }

    fn record(&mut self, arena: &mut Arena, payload: Payload<'_>, outline: Outline) {
        let len = payload.as_bytes().len();
        self.stats.records_in += 1;
        if self.channel.reader_is_gone() || !self.has_room(len) {
            self.stats.records_discarded += 1;
            self.stats.bytes_discarded += len as u64;
            return;
        }
        let record = match payload {
            Payload::Borrowed(bytes) => Record::new(arena.copy(bytes), outline),
            owned @ Payload::Owned(_) => owned.into_record(outline),
        };
        self.push(Event::Record(record));
    }

    fn push_if_room(&mut self, event: Event) {
        if self.has_room(event.weight()) {
            self.push(event);
        }
    }

    /// While the agent is open the paused read bounds what is held; while it is closed the drain
    /// budget does.
    fn has_room(&self, len: usize) -> bool {
        let limits = &self.channel.limits;
        !self.draining || self.unread() + len <= limits.drain_max.max(limits.inbox_high)
    }

    fn unread(&self) -> usize {
        self.channel.unread() + self.weight
    }
}
