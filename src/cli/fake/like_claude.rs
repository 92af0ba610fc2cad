//! The mode `--like`: the poll loop of a CLI that never blocks in write(2). `life` decides when it exits.

use std::io;
use std::time::{Duration, Instant};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;

use super::Fake;
use super::args::{Build, ClaudeArgs};
use super::ends::Stop;
use super::input::Item;
use super::life::{Decision, Life, View};
use super::output::FakeOutput;
use super::protocol::{self, Asked};

/// The time from an `interrupt` request to the result record.
const INTERRUPTING: Duration = Duration::from_millis(10);
/// The pause between two records of a streaming turn.
const STREAM_PAUSE: Duration = Duration::from_millis(10);
/// The time from a result to the record with the state of the session.
const STATE_PAUSE: Duration = Duration::from_millis(3);
/// Streaming pauses while more than this many bytes are queued.
const QUEUE_LIMIT: usize = 256 << 20;
/// Written bytes are removed from the queue once there are this many.
const QUEUE_SLACK: usize = 1 << 20;

/// FakeOutput that is not written yet.
#[derive(Debug, Default)]
struct OutputQueue {
    bytes: Vec<u8>,
    sent: usize,
    /// The last byte written was not the end of a record.
    inside_record: bool,
    /// The pipe is broken or the output was cut, so further output is dropped.
    dropped: bool,
}

/// The turn in progress, and the times at which actions are due.
#[derive(Debug, Default)]
struct Turn {
    open: bool,
    /// User messages that arrived during a turn.
    waiting: u64,
    number: u64,
    interrupted: bool,
    sequence: u64,
    backlog_done: bool,
    next_record: Option<Duration>,
    interrupt_due: Option<Duration>,
    state_due: Option<Duration>,
}

/// The whole CLI.
struct ClaudeCli<'a> {
    args: &'a ClaudeArgs,
    record_size: u64,
    output: &'a mut FakeOutput,
    queue: OutputQueue,
    turn: Turn,
}

pub(super) fn run(agent: &mut Fake<'_>, build: Build) -> Result<Stop, Stop> {
    set_nonblocking()?;
    let args = agent.args;
    let start = Instant::now();
    let mut life = Life::new(build, args.claude.flush_limit);
    let mut cli = ClaudeCli {
        args: &args.claude,
        record_size: args.record_size(),
        output: &mut agent.output,
        queue: OutputQueue::default(),
        turn: Turn::default(),
    };
    if args.claude.backlog_at_start {
        cli.say_backlog();
    }
    let mut stdin_open = true;
    loop {
        let view = cli.view();
        let deadline =
            [life.deadline(view.turn_open), cli.turn.deadline().filter(|_| !life.is_leaving())];
        let until = deadline.into_iter().flatten().min().map(|due| start + due);
        let ready = if agent.signals.terminated() {
            agent.signals.wait_on(stdin_open, view.queued > 0, until)?
        } else {
            agent.signals.wait(stdin_open, view.queued > 0, until)?
        };
        let now = start.elapsed();
        if ready.term || agent.signals.terminated() {
            life.see_term(now);
        }
        if ready.input {
            stdin_open = cli.read(&mut agent.input, now, life.is_leaving())?;
            if !stdin_open && !args.deaf.ignore_eof {
                life.see_eof(now);
            }
        }
        if !life.is_leaving() {
            cli.carry_out(now);
        }
        // New output is tried at once, as libuv does, without a check for room.
        if cli.queue.write(cli.output.chunk())? {
            life.see_broken_pipe(now);
            // The result says whether a blocking agent would exit, which does not apply here.
            let _ = cli.output.broken();
        }
        match life.step(now, cli.view()) {
            Decision::Continue => {}
            Decision::Cut => cli.queue.cut(),
            Decision::Exit { code, clean } => {
                let clean = clean && !cli.queue.dropped;
                return Ok(Stop::Exit { code, clean });
            }
        }
    }
}

impl ClaudeCli<'_> {
    fn view(&self) -> View {
        View {
            queued: self.queue.len(),
            turn_open: self.turn.open,
            interrupted: self.turn.interrupted,
        }
    }

    /// Reads and answers the available input. Returns false at the end of stdin.
    fn read(
        &mut self,
        input: &mut super::input::FakeInput,
        now: Duration,
        leaving: bool,
    ) -> Result<bool, Stop> {
        while let Some(item) = input.try_next()? {
            match item {
                Item::End => return Ok(false),
                // During its exit the CLI reads but does not answer.
                _ if leaving => {}
                Item::Record(line) | Item::Tail(line) => self.answer(line, now),
            }
        }
        Ok(true)
    }

    fn answer(&mut self, line: &[u8], now: Duration) {
        match protocol::asked(line) {
            Asked::Initialize(id) => self.say(&protocol::initialized(id)),
            Asked::Interrupt(id) => {
                self.say(&protocol::interrupted(id));
                if self.turn.open {
                    self.turn.interrupt_due.get_or_insert(now + INTERRUPTING);
                }
            }
            Asked::Control(id) => self.say(&protocol::success(id, "{}")),
            Asked::User if self.turn.open => self.turn.waiting += 1,
            Asked::User => self.begin_turn(now),
            Asked::Other => {}
        }
    }

    fn begin_turn(&mut self, now: Duration) {
        self.turn.number += 1;
        self.turn.interrupted = false;
        if !self.turn.backlog_done {
            self.say_backlog();
        }
        if self.args.mid_turn {
            self.turn.open = true;
            self.turn.next_record = Some(now);
        } else {
            self.say(&protocol::assistant("An answer."));
            self.say(&protocol::result(self.turn.number));
            self.after_result(now);
        }
    }

    fn end_interrupted_turn(&mut self, now: Duration) {
        self.turn.open = false;
        self.turn.interrupted = true;
        self.turn.next_record = None;
        self.turn.interrupt_due = None;
        self.say(&protocol::interrupted_result(self.turn.number));
        self.after_result(now);
        if self.turn.waiting > 0 {
            self.turn.waiting -= 1;
            self.begin_turn(now);
        }
    }

    fn after_result(&mut self, now: Duration) {
        if self.args.session_state {
            self.turn.state_due = Some(now + STATE_PAUSE);
        }
    }

    /// Carries out the actions that are due.
    fn carry_out(&mut self, now: Duration) {
        let due = |time: Option<Duration>| time.is_some_and(|time| time <= now);
        if due(self.turn.state_due) {
            self.turn.state_due = None;
            self.say(protocol::SESSION_IDLE);
        }
        if due(self.turn.interrupt_due) {
            self.end_interrupted_turn(now);
        }
        if due(self.turn.next_record) {
            self.turn.next_record = Some(now + STREAM_PAUSE);
            if self.queue.len() < QUEUE_LIMIT {
                self.say_text();
            }
        }
    }

    fn say_backlog(&mut self) {
        self.turn.backlog_done = true;
        for _ in 0..self.args.backlog.div_ceil(self.record_size) {
            self.say_text();
        }
    }

    /// Queues one record of answer text of the configured size.
    fn say_text(&mut self) {
        let mut body = Vec::new();
        let size = self.output.body_size(self.record_size);
        protocol::filler("assistant", self.turn.sequence, size, &mut body);
        self.turn.sequence += 1;
        self.say_bytes(&body);
    }

    fn say(&mut self, record: &str) {
        self.say_bytes(record.as_bytes());
    }

    fn say_bytes(&mut self, record: &[u8]) {
        if !self.queue.dropped {
            self.output.encode(record, &mut self.queue.bytes);
        }
    }
}

impl Turn {
    fn deadline(&self) -> Option<Duration> {
        [self.next_record, self.interrupt_due, self.state_due].into_iter().flatten().min()
    }
}

impl OutputQueue {
    fn len(&self) -> usize {
        self.bytes.len() - self.sent
    }

    /// Makes one write. Returns true if the pipe is broken.
    fn write(&mut self, chunk: usize) -> io::Result<bool> {
        let rest = &self.bytes[self.sent..];
        if rest.is_empty() {
            return Ok(false);
        }
        match rustix::io::write(rustix::stdio::stdout(), &rest[..rest.len().min(chunk)]) {
            Ok(moved) => {
                self.sent += moved;
                self.inside_record = self.bytes[self.sent - 1] != b'\n';
            }
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(Errno::PIPE) => {
                self.forget();
                return Ok(true);
            }
            Err(error) => return Err(error.into()),
        }
        if self.sent == self.bytes.len() {
            self.bytes.clear();
            self.sent = 0;
        } else if self.sent > QUEUE_SLACK && self.sent > self.bytes.len() / 2 {
            self.bytes.drain(..self.sent);
            self.sent = 0;
        }
        Ok(false)
    }

    /// Drops the queue and ends the stream in the middle of a record, for which half a record may be kept.
    fn cut(&mut self) {
        if self.len() == 0 {
            return;
        }
        self.dropped = true;
        let mut keep = self.sent;
        if !self.inside_record {
            let rest = &self.bytes[self.sent..];
            keep += rest.iter().position(|byte| *byte == b'\n').unwrap_or(2) / 2;
        }
        self.bytes.truncate(keep);
    }

    fn forget(&mut self) {
        self.bytes = Vec::new();
        self.sent = 0;
        self.dropped = true;
    }
}

fn set_nonblocking() -> io::Result<()> {
    let stdout = rustix::stdio::stdout();
    let flags = fcntl_getfl(stdout)?;
    fcntl_setfl(stdout, flags | OFlags::NONBLOCK)?;
    Ok(())
}
