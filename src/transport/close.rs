//! Carries the close plan out: one arm per action, in the plan's order. Nothing here waits; what takes
//! time comes back as an event.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::close::{
    Activity, CloseAction, CloseEvent, CloseMode, ClosePlan, ClosePolicy, CloseReason, CloseReport,
    CloseStage, CloseStart, ExitStatus, Holders, ReportData,
};
use crate::error::{Error, ErrorKind};
use crate::io::{EndId, PipeIo, Role, Tag};
use crate::process::{Family, GroupMember, ProcessTable, Removal};

use super::buffers::ReadBuffers;
use super::{End, Transport};

/// How many threads of a group are checked once its leader has exited.
const MEMBER_THREADS: usize = 64;

/// The progress of reaping one agent.
#[derive(Debug, Default)]
pub(super) struct Reaping {
    /// The next attempt is the last.
    pub(super) gives_up: bool,
    /// The members of the group were searched for.
    pub(super) searched: bool,
    /// Others of the group that were alive when they were killed.
    pub(super) members: Vec<GroupMember>,
    /// Descendants outside the group that do not hold an output, as background jobs of a shell.
    pub(super) strays: Vec<GroupMember>,
    /// A search by tag has found no stray any more.
    pub(super) is_swept: bool,
    /// When to try again after the close: the leader was not reaped in it.
    pub(super) late_at: Option<Instant>,
}

impl Reaping {
    pub(super) fn note_strays(&mut self, table: &dyn ProcessTable, found: Vec<GroupMember>) {
        for stray in found {
            if table.is_alive(&stray) && !self.strays.contains(&stray) {
                self.strays.push(stray);
            }
        }
    }

    pub(super) fn dead(&self, table: &dyn ProcessTable) -> usize {
        self.members.iter().filter(|member| !table.is_alive(member)).count()
    }
}

/// A close under way.
#[derive(Debug)]
pub(super) struct CloseRun {
    pub(super) plan: ClosePlan,
    reason: CloseReason,
    /// Known once the leader is reaped.
    pub(super) exit: Option<ExitStatus>,
    /// Why the exit status is unknown.
    pub(super) exit_note: Option<String>,
    pub(super) reaping: Reaping,
    /// The leader could not be reaped within the limits of the close. Its exit is watched further.
    pub(super) unreaped: bool,
    pub(super) killed_extra: u64,
    pub(super) strays_killed: u64,
    /// `None`: not known.
    pub(super) left_running: Option<u64>,
    /// Another process held an output after the exit and did not let go of it. `None`: not known.
    pub(super) outputs_held: Option<bool>,
    /// The cut may have cost output: some was unread, or a process could still write. So it is before the
    /// cut, too, because a driver that is dropped closes the pipes without it.
    may_have_cut_output: bool,
    /// Members of the group that hold an output, once the leader has exited.
    members: Vec<u32>,
    /// How long the engine thread did not run during the close.
    pub(super) stalled: Duration,
    pub(super) finished: bool,
    /// The turn ends for the plan once what is queued is written.
    pub(super) says_farewell: bool,
    /// Written, and not sent to the closers yet.
    pub(super) report: Option<CloseReport>,
}

impl CloseRun {
    pub(super) fn begin(
        agent: &mut Transport,
        policy: ClosePolicy,
        reason: CloseReason,
        now: Instant,
    ) -> Self {
        // Before it is known whether writes are pending: none may be accepted after that.
        refuse_writes(agent, reason);
        let stdin_open = agent.ends.stdin.open().is_some();
        let known = CloseStart {
            exited: agent.exited,
            outputs_ended: agent.outputs_ended(),
            writes_pending: agent.stdin.has_pending() && stdin_open,
            // Without an input the turn cannot be interrupted.
            turn_open: agent.channel.outbox.interrupt().is_some() && stdin_open,
            input_open: stdin_open,
            last_output: agent.last_output,
        };
        let label = agent.channel.label.as_str();
        let (mode, why) = (policy.mode.as_str(), reason.as_str());
        crate::trace::debug!(
            target: "agentpipe::close", agent = label, mode, reason = why, "close begins"
        );
        Self {
            plan: ClosePlan::begin(policy, known, now),
            reason,
            exit: None,
            exit_note: None,
            reaping: Reaping::default(),
            unreaped: false,
            killed_extra: 0,
            strays_killed: 0,
            left_running: None,
            outputs_held: None,
            may_have_cut_output: true,
            members: Vec::new(),
            stalled: Duration::ZERO,
            finished: false,
            says_farewell: false,
            report: None,
        }
    }

    /// Returns when an agent that was not reaped in its close is tried again.
    pub(super) fn late_reap_at(&self) -> Option<Instant> {
        self.reaping.late_at
    }
}

fn refuse_writes(agent: &mut Transport, reason: CloseReason) {
    let what = match reason {
        CloseReason::Exited => "the agent has exited",
        CloseReason::OutputEnded => "the agent closed its stdout and is being closed",
        CloseReason::Shutdown => "the engine is being shut down",
        CloseReason::Forked => "the agent is another process's",
        CloseReason::Requested | CloseReason::Dropped => "the agent is closed",
    };
    let error = Error::new(ErrorKind::Closed, "write", what)
        .on_agent(agent.channel.label.as_str())
        .stderr(agent.stderr.tail());
    agent.channel.outbox.refuse(error);
    // After the refusal: a task that is woken by the close cannot have a frame accepted any more.
    agent.channel.closing.set(reason);
    // A frame that was accepted before the refusal counts as accepted.
    agent.stdin.accept();
}

/// Actions of a plan that the driver does at the end of a turn, for all agents together.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Deferred {
    /// Check what the agent is doing: a turn has a budget for that.
    pub(super) check: bool,
    /// Reap: one pass over `/proc` serves all agents.
    pub(super) reap: bool,
}

/// One agent during a turn, and what the turn lends to its close.
pub(super) struct CloseTurn<'a> {
    pub(super) agent: &'a mut Transport,
    pub(super) io: &'a mut dyn PipeIo,
    pub(super) now: Instant,
}

impl CloseTurn<'_> {
    /// Does what the plan wants, until it wants nothing. Returns what is left to the end of the turn.
    pub(super) fn carry_out(&mut self, buffers: &mut ReadBuffers) -> Deferred {
        let mut deferred = Deferred::default();
        // Some actions are answered at once, and the answer may bring further actions.
        while let Some(close) = &mut self.agent.close {
            let actions = close.plan.take_actions();
            if actions.is_empty() {
                break;
            }
            for action in actions {
                self.act(action, buffers, &mut deferred);
            }
        }
        deferred
    }

    fn act(&mut self, action: CloseAction, buffers: &mut ReadBuffers, deferred: &mut Deferred) {
        let Self { agent, io, .. } = self;
        let label = agent.channel.label.as_str();
        crate::trace::debug!(target: "agentpipe::close", agent = label, ?action);
        match action {
            CloseAction::ReadOn => {
                agent.intake.draining = true;
                agent.channel.inbox.begin_drain(&buffers.drain);
                agent.resume(*io, buffers);
            }
            CloseAction::Interrupt => self.interrupt(),
            CloseAction::CheckActivity => deferred.check = true,
            CloseAction::FindHolders => {
                let holders = self.find_holders();
                self.agent.plan_event(CloseEvent::Holders(holders), self.now);
            }
            CloseAction::EndInput => agent.stdin.close_stdin(*io, &mut agent.ends),
            CloseAction::Terminate => self.terminate(),
            CloseAction::Cut => self.cut(),
            CloseAction::Kill => self.kill(),
            CloseAction::Reap => deferred.reap = true,
            CloseAction::GiveUpReap => {
                // The last attempt is an attempt like the others, and runs with those of this turn.
                self.give_up_reap();
                deferred.reap = true;
            }
            CloseAction::RemoveContainer => self.remove_container(),
            CloseAction::Release => self.release(),
            CloseAction::Finish => self.finish(buffers),
        }
    }

    fn interrupt(&mut self) {
        let Self { agent, io, now } = self;
        let request = agent.channel.outbox.interrupt();
        // A handle has ended the turn after the close began. Its own notice may still be on its way.
        let turn_is_over = request.is_none();
        request.into_iter().for_each(|request| agent.stdin.push(request));
        agent.pump_writes(*io, *now);
        if turn_is_over {
            agent.plan_event(CloseEvent::TurnEnded, *now);
        }
    }

    /// Checks what the agent is doing, and whether something is unread.
    ///
    /// Pipes after processes: an agent that sleeps on a full pipe is not done, and a pipe that is
    /// empty now was empty when the agent slept, since nothing is read in between.
    pub(super) fn check_activity(&mut self, budget: &mut usize) {
        let event = if *budget == 0 {
            CloseEvent::CheckDeferred
        } else {
            let activity = self.activity(budget);
            if self.is_output_unread() {
                CloseEvent::Unread
            } else {
                CloseEvent::Activity(activity)
            }
        };
        self.agent.plan_event(event, self.now);
    }

    fn activity(&mut self, budget: &mut usize) -> Activity {
        let leader = [self.agent.channel.pid];
        let Some(close) = &mut self.agent.close else { return Activity::Unknown };
        let members = &close.members[..];
        // A leader that has exited is a zombie, and the kernel lists no children of it any more.
        let roots = if self.agent.exited { members } else { &leader };
        let (group, outputs) = (self.agent.channel.pid, self.agent.outputs);
        let mut strays = Vec::new();
        let table = self.agent.child.table();
        let activity = table.activity(Family { roots, group, outputs }, budget, &mut strays);
        close.reaping.note_strays(table, strays);
        activity
    }

    /// Finds out which processes hold an output although the leader has exited.
    fn find_holders(&mut self) -> Holders {
        // A poll of the pipes answers the common case without a look at `/proc`.
        if !self.is_output_held() {
            return Holders::None;
        }
        let group = self.agent.channel.pid;
        let family = Family { roots: &[], group, outputs: self.agent.outputs };
        // A job of a shell holds the outputs until it has redirected its own, so a member that let
        // go of them does not keep the pipes open any more.
        let table = self.agent.child.table();
        if let Some(close) = &mut self.agent.close {
            close.members.retain(|pid| table.may_hold_output(family, *pid));
        }
        // The members known from an earlier search first: a pass over `/proc` costs far more.
        let mut activity = self.activity(&mut { MEMBER_THREADS });
        if activity == Activity::Gone {
            // The known members are gone, or this is the first search. A member that holds no
            // output does not keep the pipes open, so the close does not wait for it.
            let table = self.agent.child.table();
            let members = table.members(&[group]).into_iter().map(|(_, member)| member.pid());
            let holds = |pid: &u32| *pid != group && table.may_hold_output(family, *pid);
            let members = members.filter(holds).collect();
            if let Some(close) = &mut self.agent.close {
                close.members = members;
            }
            activity = self.activity(&mut { MEMBER_THREADS });
        }
        match activity {
            Activity::Gone => Holders::Strays,
            Activity::Busy => Holders::BusyMembers,
            _ => Holders::Members,
        }
    }

    fn terminate(&mut self) {
        if !self.agent.kills_group() {
            self.agent.child.terminate_leader();
            return;
        }
        if self.agent.exited {
            // The leader has exited, and processes of its group hold its outputs.
            self.note_survivors();
        } else {
            self.note_strays();
        }
        self.agent.child.terminate(self.agent.ends.pidfd(self.io));
    }

    /// Closes the pipes: per pipe a cancel hard-linked to a close, all in one submission. Every close
    /// comes to this.
    fn cut(&mut self) {
        // Both are asked before the close: after it the ring lends no descriptor to poll.
        let is_held = self.is_output_held();
        let is_unread = self.is_output_unread();
        let Self { agent, io, .. } = self;
        let exited = agent.exited;
        if let Some(close) = &mut agent.close {
            // While the leader lives it holds the outputs itself, and hides whether another process
            // does. An abort does not wait to see it: any process that is being spawned has them for a
            // moment.
            let has_waited = exited && close.plan.mode() == CloseMode::Graceful;
            let known = (has_waited || !is_held).then_some(is_held);
            close.outputs_held = close.outputs_held.or(known);
            // Every process that holds an output may write, also one outside the group.
            close.may_have_cut_output = is_unread || is_held;
        }
        agent.ends.close(*io, &[Role::Stdout, Role::Stderr, Role::Stdin]);
        // The close cancels the write in flight, and no other follows: a flush must not wait for
        // it.
        agent.channel.outbox.lose();
    }

    /// Has the container of the agent removed by a thread, and waits for that.
    fn remove_container(&mut self) {
        let Self { agent, io, now } = self;
        let limit = agent.close.as_ref().map_or(Duration::ZERO, |close| close.plan.remove_limit());
        match agent.child.remove_container(limit) {
            Some(done) => {
                let slot = u32::try_from(agent.channel.slot()).unwrap_or(u32::MAX);
                let end = io.adopt(done, Tag { agent: slot, role: Role::Container });
                agent.ends.container = End::Open(end);
                io.watch(end);
            }
            None => agent.plan_event(CloseEvent::ContainerRemoved, *now),
        }
    }

    fn release(&mut self) {
        self.agent.ends.close(self.io, &[Role::Container]);
        // The exit of an agent that was not reaped is still watched. `reap_late` releases the rest.
        if !self.is_unreaped() {
            self.agent.ends.close(self.io, &[Role::Exit]);
            self.release_cgroup();
        }
        // Everything may be closed already, and then no completion follows that would say so.
        self.agent.note_released(self.now);
    }

    /// Returns whether the leader is still to be reaped, after the close.
    fn is_unreaped(&self) -> bool {
        self.agent.close.as_ref().is_some_and(|close| close.unreaped)
    }

    /// Removes the cgroup of the agent, or begins to wait until it is empty: what was killed in it
    /// takes a moment to be gone. If the group is not killed, the cgroup is left to its processes.
    pub(super) fn release_cgroup(&mut self) {
        let Self { agent, io, .. } = self;
        if !agent.close.as_ref().is_none_or(|close| close.plan.kills_group()) {
            agent.child.leave_cgroup();
            return;
        }
        let Removal::Busy(events) = agent.child.remove_cgroup() else { return };
        let slot = u32::try_from(agent.channel.slot()).unwrap_or(u32::MAX);
        let end = io.adopt(events, Tag { agent: slot, role: Role::Cgroup });
        agent.ends.cgroup = End::Open(end);
        io.watch(end);
    }

    /// Tries again to remove the cgroup: something changed in it.
    pub(super) fn on_cgroup_event(&mut self) {
        let Self { agent, io, .. } = self;
        let Some(end) = agent.ends.cgroup.open() else { return };
        match agent.child.remove_cgroup() {
            Removal::Done => agent.ends.close(*io, &[Role::Cgroup]),
            // A watch reports once. The descriptor returned here is a second one of the same open
            // file, which the attempt has read: so the watch reports what changes from then on.
            Removal::Busy(_) => io.watch(end),
        }
    }

    /// Queues the truncated tails of the outputs and writes the report.
    fn finish(&mut self, buffers: &mut ReadBuffers) {
        let agent = &mut *self.agent;
        // Before the report is written: it counts the truncated tails.
        agent.finish_stdout(buffers);
        agent.finish_stderr();
        let is_unreaped = agent.close.as_ref().is_some_and(|close| close.unreaped);
        let label = agent.channel.label.as_str();
        if agent.ends.cgroup != End::Closed {
            crate::trace::warn!(
                agent = label,
                "processes outlived the kill of their cgroup; removed when empty"
            );
        } else if !agent.ends.all_closed() && !is_unreaped {
            crate::trace::error!(
                agent = label,
                "the kernel still holds a descriptor of a closed agent"
            );
        }
        if !agent.close.as_ref().is_some_and(|c| c.exit == Some(ExitStatus::StillRunning)) {
            // Before the closers have the report: the next spawn may be theirs.
            agent.child.give_place_back();
        }
        let report = write_report(agent);
        crate::trace::debug!(target: "agentpipe::close", %report, "close is done");
        if let Some(close) = &mut agent.close {
            close.finished = true;
            close.report = Some(report);
        }
    }

    fn open_outputs(&self) -> impl Iterator<Item = EndId> + use<> {
        let ends = &self.agent.ends;
        [ends.stdout, ends.stderr].into_iter().filter_map(End::open)
    }

    /// Returns whether a process still has the other end of an output.
    fn is_output_held(&self) -> bool {
        self.open_outputs().any(|end| self.io.has_writer(end))
    }

    /// Returns whether bytes would be lost if the outputs were closed now.
    fn is_output_unread(&mut self) -> bool {
        self.open_outputs().any(|end| self.io.has_unread(end))
    }
}

/// Returns the report of a finished close, or of an agent whose driver was dropped.
pub(super) fn write_report(agent: &Transport) -> CloseReport {
    let close = agent.close.as_ref();
    let (exit, exit_note) = match (close.and_then(|c| c.exit), &agent.exit_at_destroy) {
        (Some(exit), _) => (exit, close.and_then(|c| c.exit_note.clone())),
        (None, Some((exit, note))) => (*exit, note.clone()),
        (None, None) => (ExitStatus::Unknown, None),
    };
    let (unsent_bytes, unsent_records) = agent.stdin.unsent();
    // A signal may have ended it before it wrote what it had in its memory.
    let left_by_itself = matches!(exit, ExitStatus::Code(_));
    let cost_nothing = |c: &CloseRun| !c.may_have_cut_output && !c.plan.was_cut_short();
    CloseReport(Arc::new(ReportData {
        backend: agent.channel.backend,
        fallback: agent.channel.fallback.clone(),
        pid: agent.channel.pid,
        command: agent.program.clone(),
        mode: close.map_or(CloseMode::Abort, |c| c.plan.mode()),
        reason: close.map_or(CloseReason::Shutdown, |c| c.reason),
        ended_by: close.map_or(CloseStage::Refuse, |c| c.plan.ended_by()),
        stages: close.map(|c| c.plan.spent().to_vec()).unwrap_or_default(),
        stalled: close.map(|c| c.stalled).unwrap_or_default(),
        exit,
        exit_note,
        stopped: close.is_some_and(|c| c.plan.was_stopped()),
        interrupt_answered: close.and_then(|c| c.plan.interrupt_answered()),
        input_ended_while_busy: close.and_then(|c| c.plan.input_ended_while_busy()),
        output_may_be_lost: !(left_by_itself && close.is_some_and(|c| cost_nothing(c))),
        stats: agent.intake.stats,
        unsent_bytes: unsent_bytes as u64,
        unsent_records: unsent_records as u64,
        killed_extra: close.map_or(0, |c| c.killed_extra),
        strays_killed: close.map_or(0, |c| c.strays_killed),
        left_running: close.and_then(|c| c.left_running),
        signals_refused: agent.child.refused_signals(),
        outputs_held: close.and_then(|c| c.outputs_held),
        container: agent.child.container_end(),
        stderr_tail: agent.stderr.tail(),
    }))
}
