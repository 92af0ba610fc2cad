//! Agents on a ring: where the ring, the process and the framer meet. One child, one byte stream each
//! way.
//!
//! ```text
//! in    ring buffer -> read.rs -> frame -> channel.rs (inbox) -> the reader
//! out   the writer -> channel.rs (outbox) -> write.rs -> ring
//! close request.rs -> driver.rs -> close.rs -> close::plan (pure) -> reap.rs
//! ```
//!
//! A [`Driver`] holds all agents of one ring, each of which is a [`Transport`]. An engine thread or a
//! local engine drives it.

mod adoption;
mod buffers;
mod bulk;
mod channel;
mod close;
mod drain_budget;
mod driver;
mod read;
mod reap;
mod request;
#[cfg(test)]
mod sim;
#[cfg(test)]
mod tests;
mod write;

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::close::{
    CloseEvent, CloseMode, ClosePolicy, CloseReason, CloseReport, CloseStage, ExitStatus,
};
use crate::command::AgentCommand;
use crate::counters::AgentStats;
use crate::frame::{Framer, StderrLines};
use crate::io::{EndId, PipeIo, Role, Tag};
use crate::process::{AgentProcess, Parts, Spawned};
use crate::record::Event;

use adoption::LiveAgent;
use bulk::BulkReads;
use close::{CloseRun, CloseTurn};
use read::Intake;
use write::StdinWriter;

pub(crate) use adoption::{Adoption, LiveAgents};
pub(crate) use channel::{Channel, Offer};
pub(crate) use drain_budget::{DRAIN_TOTAL_MAX, DrainBudget};
pub(crate) use driver::{Driver, ShutdownCounts};
pub(crate) use request::{CatchUp, CaughtUp, CloseLimits, Request};

/// The state of one descriptor of an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Open(EndId),
    /// Given to [`PipeIo::close`], which has not reported it closed yet.
    Closing,
    Closed,
}

impl End {
    fn open(self) -> Option<EndId> {
        match self {
            Self::Open(id) => Some(id),
            Self::Closing | Self::Closed => None,
        }
    }
}

/// The four descriptors of an agent, and two more during its close.
#[derive(Debug)]
struct Ends {
    stdin: End,
    stdout: End,
    stderr: End,
    /// The pidfd.
    exit: End,
    /// Open only while the killed cgroup of the agent is not empty yet.
    cgroup: End,
    /// Open only while the container of the agent is being removed.
    container: End,
}

impl Ends {
    fn get_mut(&mut self, role: Role) -> Option<&mut End> {
        match role {
            Role::Stdin => Some(&mut self.stdin),
            Role::Stdout => Some(&mut self.stdout),
            Role::Stderr => Some(&mut self.stderr),
            Role::Exit => Some(&mut self.exit),
            Role::Cgroup => Some(&mut self.cgroup),
            Role::Container => Some(&mut self.container),
            Role::Wake => None,
        }
    }

    /// Closes those of the given descriptors that are open, in one submission.
    fn close(&mut self, io: &mut dyn PipeIo, roles: &[Role]) {
        let mut ids = Vec::with_capacity(roles.len());
        for role in roles {
            if let Some(end) = self.get_mut(*role)
                && let Some(id) = end.open()
            {
                ids.push(id);
                *end = End::Closing;
            }
        }
        if !ids.is_empty() {
            io.close(&ids);
        }
    }

    /// Returns the pidfd, which the ring owns.
    fn pidfd<'io>(&self, io: &'io dyn PipeIo) -> Option<BorrowedFd<'io>> {
        io.descriptor(self.exit.open()?)
    }

    fn pipes_closed(&self) -> bool {
        [self.stdin, self.stdout, self.stderr].iter().all(|end| *end == End::Closed)
    }

    fn all_closed(&self) -> bool {
        let others = [self.exit, self.cgroup, self.container];
        self.pipes_closed() && others.iter().all(|end| *end == End::Closed)
    }
}

/// One agent of a driver: its child, its descriptors, its framer, its queues and its close.
#[derive(Debug)]
struct Transport {
    channel: Arc<Channel>,
    child: Box<dyn AgentProcess>,
    program: String,
    ends: Ends,
    policy: ClosePolicy,

    framer: Framer,
    stderr: StderrLines,
    intake: Intake,
    bulk: BulkReads,
    /// The part of its counters that is in the sums of its driver already.
    tallied: AgentStats,
    /// Reading stdout is stopped until the reader catches up.
    paused: bool,
    /// Reading stderr is stopped.
    stderr_paused: bool,
    last_output: Instant,
    stdout_ended: bool,
    stderr_ended: bool,
    /// When an agent that closed its stdout and lives on is closed.
    mute_deadline: Option<Instant>,

    stdin: StdinWriter,

    /// The inodes of its stdout and stderr pipes, by which `/proc` shows which processes hold them.
    outputs: [u64; 2],

    exited: bool,
    /// Boxed, because most agents are open for most of their life.
    close: Option<Box<CloseRun>>,
    /// Its exit status, and why that is unknown, if its driver was dropped without closing it.
    exit_at_destroy: Option<(ExitStatus, Option<String>)>,
    /// Counts it among the living agents until its report is there.
    live: Option<LiveAgent>,
}

/// Returns how an agent is named in errors and traces: `pid 123 (claude)`.
fn label(spawned: &Spawned) -> String {
    let program = spawned.program();
    let name = program.file_name().unwrap_or(program.as_os_str());
    format!("pid {} ({})", spawned.pid(), name.to_string_lossy())
}

impl Transport {
    /// Adopts the descriptors of a spawned child, starts reading and watches for its exit.
    fn connect<C: AgentProcess + 'static>(
        io: &mut dyn PipeIo,
        slot: u32,
        parts: Parts<C>,
        command: &AgentCommand,
        channel: Arc<Channel>,
        now: Instant,
    ) -> Self {
        let program = parts.program.to_string_lossy().into_owned();
        let stats = AgentStats {
            stdin_pipe_size: parts.stdin_pipe_size as u64,
            stdout_pipe_size: parts.stdout_pipe_size as u64,
            ..AgentStats::default()
        };
        // The kernel gives no pipe the inode 0, so a pipe without a known inode matches no link in
        // `/proc`.
        let outputs = [&parts.stdout, &parts.stderr]
            .map(|pipe| rustix::fs::fstat(pipe).map_or(0, |stat| stat.st_ino));
        let tag = |role| Tag { agent: slot, role };
        let stdin = io.adopt(parts.stdin, tag(Role::Stdin));
        let stdout = io.adopt(parts.stdout, tag(Role::Stdout));
        let stderr = io.adopt(parts.stderr, tag(Role::Stderr));
        let exit = io.adopt(parts.pidfd, tag(Role::Exit));
        io.read(stdout);
        io.read(stderr);
        io.watch(exit);
        let limits = command.limits;
        Self {
            child: Box::new(parts.child),
            program,
            ends: Ends {
                stdin: End::Open(stdin),
                stdout: End::Open(stdout),
                stderr: End::Open(stderr),
                exit: End::Open(exit),
                cgroup: End::Closed,
                container: End::Closed,
            },
            policy: command.close,
            framer: Framer::new(command.framing, &limits),
            stderr: StderrLines::new(&limits),
            intake: Intake::new(Arc::clone(&channel), stats, command),
            bulk: BulkReads::default(),
            tallied: AgentStats::default(),
            paused: false,
            stderr_paused: false,
            last_output: now,
            stdout_ended: false,
            stderr_ended: false,
            mute_deadline: None,
            stdin: StdinWriter::new(Arc::clone(&channel)),
            outputs,
            exited: false,
            close: None,
            exit_at_destroy: None,
            live: None,
            channel,
        }
    }

    /// Returns when the agent wants a tick.
    fn deadline(&self) -> Option<Instant> {
        let next = match &self.close {
            // A plan that is done has no deadline. Only then is an unreaped agent tried again.
            Some(close) => close.plan.deadline().or_else(|| close.late_reap_at()),
            None => self.mute_deadline,
        };
        next.into_iter().chain(self.stderr.overdue_at()).chain(self.bulk.check_at()).min()
    }

    /// Moves all deadlines by a time in which the engine thread did not run: the agent is not charged
    /// for it.
    fn postpone(&mut self, gap: Duration) {
        if let Some(close) = &mut self.close {
            close.plan.postpone(gap);
            close.stalled += gap;
        }
        if let Some(deadline) = &mut self.mute_deadline {
            *deadline += gap;
        }
    }

    fn outputs_ended(&self) -> bool {
        self.stdout_ended && self.stderr_ended
    }

    /// Acts on deadlines of this agent that may have passed.
    fn on_tick(&mut self, io: &mut dyn PipeIo, now: Instant) {
        self.on_mute(now);
        self.check_bulk(io, now);
        if let Some(piece) = self.stderr.take_overdue(now) {
            self.intake.stderr_line(piece);
        }
        self.plan_event(CloseEvent::Tick, now);
        if self.close.as_ref().and_then(|close| close.late_reap_at()).is_some_and(|at| now >= at) {
            CloseTurn { agent: self, io, now }.reap_late();
        }
    }

    /// Acts on the exit of the leader: the pidfd became readable.
    fn on_exit(&mut self, io: &mut dyn PipeIo, now: Instant) {
        self.exited = true;
        match &self.close {
            None => {
                let policy = ClosePolicy { mode: CloseMode::Graceful, ..self.policy };
                self.begin_close(policy, CloseReason::Exited, now);
            }
            // The agent outlived its kill, and no attempt to reap it follows. Its exit is reported once.
            Some(close) if close.unreaped => {
                self.plan_event(CloseEvent::Exited, now);
                CloseTurn { agent: self, io, now }.reap_late();
            }
            Some(_) => self.plan_event(CloseEvent::Exited, now),
        }
    }

    /// Notes that a descriptor is closed and that the kernel holds nothing of it.
    fn on_closed(&mut self, role: Role, now: Instant) {
        if let Some(end) = self.ends.get_mut(role) {
            *end = End::Closed;
        }
        if role == Role::Stdin {
            // Only now is the last write final. Until then its bytes may still reach the pipe, and
            // the report must not count them as unsent.
            self.stdin.abandon();
        }
        self.note_released(now);
    }

    /// Tells the plan once nothing is left to release.
    fn note_released(&mut self, now: Instant) {
        let Some(close) = &self.close else { return };
        // The plan ignores the event before its last stage.
        if self.ends.all_closed() || (close.unreaped && self.ends.pipes_closed()) {
            self.plan_event(CloseEvent::Released, now);
        }
    }

    /// Takes what the writers queued and keeps the pipe busy.
    fn pump_writes(&mut self, io: &mut dyn PipeIo, now: Instant) {
        let Self { stdin, ends, stderr, .. } = self;
        if stdin.pump(io, ends, stderr) {
            self.writes_done(now);
        }
    }

    /// Acts on the end of a write: in full, short, cancelled by a close, or with a broken pipe.
    fn on_wrote(
        &mut self,
        io: &mut dyn PipeIo,
        buffer: Vec<u8>,
        result: std::io::Result<usize>,
        now: Instant,
    ) {
        let Self { stdin, ends, stderr, intake, .. } = self;
        let done = stdin.on_wrote(io, ends, stderr, buffer, result);
        intake.stats.records_out = stdin.records_out;
        intake.stats.bytes_out = stdin.bytes_out;
        if done {
            self.writes_done(now);
        }
    }

    fn writes_done(&mut self, now: Instant) {
        self.plan_event(CloseEvent::WritesDone, now);
        let close = self.close.as_mut();
        if close.is_some_and(|close| std::mem::take(&mut close.says_farewell)) {
            self.plan_event(CloseEvent::TurnEnded, now);
        }
    }

    /// Tells the plan that the turn is over. What follows the answer to an interrupt is written
    /// before: the plan may end the input next.
    fn turn_ended(&mut self, io: &mut dyn PipeIo, now: Instant) {
        let interrupts = |close: &CloseRun| close.plan.stage() == CloseStage::Interrupt;
        let farewell = match &self.close {
            Some(close) if interrupts(close) => self.channel.outbox.take_farewell(),
            _ => Vec::new(),
        };
        if farewell.is_empty() {
            return self.plan_event(CloseEvent::TurnEnded, now);
        }
        farewell.into_iter().for_each(|frame| self.stdin.push(frame));
        if let Some(close) = &mut self.close {
            close.says_farewell = true;
        }
        self.pump_writes(io, now);
    }

    /// Passes an event to the close plan, if there is one.
    fn plan_event(&mut self, event: CloseEvent, now: Instant) {
        if let Some(close) = &mut self.close {
            close.plan.handle(event, now);
        }
    }

    /// Begins a close, or hurries the one under way if this one is an abort.
    fn begin_close(&mut self, policy: ClosePolicy, reason: CloseReason, now: Instant) {
        // Whatever policy the caller gives, the container is removed.
        let policy = ClosePolicy { container: self.policy.container, ..policy };
        if self.close.is_some() {
            // The limits of a close do not change once it has begun, except that an abort shortens
            // them.
            if policy.mode == CloseMode::Abort {
                let (grace, kill) = (policy.abort_grace, policy.kill);
                self.plan_event(CloseEvent::Abort { grace, kill }, now);
            }
            return;
        }
        self.close = Some(Box::new(CloseRun::begin(self, policy, reason, now)));
    }

    fn kills_group(&self) -> bool {
        self.close.as_ref().is_some_and(|close| close.plan.kills_group())
    }

    /// Returns the report of a close that is done, until it is sent.
    fn unsent_report(&self) -> Option<&CloseReport> {
        self.close.as_ref()?.report.as_ref()
    }

    /// Sends the report of a close that is done: once.
    fn send_report(&mut self) {
        let Some(report) = self.close.as_mut().and_then(|close| close.report.take()) else {
            return;
        };
        let exit = report.exit();
        // The closers first, then the reader: a task that drops the handle when it sees the exit drops
        // that of an agent whose report is there.
        self.channel.outcome.set(report);
        self.intake.push(Event::Exit(exit));
        self.intake.flush();
        self.channel.inbox.end();
    }

    /// Returns whether its closers have their report.
    fn is_reported(&self) -> bool {
        self.close.as_ref().is_some_and(|close| close.finished)
    }

    /// Returns whether nothing of it is left and its slot is free for another agent.
    fn is_over(&self) -> bool {
        self.is_reported() && self.ends.all_closed()
    }
}
