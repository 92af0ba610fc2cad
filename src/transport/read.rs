//! The read path: bytes from the agent become events, and a slow reader stops the reading.
//!
//! ```text
//! kernel -> ring (cqes, completions) -> on_data -> Framer::next -> Intake (batch) -> Channel (inbox) -> reader
//! ```

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::close::{CloseEvent, CloseReason};
use crate::command::AgentCommand;
use crate::counters::AgentStats;
use crate::frame::{Frame, Payload};
use crate::framing::Framing;
use crate::io::{Lease, PipeIo, ReadEnd, Role};
use crate::record::{Event, Outline, Record, StderrLine};

use super::Transport;
use super::buffers::{QUIET_EVENTS, ReadBuffers, RecordChunks};
use super::channel::Channel;

/// How long an agent that has closed its stdout may live on before it is closed. An agent that is
/// exiting needs less.
const OUTPUT_ENDED_GRACE: Duration = Duration::from_millis(100);

impl Transport {
    /// Frames the bytes of one read and returns the buffer to the pool at once, so that a slow
    /// reader cannot empty the pool.
    pub(super) fn on_data(
        &mut self,
        io: &mut dyn PipeIo,
        buffers: &mut ReadBuffers,
        role: Role,
        lease: Lease,
        now: Instant,
    ) {
        self.last_output = now;
        let mut bytes = io.bytes(&lease);
        if role == Role::Stderr {
            self.intake.stats.stderr_bytes += bytes.len() as u64;
            self.stderr.absorb(bytes);
            if self.intake.stderr_events {
                while let Some(line) = self.stderr.next_line(&mut bytes, now) {
                    self.intake.stderr_line(line);
                }
            }
        } else {
            self.intake.stats.bytes_in += bytes.len() as u64;
            let ReadBuffers { chunks, carries, .. } = buffers;
            while let Some(frame) = self.framer.next(&mut bytes, carries) {
                self.intake.frame(chunks, frame);
            }
            self.count_unfinished();
        }
        let len = lease.len as usize;
        io.give_back(lease);
        if role == Role::Stdout {
            self.note_pool_read(io, buffers, len, now);
        }
        self.plan_event(CloseEvent::Output, now);
    }

    /// Counts the bytes of the record that is not complete yet.
    pub(super) fn count_unfinished(&mut self) {
        self.intake.stats.unfinished_bytes = (self.framer.held() + self.bulk.held()) as u64;
    }

    /// Handles the end of stdout or stderr.
    pub(super) fn on_read_end(
        &mut self,
        buffers: &mut ReadBuffers,
        role: Role,
        why: ReadEnd,
        now: Instant,
    ) {
        if let ReadEnd::Failed(errno) = why {
            let agent = self.channel.label.as_str();
            crate::trace::warn!(agent, ?role, errno, "reading failed; treated as end of output");
        }
        if role == Role::Stderr {
            self.finish_stderr();
        } else {
            self.finish_stdout(buffers);
            // An agent that exits closes its stdout first. Its exit, which follows, begins the
            // close.
            if !self.exited && self.close.is_none() {
                self.mute_deadline = Some(now + OUTPUT_ENDED_GRACE);
            }
        }
        if self.outputs_ended() {
            self.plan_event(CloseEvent::OutputsEnded, now);
        }
    }

    /// Queues what stdout ended with. Does nothing the second time.
    pub(super) fn finish_stdout(&mut self, buffers: &mut ReadBuffers) {
        if std::mem::replace(&mut self.stdout_ended, true) {
            return;
        }
        self.end_bulk_reads(buffers);
        while let Some(frame) = self.framer.finish(&mut buffers.carries) {
            self.intake.frame(&mut buffers.chunks, frame);
        }
        self.intake.stats.unfinished_bytes = 0;
    }

    /// Queues the last line of stderr. Does nothing the second time.
    pub(super) fn finish_stderr(&mut self) {
        if !std::mem::replace(&mut self.stderr_ended, true)
            && let Some(line) = self.stderr.finish()
        {
            self.intake.stderr_line(line);
        }
    }

    /// Closes an agent that closed its stdout and lives on: no answer can come from it.
    pub(super) fn on_mute(&mut self, now: Instant) {
        if self.mute_deadline.is_some_and(|deadline| now >= deadline) {
            // A deadline that stayed would be due at every later tick.
            self.mute_deadline = None;
            // A close that began meanwhile keeps its mode: the policy of the agent may be an abort.
            if self.close.is_none() {
                self.begin_close(self.policy, CloseReason::OutputEnded, now);
            }
        }
    }

    /// Hands the turn's events to the reader and pauses the outputs if too much is unread. Returns
    /// whether it paused. Never pauses during a close, where the drain budget bounds the memory.
    pub(super) fn hand_over_events(&mut self, io: &mut dyn PipeIo) -> bool {
        let unread = self.intake.flush();
        if unread <= self.channel.limits.inbox_high || self.paused || self.intake.draining {
            return false;
        }
        // A reader that is dropped after this check requests a resume, and that request is acted
        // upon after this pause.
        if let Some(stdout) = self.ends.stdout.open()
            && !self.channel.inbox.reader_is_gone()
            && self.channel.inbox.pause()
        {
            self.paused = true;
            self.intake.stats.pauses += 1;
            // The flush has published the counters without this pause.
            self.channel.inbox.publish_stats(&self.intake.stats);
            io.pause(stdout);
            self.hold_or_read_stderr(io);
        }
        self.paused
    }

    /// Stops or resumes reading stderr, as the inbox and its reader want it.
    pub(super) fn hold_or_read_stderr(&mut self, io: &mut dyn PipeIo) {
        let Some(stderr) = self.ends.stderr.open() else { return };
        let inbox = &self.channel.inbox;
        let full = self.paused && self.intake.stderr_waits;
        let wanted = inbox.reader_is_gone() || !(full || inbox.is_stderr_held());
        let pause = !wanted && !self.intake.draining;
        if pause != std::mem::replace(&mut self.stderr_paused, pause) {
            if pause { io.pause(stderr) } else { io.read(stderr) }
        }
    }

    /// Reads the outputs again: the reader caught up or is gone, or the agent is being closed.
    pub(super) fn resume(&mut self, io: &mut dyn PipeIo, buffers: &mut ReadBuffers) {
        if self.paused {
            self.paused = false;
            self.channel.inbox.unpause();
            // A close may have closed stdout before the request arrived.
            if self.bulk.is_active() {
                self.read_on(io, buffers);
            } else if let Some(stdout) = self.ends.stdout.open() {
                io.read(stdout);
            }
        }
        self.hold_or_read_stderr(io);
    }
}

/// Collects and counts the events of one agent during a turn.
#[derive(Debug)]
pub(super) struct Intake {
    channel: Arc<Channel>,
    pub(super) stats: AgentStats,
    stderr_events: bool,
    /// A full inbox pauses stderr, too, and no line is dropped for it.
    stderr_waits: bool,
    /// Set by a close: reading continues whatever the reader does, within the drain budget.
    pub(super) draining: bool,
    batch: VecDeque<Event>,
    weight: usize,
}

impl Intake {
    pub(super) fn new(channel: Arc<Channel>, stats: AgentStats, command: &AgentCommand) -> Self {
        Self {
            channel,
            stats,
            stderr_events: command.stderr_events,
            stderr_waits: command.stderr_backpressure,
            draining: false,
            batch: VecDeque::new(),
            weight: 0,
        }
    }

    pub(super) fn frame(&mut self, chunks: &mut RecordChunks, frame: Frame<'_>) {
        match &frame {
            Frame::Record(..) => {}
            Frame::Noise(_) => self.stats.noise += 1,
            Frame::Oversized(_) => self.stats.oversized += 1,
            Frame::Malformed { .. } => self.stats.malformed += 1,
            Frame::Truncated(sample) => {
                self.stats.truncated += 1;
                self.stats.truncated_tail_bytes += sample.len();
            }
            Frame::Found(framing) => {
                self.stats.output_framing = Some(*framing);
                return;
            }
            Frame::Mismatch(framing) => {
                self.stats.framing_mismatch = Some(*framing);
                let (agent, set) = (self.channel.label.as_str(), self.channel.framing.as_str());
                let seen = framing.as_str();
                crate::trace::warn!(agent, set, seen, "output looks like another framing");
            }
        }
        match frame {
            Frame::Record(payload, outline) => self.record(chunks, payload, outline),
            other => {
                if let Some(event) = other.into_event()
                    && self.has_room(event.weight())
                {
                    self.push(event);
                }
            }
        }
    }

    fn record(&mut self, chunks: &mut RecordChunks, payload: Payload<'_>, outline: Outline) {
        let len = payload.as_bytes().len();
        // Counted in any case: a record that is discarded below was received.
        self.stats.records_in += 1;
        self.stats.framing_mismatch = None;
        self.stats.output_framing.get_or_insert(match self.channel.framing {
            Framing::Auto => Framing::Ndjson,
            set => set,
        });
        if self.channel.inbox.reader_is_gone() || !self.has_room(len) {
            self.stats.records_discarded += 1;
            self.stats.bytes_discarded += len as u64;
            return;
        }
        // Only a record that is kept is copied. A large one that spanned reads has its own memory.
        let record = match payload {
            Payload::Borrowed(bytes) => Record::new(chunks.copy(bytes), outline),
            owned => owned.into_record(outline),
        };
        self.push(Event::Record(record));
    }

    /// Queues a line of stderr, or drops and counts it. Unless a full inbox pauses stderr, a line that
    /// would take the inbox above the mark at which stdout is paused is dropped: many agents block on
    /// their stderr. A single line is always kept.
    pub(super) fn stderr_line(&mut self, line: StderrLine) {
        let event = Event::Stderr(line);
        let (unread, weight) = (self.unread(), event.weight());
        let fits = if self.stderr_waits {
            self.has_room(weight)
        } else {
            unread + weight <= self.channel.limits.inbox_high
        };
        // With an empty inbox a line is kept whatever its length, or a long one could never pass.
        if unread > 0 && !fits {
            self.stats.stderr_lines_dropped += 1;
            return;
        }
        self.push(event);
    }

    /// While the agent is open, the paused read bounds what is held; during a close the limit of the
    /// agent and the sum of all closing agents do.
    fn has_room(&self, len: usize) -> bool {
        let (limits, wanted) = (&self.channel.limits, self.unread() + len);
        !self.draining
            || (wanted <= limits.drain_max.max(limits.inbox_high)
                && self.channel.inbox.may_hold(wanted))
    }

    fn unread(&self) -> usize {
        self.channel.inbox.unread() + self.weight
    }

    /// Queues an event regardless of its weight.
    pub(super) fn push(&mut self, event: Event) {
        if self.channel.inbox.reader_is_gone() {
            return;
        }
        self.weight += event.weight();
        if self.batch.len() == self.batch.capacity() {
            self.grow_batch();
        }
        self.batch.push_back(event);
    }

    /// Moves a burst to a larger idle queue, if there is one.
    fn grow_batch(&mut self) {
        let mut queue = self.channel.inbox.take_queue();
        if queue.capacity() > self.batch.capacity() {
            queue.append(&mut self.batch);
            std::mem::swap(&mut queue, &mut self.batch);
        }
        self.channel.inbox.give_back_queue(queue);
    }

    /// Hands the turn's events to the reader and wakes it. Returns the weight now unread.
    pub(super) fn flush(&mut self) -> usize {
        let weight = std::mem::take(&mut self.weight);
        let unread = self.channel.inbox.deliver(&mut self.batch, weight, &self.stats);
        // The batch is empty now and may have the room of a burst, also from the swap with the
        // inbox. A quiet agent must not keep it.
        if self.batch.capacity() > QUIET_EVENTS {
            self.channel.inbox.give_back_queue(std::mem::take(&mut self.batch));
        }
        unread
    }
}
