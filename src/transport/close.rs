//! Carries the close plan out: one arm per action, in the plan's order. Nothing here waits; what takes
//! time comes back as an event.

use std::time::{Duration, Instant};

use crate::close::ExitStatus;
use crate::close::{CloseMode, ClosePolicy};
use crate::close::{CloseReason, CloseReport, CloseStage};
use crate::error::{Error, ErrorKind};
use crate::io::{PipeIo, Role};
use crate::record::Event;

use super::buffers::ReadBuffers;
use super::close_reap::Reaping;
use super::close_report::write_report;
use super::state::{End, Transport};
use crate::close::{CloseAction, CloseEvent, ClosePlan, CloseStart};

/// A close under way.
#[derive(Debug)]
pub(crate) struct Closing {
    pub(super) plan: ClosePlan,
    pub(super) reason: CloseReason,
    /// Known once reaped.
    pub(super) exit: Option<ExitStatus>,
    /// Why the exit status is unknown.
    pub(super) exit_note: Option<String>,
    pub(super) reaping: Reaping,
    /// The leader could not be reaped within the limits of the close.
    pub(super) unreaped: bool,
    pub(super) killed_extra: u64,
    /// Another process held an output after the exit and did not let go of it. `None` is not known.
    pub(super) outputs_held: Option<bool>,
    /// Something that could still have been read was cut off.
    pub(super) cut_unread: bool,
    /// Members of the group that hold an output, once the leader has exited.
    pub(super) members: Vec<u32>,
    /// The plan waits for a look at the processes, where the turn has time for one.
    pub(super) wants_look: bool,
    /// How long the engine thread did not run during the close.
    pub(super) stalled: Duration,
    pub(super) finished: bool,
    /// Written, and not yet given to the closers.
    report: Option<CloseReport>,
}

impl Transport {
    /// Begins a close, or hurries the one under way if this one is an abort.
    pub(super) fn begin_close(&mut self, policy: ClosePolicy, reason: CloseReason, now: Instant) {
        if self.close.is_some() {
            if policy.mode == CloseMode::Abort {
                let (grace, kill) = (policy.abort_grace, policy.kill);
                self.plan_event(CloseEvent::Abort { grace, kill }, now);
            }
            return;
        }
        // Before the question whether writes are pending: none may come after the answer.
        self.close_refuse(reason);
        let known = CloseStart {
            exited: self.exited,
            outputs_ended: self.outputs_ended(),
            writes_pending: !self.queue.is_empty() && self.ends.stdin.open().is_some(),
            // Without an input there is no interrupting it.
            turn_open: self.channel.interrupt().is_some() && self.ends.stdin.open().is_some(),
            input_open: self.ends.stdin.open().is_some(),
            last_output: self.last_output,
        };
        let agent = self.channel.label.as_str();
        let (mode, why) = (policy.mode.as_str(), reason.as_str());
        crate::trace::debug!(target: "agentpipe::close", agent, mode, reason = why, "close begins");
        self.close = Some(Box::new(Closing {
            plan: ClosePlan::begin(policy, known, now),
            reason,
            exit: None,
            exit_note: None,
            reaping: Reaping::default(),
            unreaped: false,
            killed_extra: 0,
            outputs_held: None,
            cut_unread: false,
            members: Vec::new(),
            wants_look: false,
            stalled: Duration::ZERO,
            finished: false,
            report: None,
        }));
    }

    /// A deadline of this agent may have passed.
    pub(super) fn on_tick(&mut self, io: &mut dyn PipeIo, now: Instant) {
        self.on_mute(now);
        self.plan_event(CloseEvent::Tick, now);
        if self.late_reap_at().is_some_and(|at| now >= at) {
            self.reap_late(io, now);
        }
    }

    /// The pidfd became readable.
    pub(super) fn on_exit(&mut self, io: &mut dyn PipeIo, now: Instant) {
        self.exited = true;
        match &self.close {
            None => {
                let policy = ClosePolicy { mode: CloseMode::Graceful, ..self.policy };
                self.begin_close(policy, CloseReason::Exited, now);
            }
            Some(closing) if closing.finished => self.reap_late(io, now),
            Some(_) => self.plan_event(CloseEvent::Exited, now),
        }
    }

    /// A descriptor is closed and nothing of it is in the kernel.
    pub(super) fn on_closed(&mut self, role: Role, now: Instant) {
        if let Some(end) = self.ends.get_mut(role) {
            *end = End::Closed;
        }
        if role == Role::Stdin {
            self.input_closed();
        }
        self.released_if_closed(now);
    }

    /// Tells the plan, if there is one.
    pub(super) fn plan_event(&mut self, event: CloseEvent, now: Instant) {
        if let Some(closing) = &mut self.close {
            closing.plan.handle(event, now);
        }
    }

    /// Does what the plan wants, until it wants nothing.
    pub(super) fn carry_out(
        &mut self,
        io: &mut dyn PipeIo,
        buffers: &mut ReadBuffers,
        now: Instant,
    ) {
        while let Some(closing) = &mut self.close {
            let actions = closing.plan.take_actions();
            if actions.is_empty() {
                return;
            }
            for action in actions {
                self.close_action(action, io, buffers, now);
            }
        }
    }

    fn close_action(
        &mut self,
        action: CloseAction,
        io: &mut dyn PipeIo,
        buffers: &mut ReadBuffers,
        now: Instant,
    ) {
        let agent = self.channel.label.as_str();
        crate::trace::debug!(target: "agentpipe::close", agent, ?action);
        match action {
            // Done by `begin_close`, before the plan was asked anything.
            CloseAction::ReadOn => self.close_read_on(io),
            CloseAction::Interrupt => self.close_interrupt(io, now),
            CloseAction::CheckActivity => self.close_look(),
            CloseAction::FindHolders => self.find_holders(io, now),
            CloseAction::EndInput => self.close_input(io),
            CloseAction::Terminate => self.close_terminate(io),
            CloseAction::Cut => self.close_cut(io),
            CloseAction::Kill => self.close_kill(io),
            CloseAction::Reap => self.close_reap(false),
            CloseAction::GiveUpReap => self.close_reap(true),
            CloseAction::Release => self.close_release(io, now),
            CloseAction::Finish => self.close_finish(buffers),
        }
    }

    fn close_refuse(&mut self, reason: CloseReason) {
        let what = match reason {
            CloseReason::Exited => "the agent has exited",
            CloseReason::OutputEnded => "the agent closed its stdout and is being closed",
            CloseReason::Shutdown => "the engine is being shut down",
            CloseReason::Forked => "the agent is another process's",
            CloseReason::Requested | CloseReason::Dropped => "the agent is closed",
        };
        let error = Error::new(ErrorKind::Closed, "write", what)
            .on_agent(self.channel.label.as_str())
            .stderr(self.stderr.tail());
        self.channel.refuse_writes(error);
        self.channel.closing.set(reason);
        // A frame accepted just before the refusal counts as accepted.
        self.queue.take_over(|frames| self.channel.take_frames(frames));
    }

    fn close_read_on(&mut self, io: &mut dyn PipeIo) {
        self.intake.draining = true;
        self.resume(io);
    }

    fn close_interrupt(&mut self, io: &mut dyn PipeIo, now: Instant) {
        match self.channel.interrupt() {
            Some(request) => {
                self.queue.push_all([request]);
                self.pump_writes(io, now);
            }
            None => self.plan_event(CloseEvent::TurnEnded, now),
        }
    }

    fn close_terminate(&mut self, io: &dyn PipeIo) {
        if !self.kills_group() {
            self.child.terminate_leader();
            return;
        }
        if self.exited {
            // The leader has left, and processes of its group do not let go of its outputs.
            self.note_survivors();
        }
        self.child.terminate(self.ends.pidfd(io));
    }

    /// The submission every path ends in: per pipe a cancel hard-linked to a close, all in one.
    fn close_cut(&mut self, io: &mut dyn PipeIo) {
        let is_held = self.is_output_held(io);
        let is_unread = self.is_output_unread(io);
        let exited = self.exited;
        if let Some(closing) = &mut self.close {
            // While the leader lives it holds them itself, and hides whether another does. An abort
            // does not wait to see it: any process that is being spawned has them for a moment.
            let has_waited = exited && closing.plan.mode() == CloseMode::Graceful;
            let known = (has_waited || !is_held).then_some(is_held);
            closing.outputs_held = closing.outputs_held.or(known);
            closing.cut_unread = is_unread || (is_held && closing.plan.is_alive());
        }
        self.ends.close(io, &[Role::Stdout, Role::Stderr, Role::Stdin]);
        self.channel.lose_writes();
    }

    fn close_release(&mut self, io: &mut dyn PipeIo, now: Instant) {
        if !self.is_unreaped() {
            self.ends.close(io, &[Role::Exit]);
            self.close_cgroup(io);
        }
        self.released_if_closed(now);
    }

    /// The leader is still to be reaped, after the close: its exit is watched for on.
    fn is_unreaped(&self) -> bool {
        self.close.as_ref().is_some_and(|closing| closing.unreaped)
    }

    fn released_if_closed(&mut self, now: Instant) {
        let Some(closing) = &self.close else { return };
        if closing.plan.stage() != CloseStage::Release {
            return;
        }
        if self.ends.all_closed() || (self.is_unreaped() && self.ends.pipes_closed()) {
            self.plan_event(CloseEvent::Released, now);
        }
    }

    /// The last words: a truncated tail, and the report.
    fn close_finish(&mut self, buffers: &mut ReadBuffers) {
        self.finish_stdout(buffers);
        self.finish_stderr();
        if self.ends.cgroup != End::Closed {
            let agent = self.channel.label.as_str();
            crate::trace::warn!(
                agent,
                "processes outlived the kill of their cgroup; removed when empty"
            );
        } else if !self.ends.all_closed() && !self.is_unreaped() {
            let agent = self.channel.label.as_str();
            crate::trace::error!(agent, "the kernel still holds a descriptor of a closed agent");
        }
        if !self.close.as_ref().is_some_and(|c| c.exit == Some(ExitStatus::StillRunning)) {
            // Before its closers know: the next spawn may be theirs.
            self.child.give_place_back();
        }
        let report = write_report(self);
        crate::trace::debug!(target: "agentpipe::close", %report, "close is done");
        if let Some(closing) = &mut self.close {
            closing.finished = true;
            closing.report = Some(report);
        }
    }

    /// The report of a close that is done, while it is not told yet.
    pub(super) fn report(&self) -> Option<&CloseReport> {
        self.close.as_ref()?.report.as_ref()
    }

    /// The report of a close that is done: once, to be told.
    pub(super) fn take_report(&mut self) -> Option<CloseReport> {
        self.close.as_mut()?.report.take()
    }

    /// Wakes every closer, then the reader with the exit: who drops the handle at the sight of
    /// the exit drops that of an agent whose report is there.
    pub(super) fn tell(&mut self, report: CloseReport) {
        let exit = report.exit();
        self.channel.outcome.set(report);
        self.intake.push(Event::Exit(exit));
        self.intake.flush();
        self.channel.end_inbox();
    }

    /// Whether its closers have their report.
    pub(super) fn is_reported(&self) -> bool {
        self.close.as_ref().is_some_and(|closing| closing.finished)
    }

    /// Whether nothing of it is left and its place may be given to another.
    pub(super) fn is_over(&self) -> bool {
        self.is_reported() && self.ends.all_closed()
    }
}
