//! The close plan. Pure: `(state, event, now) -> (state, actions)`.
//!
//! It holds no descriptor, no clock and no runtime, so `plan/tests.rs` can enumerate every
//! order of events. `transport::close` carries the actions out and feeds the events. docs/close.md is this
//! file as a table.

use std::time::{Duration, Instant};

use crate::close::{CloseMode, ClosePolicy, CloseStage};

mod quiet;
#[cfg(test)]
mod tests;

/// How often the processes that outlive the leader are looked at while they hold an output.
const GROUP_CHECK_INTERVAL: Duration = Duration::from_millis(20);

/// The first and the longest pause between two attempts to reap.
const REAP_RETRY_FIRST: Duration = Duration::from_millis(1);
const REAP_RETRY_MAX: Duration = Duration::from_millis(50);

/// What was seen of an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Activity {
    /// It is one thread, and that one sleeps.
    Asleep,
    /// All its threads and processes sleep.
    AllAsleep,
    /// A thread runs, waits for a processor, or is in an uninterruptible sleep.
    Busy,
    /// A process is stopped, by a signal or by a debugger.
    Stopped,
    /// `/proc` does not show it, or there is too much of it.
    Unknown,
    /// None of its processes is left.
    Gone,
}

/// What the plan is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CloseEvent {
    /// No accepted write is left: all went out, or the pipe broke.
    WritesDone,
    /// The turn that was in flight is over.
    TurnEnded,
    /// Bytes came from stdout or stderr.
    Output,
    /// The answer to `Look`: what the agent is doing, and nothing was unread after that was seen.
    Activity(Activity),
    /// Another answer to `Look`: bytes are on their way here, so the agent is not silent.
    Unread,
    /// Another answer to `Look`: this turn has no time left for it.
    CheckDeferred,
    /// Stdout and stderr are both at their end.
    OutputsEnded,
    /// The agent's leader exited. It is not reaped.
    Exited,
    /// The answer to `FindHolders`.
    Holders(Holders),
    /// The agent is reaped and its group is dead, or both were given up.
    Reaped,
    /// The answer to `Reap` where one of them is not done yet.
    NotReaped,
    /// Nothing of the agent is in the kernel and every descriptor is closed.
    Released,
    /// An abort, after a close began. Its limits hold where they are shorter.
    Abort { grace: Duration, kill: Duration },
    /// Time passed. Only acts once `deadline()` is reached.
    Tick,
}

/// Which processes still hold stdout or stderr after the leader has exited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Holders {
    /// None: what is left in the pipes is read, and then comes their end.
    None,
    /// Only processes outside the agent's group.
    Strays,
    /// There are living processes in the agent's group, all asleep.
    Members,
    /// The same, and one of them is busy, or is hidden.
    BusyMembers,
}

/// What the plan wants done, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CloseAction {
    /// Read the outputs whatever the reader does, within the drain budget.
    ReadOn,
    /// Send the interrupt request of the session.
    Interrupt,
    /// See what the agent is doing; answer with `Looked`, `Unread` or `LookDeferred`.
    CheckActivity,
    /// Find out who holds the outputs; answer with `Holders`.
    FindHolders,
    /// Cancel the pending write and close stdin, in one submission.
    EndInput,
    /// SIGTERM to the group, then SIGCONT.
    Terminate,
    /// Cancel and close stdin, stdout and stderr, in one submission.
    Cut,
    /// SIGKILL to the group.
    Kill,
    /// Reap the leader and kill what is left of the group; answer with `Reaped` or `NotReaped`.
    Reap,
    /// The same for the last time; answer with `Reaped`.
    GiveUpReap,
    /// Close what else there is and wait for the kernel; answer with `Released`.
    Release,
    /// Write the report and wake every closer.
    Finish,
}

/// What is known of the agent when its close begins.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CloseStart {
    pub(crate) exited: bool,
    pub(crate) outputs_ended: bool,
    pub(crate) writes_pending: bool,
    pub(crate) turn_open: bool,
    /// Stdin is open: neither the agent nor its user has ended it.
    pub(crate) input_open: bool,
    /// When the last byte of output was read; the spawn, if none was.
    pub(crate) last_output: Instant,
}

/// One agent's close.
#[derive(Clone, Debug)]
pub(crate) struct ClosePlan {
    policy: ClosePolicy,
    stage: CloseStage,
    entered: Instant,
    deadline: Option<Instant>,
    spent: Vec<(CloseStage, Duration)>,
    ended_by: Option<CloseStage>,
    known: CloseStart,
    /// Since when the agent has not moved: its last byte, or the last step of ours that it may
    /// need time to act upon.
    progress: Instant,
    /// When EndInput and Drain must both be over.
    reading_until: Instant,
    /// When the stage under way must be over: Terminate and Reap, which look again in between.
    stage_until: Instant,
    /// What the last look saw.
    activity: Option<Activity>,
    /// Whether the agent was at work when its input was ended; outer `None`: it was not ended.
    input_ended_while_busy: Option<Option<bool>>,
    stopped: bool,
    /// The agent was alive and got SIGTERM or SIGKILL.
    signalled: bool,
    /// Who held the outputs after the exit, as last seen.
    holders: Option<Holders>,
    /// When a member of the group was last seen to be busy, or wrote.
    members_moved: Instant,
    /// The end of the wait for processes outside the group; set once.
    strays_until: Option<Instant>,
    reap_retry: Duration,
    actions: Vec<CloseAction>,
}

impl ClosePlan {
    /// Begins a close. The first actions are ready in [`take_actions`](Self::take_actions).
    pub(crate) fn begin(policy: ClosePolicy, known: CloseStart, now: Instant) -> Self {
        let mut plan = Self {
            policy,
            stage: CloseStage::Refuse,
            entered: now,
            deadline: None,
            spent: Vec::with_capacity(CloseStage::ALL.len()),
            ended_by: known.exited.then_some(CloseStage::Refuse),
            known,
            progress: now,
            reading_until: now + policy.reading_limit(),
            stage_until: now,
            activity: None,
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

    /// The stage the close is in.
    pub(crate) fn stage(&self) -> CloseStage {
        self.stage
    }

    /// Graceful, or abort once one was asked for.
    pub(crate) fn mode(&self) -> CloseMode {
        self.policy.mode
    }

    /// When a `Tick` is due.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// The stage in which the exit was seen.
    pub(crate) fn ended_by(&self) -> CloseStage {
        self.ended_by.unwrap_or(self.stage)
    }

    /// Time per stage, so far.
    pub(crate) fn spent(&self) -> &[(CloseStage, Duration)] {
        &self.spent
    }

    /// Whether what is left of the group is to be killed at Reap.
    pub(crate) fn kills_group(&self) -> bool {
        self.policy.kill_group
    }

    /// Whether the agent was at work when its input was ended. `None`: that was not known.
    pub(crate) fn input_ended_while_busy(&self) -> Option<bool> {
        match self.input_ended_while_busy {
            Some(known) => known,
            // The agent left before: there was nothing to be cut short.
            None if self.policy.mode == CloseMode::Graceful && self.known.exited => Some(false),
            None => None,
        }
    }

    /// Whether the agent was made to leave, or its input was ended, before it was known to be done.
    pub(crate) fn was_cut_short(&self) -> bool {
        self.signalled || self.input_ended_while_busy.is_some_and(|busy| busy != Some(false))
    }

    /// Whether a process that the agent consists of may still write.
    pub(crate) fn is_alive(&self) -> bool {
        !self.known.exited || self.has_members()
    }

    /// Whether a look saw the agent stopped.
    pub(crate) fn was_stopped(&self) -> bool {
        self.stopped
    }

    /// The actions wanted since the last call, in order.
    pub(crate) fn take_actions(&mut self) -> Vec<CloseAction> {
        std::mem::take(&mut self.actions)
    }

    /// The engine thread did not run for this long: nothing of it is charged to the agent.
    pub(crate) fn postpone(&mut self, gap: Duration) {
        let known = [&mut self.known.last_output, &mut self.progress, &mut self.members_moved];
        let limits = [&mut self.reading_until, &mut self.stage_until];
        let optional = [self.deadline.as_mut(), self.strays_until.as_mut()];
        for at in known.into_iter().chain(limits).chain(optional.into_iter().flatten()) {
            *at += gap;
        }
    }

    /// One event at one moment.
    pub(crate) fn handle(&mut self, event: CloseEvent, now: Instant) {
        match event {
            CloseEvent::WritesDone => {
                self.known.writes_pending = false;
                if self.stage == CloseStage::Flush {
                    self.after_flush(now);
                }
            }
            CloseEvent::TurnEnded => {
                self.known.turn_open = false;
                if self.stage == CloseStage::Interrupt {
                    self.enter_end_input(now);
                }
            }
            CloseEvent::Output => self.on_output(now),
            CloseEvent::Activity(activity) => self.on_activity(activity, now),
            CloseEvent::CheckDeferred => self.check_again_next_turn(now),
            CloseEvent::Unread => self.await_unread(now),
            CloseEvent::OutputsEnded => {
                self.known.outputs_ended = true;
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
                    self.enter(CloseStage::Release, Some(ClosePolicy::RELEASE_MAX), now);
                    self.actions.push(CloseAction::Release);
                }
            }
            CloseEvent::NotReaped => {
                if self.stage == CloseStage::Reap {
                    self.deadline = Some((now + self.reap_retry).min(self.stage_until));
                    self.reap_retry = (self.reap_retry * 2).min(REAP_RETRY_MAX);
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
        // Drain finds the progress when its deadline passes: no timer moves for each read.
    }

    fn abort(&mut self, grace: Duration, kill: Duration, now: Instant) {
        self.policy.mode = CloseMode::Abort;
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

    /// Exit and end of output are two events. Both together end the reading stages; after the exit
    /// alone it matters which process still holds an output.
    fn leader_has_exited(&mut self, now: Instant) {
        match self.stage {
            CloseStage::Cut | CloseStage::Kill => self.enter_reap(now),
            CloseStage::Reap | CloseStage::Release | CloseStage::Done => {}
            _ if self.known.outputs_ended => {
                self.enter_drain_if_before(now);
                self.enter_cut(now);
            }
            _ if self.holders.is_none() => self.find_holders(now),
            _ => {}
        }
    }

    fn find_holders(&mut self, now: Instant) {
        self.actions.push(CloseAction::FindHolders);
        if self.stage == CloseStage::Refuse {
            // The answer comes at once; without one the close still goes on.
            self.deadline = Some(now);
        }
    }

    fn on_holders(&mut self, holders: Holders, now: Instant) {
        if !self.known.exited || self.stage >= CloseStage::Cut {
            return;
        }
        self.holders = Some(holders);
        match holders {
            Holders::None | Holders::Strays => {
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
                    // The agent goes on without its launcher, with the limit that holds already.
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
                self.stage_until = now + self.policy.kill;
                self.enter(CloseStage::Kill, Some(self.policy.kill), now);
                self.actions.push(CloseAction::Kill);
            }
            CloseStage::Kill => self.enter_reap(now),
            CloseStage::Reap if now < self.stage_until => self.actions.push(CloseAction::Reap),
            CloseStage::Reap => {
                self.deadline = None;
                self.actions.push(CloseAction::GiveUpReap);
            }
            CloseStage::Release => self.finish(now),
        }
    }

    fn on_drain_deadline(&mut self, now: Instant) {
        let limit = self.drain_limit();
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
            self.deadline = Some(limit);
        }
    }

    /// When a living agent has had its time to drain.
    fn drain_limit(&self) -> Instant {
        let limit = (self.progress + self.policy.drain).min(self.reading_until);
        let limit = if self.known.exited {
            limit.min(self.members_moved + self.policy.exit_drain)
        } else {
            limit
        };
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
            // The agent would stream on: waiting for silence is waiting for the turn.
            self.end_input(Some(true), now);
        } else {
            self.await_quiet(now);
        }
    }

    /// The limits of EndInput and Drain count from here, as far as the total allows.
    fn start_reading(&mut self, now: Instant) {
        self.progress = now;
        self.members_moved = now;
        self.reading_until = self.reading_until.max(now + self.policy.drain);
    }

    fn end_input(&mut self, while_busy: Option<bool>, now: Instant) {
        self.input_ended_while_busy = Some(while_busy);
        self.actions.push(CloseAction::EndInput);
        self.progress = now;
        self.members_moved = now;
        self.enter_drain(now);
    }

    fn enter_drain_if_before(&mut self, now: Instant) {
        if self.stage < CloseStage::Drain {
            if self.stage < CloseStage::EndInput {
                self.start_reading(now);
            }
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
            CloseMode::Abort => self.policy.abort_grace,
            CloseMode::Graceful => self.policy.cut,
        };
        self.stage_until = now + limit;
        self.enter(CloseStage::Cut, Some(limit), now);
        self.actions.push(CloseAction::Cut);
        if self.known.exited {
            self.enter_reap(now);
        }
    }

    /// Kill and Reap share one limit: a process that was given up as running is tried once more.
    fn enter_reap(&mut self, now: Instant) {
        if self.stage != CloseStage::Kill {
            self.stage_until = now + self.policy.kill;
        }
        self.enter(CloseStage::Reap, None, now);
        self.deadline = Some(self.stage_until);
        self.actions.push(CloseAction::Reap);
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
