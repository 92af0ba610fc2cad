//! Decides whether the CLI is at work, and when its input may end. Pure: it takes events and moments,
//! and returns actions.
//!
//! A CLI that reports its state is `running` from the first prompt until no turn is owed any more, turns
//! that background agents wake included: its `idle` is the end of a run. One that never reports a state
//! ends a run with each result. Each prompt owes a run of its own; where a CLI may have answered two
//! prompts in one run, only time tells that no second run follows.

use std::time::{Duration, Instant};

#[cfg(test)]
mod tests;

/// How long the run of a further prompt is waited for where it may have been part of the last one.
pub(super) const NEXT_RUN: Duration = Duration::from_secs(1);
/// How long a result is waited for that comes after the `idle` of its run.
pub(super) const LATE_RESULT: Duration = Duration::from_millis(200);

/// What `session_state_changed` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum State {
    /// A turn is under way or owed.
    Running,
    /// The agent waits for an answer of ours.
    NeedsAnswer,
    /// No turn is owed.
    Idle,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Happened {
    /// A prompt is about to be sent.
    Prompt,
    /// The last one was not sent after all.
    Unsent,
    /// The agent told its state.
    Said(State),
    /// A record of a turn came, not of a subagent's.
    Turn,
    /// A result came. `queue_empty`: it said that no prompt is queued behind it.
    Result { queue_empty: bool },
    /// A record was dropped. `result`: it was the result; else what it was is unknown.
    Lost { result: bool },
    /// A background task is in flight: the first of them.
    TasksBegan,
    /// None is any more. `stopped`: the last one was stopped, which wakes no turn.
    TasksOver { stopped: bool },
    /// The agent asked something that is answered here.
    Asked,
    /// Such an answer is on its way, or will not come.
    Answered,
    /// The interrupt that a close had sent was answered.
    InterruptAnswered,
    /// The input may end once nothing needs it.
    EndWhenDone,
    /// Time went by.
    Tick,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Action {
    /// The agent is at work: a close has to interrupt it.
    TurnOpened,
    /// It is not.
    TurnEnded,
    /// Nothing needs the input any more.
    EndInput,
    /// The run of a prompt is over, and it had no result.
    NoResult,
}

/// What may still come after the last run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum After {
    /// Nothing that there is a sign of.
    Nothing,
    /// Its result: `idle` came first.
    Result,
    /// Its end: the record that was lost may have been the result.
    End,
    /// The run of a prompt that may have been part of it, or of a task that was stopped.
    Run,
    /// The turn that a finished task wakes.
    Woken,
}

/// One session's runs.
#[derive(Clone, Debug)]
pub(super) struct Run {
    /// How long a CLI may be `running` between turns before the input ends all the same.
    ceiling: Option<Duration>,
    state: Option<State>,
    /// Prompts whose run is not known to be over.
    owed: usize,
    last_prompt: Option<Instant>,
    /// Records of a turn came and its result did not.
    in_turn: bool,
    /// A result came, and the state says that the run goes on.
    has_result: bool,
    /// The last result said that no prompt is queued, so the CLI reads ahead: what was sent long before
    /// is no run to come.
    reads_ahead: bool,
    /// A prompt was sent after the last result: its run begins without a limit.
    prompted: bool,
    tasks: bool,
    /// A task was done within a turn. It may wake another turn, of which a CLI without states says nothing.
    woken: bool,
    asked: usize,
    after: After,
    /// When `after` is given up.
    after_until: Option<Instant>,
    ceiling_at: Option<Instant>,
    ending: bool,
    ended: bool,
    /// The interrupt of a close was answered.
    stopping: bool,
    /// What a close was told.
    open: bool,
}

impl Run {
    pub(super) fn new(ceiling: Option<Duration>) -> Self {
        Self {
            ceiling,
            state: None,
            owed: 0,
            last_prompt: None,
            in_turn: false,
            has_result: false,
            reads_ahead: false,
            prompted: false,
            tasks: false,
            woken: false,
            asked: 0,
            after: After::Nothing,
            after_until: None,
            ceiling_at: None,
            ending: false,
            ended: false,
            stopping: false,
            open: false,
        }
    }

    /// When a [`Happened::Tick`] is wanted.
    pub(super) fn deadline(&self) -> Option<Instant> {
        match (self.after_until, self.ceiling_at) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    pub(super) fn handle(&mut self, event: Happened, now: Instant) -> Vec<Action> {
        let mut actions = Vec::new();
        match event {
            Happened::Prompt => self.prompt(now),
            Happened::Unsent => self.unsent(),
            Happened::Said(state) => self.said(state, now, &mut actions),
            Happened::Turn => {
                self.begins(now, &mut actions);
                self.in_turn = true;
            }
            Happened::Result { queue_empty } => {
                self.reads_ahead = queue_empty;
                self.result(now);
            }
            Happened::Lost { result } => self.lost(result, now),
            Happened::TasksBegan => self.tasks = true,
            Happened::TasksOver { stopped } => self.tasks_over(stopped, now),
            Happened::Asked => self.asked += 1,
            Happened::Answered => self.asked = self.asked.saturating_sub(1),
            Happened::InterruptAnswered => self.interrupted(),
            Happened::EndWhenDone => self.ending = true,
            Happened::Tick => self.tick(now, &mut actions),
        }
        self.watch_ceiling(event, now);
        if self.may_end() {
            self.ended = true;
            actions.push(Action::EndInput);
        }
        let open = self.is_open();
        if std::mem::replace(&mut self.open, open) != open {
            actions.push(if open { Action::TurnOpened } else { Action::TurnEnded });
        }
        actions
    }

    fn prompt(&mut self, now: Instant) {
        if self.after == After::End {
            // The host was told of the loss, and goes on with another turn.
            self.run_over(now);
        }
        self.owed += 1;
        self.last_prompt = Some(now);
        self.prompted = true;
        // Its own run is certain, and what was in doubt about earlier ones is so after that.
        if matches!(self.after, After::Run | After::Woken) {
            self.nothing_follows();
        }
    }

    fn unsent(&mut self) {
        self.owed = self.owed.saturating_sub(1);
        if self.owed == 0 && self.after == After::Run {
            self.nothing_follows();
        }
    }

    fn said(&mut self, state: State, now: Instant, actions: &mut Vec<Action>) {
        let before = self.state;
        if state != State::Idle {
            self.begins(now, actions);
            self.state = Some(state);
            return;
        }
        self.state = Some(State::Idle);
        if self.in_turn || (self.was_running(before) && !self.has_result) {
            // Some hosts of the CLI send it just before the result.
            self.in_turn = false;
            self.wait(After::Result, Some(now + LATE_RESULT));
        } else if self.has_result {
            self.run_over(now);
        }
    }

    fn result(&mut self, now: Instant) {
        self.in_turn = false;
        self.prompted = false;
        if self.is_running() {
            self.has_result = true;
        } else {
            self.run_over(now);
        }
    }

    fn lost(&mut self, result: bool, now: Instant) {
        if result || self.is_running() {
            // What cannot be told apart from a result stands for it: the caller was told of the loss.
            self.result(now);
        } else if self.in_turn || self.owed > 0 {
            self.in_turn = false;
            self.wait(After::End, Some(now + NEXT_RUN));
        }
    }

    fn tasks_over(&mut self, stopped: bool, now: Instant) {
        self.tasks = false;
        let between = !self.in_turn && !self.is_running();
        let settled = self.owed == 0 && self.after == After::Nothing;
        self.woken = self.in_turn && !stopped && self.state.is_none();
        if between && (settled || self.after == After::Run) {
            if stopped {
                self.wait(After::Run, Some(now + NEXT_RUN));
            } else {
                self.wait(After::Woken, self.ceiling.and_then(|limit| now.checked_add(limit)));
            }
        }
    }

    /// What was queued is cancelled: the run that is under way is the last one. Between turns there is
    /// none, and the answer is all that comes.
    fn interrupted(&mut self) {
        self.stopping = true;
        let between = !self.in_turn && !self.is_running();
        if between && (self.owed == 0 || self.after == After::Run) {
            self.owed = 0;
            self.tasks = false;
            self.nothing_follows();
        }
    }

    fn tick(&mut self, now: Instant, actions: &mut Vec<Action>) {
        if self.after_until.is_some_and(|at| at <= now) {
            match self.after {
                After::Result => self.no_result(now, actions),
                After::End => self.run_over(now),
                After::Run => {
                    self.owed = 0;
                    self.nothing_follows();
                }
                After::Woken | After::Nothing => self.nothing_follows(),
            }
        }
        if self.ceiling_at.is_some_and(|at| at <= now) && !self.ended {
            self.ceiling_at = None;
            self.ended = true;
            actions.push(Action::EndInput);
        }
    }

    /// A turn begins, or goes on.
    fn begins(&mut self, now: Instant, actions: &mut Vec<Action>) {
        if self.after == After::Result {
            self.no_result(now, actions);
        }
        self.nothing_follows();
    }

    /// The CLI is idle, and the result did not come.
    fn no_result(&mut self, now: Instant, actions: &mut Vec<Action>) {
        if self.owed > 0 && !self.has_result {
            actions.push(Action::NoResult);
        }
        self.run_over(now);
    }

    /// A run is over. It was that of one prompt at the least, if any was owed.
    fn run_over(&mut self, now: Instant) {
        self.in_turn = false;
        self.has_result = false;
        self.owed = if self.stopping { 0 } else { self.owed.saturating_sub(1) };
        self.nothing_follows();
        if self.owed == 0 {
            if std::mem::take(&mut self.woken) {
                self.wait(After::Run, Some(now + NEXT_RUN));
            }
            return;
        }
        let since = if self.reads_ahead { self.last_prompt.unwrap_or(now) } else { now };
        if since + NEXT_RUN <= now {
            self.owed = 0;
        } else {
            self.wait(After::Run, Some(since + NEXT_RUN));
        }
    }

    /// The ceiling counts the time between turns of a CLI that says that it is running.
    fn watch_ceiling(&mut self, event: Happened, now: Instant) {
        let between = self.state == Some(State::Running)
            && self.has_result
            && !(self.in_turn || self.prompted || self.tasks || self.asked > 0);
        if !between || !self.ending || self.ended {
            self.ceiling_at = None;
            return;
        }
        let begins_again = matches!(event, Happened::Result { .. } | Happened::Said(_));
        if self.ceiling_at.is_none() || begins_again {
            self.ceiling_at = self.ceiling.and_then(|limit| now.checked_add(limit));
        }
    }

    fn may_end(&self) -> bool {
        let at_work = self.in_turn || self.is_running() || self.tasks || self.asked > 0;
        self.ending && !self.ended && !at_work && self.owed == 0 && self.after == After::Nothing
    }

    fn is_open(&self) -> bool {
        // The run of one of the prompts is over but for its result.
        let over = usize::from(matches!(self.after, After::Result | After::End));
        self.in_turn || self.is_running() || self.tasks || self.owed > over
    }

    fn is_running(&self) -> bool {
        self.was_running(self.state)
    }

    fn was_running(&self, state: Option<State>) -> bool {
        matches!(state, Some(State::Running | State::NeedsAnswer))
    }

    fn wait(&mut self, after: After, until: Option<Instant>) {
        self.after = after;
        self.after_until = until;
    }

    fn nothing_follows(&mut self) {
        self.wait(After::Nothing, None);
    }
}
