//! stdin, record by record, to the agent.

use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use agentpipe::{AgentWriter, Deframer, Error, Event, Framing, JsonCheck, Limits, Record};
use rustix::event::PollFlags;
use rustix::stdio::stdin;

use super::RunArgs;
use super::descriptor::{Descriptor, Direction};
use super::lines::Lines;

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
    framing: Framing,
    limits: Limits,
    deframer: Deframer,
    /// The framing of the records so far.
    found: Option<Framing>,
    sending: Option<Sending>,
    state: InputState,
    /// When the parent closed its end. What it wrote before may not be read yet.
    hung_up: Option<Instant>,
    /// Records that were malformed or above the limit.
    pub(super) refused: u64,
    /// Bytes that were read and not accepted by the agent's queue.
    pub(super) unsent_bytes: u64,
    chunk: Box<[u8]>,
    /// The part of the chunk that is not split into records yet.
    unsplit: Range<usize>,
}

/// A record on its way into the queue of the agent.
struct Sending {
    accepted: Pin<Box<dyn Future<Output = Result<(), Error>>>>,
    len: u64,
}

impl Input {
    pub(super) fn new(args: &RunArgs) -> Self {
        let framing = args.framing.into();
        // The writer checks the JSON in full, and its error says what is wrong.
        let limits = args.limits().json_check(JsonCheck::Shape);
        Self {
            descriptor: Descriptor::new(stdin(), Direction::Read),
            framing,
            limits,
            deframer: Deframer::new(framing, &limits),
            found: None,
            sending: None,
            state: InputState::Open,
            hung_up: None,
            refused: 0,
            unsent_bytes: 0,
            chunk: vec![0; READ].into(),
            unsplit: 0..0,
        }
    }

    /// Returns the framing of stdin. `None` before the first record of [`Framing::Auto`].
    pub(super) fn framing(&self) -> Option<Framing> {
        self.found.or_else(|| self.deframer.framing())
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
            Ok(len) if len > 0 => self.unsplit = 0..len,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return moved,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return true,
            ended => {
                if let Err(error) = ended {
                    lines.say(format_args!("reading stdin failed: {error}; it counts as its end"));
                }
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
                match self.next_event() {
                    None => return moved,
                    Some(Event::Record(record)) => self.send(&record, writer),
                    Some(event) => self.refuse(&event, lines),
                }
            }
            moved = true;
        }
    }

    fn next_event(&mut self) -> Option<Event> {
        let mut unsplit = &self.chunk[self.unsplit.clone()];
        let event = self.deframer.next(&mut unsplit);
        self.unsplit.start = self.unsplit.end - unsplit.len();
        if event.is_none() && self.state == InputState::Ended {
            return self.deframer.finish();
        }
        event
    }

    fn send(&mut self, record: &Record, writer: &AgentWriter) {
        self.found = self.deframer.framing();
        let bytes = match self.found {
            // White space around the text is not a part of it, and no line may end in `\r`.
            Some(Framing::Ndjson) => record.as_bytes().trim_ascii(),
            _ => record.as_bytes(),
        };
        if let (Framing::Auto, Some(found)) = (self.framing, self.found) {
            writer.set_framing(found);
        }
        let (record, writer, len) = (bytes.to_vec(), writer.clone(), bytes.len() as u64);
        // The future owns the record and a handle: it is kept across turns while the agent has no
        // room.
        let accepted = Box::pin(async move { writer.send(record).await });
        self.sending = Some(Sending { accepted, len });
    }

    /// Reports input that is not a record.
    fn refuse(&mut self, event: &Event, lines: &Lines) {
        self.refused += u64::from(!matches!(event, Event::FramingMismatch(_)));
        match event {
            Event::Noise(sample) => lines.say(format_args!("noise on stdin: {sample}")),
            Event::Malformed { reason, sample } => {
                lines.say(format_args!("malformed record on stdin ({reason}): {sample}"));
            }
            Event::Oversized(sample) => lines.say(format_args!(
                "record on stdin is above the limit of {}; raise --record-max: {sample}",
                self.limits.get_record_max()
            )),
            Event::Truncated(sample) => {
                lines.say(format_args!("stdin ended inside a record: {sample}"));
            }
            Event::FramingMismatch(seen) => lines.say(format_args!(
                "stdin looks like {seen} and is read as {}; use --framing {seen}",
                self.framing
            )),
            _ => {}
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
        let held = self.unsplit.len() + self.deframer.unfinished_bytes();
        self.unsent_bytes += sending + held as u64;
        self.unsplit = 0..0;
        self.deframer = Deframer::new(self.framing, &self.limits);
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
