//! The event loop: stdin, stdout, stderr, signals and the events of the engine, in one thread with one
//! wait in poll(2).
//!
//! No call in it blocks, so a parent that does not read or write cannot delay the close, the signals or
//! the end of this process.

use std::collections::VecDeque;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use agentpipe::{
    Agent, AgentReader, AgentWriter, CloseMode, ClosePolicy, CloseReport, Event, Framing,
};
use rustix::event::PollFlags;

use super::RunArgs;
use super::absence::Absence;
use super::descriptor::{LoopWaker, poll_for};
use super::input::Input;
use super::lines::Stderr;
use super::orphans::Orphans;
use super::output::{FULL, Output};
use super::report::{Losses, ReportTarget};
use super::signals::Signals;

/// The time for the end of the loop beyond the longest duration of a close.
const EXTRA: Duration = Duration::from_millis(900);
/// The time from the second signal to the end, whatever the agent and the parent do.
const AFTER_SECOND_SIGNAL: Duration = Duration::from_millis(900);
/// The shortest wait for stdout. A parent that reads needs less, even on a busy machine.
const PATIENCE_MIN: Duration = Duration::from_secs(1);
/// With `--reader-timeout`, after a signal: the longest wait for an stdout that accepts nothing.
const AFTER_SIGNAL: Duration = Duration::from_millis(100);
/// The same as `FULL` while it is open whether the reader has left: the queue of a CLI with an answer of 4 MiB.
const AHEAD: usize = 16 << 20;
/// Events taken in one turn, so that many small events do not delay everything else.
const EVENTS_A_TURN: usize = 1024;

/// A turn of the loop that is this late was not slow: the process was stopped or had no CPU. Neither the
/// agent nor the parent caused that, so no deadline counts the time.
const STOPPED: Duration = Duration::from_millis(500);

/// The longest wait before a deadline. A stop of the process is noticed only if it exceeds the wait, so
/// a shorter wait hides less of it.
const TICK: Duration = Duration::from_millis(250);

/// The end of a run.
pub(super) struct RunEnd {
    /// `None` if the agent is not closed and there is no time to wait for it.
    pub(super) report: Option<CloseReport>,
    pub(super) losses: Losses,
    pub(super) stdout_failed: Option<std::io::Error>,
    /// There is no time for further waits.
    pub(super) hurried: bool,
    /// How long the lines that are left may take.
    pub(super) left: Duration,
}

pub(super) struct EventLoop<'a> {
    args: &'a RunArgs,
    policy: ClosePolicy,
    target: &'a ReportTarget,
    waker: Arc<LoopWaker>,
    signals: &'a Signals,
    orphans: &'a mut Orphans,
    stderr: &'a mut Stderr,
    /// The agent's stderr is held back.
    stderr_held: bool,
    stdout: Output,
    /// stdout and stderr are one file, so records and lines must not split each other.
    joined: bool,
    input: Input,
    reader: AgentReader,
    /// After the close: the events of the agent that are not passed on yet.
    rest: VecDeque<Event>,
    writer: AgentWriter,
    closed: Pin<Box<dyn Future<Output = CloseReport>>>,
    report: Option<CloseReport>,
    /// The last event was taken.
    reader_ended: bool,
    clock: Clock,
    close_asked: bool,
    farewell_said: bool,
    /// With `--reader-timeout`.
    absence: Option<Absence>,
    /// When the parent asked for the end: it closed stdin or sent a signal.
    ending: Option<Instant>,
    /// The signal descriptor may be readable.
    signalled: bool,
    signals_seen: u32,
    /// A signal came after the first one, or after the close.
    hurried: bool,
    /// When the loop ends, whatever is left.
    hard_end: Option<Instant>,
}

impl<'a> EventLoop<'a> {
    pub(super) fn new(
        args: &'a RunArgs,
        target: &'a ReportTarget,
        waker: Arc<LoopWaker>,
        signals: &'a Signals,
        orphans: &'a mut Orphans,
        stderr: &'a mut Stderr,
        agent: Agent,
    ) -> Self {
        let (reader, writer) = agent.split();
        let watched = writer.clone();
        let now = Instant::now();
        let stdout = Output::new(args.framing.into(), now);
        let joined = stdout.descriptor.is_same_file(&stderr.descriptor);
        if joined {
            stderr.lines.join_records();
        }
        Self {
            args,
            policy: args.policy(),
            target,
            waker,
            signals,
            orphans,
            joined,
            stderr,
            stderr_held: false,
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
            farewell_said: false,
            absence: args.reader_timeout.map(|limit| Absence::new(limit, now)),
            ending: None,
            signalled: true,
            signals_seen: 0,
            hurried: false,
            hard_end: None,
        }
    }

    /// Runs until the agent is closed and its output is passed on or given up. `signals` is the number of
    /// signals that came during the spawn.
    pub(super) fn run(mut self, signals: u32) -> RunEnd {
        let waker = Waker::from(Arc::clone(&self.waker));
        let context = &mut Context::from_waker(&waker);
        for _ in 0..signals {
            self.on_signal(Instant::now());
        }
        loop {
            // The reset comes before the checks: work that arrives after them wakes the loop again.
            self.waker.reset();
            let now = self.clock.at(Instant::now());
            let mut moved = self.take_signals(now);
            moved |= self.take_report(context);
            moved |= self.take_events(context);
            moved |= self.feed_agent(now, context);
            moved |= self.flush(now);
            moved |= self.give_up_absent(now);
            if self.is_over(moved, now) {
                return self.finish();
            }
            // Progress does not skip the poll: the other streams and the signals have their turn,
            // too.
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
        if self.signals.take_child_died() {
            self.orphans.reap();
        }
        self.signals_seen > before
    }

    fn on_signal(&mut self, now: Instant) {
        self.signals_seen += 1;
        self.end(now);
        // With `--reader-timeout` the agent has had its time since stdin ended.
        let is_due = self.absence.is_some() && self.input.hung_up().is_some();
        self.input.finish();
        if self.signals_seen == 1 && self.report.is_none() {
            self.close(if is_due { self.overdue() } else { self.policy });
        } else {
            // After the close the signal means that stdout takes too long.
            let end = now + AFTER_SECOND_SIGNAL;
            // A further signal never gives more time than the one before it.
            self.hard_end = Some(self.hard_end.map_or(end, |known| known.min(end)));
            self.hurried = true;
            self.close(ClosePolicy::abort());
        }
    }

    /// Notes that the parent asked for the end. From then on the wait for stdout is bounded. While stdin is
    /// open it is not: a parent that does not read holds the agent back, like any full pipe.
    fn end(&mut self, now: Instant) {
        self.ending.get_or_insert(now);
        let end = now + self.policy.max_duration() + EXTRA;
        self.hard_end.get_or_insert(end);
    }

    /// Starts a close. The engine carries it out even though the future is dropped.
    fn close(&mut self, policy: ClosePolicy) {
        self.close_asked = true;
        if policy.mode() == CloseMode::Graceful {
            self.say_farewell();
        }
        let close = pin!(self.writer.close_with(policy));
        // One poll sends the request. The report arrives through `closed`.
        let _report = close.poll(&mut Context::from_waker(Waker::noop()));
    }

    /// Queues the last records, once. They are written before the input ends.
    fn say_farewell(&mut self) {
        if std::mem::replace(&mut self.farewell_said, true) {
            return;
        }
        for record in self.args.farewell() {
            // An agent that is gone needs none.
            if let Err(error) = self.writer.try_send(record)
                && !error.is_closed()
            {
                self.stderr.lines.say(format_args!("farewell is not sent: {error}"));
            }
        }
    }

    fn take_report(&mut self, context: &mut Context<'_>) -> bool {
        if self.report.is_some() {
            return false;
        }
        let Poll::Ready(report) = self.closed.as_mut().poll(context) else { return false };
        let report = self.report.insert(report).clone();
        // The close had that much more time, and stdout must not have less for it.
        if let Some(end) = self.hard_end.as_mut().filter(|_| !self.hurried) {
            *end += report.stalled();
        }
        // No event follows the report, so the rest can be counted.
        while let Some(event) = self.next_event(context) {
            self.rest.push_back(event);
        }
        // Otherwise nothing is waited for, and the final report follows at once.
        if !self.stdout.is_empty() || !self.rest.is_empty() {
            self.target.write_ahead(&self.losses().in_json(Ok(&report)));
        }
        true
    }

    fn next_event(&mut self, context: &mut Context<'_>) -> Option<Event> {
        if self.reader_ended {
            return None;
        }
        let Poll::Ready(event) = self.reader.poll_next(context) else { return None };
        self.reader_ended = event.is_none();
        event
    }

    /// Passes events on while there is room for them. Returns true if there may be more.
    fn take_events(&mut self, context: &mut Context<'_>) -> bool {
        let mut taken = 0;
        // Lines need no room: a slow stderr holds back the agent's stderr, and no record.
        // With `--reader-timeout` the agent can write on while its reader is looked at: one that exits in
        // that time needs no more.
        let ahead = self.absence.as_ref().is_some_and(Absence::is_open);
        let room = if ahead { AHEAD } else { FULL };
        while taken < EVENTS_A_TURN && self.stdout.has_room(room) {
            let event = self.rest.pop_front();
            let Some(event) = event.or_else(|| self.next_event(context)) else { break };
            taken += 1;
            match event {
                Event::Record(record) => {
                    self.stdout.framing = self.output_framing();
                    self.stdout.push(&record);
                }
                other => self.print(&other),
            }
        }
        taken > 0
    }

    /// Returns the framing of the next record on stdout: that of stdin, once it is known.
    fn output_framing(&self) -> Framing {
        match self.input.framing() {
            Some(framing) => framing,
            None => self.writer.stats().output_framing.unwrap_or_default(),
        }
    }

    fn print(&self, event: &Event) {
        let lines = &self.stderr.lines;
        match event {
            Event::Noise(sample) => lines.say(format_args!("noise: {sample}")),
            Event::Oversized(sample) => lines.say(format_args!("oversized record: {sample}")),
            Event::Malformed { reason, sample } => {
                lines.say(format_args!("malformed record ({}): {sample}", reason.as_str()));
            }
            Event::Truncated(sample) => lines.say(format_args!("truncated record: {sample}")),
            Event::FramingMismatch(seen) => lines.say(format_args!(
                "the output of the agent looks like {seen} and is read as {}; use --framing {seen}",
                Framing::from(self.args.framing)
            )),
            Event::Stderr(line) => lines.pass(line.as_bytes()),
            _ => {}
        }
    }

    fn feed_agent(&mut self, now: Instant, context: &mut Context<'_>) -> bool {
        let mut moved = self.input.step(&self.writer, &self.stderr.lines, now, context);
        if let Some(absence) = self.absence.as_mut().filter(|_| self.signals_seen == 0) {
            if self.input.hung_up().is_some() {
                absence.input_ended(now);
            }
            // Before the writes of this turn, so that all that is read of them counts.
            if absence.wants_taken(now) {
                absence.note_taken(self.stdout.taken());
            }
            if self.input.is_over() {
                self.say_farewell();
                self.writer.end_input();
            }
            return moved;
        }
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
            // The time that the agent had for its input counts as part of the flush.
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
            // A reader that leaves is no fault: the exit code alone says it, as after a SIGPIPE.
            if error.kind() != std::io::ErrorKind::BrokenPipe {
                let lines = &self.stderr.lines;
                lines.say(format_args!("writing to stdout failed: {error}; the agent is aborted"));
            }
            self.close(ClosePolicy::abort());
        }
        moved |= self.may_write_lines() && self.stderr.flush(now);
        self.stderr_held = self.stderr.is_behind(self.stderr_held);
        self.reader.hold_stderr(self.stderr_held);
        moved
    }

    fn may_write_records(&self) -> bool {
        !(self.joined && self.stderr.is_inside_a_line())
    }

    fn may_write_lines(&self) -> bool {
        !(self.joined && self.stdout.is_inside_a_record())
    }

    /// Gives up a reader that has left, and then an agent that does not leave. Returns true if it did.
    fn give_up_absent(&mut self, now: Instant) -> bool {
        let stuck = !self.stdout.is_empty();
        let Some(absence) = &mut self.absence else { return false };
        let stats = self.writer.stats();
        let written = stats.bytes_in + stats.stderr_bytes;
        if absence.gave_up() {
            absence.hear(written, now);
            let until = absence.agent_deadline(self.args.drain(), self.policy.get_drain_total());
            let is_due = !self.close_asked && until.is_some_and(|until| now >= until);
            if is_due {
                self.input.cut_off();
                self.close(self.overdue());
            }
            return is_due;
        }
        let until = absence.deadline(self.stdout.took).filter(|_| stuck);
        let is_due = until.is_some_and(|until| now >= until);
        let left = is_due && absence.decide(self.stdout.taken(), written, now);
        if left {
            self.stdout.give_reader_up();
            self.end(now);
        }
        left
    }

    /// Returns the policy for an agent whose time is over: SIGTERM comes at once.
    fn overdue(&self) -> ClosePolicy {
        self.policy.flush(Duration::ZERO).drain(Duration::ZERO)
    }

    fn is_over(&self, moved: bool, now: Instant) -> bool {
        let closed = self.report.is_some();
        let delivered = self.reader_ended && self.rest.is_empty() && self.stdout.is_empty();
        let patient = moved || self.stdout_patience().is_none_or(|until| now < until);
        (closed && (delivered || !patient)) || self.hard_end.is_some_and(|end| now >= end)
    }

    /// Returns until when to wait for stdout after the close, unless it accepts something.
    fn stdout_patience(&self) -> Option<Instant> {
        let ending = self.ending?;
        // After a second signal stdout gets one more write, without a wait.
        let patience =
            if self.hurried { Duration::ZERO } else { self.args.drain().max(PATIENCE_MIN) };
        if let Some(absence) = self.absence.as_ref().filter(|_| !self.hurried) {
            return Some(self.stdout.took + absence.limit().min(AFTER_SIGNAL));
        }
        // Each write that stdout accepts begins the wait anew, so a slow reader is not cut off.
        Some(ending.max(self.stdout.took) + patience)
    }

    fn until_deadline(&self, now: Instant) -> Option<Duration> {
        // Deadlines that `is_over` and `feed_agent` do not act upon are left out: once past, they
        // would turn the loop without a wait.
        let patience = self.stdout_patience().filter(|_| self.report.is_some());
        let flushed = self.input.hung_up().map(|since| since + self.args.flush());
        let flushed = flushed.filter(|_| self.absence.is_none() && !self.input.has_ended());
        let absent = self.absence.as_ref().and_then(|absence| {
            let (drain, total) = (self.args.drain(), self.policy.get_drain_total());
            let agent = absence.agent_deadline(drain, total).filter(|_| !self.close_asked);
            agent.or_else(|| absence.deadline(self.stdout.took).filter(|_| !self.stdout.is_empty()))
        });
        [patience, flushed, absent, self.stderr.stuck_at(), self.hard_end]
            .into_iter()
            .flatten()
            .map(|deadline| deadline.saturating_duration_since(now).min(TICK))
            .min()
    }

    fn wait(&mut self, limit: Option<Duration>) {
        // This is the machine's clock: the rests of the descriptors are real time, unlike the
        // deadlines of the loop.
        let now = Instant::now();
        let out = |wanted: bool| wanted.then_some(PollFlags::OUT);
        let records = out(!self.stdout.is_empty() && self.may_write_records());
        // Without an event to wait for, poll(2) still reports that no reader is left.
        let watched = self.absence.is_some() && self.input.hung_up().is_some() && !self.close_asked;
        let records = records.or_else(|| watched.then_some(PollFlags::empty()));
        let lines = out(!self.stderr.is_empty() && self.may_write_lines());
        let three = [
            (&self.input.descriptor, self.input.events()),
            (&self.stdout.descriptor, records),
            (&self.stderr.descriptor, lines),
        ];
        let mut fds = vec![self.waker.poll_fd(), self.signals.poll_fd()];
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
                    // It is not polled, because poll(2) might report it at once. The wait ends with
                    // its rest.
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
        if watched && self.stdout.is_empty() && seen[1].intersects(PollFlags::ERR | PollFlags::HUP)
        {
            // The parent is gone, and an agent that writes nothing would not notice.
            self.stdout.give_reader_up();
            self.end(self.clock.at(Instant::now()));
            self.close(self.policy);
        }
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
            left_running: None,
            stdin_refused_records: self.input.refused,
            stdin_unsent_bytes: self.input.unsent_bytes,
        }
    }

    /// Ends the loop and counts what is left. Lines may still be written.
    fn finish(mut self) -> RunEnd {
        self.input.finish();
        let context = &mut Context::from_waker(Waker::noop());
        while let Some(event) = self.next_event(context) {
            self.rest.push_back(event);
        }
        for event in std::mem::take(&mut self.rest) {
            match event {
                // The record is kept for `losses`: after the loop lines may still be written, and
                // records not.
                Event::Record(_) => self.rest.push_back(event),
                other => self.print(&other),
            }
        }
        let now = self.clock.at(Instant::now());
        let end = self.hard_end.unwrap_or_else(|| now + self.policy.max_duration() + EXTRA);
        RunEnd {
            losses: self.losses(),
            hurried: self.hurried || self.report.is_none(),
            left: end.saturating_duration_since(now),
            report: self.report,
            stdout_failed: self.stdout.failed,
        }
    }
}

/// Time without the periods in which this process did not run.
#[derive(Debug)]
struct Clock {
    /// When the turn began, by the machine's clock.
    turn: Instant,
    /// Time that is not counted.
    stopped: Duration,
}

impl Clock {
    fn new(machine: Instant) -> Self {
        Self { turn: machine, stopped: Duration::ZERO }
    }

    /// Converts a time of the machine's clock. All deadlines are times of this clock.
    fn at(&self, machine: Instant) -> Instant {
        machine.checked_sub(self.stopped).unwrap_or(machine)
    }

    /// Ends a turn that waited for `waited` at most. `None` means that there was no deadline.
    fn turned(&mut self, machine: Instant, waited: Option<Duration>) {
        let took = machine.saturating_duration_since(self.turn);
        let late = waited.map_or(Duration::ZERO, |waited| took.saturating_sub(waited));
        if late > STOPPED {
            // The start of the stop is unknown, so the whole turn is not counted.
            self.stopped += took;
        }
        self.turn = machine;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stopped_time_is_not_counted() {
        let seconds = Duration::from_secs;
        let start = Instant::now();
        let mut clock = Clock::new(start);
        clock.turned(start + seconds(2), Some(seconds(2)));
        assert_eq!(clock.at(start + seconds(2)), start + seconds(2), "a wait is counted");
        clock.turned(start + seconds(10), Some(seconds(3)));
        assert_eq!(
            clock.at(start + seconds(10)),
            start + seconds(2),
            "a turn with a stop is not counted"
        );
        clock.turned(start + seconds(90), None);
        assert_eq!(clock.at(start + seconds(90)), start + seconds(82));
        let late = start + seconds(90) + Duration::from_millis(400);
        clock.turned(late, Some(Duration::ZERO));
        assert_eq!(clock.at(late), late - seconds(8), "a short delay is counted");
    }
}
