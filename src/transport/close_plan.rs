//! Close, floor 2: the plan. Pure: `(state, event, now) -> (state, actions)`.
//!
//! It holds no descriptor, no clock and no runtime, so every order of events is enumerated in
//! `close_plan/tests.rs`. `close.rs` carries the actions out and feeds the events. docs/close.md
//! is this file as a table.

use std::time::{Duration, Instant};

use crate::close_policy::{CloseMode, ClosePolicy};
use crate::close_report::CloseStage;
use crate::process::Rest;

mod close_silence;
#[cfg(test)]
mod tests;

/// What the plan is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CloseEvent {
    /// No accepted write is left: all went out, or the pipe broke.
    WritesDone,
    /// The turn that was in flight is over.
    TurnEnded,
    /// Bytes came from stdout or stderr.
    Output,
    /// The answer to `Look`.
    Seen(Rest),
    /// The other answer to `Look`: bytes are on their way here, so it is not silent.
    Unread,
    /// Stdout and stderr are both at their end.
    OutputsEnded,
    /// The agent exited. It is not reaped.
    Exited,
    /// The agent is reaped, or given up on.
    Reaped,
    /// Nothing of the agent is in the kernel and every descriptor is closed.
    Released,
    /// Somebody wants it over: an abort, after a close began. Its limits hold where they are shorter.
    Abort { grace: Duration, kill: Duration },
    /// Time passed. Only acts once `deadline()` is reached.
    Tick,
}

/// What the plan wants done, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CloseAction {
    /// Refuse new writes.
    RefuseWrites,
    /// Read the outputs whatever the reader does, within the drain budget.
    ReadOn,
    /// Send the interrupt request of the session.
    Interrupt,
    /// See whether the agent is at rest; answer with `Seen` or `Unread`.
    Look,
    /// Cancel the pending write and close stdin, in one submission.
    EndInput,
    /// SIGTERM to the group.
    Terminate,
    /// Cancel and close stdin, stdout and stderr, in one submission.
    Cut,
    /// SIGKILL to the group.
    Kill,
    /// Kill what is left of the group, then reap the leader; answer with `Reaped`.
    Reap,
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
    /// Reading is paused: the agent may have a queue of its own.
    pub(crate) paused: bool,
    /// Reading was paused once: the agent is one that gets ahead of its reader.
    pub(crate) backlog: bool,
    /// When the last byte of output came, or reading was resumed after it; the spawn, if neither.
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
    /// When EndInput was entered: the settling and the draining share one budget.
    output_budget_from: Instant,
    known: CloseStart,
    /// Reads that brought bytes while the output was to fall silent.
    settling_reads: u32,
    /// The end of the after-exit window; set once, when the exit is seen.
    exit_window: Option<Instant>,
    actions: Vec<CloseAction>,
}

impl ClosePlan {
    /// Begins a close. The first actions are ready in [`take_actions`](Self::take_actions).
    pub(crate) fn begin(policy: ClosePolicy, mut known: CloseStart, now: Instant) -> Self {
        if known.paused {
            known.backlog = true;
            // While nobody read, silence meant nothing: it is listened for from now on.
            known.last_output = now;
        }
        let mut plan = Self {
            policy,
            stage: CloseStage::Refuse,
            entered: now,
            deadline: None,
            spent: Vec::with_capacity(CloseStage::ALL.len()),
            ended_by: known.exited.then_some(CloseStage::Refuse),
            output_budget_from: now,
            known,
            settling_reads: 0,
            exit_window: None,
            actions: vec![CloseAction::RefuseWrites],
        };
        match policy.mode {
            CloseMode::Abort => plan.enter_cut(now),
            CloseMode::Graceful => {
                plan.actions.push(CloseAction::ReadOn);
                if known.exited {
                    plan.enter_drain(now);
                } else if known.writes_pending {
                    plan.enter(CloseStage::Flush, Some(policy.flush), now);
                } else {
                    plan.after_flush(now);
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
    pub(crate) fn sweep_group(&self) -> bool {
        self.policy.sweep_group
    }

    /// The actions wanted since the last call, in order.
    pub(crate) fn take_actions(&mut self) -> Vec<CloseAction> {
        std::mem::take(&mut self.actions)
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
            CloseEvent::Output => {
                self.known.last_output = now;
                if self.stage == CloseStage::EndInput {
                    self.broke_silence(now);
                }
            }
            CloseEvent::Seen(rest) => {
                if self.stage == CloseStage::EndInput {
                    self.seen(rest, now);
                }
            }
            CloseEvent::Unread => {
                if self.stage == CloseStage::EndInput {
                    self.await_unread(now);
                }
            }
            CloseEvent::OutputsEnded => {
                self.known.outputs_ended = true;
                self.outputs_or_exit(now);
            }
            CloseEvent::Exited => {
                if !self.known.exited {
                    self.known.exited = true;
                    self.ended_by = Some(self.stage);
                    self.outputs_or_exit(now);
                }
            }
            CloseEvent::Reaped => {
                if self.stage == CloseStage::Reap {
                    self.enter(CloseStage::Release, Some(ClosePolicy::RELEASE_MAX), now);
                    self.actions.push(CloseAction::Release);
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
                    self.deadline_passed(now);
                }
            }
        }
    }

    fn abort(&mut self, grace: Duration, kill: Duration, now: Instant) {
        self.policy.mode = CloseMode::Abort;
        self.policy.abort_grace = self.policy.abort_grace.min(grace);
        self.policy.kill = self.policy.kill.min(kill);
        match self.stage {
            stage if stage < CloseStage::Cut => self.enter_cut(now),
            CloseStage::Cut => self.hurry(now + self.policy.abort_grace),
            CloseStage::Kill => self.hurry(now + self.policy.kill),
            _ => {}
        }
    }

    fn hurry(&mut self, limit: Instant) {
        self.deadline = self.deadline.map(|deadline| deadline.min(limit));
    }

    /// Exit and end of output are two events; both, or the exit and a short window, end the
    /// reading stages.
    fn outputs_or_exit(&mut self, now: Instant) {
        if !self.known.exited {
            return;
        }
        match self.stage {
            CloseStage::Refuse
            | CloseStage::Flush
            | CloseStage::Interrupt
            | CloseStage::EndInput => self.enter_drain(now),
            CloseStage::Drain | CloseStage::Terminate => self.await_outputs(now),
            CloseStage::Cut | CloseStage::Kill => self.enter_reap(now),
            CloseStage::Reap | CloseStage::Release | CloseStage::Done => {}
        }
    }

    fn await_outputs(&mut self, now: Instant) {
        if self.known.outputs_ended {
            self.enter_cut(now);
        } else if self.exit_window.is_none() {
            let end = now + self.policy.after_exit;
            self.exit_window = Some(end);
            self.deadline = Some(end);
        }
    }

    fn deadline_passed(&mut self, now: Instant) {
        match self.stage {
            CloseStage::Refuse | CloseStage::Done => self.deadline = None,
            CloseStage::Flush => self.after_flush(now),
            CloseStage::Interrupt => self.enter_end_input(now),
            CloseStage::EndInput => self.await_silence(now),
            CloseStage::Drain if self.known.exited => self.enter_cut(now),
            CloseStage::Drain => {
                let limit = self.policy.terminate.max(self.policy.gap);
                self.enter(CloseStage::Terminate, Some(limit), now);
                self.actions.push(CloseAction::Terminate);
            }
            CloseStage::Terminate => self.enter_cut(now),
            CloseStage::Cut => {
                self.enter(CloseStage::Kill, Some(self.policy.kill), now);
                self.actions.push(CloseAction::Kill);
            }
            CloseStage::Kill => self.enter_reap(now),
            CloseStage::Reap => self.handle(CloseEvent::Reaped, now),
            CloseStage::Release => self.finish(now),
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
        self.output_budget_from = now;
        if self.known.turn_open {
            // The agent would stream on: waiting for silence is waiting for the turn.
            self.end_input(now);
        } else {
            self.await_silence(now);
        }
    }

    fn end_input(&mut self, now: Instant) {
        self.actions.push(CloseAction::EndInput);
        self.enter_drain(now);
    }

    fn enter_drain(&mut self, now: Instant) {
        let spent = now.saturating_duration_since(self.output_budget_from);
        let left = match self.stage {
            CloseStage::EndInput => self.policy.drain.saturating_sub(spent),
            _ => self.policy.drain,
        };
        self.enter(CloseStage::Drain, Some(left.max(self.policy.gap)), now);
        if self.known.exited {
            self.await_outputs(now);
        }
    }

    fn enter_cut(&mut self, now: Instant) {
        let limit = match self.policy.mode {
            CloseMode::Abort => self.policy.abort_grace,
            CloseMode::Graceful => self.policy.cut,
        };
        self.enter(CloseStage::Cut, Some(limit), now);
        self.actions.push(CloseAction::Cut);
        if self.known.exited {
            self.enter_reap(now);
        }
    }

    fn enter_reap(&mut self, now: Instant) {
        self.enter(CloseStage::Reap, None, now);
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
