//! stdin, record by record, to the agent.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use agentpipe::{AgentWriter, Error};
use rustix::event::PollFlags;
use rustix::stdio::stdin;

use super::RunArgs;
use super::descriptor::{Descriptor, Direction};
use super::lines::Lines;
use super::unframe::{Found, Unframe};

/// The size of a read, in bytes.
const READ: usize = 64 << 10;

#[derive(Clone, Copy, Debug, PartialEq)]
enum InputState {
    /// Records are read and sent.
    Open,
    /// The agent accepts no more, so nothing is read. A hang-up of the parent is still noticed.
    Deaf,
    /// stdin has ended.
    Ended,
}

pub(super) struct Input {
    pub(super) descriptor: Descriptor,
    unframe: Unframe,
    sending: Option<Sending>,
    state: InputState,
    /// When the parent closed its end. What it wrote before may not be read yet.
    hung_up: Option<Instant>,
    /// Records that were malformed or above the limit.
    pub(super) refused: u64,
    /// Bytes that were read and not accepted by the agent's queue.
    pub(super) unsent_bytes: u64,
    chunk: Box<[u8]>,
}

/// A record on its way into the queue of the agent.
struct Sending {
    accepted: Pin<Box<dyn Future<Output = Result<(), Error>>>>,
    len: u64,
}

impl Input {
    pub(super) fn new(args: &RunArgs) -> Self {
        Self {
            descriptor: Descriptor::new(stdin(), Direction::Read),
            unframe: Unframe::new(args.framing.into(), args.record_max),
            sending: None,
            state: InputState::Open,
            hung_up: None,
            refused: 0,
            unsent_bytes: 0,
            chunk: vec![0; READ].into(),
        }
    }

    /// Whether stdin has ended and all of it is sent or counted.
    pub(super) fn has_ended(&self) -> bool {
        self.state == InputState::Ended && self.sending.is_none()
    }

    /// Whether no further record will be sent.
    pub(super) fn is_over(&self) -> bool {
        self.state == InputState::Deaf || self.has_ended()
    }

    /// Returns when the parent closed its end.
    pub(super) fn hung_up(&self) -> Option<Instant> {
        self.hung_up
    }

    /// Returns the events to poll for. While the agent has no room nothing is read, and only the first
    /// hang-up matters.
    pub(super) fn events(&self) -> Option<PollFlags> {
        match self.state {
            InputState::Ended => None,
            InputState::Open if self.sending.is_none() => Some(PollFlags::IN),
            _ => self.hung_up.is_none().then_some(PollFlags::RDHUP),
        }
    }

    /// Notes the events that poll(2) returned.
    pub(super) fn polled(&mut self, events: PollFlags, now: Instant) {
        if self.state == InputState::Open && self.sending.is_none() {
            self.descriptor.polled(events);
        } else if events.intersects(PollFlags::HUP | PollFlags::RDHUP | PollFlags::ERR) {
            self.hung_up.get_or_insert(now);
            if self.state == InputState::Deaf {
                self.state = InputState::Ended;
            }
        }
    }

    /// Makes at most one read and sends the records in it. Returns true if something was read or sent.
    pub(super) fn step(
        &mut self,
        writer: &AgentWriter,
        lines: &Lines,
        now: Instant,
        context: &mut Context<'_>,
    ) -> bool {
        let moved = self.send_all(writer, lines, context);
        let reads = self.state == InputState::Open && self.sending.is_none();
        if !reads || !self.descriptor.is_ready() {
            return moved;
        }
        match self.descriptor.read(&mut self.chunk) {
            Ok(len) if len > 0 => self.unframe.feed(&self.chunk[..len]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return moved,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return true,
            ended => {
                if let Err(error) = ended {
                    lines.say(format_args!("reading stdin failed: {error}; it counts as its end"));
                }
                self.unframe.end();
                self.hung_up.get_or_insert(now);
                self.state = InputState::Ended;
            }
        }
        self.send_all(writer, lines, context);
        true
    }

    /// Sends what was read while the agent has room. Returns true if something was sent.
    fn send_all(&mut self, writer: &AgentWriter, lines: &Lines, context: &mut Context<'_>) -> bool {
        let mut moved = false;
        loop {
            if let Some(sending) = &mut self.sending {
                let Poll::Ready(result) = sending.accepted.as_mut().poll(context) else {
                    return moved;
                };
                let len = sending.len;
                self.sending = None;
                self.on_sent(result, len, writer, lines);
            } else {
                match self.unframe.next() {
                    None => return moved,
                    Some(Found::Refused(why)) => {
                        self.refused += 1;
                        lines.say(format_args!("write: {why}"));
                    }
                    Some(Found::Record(record)) => {
                        let (writer, len) = (writer.clone(), record.len() as u64);
                        // The future owns the record and a handle: it is kept across turns while
                        // the agent has no room.
                        let accepted = Box::pin(async move { writer.send(record).await });
                        self.sending = Some(Sending { accepted, len });
                    }
                }
            }
            moved = true;
        }
    }

    fn on_sent(
        &mut self,
        result: Result<(), Error>,
        len: u64,
        writer: &AgentWriter,
        lines: &Lines,
    ) {
        match result {
            Ok(()) => {}
            Err(error) if error.is_closed() => {
                // The line is for an agent that closed its stdin and lives on. If it has ended, the
                // report says so.
                if self.state == InputState::Open && writer.close_report().is_none() {
                    lines.say(format_args!("{error}"));
                }
                self.unsent_bytes += len;
                self.stop();
            }
            Err(error) => {
                self.refused += 1;
                lines.say(format_args!("{error}"));
            }
        }
    }

    /// Stops reading because the agent accepts no more, and counts the rest.
    pub(super) fn stop(&mut self) {
        let sending = self.sending.take().map_or(0, |sending| sending.len);
        self.unsent_bytes += sending + self.unframe.held() as u64;
        self.unframe.forget();
        if self.state == InputState::Open {
            // A file never hangs up, so there is nothing to wait for.
            let can_hang_up = self.hung_up.is_none() && !self.descriptor.is_plain();
            self.state = if can_hang_up { InputState::Deaf } else { InputState::Ended };
        }
    }

    /// Stops reading without a wait for the end of stdin.
    pub(super) fn finish(&mut self) {
        self.stop();
        self.state = InputState::Ended;
    }

    /// Stops reading because the parent has closed its end and the agent had its time. Counts the rest,
    /// which is no more than a pipe holds.
    pub(super) fn cut_off(&mut self) {
        let unread = self.state == InputState::Open;
        self.finish();
        while unread
            && let Ok(len) = self.descriptor.read(&mut self.chunk)
            && len > 0
        {
            self.unsent_bytes += len as u64;
        }
    }
}
