//! Own stdin, record by record, to the agent.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use agentpipe::{AgentWriter, Error};
use rustix::event::PollFlags;
use rustix::stdio::stdin;

use super::Args;
use super::descriptor::{Descriptor, Use};
use super::lines::Lines;
use super::unframe::{Found, Unframe};

const READ: usize = 64 << 10;

#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    /// Records are read and sent.
    Open,
    /// The agent takes no more, so nothing is read; that the parent closes its end is still seen.
    Deaf,
    /// It is at its end.
    Ended,
}

pub(super) struct Input {
    pub(super) descriptor: Descriptor,
    unframe: Unframe,
    sending: Option<Sending>,
    state: State,
    /// When the parent was seen to have closed its end. What it wrote before may not be read yet.
    hung_up: Option<Instant>,
    /// Records that were no records, or above the limit.
    pub(super) refused: u64,
    /// Bytes that were read and never accepted for the agent.
    pub(super) unsent_bytes: u64,
    chunk: Box<[u8]>,
}

/// A record on its way into the queue of the agent.
struct Sending {
    accepted: Pin<Box<dyn Future<Output = Result<(), Error>>>>,
    len: u64,
}

impl Input {
    pub(super) fn new(args: &Args) -> Self {
        Self {
            descriptor: Descriptor::new(stdin(), Use::Read),
            unframe: Unframe::new(args.framing.into(), args.record_max),
            sending: None,
            state: State::Open,
            hung_up: None,
            refused: 0,
            unsent_bytes: 0,
            chunk: vec![0; READ].into(),
        }
    }

    /// It is at its end, and all of it is sent or counted.
    pub(super) fn has_ended(&self) -> bool {
        self.state == State::Ended && self.sending.is_none()
    }

    /// No record will be sent any more.
    pub(super) fn is_over(&self) -> bool {
        self.state == State::Deaf || self.has_ended()
    }

    /// When the parent was seen to have closed its end.
    pub(super) fn hung_up(&self) -> Option<Instant> {
        self.hung_up
    }

    /// While the agent has no room nothing is read. Then only the end is of interest, and that once.
    pub(super) fn events(&self) -> Option<PollFlags> {
        match self.state {
            State::Ended => None,
            State::Open if self.sending.is_none() => Some(PollFlags::IN),
            _ => self.hung_up.is_none().then_some(PollFlags::RDHUP),
        }
    }

    /// What poll(2) said of it.
    pub(super) fn polled(&mut self, events: PollFlags, now: Instant) {
        if self.state == State::Open && self.sending.is_none() {
            self.descriptor.polled(events);
        } else if events.intersects(PollFlags::HUP | PollFlags::RDHUP | PollFlags::ERR) {
            self.hung_up.get_or_insert(now);
            if self.state == State::Deaf {
                self.state = State::Ended;
            }
        }
    }

    /// One read at the most, and all records in it. True if something moved.
    pub(super) fn step(
        &mut self,
        writer: &AgentWriter,
        lines: &Lines,
        now: Instant,
        context: &mut Context<'_>,
    ) -> bool {
        let moved = self.send_all(writer, lines, context);
        let reads = self.state == State::Open && self.sending.is_none();
        if !reads || !self.descriptor.is_ready() {
            return moved;
        }
        match self.descriptor.read(&mut self.chunk) {
            Ok(len) if len > 0 => self.unframe.feed(&self.chunk[..len]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return moved,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return true,
            ended => {
                if let Err(error) = ended {
                    lines.say(format_args!("reading stdin failed: {error}; taken for its end"));
                }
                self.unframe.end();
                self.hung_up.get_or_insert(now);
                self.state = State::Ended;
            }
        }
        self.send_all(writer, lines, context);
        true
    }

    /// Sends what was read, as far as the agent has room. True if something moved.
    fn send_all(&mut self, writer: &AgentWriter, lines: &Lines, context: &mut Context<'_>) -> bool {
        let mut moved = false;
        loop {
            if let Some(sending) = &mut self.sending {
                let Poll::Ready(result) = sending.accepted.as_mut().poll(context) else {
                    return moved;
                };
                let len = sending.len;
                self.sending = None;
                self.sent(result, len, writer, lines);
            } else {
                match self.unframe.next() {
                    None => return moved,
                    Some(Found::Refused(why)) => {
                        self.refused += 1;
                        lines.say(format_args!("write: {why}"));
                    }
                    Some(Found::Record(record)) => {
                        let (writer, len) = (writer.clone(), record.len() as u64);
                        let accepted = Box::pin(async move { writer.send(record).await });
                        self.sending = Some(Sending { accepted, len });
                    }
                }
            }
            moved = true;
        }
    }

    fn sent(&mut self, result: Result<(), Error>, len: u64, writer: &AgentWriter, lines: &Lines) {
        match result {
            Ok(()) => {}
            Err(error) if error.is_closed() => {
                if self.state == State::Open && writer.close_report().is_none() {
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

    /// The agent takes no more: what it did not take is counted.
    pub(super) fn stop(&mut self) {
        let sending = self.sending.take().map_or(0, |sending| sending.len);
        self.unsent_bytes += sending + self.unframe.held() as u64;
        self.unframe.forget();
        if self.state == State::Open {
            // A file does not hang up: all that it will ever say is there.
            let says_more = self.hung_up.is_none() && !self.descriptor.is_plain();
            self.state = if says_more { State::Deaf } else { State::Ended };
        }
    }

    /// The agent is to get no more, and no end is waited for.
    pub(super) fn finish(&mut self) {
        self.stop();
        self.state = State::Ended;
    }

    /// The parent has closed its end, and the agent had its time: what is left is counted. It is no
    /// more than the pipe holds.
    pub(super) fn cut_off(&mut self) {
        let unread = self.state == State::Open;
        self.finish();
        while unread
            && let Ok(len) = self.descriptor.read(&mut self.chunk)
            && len > 0
        {
            self.unsent_bytes += len as u64;
        }
    }
}
