//! Decides when the CLI is at work, and when its input may end. Pure: it takes events and times and
//! returns actions.
//!
//! A CLI that reports its state is `running` from the first prompt until it owes no more turn. This
//! includes turns that background agents wake. Its `idle` ends a run. For a CLI that never reports a
//! state, each result ends a run. Each prompt owes a run. If a CLI may have answered two prompts in one
//! run, only time tells that no second run follows.

use std::time::{Duration, Instant};

#[cfg(test)]
mod tests;

/// How long to wait for the run of a further prompt that may have been part of the last run.
pub(super) const NEXT_RUN: Duration = Duration::from_secs(1);
/// How long to wait for a result that comes after the `idle` of its run.
pub(super) const LATE_RESULT: Duration = Duration::from_millis(200);

/// The state that `session_state_changed` reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum CliState {
    /// A turn is under way or owed.
    Running,
    /// The CLI waits for a response of this session.
    NeedsAnswer,
    /// No turn is owed.
    Idle,
}

/// An event of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum RunEvent {
    /// A prompt is about to be sent.
    Prompt,
    /// The last prompt was not sent after all.
    Unsent,
    /// The CLI reported its state.
    State(CliState),
    /// A record of a turn came, not of a subagent.
    Turn,
    /// A result came. `queue_empty`: it says that no further prompt is queued.
    Result { queue_empty: bool },
    /// A record was dropped. `result`: it was the result; otherwise it may have been any record.
    Dropped { result: bool },
    /// The first background task began.
    TasksBegan,
    /// The last background task ended. `stopped`: it was stopped, so it wakes no turn.
    TasksOver { stopped: bool },
    /// The agent sent a request that is handled here.
    Asked,
    /// The response to such a request is queued, or will never be.
    Answered,
    /// The agent answered the interrupt that a close has sent.
    InterruptAnswered,
    /// The input has to end once the agent does not need it.
    EndWhenDone,
    /// Time has passed.
    Tick,
}

/// The next action of the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum RunAction {
    /// The agent is at work: a close has to interrupt it.
    TurnOpened,
    /// The agent is not at work any more.
    TurnEnded,
    /// End the input: the agent does not need it.
    EndInput,
    /// The run of a prompt is over, and had no result.
    NoResult,
}

/// The work that may still follow the last run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum Expected {
    /// Nothing is expected.
    #[default]
    Nothing,
    /// The result of the run, whose `idle` came first.
    Result,
    /// The end of the run: a dropped record may have been its result.
    End,
    /// The run of a prompt that may have been part of it, or of a task that was stopped.
    Run,
    /// The turn that a finished task wakes.
    Woken,
}

/// The runs of one session.
#[derive(Clone, Debug, Default)]
pub(super) struct Run {
    /// How long a CLI may be `running` between turns before its input ends all the same.
    ceiling: Option<Duration>,
    state: Option<CliState>,
    /// Prompts whose run may not be over.
    owed: usize,
    last_prompt: Option<Instant>,
    /// Records of a turn came, and its result did not.
    in_turn: bool,
    /// A result came, and the state says that the run goes on.
    has_result: bool,
    /// The last result said that no prompt is queued. So the CLI reads ahead, and a prompt that was
    /// sent long before begins no further run.
    reads_ahead: bool,
    /// A prompt was sent after the last result. Its run may begin at any time.
    prompted: bool,
    tasks: bool,
    /// A task ended within a turn. It may wake another turn, which a CLI without states does not
    /// announce.
    woken: bool,
    /// Requests of the agent that wait for a response.
    asked: usize,
    expected: Expected,
    /// When `expected` is given up.
    expected_until: Option<Instant>,
    ceiling_at: Option<Instant>,
    ending: bool,
    ended: bool,
    /// The interrupt of a close was answered.
    stopping: bool,
    /// Whether a turn is open, as the last action said.
    open: bool,
}

impl Run {
    pub(super) fn new(ceiling: Option<Duration>) -> Self {
        Self { ceiling, ..Self::default() }
    }

    /// Returns when the next [`RunEvent::Tick`] is due.
    pub(super) fn deadline(&self) -> Option<Instant> {
        match (self.expected_until, self.ceiling_at) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    /// Handles an event and returns the actions in order.
    pub(super) fn handle(&mut self, event: RunEvent, now: Instant) -> Vec<RunAction> {
        let mut actions = Vec::new();
        match event {
            RunEvent::Prompt => self.prompt(now),
            RunEvent::Unsent => self.unsent(),
            RunEvent::State(state) => self.said(state, now, &mut actions),
            RunEvent::Turn => {
                self.begins(now, &mut actions);
                self.in_turn = true;
            }
            RunEvent::Result { queue_empty } => {
                self.reads_ahead = queue_empty;
                self.result(now);
            }
            RunEvent::Dropped { result } => self.dropped(result, now),
            RunEvent::TasksBegan => self.tasks = true,
            RunEvent::TasksOver { stopped } => self.tasks_over(stopped, now),
            RunEvent::Asked => self.asked += 1,
            RunEvent::Answered => self.asked = self.asked.saturating_sub(1),
            RunEvent::InterruptAnswered => self.interrupted(),
            RunEvent::EndWhenDone => self.ending = true,
            RunEvent::Tick => self.tick(now, &mut actions),
        }
        self.watch_ceiling(event, now);
        if self.may_end() {
            self.ended = true;
            actions.push(RunAction::EndInput);
        }
        let open = self.is_open();
        if std::mem::replace(&mut self.open, open) != open {
            actions.push(if open { RunAction::TurnOpened } else { RunAction::TurnEnded });
        }
        actions
    }

    fn prompt(&mut self, now: Instant) {
        if self.expected == Expected::End {
            // The host has learned of the loss, and goes on with another turn.
            self.run_over(now);
        }
        self.owed += 1;
        self.last_prompt = Some(now);
        self.prompted = true;
        // The run of this prompt is certain. What is in doubt about earlier ones is decided after it.
        if matches!(self.expected, Expected::Run | Expected::Woken) {
            self.nothing_follows();
        }
    }

    fn unsent(&mut self) {
        self.owed = self.owed.saturating_sub(1);
        if self.owed == 0 && self.expected == Expected::Run {
            self.nothing_follows();
        }
    }

    fn said(&mut self, state: CliState, now: Instant, actions: &mut Vec<RunAction>) {
        let before = self.state;
        if state != CliState::Idle {
            self.begins(now, actions);
            self.state = Some(state);
            return;
        }
        self.state = Some(CliState::Idle);
        // An `idle` that follows neither a turn nor a run is older than the prompts that are owed,
        // and ends nothing.
        if self.in_turn || (self.was_running(before) && !self.has_result) {
            // Some versions send `idle` just before the result.
            self.in_turn = false;
            self.expect(Expected::Result, Some(now + LATE_RESULT));
        } else if self.has_result {
            self.run_over(now);
        }
    }

    fn result(&mut self, now: Instant) {
        self.in_turn = false;
        self.prompted = false;
        // The `idle` that follows ends the run. Until then a background agent may wake another
        // turn, whose requests need the input.
        if self.is_running() {
            self.has_result = true;
        } else {
            self.run_over(now);
        }
    }

    fn dropped(&mut self, result: bool, now: Instant) {
        if result || self.is_running() {
            // A record that may have been the result stands for it: the caller knows of the loss.
            self.result(now);
        } else if self.in_turn || self.owed > 0 {
            self.in_turn = false;
            // Nothing tells whether this record was the result. Another record of the turn shows that
            // it was not; after the wait it counts as one.
            self.expect(Expected::End, Some(now + NEXT_RUN));
        }
    }

    fn tasks_over(&mut self, stopped: bool, now: Instant) {
        self.tasks = false;
        let between = !self.in_turn && !self.is_running();
        let settled = self.owed == 0 && self.expected == Expected::Nothing;
        self.woken = self.in_turn && !stopped && self.state.is_none();
        // A CLI that reports `running` says itself when the woken turn is over, so it needs no
        // wait.
        if between && (settled || self.expected == Expected::Run) {
            // A task that completes wakes a turn, which is waited for up to the ceiling. One that
            // was stopped should wake none, so a short wait is enough.
            if stopped {
                self.expect(Expected::Run, Some(now + NEXT_RUN));
            } else {
                self.expect(Expected::Woken, self.ceiling.and_then(|limit| now.checked_add(limit)));
            }
        }
    }

    /// Queued prompts are cancelled, so the run that is under way is the last one. Between turns there
    /// is no run, and nothing follows the answer.
    fn interrupted(&mut self) {
        self.stopping = true;
        let between = !self.in_turn && !self.is_running();
        if between && (self.owed == 0 || self.expected == Expected::Run) {
            self.owed = 0;
            self.tasks = false;
            self.nothing_follows();
        }
    }

    fn tick(&mut self, now: Instant, actions: &mut Vec<RunAction>) {
        if self.expected_until.is_some_and(|at| at <= now) {
            match self.expected {
                Expected::Result => self.no_result(now, actions),
                Expected::End => self.run_over(now),
                Expected::Run => {
                    self.owed = 0;
                    self.nothing_follows();
                }
                Expected::Woken | Expected::Nothing => self.nothing_follows(),
            }
        }
        if self.ceiling_at.is_some_and(|at| at <= now) && !self.ended {
            self.ceiling_at = None;
            self.ended = true;
            actions.push(RunAction::EndInput);
        }
    }

    /// Notes that a turn begins, or goes on.
    fn begins(&mut self, now: Instant, actions: &mut Vec<RunAction>) {
        // The CLI goes on, so the result of the run before will not come any more.
        if self.expected == Expected::Result {
            self.no_result(now, actions);
        }
        self.nothing_follows();
    }

    /// Notes that the CLI is idle and its result did not come.
    fn no_result(&mut self, now: Instant, actions: &mut Vec<RunAction>) {
        // A run that no prompt began owes no result, and one that had a result owes no second.
        if self.owed > 0 && !self.has_result {
            actions.push(RunAction::NoResult);
        }
        self.run_over(now);
    }

    /// Notes that a run is over. If any prompt was owed, it was the run of at least one.
    fn run_over(&mut self, now: Instant) {
        self.in_turn = false;
        self.has_result = false;
        // One run may have answered several prompts. One is certain, and the wait below decides
        // about the others. An interrupt of a close cancels the queued ones.
        self.owed = if self.stopping { 0 } else { self.owed.saturating_sub(1) };
        self.nothing_follows();
        if self.owed == 0 {
            if std::mem::take(&mut self.woken) {
                self.expect(Expected::Run, Some(now + NEXT_RUN));
            }
            return;
        }
        // A CLI that reads ahead has had the prompts since they were sent, so the wait counts from
        // the last one of them.
        let since = if self.reads_ahead { self.last_prompt.unwrap_or(now) } else { now };
        if since + NEXT_RUN <= now {
            self.owed = 0;
        } else {
            self.expect(Expected::Run, Some(since + NEXT_RUN));
        }
    }

    /// Starts or stops the ceiling. It counts the time between turns of a CLI that reports `running`.
    fn watch_ceiling(&mut self, event: RunEvent, now: Instant) {
        let between = self.state == Some(CliState::Running)
            && self.has_result
            && !(self.in_turn || self.prompted || self.tasks || self.asked > 0);
        if !between || !self.ending || self.ended {
            self.ceiling_at = None;
            return;
        }
        let begins_again = matches!(event, RunEvent::Result { .. } | RunEvent::State(_));
        if self.ceiling_at.is_none() || begins_again {
            self.ceiling_at = self.ceiling.and_then(|limit| now.checked_add(limit));
        }
    }

    fn may_end(&self) -> bool {
        let at_work = self.in_turn || self.is_running() || self.tasks || self.asked > 0;
        self.ending
            && !self.ended
            && !at_work
            && self.owed == 0
            && self.expected == Expected::Nothing
    }

    pub(super) fn is_open(&self) -> bool {
        // The run of one of the prompts is over except for its result.
        let over = usize::from(matches!(self.expected, Expected::Result | Expected::End));
        self.in_turn || self.is_running() || self.tasks || self.owed > over
    }

    fn is_running(&self) -> bool {
        self.was_running(self.state)
    }

    fn was_running(&self, state: Option<CliState>) -> bool {
        matches!(state, Some(CliState::Running | CliState::NeedsAnswer))
    }

    fn expect(&mut self, expected: Expected, until: Option<Instant>) {
        self.expected = expected;
        self.expected_until = until;
    }

    fn nothing_follows(&mut self) {
        self.expect(Expected::Nothing, None);
    }
}
