//! The loop over own stdin, stdout, stderr, the signals and what the engine has.
//!
//! One thread, one wait. No call in it blocks, so no parent that reads or writes nothing holds up
//! the close, the signals or the end of this process.

use std::collections::VecDeque;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use agentpipe::{Agent, AgentReader, AgentWriter, ClosePolicy, CloseReport, Event};
use rustix::event::PollFlags;

use super::Args;
use super::bell::Bell;
use super::clock::{Clock, TICK};
use super::descriptor::poll_for;
use super::input::Input;
use super::lines::Stderr;
use super::output::Output;
use super::report::{Losses, Target};
use super::signals::Signals;

/// Beyond the worst case of the close, at its end.
const EXTRA: Duration = Duration::from_millis(900);
/// From the second signal to the end, whatever the agent and the parent do.
const AFTER_SECOND_SIGNAL: Duration = Duration::from_millis(900);
/// A parent that reads takes something within this time, however busy the machine is.
const PATIENCE_MIN: Duration = Duration::from_secs(1);
/// Events taken in one turn, so that a flood of small ones keeps nothing else waiting.
const EVENTS_A_TURN: usize = 1024;

/// How it went.
pub(super) struct Outcome {
    /// `None`: the agent is not closed yet, and there is no time to wait for it.
    pub(super) report: Option<CloseReport>,
    pub(super) losses: Losses,
    pub(super) stdout_failed: Option<std::io::Error>,
    /// There is no time to wait for anything more.
    pub(super) hurried: bool,
}

pub(super) struct EventLoop<'a> {
    args: &'a Args,
    policy: ClosePolicy,
    target: &'a Target,
    bell: Arc<Bell>,
    signals: &'a Signals,
    stderr: &'a mut Stderr,
    stdout: Output,
    /// Both are one file: a record and a line must not tear each other.
    joined: bool,
    input: Input,
    reader: AgentReader,
    /// All that the agent said and that is not handed on, once it is closed.
    rest: VecDeque<Event>,
    writer: AgentWriter,
    closed: Pin<Box<dyn Future<Output = CloseReport>>>,
    report: Option<CloseReport>,
    /// The last event was taken.
    reader_ended: bool,
    clock: Clock,
    close_asked: bool,
    /// When the parent wanted it over: it ended the input, or sent a signal.
    ending: Option<Instant>,
    /// There may be one.
    signalled: bool,
    signals_seen: u32,
    /// By a signal after the one that asked for the end, or after the close.
    hurried: bool,
    /// It ends now, whatever is left.
    hard_end: Option<Instant>,
}

impl<'a> EventLoop<'a> {
    pub(super) fn new(
        args: &'a Args,
        target: &'a Target,
        bell: Arc<Bell>,
        signals: &'a Signals,
        stderr: &'a mut Stderr,
        agent: Agent,
    ) -> Self {
        let (reader, writer) = agent.split();
        let watched = writer.clone();
        let now = Instant::now();
        let stdout = Output::new(args.framing.into(), now);
        Self {
            args,
            policy: args.policy(),
            target,
            bell,
            signals,
            joined: stdout.descriptor.is_same_file(&stderr.descriptor),
            stderr,
            stdout,
            input: Input::new(args),
            reader,
            rest: VecDeque::new(),
            writer,
            closed: Box::pin(async move { watched.closed().await }),
            report: None,
            reader_ended: false,
            clock: Clock::new(now),
            close_asked: false,
            ending: None,
            signalled: true,
            signals_seen: 0,
            hurried: false,
            hard_end: None,
        }
    }

    /// Runs until the agent is closed and all it said is handed on or given up. `signals` is how
    /// many came while it was spawned.
    pub(super) fn run(mut self, signals: u32) -> Outcome {
        let waker = Waker::from(Arc::clone(&self.bell));
        let context = &mut Context::from_waker(&waker);
        for _ in 0..signals {
            self.on_signal(Instant::now());
        }
        loop {
            self.bell.silence();
            let now = self.clock.at(Instant::now());
            let mut moved = self.take_signals(now);
            moved |= self.look_for_the_report(context);
            moved |= self.take_events(context);
            moved |= self.feed_agent(now, context);
            moved |= self.flush(now);
            if self.is_over(moved, now) {
                return self.outcome();
            }
            let wait = if moved { Some(Duration::ZERO) } else { self.until_deadline(now) };
            self.wait(wait);
            self.clock.turned(Instant::now(), wait);
        }
    }

    fn take_signals(&mut self, now: Instant) -> bool {
        if !std::mem::take(&mut self.signalled) {
            return false;
        }
        let before = self.signals_seen;
        while self.signals.next().is_some() {
            self.on_signal(now);
        }
        self.signals_seen > before
    }

    fn on_signal(&mut self, now: Instant) {
        self.signals_seen += 1;
        self.end(now);
        self.input.finish();
        if self.signals_seen == 1 && self.report.is_none() {
            self.close(self.policy);
        } else {
            // Where nothing is left to close, it is stdout that takes too long.
            let end = now + AFTER_SECOND_SIGNAL;
            self.hard_end = Some(self.hard_end.map_or(end, |known| known.min(end)));
            self.hurried = true;
            self.close(ClosePolicy::abort());
        }
    }

    /// The parent wants it over. Only from now on is it bounded how long stdout is waited for: while
    /// the input is open, a parent that does not read holds the agent back as any full pipe does.
    fn end(&mut self, now: Instant) {
        self.ending.get_or_insert(now);
        let end = now + self.policy.max_duration() + EXTRA;
        self.hard_end.get_or_insert(end);
    }

    /// The engine carries the close out, whatever becomes of the future.
    fn close(&mut self, policy: ClosePolicy) {
        self.close_asked = true;
        let close = pin!(self.writer.close_with(policy));
        let _report = close.poll(&mut Context::from_waker(Waker::noop()));
    }

    fn look_for_the_report(&mut self, context: &mut Context<'_>) -> bool {
        if self.report.is_some() {
            return false;
        }
        let Poll::Ready(report) = self.closed.as_mut().poll(context) else { return false };
        let report = self.report.insert(report).clone();
        // Nothing follows any more, so it can be counted.
        while let Some(event) = self.next_of_reader(context) {
            self.rest.push_back(event);
        }
        if !self.stdout.is_empty() || !self.rest.is_empty() {
            self.target.write_ahead(&self.losses().in_json(Ok(&report)));
        }
        true
    }

    fn next_of_reader(&mut self, context: &mut Context<'_>) -> Option<Event> {
        if self.reader_ended {
            return None;
        }
        let Poll::Ready(event) = self.reader.poll_next(context) else { return None };
        self.reader_ended = event.is_none();
        event
    }

    /// Hands events on while there is room for them. True if there may be more.
    fn take_events(&mut self, context: &mut Context<'_>) -> bool {
        let mut taken = 0;
        while taken < EVENTS_A_TURN && self.stdout.has_room() && self.stderr.has_room() {
            let event = self.rest.pop_front();
            let Some(event) = event.or_else(|| self.next_of_reader(context)) else { break };
            taken += 1;
            match event {
                Event::Record(record) => self.stdout.push(&record),
                other => self.tell(&other),
            }
        }
        taken > 0
    }

    fn tell(&self, event: &Event) {
        let lines = &self.stderr.lines;
        match event {
            Event::Noise(sample) => lines.say(format_args!("noise: {sample}")),
            Event::Oversized(sample) => lines.say(format_args!("oversized record: {sample}")),
            Event::Malformed { reason, sample } => {
                lines.say(format_args!("malformed record ({}): {sample}", reason.as_str()));
            }
            Event::Truncated(sample) => lines.say(format_args!("truncated record: {sample}")),
            // The agent's own words, as if it had kept the stderr of this process.
            Event::Stderr(line) => lines.pass(line),
            _ => {}
        }
    }

    fn feed_agent(&mut self, now: Instant, context: &mut Context<'_>) -> bool {
        let mut moved = self.input.step(&self.writer, &self.stderr.lines, now, context);
        let flush = self.args.flush();
        if let Some(since) = self.input.hung_up() {
            self.end(since);
            if now >= since + flush && !self.input.has_ended() {
                self.input.cut_off();
                moved = true;
            }
        }
        if self.input.has_ended() {
            self.end(now);
        }
        if self.input.is_over() && !self.close_asked {
            // What was waited for already is not waited for again.
            let waited = self.input.hung_up().map_or(Duration::ZERO, |since| now - since);
            self.close(self.policy.flush(flush.saturating_sub(waited)));
            moved = true;
        }
        moved
    }

    fn flush(&mut self, now: Instant) -> bool {
        let was_fine = self.stdout.failed.is_none();
        let mut moved = self.may_write_records() && self.stdout.flush(now);
        if let Some(error) = self.stdout.failed.as_ref().filter(|_| was_fine) {
            if error.kind() != std::io::ErrorKind::BrokenPipe {
                let lines = &self.stderr.lines;
                lines.say(format_args!("writing to stdout failed: {error}; the agent is aborted"));
            }
            self.close(ClosePolicy::abort());
        }
        moved |= self.may_write_lines() && self.stderr.flush(now);
        moved
    }

    fn may_write_records(&self) -> bool {
        !(self.joined && self.stderr.is_inside_a_line())
    }

    fn may_write_lines(&self) -> bool {
        !(self.joined && self.stdout.is_inside_a_record())
    }

    fn is_over(&self, moved: bool, now: Instant) -> bool {
        let closed = self.report.is_some();
        let delivered = self.reader_ended && self.rest.is_empty() && self.stdout.is_empty();
        let patient = moved || self.stdout_patience().is_none_or(|until| now < until);
        (closed && (delivered || !patient)) || self.hard_end.is_some_and(|end| now >= end)
    }

    /// Until when stdout is waited for once the agent is closed, unless it takes something.
    fn stdout_patience(&self) -> Option<Instant> {
        let ending = self.ending?;
        // Where it is to end at once, the last that stdout can do is to take what fits.
        let patience =
            if self.hurried { Duration::ZERO } else { self.args.drain().max(PATIENCE_MIN) };
        Some(ending.max(self.stdout.took) + patience)
    }

    fn until_deadline(&self, now: Instant) -> Option<Duration> {
        let patience = self.stdout_patience().filter(|_| self.report.is_some());
        let flushed = self.input.hung_up().map(|since| since + self.args.flush());
        let flushed = flushed.filter(|_| !self.input.has_ended());
        [patience, flushed, self.hard_end]
            .into_iter()
            .flatten()
            .map(|deadline| deadline.saturating_duration_since(now).min(TICK))
            .min()
    }

    fn wait(&mut self, limit: Option<Duration>) {
        let now = Instant::now();
        let out = |wanted: bool| wanted.then_some(PollFlags::OUT);
        let records = out(!self.stdout.is_empty() && self.may_write_records());
        let lines = out(!self.stderr.is_empty() && self.may_write_lines());
        let three = [
            (&self.input.descriptor, self.input.events()),
            (&self.stdout.descriptor, records),
            (&self.stderr.descriptor, lines),
        ];
        let mut fds = vec![self.bell.poll_fd(), self.signals.poll_fd()];
        let mut places = [None; 3];
        let mut limit = limit;
        for ((descriptor, events), place) in three.into_iter().zip(&mut places) {
            let Some(events) = events else { continue };
            match descriptor.poll_fd(events, now) {
                Some(fd) => {
                    *place = Some(fds.len());
                    fds.push(fd);
                }
                None => {
                    let rest = descriptor.rests_until().map(|until| until.duration_since(now));
                    limit = limit.into_iter().chain(rest).min();
                }
            }
        }
        poll_for(&mut fds, limit);
        let seen = places.map(|place| place.map_or(PollFlags::empty(), |at| fds[at].revents()));
        self.signalled |= !fds[1].revents().is_empty();
        drop(fds);
        self.input.polled(seen[0], self.clock.at(Instant::now()));
        self.stdout.descriptor.polled(seen[1]);
        self.stderr.descriptor.polled(seen[2]);
    }

    fn losses(&self) -> Losses {
        let (mut undelivered_records, mut undelivered_bytes) = self.stdout.undelivered();
        let mut undelivered_stderr_lines = self.stderr.undelivered();
        for event in &self.rest {
            match event {
                Event::Record(record) => {
                    undelivered_records += 1;
                    undelivered_bytes += self.stdout.len_of(record);
                }
                Event::Exit(_) => {}
                _ => undelivered_stderr_lines += 1,
            }
        }
        let stats =
            self.report.as_ref().map_or_else(|| self.writer.stats(), |report| *report.stats());
        Losses {
            undelivered_records,
            undelivered_bytes,
            undelivered_stderr_lines: undelivered_stderr_lines + stats.stderr_lines_dropped,
            stdin_refused_records: self.input.refused,
            stdin_unsent_bytes: self.input.unsent_bytes,
        }
    }

    /// Counts what is left. There may still be room for lines.
    fn outcome(mut self) -> Outcome {
        self.input.finish();
        let context = &mut Context::from_waker(Waker::noop());
        while let Some(event) = self.next_of_reader(context) {
            self.rest.push_back(event);
        }
        for event in std::mem::take(&mut self.rest) {
            match event {
                Event::Record(_) => self.rest.push_back(event),
                other => self.tell(&other),
            }
        }
        Outcome {
            losses: self.losses(),
            hurried: self.hurried || self.report.is_none(),
            report: self.report,
            stdout_failed: self.stdout.failed,
        }
    }
}
