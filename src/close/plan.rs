//! The close plan: a pure state machine that takes events and the time, and returns actions.
//!
//! It holds no descriptor, no clock and no runtime, so its tests enumerate every order of events.
//! `transport::close` feeds the events in and carries the actions out. docs/guide/close.md shows
//! the stages as a table.

use std::time::{Duration, Instant};

use crate::close::{CloseMode, ClosePolicy, CloseStage};

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod quiet;
#[cfg(test)]
mod tests;

/// How often the plan checks the processes that outlive the leader and hold an output.
const GROUP_CHECK_INTERVAL: Duration = Duration::from_millis(20);

/// The pauses between two attempts to reap: the first one and the longest.
const REAP_RETRY_FIRST: Duration = Duration::from_millis(1);
const REAP_RETRY_MAX: Duration = Duration::from_millis(50);

/// What the processes of an agent are doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Activity {
    /// The agent is a single thread, and it sleeps.
    Asleep,
    /// All threads and processes of the agent sleep.
    AllAsleep,
    /// A thread runs, waits for a processor, or is in an uninterruptible sleep.
    Busy,
    /// A process is stopped, by a signal or by a debugger.
    Stopped,
    /// `/proc` does not show the agent, or it has too many threads to check.
    Unknown,
    /// No process of the agent is left.
    Gone,
}

/// What happens to the agent of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CloseEvent {
    /// All accepted writes have gone out, or the pipe broke.
    WritesDone,
    /// The turn in flight has ended.
    TurnEnded,
    /// Bytes were read from stdout or stderr.
    Output,
    /// Answers `CheckActivity`: what the agent is doing. Nothing was unread after that was read
    /// from `/proc`.
    Activity(Activity),
    /// Answers `CheckActivity`: a pipe holds unread bytes, so the agent is not silent.
    Unread,
    /// Answers `CheckActivity`: the driver has spent its budget for checks in this turn.
    CheckDeferred,
    /// Stdout and stderr have both ended.
    OutputsEnded,
    /// The agent's leader exited. It is not reaped yet.
    Exited,
    /// Answers `FindHolders`.
    Holders(Holders),
    /// The leader is reaped and its group is dead, or the driver gave up on them.
    Reaped,
    /// Answers `Reap`: the leader or its group is still alive.
    NotReaped,
    /// Answers `RemoveContainer`: it was tried, and the outcome is known.
    ContainerRemoved,
    /// No operation of the agent is in the kernel, and every descriptor is closed.
    Released,
    /// An abort arrived after the close began. The shorter limits hold.
    Abort { grace: Duration, kill: Duration },
    /// Time has passed. Has no effect before `deadline()`.
    Tick,
}

/// Which processes still hold stdout or stderr after the leader has exited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Holders {
    /// No process: the pipes end once they are read empty.
    None,
    /// Only processes outside the agent's group.
    Strays,
    /// Living processes of the agent's group, all asleep.
    Members,
    /// Living processes of the agent's group, of which one is busy or hidden.
    BusyMembers,
}

/// What the transport must do. Actions are carried out in the order in which the plan returns them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CloseAction {
    /// Read the outputs even if the reader does not, within the drain budget.
    ReadOn,
    /// Send the interrupt request of the session.
    Interrupt,
    /// Check what the agent is doing; answer with `Activity`, `Unread` or `CheckDeferred`.
    CheckActivity,
    /// Find the processes that hold the outputs; answer with `Holders`.
    FindHolders,
    /// Cancel the pending write and close stdin, in one submission.
    EndInput,
    /// Send SIGTERM to the group, then SIGCONT.
    Terminate,
    /// Cancel and close stdin, stdout and stderr, in one submission.
    Cut,
    /// Send SIGKILL to the group.
    Kill,
    /// Reap the leader and kill what is left of the group; answer with `Reaped` or `NotReaped`.
    Reap,
    /// Try to reap for the last time; answer with `Reaped`.
    GiveUpReap,
    /// Remove the container that the agent is the client of; answer with `ContainerRemoved`.
    RemoveContainer,
    /// Close the remaining descriptors and wait for the kernel; answer with `Released`.
    Release,
    /// Write the report and wake all tasks that wait for it.
    Finish,
}

/// The state of the agent when its close begins.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CloseStart {
    pub(crate) exited: bool,
    pub(crate) outputs_ended: bool,
    pub(crate) writes_pending: bool,
    pub(crate) turn_open: bool,
    /// Stdin is open: neither the agent nor its user has ended it.
    pub(crate) input_open: bool,
    /// When the last byte of output was read; the time of the spawn if there was none.
    pub(crate) last_output: Instant,
}

/// The close of one agent.
#[derive(Clone, Debug)]
pub(crate) struct ClosePlan {
    policy: ClosePolicy,
    stage: CloseStage,
    entered: Instant,
    deadline: Option<Instant>,
    spent: Vec<(CloseStage, Duration)>,
    ended_by: Option<CloseStage>,
    known: CloseStart,
    /// When the agent last made progress: its last byte of output, or the last step of the close
    /// that the agent may need time to react to.
    progress: Instant,
    /// The deadline of EndInput and Drain together.
    reading_until: Instant,
    /// The deadline of Terminate or Reap. `deadline` may be nearer: these stages check in between.
    stage_until: Instant,
    /// When Cut ends in the longest close that the policy allows. An abort does not move it.
    cut_until: Instant,
    /// The result of the last check.
    activity: Option<Activity>,
    /// Whether the turn ended after the interrupt. `None` if none was sent.
    interrupt_answered: Option<bool>,
    /// Whether the agent was busy when its input ended. The outer `None` means that the plan has
    /// not ended it.
    input_ended_while_busy: Option<Option<bool>>,
    stopped: bool,
    /// Whether SIGTERM or SIGKILL was sent while the agent was alive.
    signalled: bool,
    /// The holders of the outputs after the exit, as of the last check.
    holders: Option<Holders>,
    /// When a member of the group was last seen busy, or wrote.
    members_moved: Instant,
    /// The deadline of the wait for processes outside the group. Set once.
    strays_until: Option<Instant>,
    reap_retry: Duration,
    actions: Vec<CloseAction>,
}

impl ClosePlan {
    /// Begins a close. [`take_actions`](Self::take_actions) returns the first actions.
    pub(crate) fn begin(policy: ClosePolicy, known: CloseStart, now: Instant) -> Self {
        // Every limit is added to an `Instant` later, which panics if the sum overflows.
        let policy = policy.without_overflow();
        let mut plan = Self {
            policy,
            stage: CloseStage::Refuse,
            entered: now,
            deadline: None,
            spent: Vec::with_capacity(CloseStage::ALL.len()),
            ended_by: known.exited.then_some(CloseStage::Refuse),
            known,
            progress: now,
            reading_until: now + policy.get_drain_total(),
            stage_until: now,
            cut_until: now + policy.max_duration_to_cut(),
            activity: None,
            interrupt_answered: None,
            input_ended_while_busy: None,
            stopped: false,
            signalled: false,
            holders: None,
            members_moved: now,
            strays_until: None,
            reap_retry: REAP_RETRY_FIRST,
            actions: Vec::new(),
        };
        match policy.mode {
            CloseMode::Abort => plan.enter_cut(now),
            CloseMode::Graceful => {
                // First of all: an agent that is blocked on a full pipe because its reader has
                // stopped acts on nothing that a later stage does.
                plan.actions.push(CloseAction::ReadOn);
                if known.exited {
                    plan.leader_has_exited(now);
                } else {
                    plan.first_stage(now);
                }
            }
        }
        plan
    }

    /// Returns the current stage.
    pub(crate) fn stage(&self) -> CloseStage {
        self.stage
    }

    /// Returns the mode: abort once an abort was requested.
    pub(crate) fn mode(&self) -> CloseMode {
        self.policy.mode
    }

    /// Returns when a `Tick` is due.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Returns how long the removal of a container may take.
    pub(crate) fn remove_limit(&self) -> Duration {
        self.policy.remove
    }

    /// Returns the stage in which the exit was seen.
    pub(crate) fn ended_by(&self) -> CloseStage {
        self.ended_by.unwrap_or(self.stage)
    }

    /// Returns the stages that have ended, with the time spent in each.
    pub(crate) fn spent(&self) -> &[(CloseStage, Duration)] {
        &self.spent
    }

    /// Returns whether the rest of the group is killed in Reap.
    pub(crate) fn kills_group(&self) -> bool {
        self.policy.kill_group
    }

    /// Returns whether the turn ended after the interrupt, or `None` if none was sent.
    pub(crate) fn interrupt_answered(&self) -> Option<bool> {
        self.interrupt_answered
    }

    /// Returns whether the agent was busy when its input ended, or `None` if that is unknown.
    pub(crate) fn input_ended_while_busy(&self) -> Option<bool> {
        match self.input_ended_while_busy {
            Some(known) => known,
            // The agent had exited before, so nothing was cut short.
            None if self.policy.mode == CloseMode::Graceful && self.known.exited => Some(false),
            None => None,
        }
    }

    /// Returns whether the agent was signalled, or its input ended, before it was known to be idle.
    pub(crate) fn was_cut_short(&self) -> bool {
        self.signalled || self.input_ended_while_busy.is_some_and(|busy| busy != Some(false))
    }

    /// Returns whether a process of the agent's group may still write.
    fn is_alive(&self) -> bool {
        !self.known.exited || self.has_members()
    }

    /// Returns whether a check found the agent stopped.
    pub(crate) fn was_stopped(&self) -> bool {
        self.stopped
    }

    /// Returns the actions since the last call, in order.
    pub(crate) fn take_actions(&mut self) -> Vec<CloseAction> {
        std::mem::take(&mut self.actions)
    }

    /// Moves all deadlines by `gap`, a time in which the engine thread did not run, so that the time
    /// is not charged to the agent.
    pub(crate) fn postpone(&mut self, gap: Duration) {
        // These marks begin the spans of silence. A silence during a stall proves nothing, because
        // the engine could not hear the agent.
        let known = [&mut self.known.last_output, &mut self.progress, &mut self.members_moved];
        let limits = [&mut self.reading_until, &mut self.stage_until, &mut self.cut_until];
        let optional = [self.deadline.as_mut(), self.strays_until.as_mut()];
        for at in known.into_iter().chain(limits).chain(optional.into_iter().flatten()) {
            *at += gap;
        }
    }

    /// Applies one event.
    pub(crate) fn handle(&mut self, event: CloseEvent, now: Instant) {
        match event {
            CloseEvent::WritesDone => {
                self.known.writes_pending = false;
                // Only Flush waits for the writes. In a later stage the event is a fact and starts
                // nothing.
                if self.stage == CloseStage::Flush {
                    self.after_flush(now);
                }
            }
            CloseEvent::TurnEnded => {
                self.known.turn_open = false;
                if self.stage == CloseStage::Interrupt {
                    self.interrupt_answered = Some(true);
                    self.enter_end_input(now);
                }
            }
            CloseEvent::Output => self.on_output(now),
            CloseEvent::Activity(activity) => self.on_activity(activity, now),
            CloseEvent::CheckDeferred => self.check_again_next_turn(now),
            CloseEvent::Unread => self.await_unread(now),
            CloseEvent::OutputsEnded => {
                self.known.outputs_ended = true;
                // A living agent without outputs may still be at work, so its exit is waited for.
                if self.known.exited {
                    self.leader_has_exited(now);
                }
            }
            CloseEvent::Exited => {
                if !self.known.exited {
                    self.known.exited = true;
                    self.ended_by = Some(self.stage);
                    self.leader_has_exited(now);
                }
            }
            CloseEvent::Holders(holders) => self.on_holders(holders, now),
            CloseEvent::Reaped => {
                if self.stage == CloseStage::Reap {
                    self.after_reap(now);
                }
            }
            CloseEvent::NotReaped => {
                if self.stage == CloseStage::Reap {
                    // No event announces that the rest of a group is dead, so the plan tries again.
                    // The last attempt falls on the limit of the stage.
                    self.deadline = Some((now + self.reap_retry).min(self.stage_until));
                    self.reap_retry = (self.reap_retry * 2).min(REAP_RETRY_MAX);
                }
            }
            CloseEvent::ContainerRemoved => {
                if self.stage == CloseStage::Remove {
                    self.enter_release(now);
                }
            }
            CloseEvent::Released => {
                if self.stage == CloseStage::Release {
                    self.finish(now);
                }
            }
            CloseEvent::Abort { grace, kill } => self.abort(grace, kill, now),
            CloseEvent::Tick => {
                if self.deadline.is_some_and(|deadline| now >= deadline) {
                    self.on_deadline(now);
                }
            }
        }
    }

    fn on_output(&mut self, now: Instant) {
        self.known.last_output = now;
        self.progress = now;
        self.members_moved = now;
        if self.stage == CloseStage::EndInput {
            self.await_quiet(now);
        }
        // Drain looks at `progress` when its deadline passes, so that no read has to move a timer.
    }

    fn abort(&mut self, grace: Duration, kill: Duration, now: Instant) {
        self.policy.mode = CloseMode::Abort;
        // An abort only shortens a close. One with longer limits must not delay it.
        self.policy.abort_grace = self.policy.abort_grace.min(grace);
        self.policy.kill = self.policy.kill.min(kill);
        match self.stage {
            stage if stage < CloseStage::Cut => self.enter_cut(now),
            CloseStage::Cut => self.hurry(now + self.policy.abort_grace),
            CloseStage::Kill | CloseStage::Reap => self.hurry(now + self.policy.kill),
            _ => {}
        }
    }

    fn hurry(&mut self, limit: Instant) {
        self.stage_until = self.stage_until.min(limit);
        self.deadline = self.deadline.map(|deadline| deadline.min(limit));
    }

    /// Goes on after the leader's exit. Exit and end of the outputs are two events; both together end
    /// the reading stages. After the exit alone, the next step depends on the processes that still
    /// hold an output.
    fn leader_has_exited(&mut self, now: Instant) {
        match self.stage {
            // The outputs are cut already, so their end and their holders do not matter any more.
            CloseStage::Cut | CloseStage::Kill => self.enter_reap(now),
            CloseStage::Reap | CloseStage::Remove | CloseStage::Release | CloseStage::Done => {}
            _ if self.known.outputs_ended => {
                self.enter_drain_if_before(now);
                self.enter_cut(now);
            }
            // Asked once here, at the exit. Later looks at the holders have a timer.
            _ => self.find_holders(now),
        }
    }

    fn find_holders(&mut self, now: Instant) {
        self.actions.push(CloseAction::FindHolders);
        if self.stage == CloseStage::Refuse {
            // The transport answers at once. If it did not, the close would still go on.
            self.deadline = Some(now);
        }
    }

    fn on_holders(&mut self, holders: Holders, now: Instant) {
        // From Cut on the outputs are closed, and the answer comes too late to matter.
        if !self.known.exited || self.stage >= CloseStage::Cut {
            return;
        }
        self.holders = Some(holders);
        match holders {
            Holders::None | Holders::Strays => {
                // Set once: a process outside the group must not renew its time by writing.
                let until = *self.strays_until.get_or_insert(now + self.policy.exit_drain);
                self.enter_drain_if_before(now);
                self.deadline = Some(until);
            }
            Holders::Members | Holders::BusyMembers => {
                if holders == Holders::BusyMembers {
                    self.members_moved = now;
                }
                match self.stage {
                    CloseStage::Refuse => self.first_stage(now),
                    CloseStage::Drain => self.check_members_until(self.drain_limit(), now),
                    CloseStage::Terminate => self.check_members_until(self.stage_until, now),
                    // The agent outlives its launcher. The limit of the stage stays as it is.
                    _ => {}
                }
            }
        }
    }

    fn has_members(&self) -> bool {
        matches!(self.holders, Some(Holders::Members | Holders::BusyMembers))
    }

    fn check_members_until(&mut self, limit: Instant, now: Instant) {
        self.deadline = Some((now + GROUP_CHECK_INTERVAL).min(limit));
    }

    fn on_deadline(&mut self, now: Instant) {
        match self.stage {
            CloseStage::Refuse => self.on_holders(Holders::Strays, now),
            CloseStage::Done => self.deadline = None,
            CloseStage::Flush => self.after_flush(now),
            CloseStage::Interrupt => self.enter_end_input(now),
            CloseStage::EndInput => self.await_quiet(now),
            CloseStage::Drain => self.on_drain_deadline(now),
            CloseStage::Terminate if now < self.stage_until && self.has_members() => {
                self.actions.push(CloseAction::FindHolders);
                self.check_members_until(self.stage_until, now);
            }
            CloseStage::Terminate => self.enter_cut(now),
            CloseStage::Cut => {
                self.signalled = true;
                // Set here for Kill and Reap together: `enter_reap` keeps it.
                self.stage_until = now + self.policy.kill;
                self.enter(CloseStage::Kill, Some(self.policy.kill), now);
                self.actions.push(CloseAction::Kill);
            }
            CloseStage::Kill => self.enter_reap(now),
            // The answer sets the next deadline, or ends the stage.
            CloseStage::Reap if now < self.stage_until => self.actions.push(CloseAction::Reap),
            CloseStage::Reap => {
                // The last attempt is always answered with `Reaped`, so no deadline is needed.
                self.deadline = None;
                self.actions.push(CloseAction::GiveUpReap);
            }
            CloseStage::Remove => self.enter_release(now),
            CloseStage::Release => self.finish(now),
        }
    }

    fn on_drain_deadline(&mut self, now: Instant) {
        let limit = self.drain_limit();
        // With `kill_group(false)` SIGTERM goes to the leader alone, which has exited. So Terminate
        // would wait for a group that gets no signal.
        if !self.is_alive() || (now >= limit && self.known.exited && !self.policy.kill_group) {
            self.enter_cut(now);
        } else if now >= limit {
            self.signalled = true;
            let limit = self.policy.terminate.max(self.policy.min_drain);
            self.stage_until = now + limit;
            self.enter(CloseStage::Terminate, Some(limit), now);
            self.actions.push(CloseAction::Terminate);
        } else if self.has_members() {
            self.actions.push(CloseAction::FindHolders);
            self.check_members_until(limit, now);
        } else {
            // Output has moved the limit since the timer was set: reads do not move timers.
            self.deadline = Some(limit);
        }
    }

    /// Returns the deadline of Drain for an agent that is alive.
    fn drain_limit(&self) -> Instant {
        let limit = (self.progress + self.policy.drain).min(self.reading_until);
        let limit = if self.known.exited {
            limit.min(self.members_moved + self.policy.exit_drain)
        } else {
            limit
        };
        // Last, so that no other limit cuts the outputs before the agent could see its input end.
        limit.max(self.entered + self.policy.min_drain)
    }

    fn first_stage(&mut self, now: Instant) {
        if self.known.writes_pending {
            self.enter(CloseStage::Flush, Some(self.policy.flush), now);
        } else {
            self.after_flush(now);
        }
    }

    fn after_flush(&mut self, now: Instant) {
        if self.known.turn_open {
            self.interrupt_answered = Some(false);
            // The interrupt itself.
            self.known.writes_pending = true;
            self.enter(CloseStage::Interrupt, Some(self.policy.interrupt), now);
            self.actions.push(CloseAction::Interrupt);
        } else {
            self.enter_end_input(now);
        }
    }

    fn enter_end_input(&mut self, now: Instant) {
        self.enter(CloseStage::EndInput, None, now);
        self.start_reading(now);
        if self.known.turn_open {
            // The turn ignored the interrupt and streams on. Waiting for silence would be waiting
            // for the turn to end.
            self.end_input(Some(true), now);
        } else {
            self.await_quiet(now);
        }
    }

    /// Starts the limits of EndInput and Drain, within their total.
    fn start_reading(&mut self, now: Instant) {
        self.progress = now;
        self.members_moved = now;
        // The total counts from the begin of the close. A long Flush or Interrupt must not use it
        // up, so at least `drain` is left from here.
        self.reading_until = self.reading_until.max(now + self.policy.drain);
    }

    fn end_input(&mut self, while_busy: Option<bool>, now: Instant) {
        // A write that Flush has not waited for may reach the agent together with the end of its input,
        // after the last look at it.
        let unseen_write = self.known.writes_pending && !self.known.outputs_ended;
        self.input_ended_while_busy = Some(while_busy.filter(|busy| *busy || !unseen_write));
        self.actions.push(CloseAction::EndInput);
        // The agent has all of `drain` to react to the end of its input, within the total.
        self.progress = now;
        self.members_moved = now;
        self.enter_drain(now);
    }

    fn enter_drain_if_before(&mut self, now: Instant) {
        if self.stage < CloseStage::Drain {
            self.enter_drain(now);
        }
    }

    fn enter_drain(&mut self, now: Instant) {
        self.enter(CloseStage::Drain, None, now);
        let limit = self.drain_limit();
        if self.has_members() {
            self.check_members_until(limit, now);
        } else {
            self.deadline = Some(limit);
        }
    }

    fn enter_cut(&mut self, now: Instant) {
        let limit = match self.policy.mode {
            // The stages that an abort leaves out may have had less time left than its grace.
            CloseMode::Abort => {
                self.policy.abort_grace.min(self.cut_until.saturating_duration_since(now))
            }
            CloseMode::Graceful => self.policy.cut,
        };
        self.enter(CloseStage::Cut, Some(limit), now);
        self.actions.push(CloseAction::Cut);
        // Without a living leader there is no reaction to wait for.
        if self.known.exited {
            self.enter_reap(now);
        }
    }

    /// Enters Reap. Kill and Reap share one limit, so a process that survived Kill is tried once more.
    fn enter_reap(&mut self, now: Instant) {
        if self.stage != CloseStage::Kill {
            self.stage_until = now + self.policy.kill;
        }
        self.enter(CloseStage::Reap, None, now);
        self.deadline = Some(self.stage_until);
        self.actions.push(CloseAction::Reap);
    }

    /// However the client ended, its container may live on: the client has asked for nothing, or has
    /// died before it could.
    fn after_reap(&mut self, now: Instant) {
        if self.policy.container {
            self.enter(CloseStage::Remove, Some(self.policy.remove), now);
            self.actions.push(CloseAction::RemoveContainer);
        } else {
            self.enter_release(now);
        }
    }

    fn enter_release(&mut self, now: Instant) {
        self.enter(CloseStage::Release, Some(ClosePolicy::RELEASE_MAX), now);
        self.actions.push(CloseAction::Release);
    }

    fn finish(&mut self, now: Instant) {
        self.enter(CloseStage::Done, None, now);
        self.actions.push(CloseAction::Finish);
    }

    fn enter(&mut self, stage: CloseStage, limit: Option<Duration>, now: Instant) {
        debug_assert!(self.stage < stage, "a close never goes back: {} to {stage}", self.stage);
        self.spent.push((self.stage, now.saturating_duration_since(self.entered)));
        self.stage = stage;
        self.entered = now;
        self.deadline = limit.map(|limit| now + limit);
    }
}
