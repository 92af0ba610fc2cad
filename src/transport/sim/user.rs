//! The user of an agent: reads, writes, closes, at seeded moments, through the channel of the agent.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Wake, Waker};
use std::time::Duration;

use super::world::{Command, Happening, MS, US, World};
use crate::close::CloseReason;
use crate::error::{Error, ErrorKind};
use crate::record::Event;
use crate::sync::{SetOnce, WaitKey};
use crate::transport::{CatchUp, CaughtUp, CloseLimits, Offer, Request};

/// The interrupt request of a turn.
pub(super) const INTERRUPT: &[u8] = b"{\"interrupt\":1}\n";

/// A waker that sets a flag.
#[derive(Debug, Default)]
pub(super) struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Flag {
    fn take(&self) -> bool {
        self.0.swap(false, Ordering::Relaxed)
    }
}

/// Something that the user does at a time.
#[derive(Clone, Debug)]
pub(super) enum Act {
    Adopt,
    Send(Vec<Vec<u8>>),
    Flush,
    EndInput,
    DropReader,
    /// Reads nothing until this time.
    Stall(u64),
    HoldStderr(bool),
    OpenTurn,
    EndTurn,
    CatchUp,
    Close(CloseLimits, CloseReason),
    Shutdown(Duration),
}

#[derive(Debug)]
pub(super) struct User {
    pub(super) acts: VecDeque<(u64, Act)>,
    pub(super) frames: VecDeque<Vec<u8>>,
    /// What was accepted, in order.
    pub(super) accepted: Vec<u8>,
    pub(super) is_blocked: bool,
    room: WaitKey,
    room_flag: Arc<Flag>,
    /// A wait for a flush, and how much was accepted when it began.
    pub(super) flushing: Option<WaitKey>,
    flush_flag: Arc<Flag>,
    events: VecDeque<Event>,
    event_flag: Arc<Flag>,
    /// Its writer was woken.
    pub(super) is_due: bool,
    /// A look at the inbox is on its way.
    pub(super) is_reading: bool,
    pub(super) stalled_until: u64,
    pub(super) has_reader: bool,
    pub(super) ended: bool,
    /// The records that it has read.
    pub(super) records: Vec<Vec<u8>>,
    /// The bytes of stderr that it has read.
    pub(super) stderr: usize,
    pub(super) last: Option<Event>,
    pub(super) questions: Vec<Arc<SetOnce<CaughtUp>>>,
    pub(super) interrupts: bool,
}

impl User {
    pub(super) fn new(acts: VecDeque<(u64, Act)>) -> Self {
        Self {
            acts,
            frames: VecDeque::new(),
            accepted: Vec::new(),
            is_blocked: false,
            room: WaitKey::default(),
            room_flag: Arc::default(),
            flushing: None,
            flush_flag: Arc::default(),
            events: VecDeque::new(),
            event_flag: Arc::default(),
            is_due: false,
            is_reading: true,
            stalled_until: 0,
            has_reader: true,
            ended: false,
            records: Vec::new(),
            stderr: 0,
            last: None,
            questions: Vec::new(),
            interrupts: false,
        }
    }

    /// Has read everything that was delivered, and waits for more.
    pub(super) fn waits_for_events(&self) -> bool {
        self.has_reader && !self.ended && !self.is_reading && self.events.is_empty()
    }
}

impl World {
    /// Lets the tasks run that were woken.
    pub(super) fn run_woken(&mut self) {
        for agent in 0..self.users.len() {
            let user = &self.users[agent];
            if user.event_flag.take() && !user.is_reading {
                self.users[agent].is_reading = true;
                let delay = self.rng.delay();
                self.after(delay, Happening::Reader(agent));
            }
            let user = &self.users[agent];
            if user.room_flag.take() | user.flush_flag.take() {
                self.users[agent].is_due = true;
                let delay = self.rng.delay();
                self.after(delay, Happening::User(agent));
            }
        }
    }

    /// The user does what is due.
    pub(super) fn act(&mut self, agent: usize) {
        self.users[agent].is_due = false;
        while self.users[agent].acts.front().is_some_and(|(at, _)| *at <= self.now) {
            let Some((_, act)) = self.users[agent].acts.pop_front() else { return };
            self.log(|| format!("user {agent}: {act:?}"));
            self.do_act(agent, act);
        }
        self.write_frames(agent);
        self.poll_flush(agent);
    }

    fn do_act(&mut self, agent: usize, act: Act) {
        let channel = Arc::clone(&self.agents[agent].channel);
        match act {
            // A mailbox takes no agent after a shutdown.
            Act::Adopt if self.is_ending => {}
            Act::Adopt => {
                self.agents[agent].adopted = true;
                self.send(Command::Adopt(agent));
                self.after(0, Happening::Reader(agent));
            }
            Act::Send(frames) => self.users[agent].frames.extend(frames),
            Act::Flush => self.users[agent].flushing = Some(WaitKey::default()),
            Act::EndInput => {
                self.agents[agent].has_ended_input = true;
                let why = Error::new(ErrorKind::InputEnded, "write", "the input was ended");
                if channel.outbox.refuse(why) {
                    self.request(agent, Request::EndInput);
                }
            }
            Act::DropReader => {
                self.users[agent].has_reader = false;
                self.users[agent].events.clear();
                channel.inbox.drop_reader();
                self.request(agent, Request::Resume);
            }
            Act::Stall(until) => self.users[agent].stalled_until = until,
            Act::HoldStderr(held) => {
                if channel.inbox.hold_stderr(held) {
                    self.request(agent, Request::HoldStderr);
                }
            }
            Act::OpenTurn => {
                self.users[agent].interrupts = true;
                channel.outbox.set_interrupt(Some(INTERRUPT.to_vec()));
            }
            Act::EndTurn => {
                if channel.outbox.set_interrupt(None) {
                    self.request(agent, Request::TurnEnded);
                }
            }
            Act::CatchUp => {
                let (question, answer) = CatchUp::new();
                self.users[agent].questions.push(answer);
                self.send(Command::Agent(agent, Request::CatchUp(question)));
            }
            Act::Close(limits, reason) => {
                self.send(Command::Agent(agent, Request::Close(limits, reason)));
            }
            Act::Shutdown(limit) => {
                self.is_ending = true;
                self.send(Command::Shutdown(limit));
            }
        }
    }

    fn write_frames(&mut self, agent: usize) {
        let channel = Arc::clone(&self.agents[agent].channel);
        while let Some(frame) = self.users[agent].frames.pop_front() {
            let user = &mut self.users[agent];
            let bytes = frame.clone();
            let waker = Waker::from(Arc::clone(&user.room_flag));
            match channel.outbox.offer(frame, &mut user.room, &waker) {
                Offer::Accepted { tell_driver } => {
                    user.accepted.extend_from_slice(&bytes);
                    user.is_blocked = false;
                    if tell_driver {
                        self.request(agent, Request::Write);
                    }
                }
                Offer::Full(back) => {
                    user.is_blocked = true;
                    return user.frames.push_front(back);
                }
                Offer::Refused(_) => {
                    user.is_blocked = false;
                    user.frames.clear();
                }
            }
        }
    }

    fn poll_flush(&mut self, agent: usize) {
        let channel = Arc::clone(&self.agents[agent].channel);
        let stdin = self.agents[agent].stdin;
        let user = &mut self.users[agent];
        let waker = Waker::from(Arc::clone(&user.flush_flag));
        let Some(key) = &mut user.flushing else { return };
        let Some(flushed) = channel.outbox.poll_flushed(key, &waker) else { return };
        user.flushing = None;
        let accepted = user.accepted.len();
        let written = self.pipes[stdin].written.len();
        if flushed.is_ok() && written < accepted {
            self.violate(|| format!("a flush is over with {written} of {accepted} bytes written"));
        }
    }

    /// The reader reads some events, or registers its waker.
    pub(super) fn read_events(&mut self, agent: usize) {
        let channel = Arc::clone(&self.agents[agent].channel);
        let user = &mut self.users[agent];
        if !user.has_reader || user.ended {
            return;
        }
        if user.stalled_until > self.now {
            let left = user.stalled_until - self.now;
            return self.after(left, Happening::Reader(agent));
        }
        for _ in 0..self.rng.between(1, 8) {
            let user = &mut self.users[agent];
            if user.events.is_empty() {
                let waker = Waker::from(Arc::clone(&user.event_flag));
                if !channel.inbox.take_events(&mut user.events, &waker) {
                    user.ended = true;
                    user.is_reading = false;
                    return;
                }
            }
            let Some(event) = user.events.pop_front() else { return user.is_reading = false };
            if user.events.is_empty() {
                channel.inbox.recycle(&mut user.events);
            }
            let weight = event.weight();
            if matches!(user.last, Some(Event::Exit(_))) {
                self.violate(|| format!("agent {agent}: {event:?} after its exit"));
            }
            let user = &mut self.users[agent];
            match &event {
                Event::Record(record) => user.records.push(record.as_bytes().to_vec()),
                Event::Stderr(line) => user.stderr += line.as_bytes().len(),
                _ => {}
            }
            user.last = Some(event);
            if channel.inbox.consume(weight) {
                self.request(agent, Request::Resume);
            }
        }
        let delay =
            if self.rng.one_in(8) { self.rng.below(5 * MS) } else { self.rng.below(20 * US) };
        self.after(delay, Happening::Reader(agent));
    }
}
