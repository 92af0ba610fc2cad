//! The run machine in every order of events, and against a model of each kind of CLI.

use std::collections::{HashSet, VecDeque};
use std::time::{Duration, Instant};

use super::{CliState, Expected, LATE_RESULT, NEXT_RUN, Run, RunAction, RunEvent};

const RESULT: RunEvent = RunEvent::Result { queue_empty: false };
const RUNNING: RunEvent = RunEvent::State(CliState::Running);
const IDLE: RunEvent = RunEvent::State(CliState::Idle);

/// A run with its clock.
#[derive(Clone)]
struct Clocked {
    run: Run,
    start: Instant,
    now: Instant,
}

impl Clocked {
    fn new(ceiling: Option<Duration>) -> Self {
        let start = Instant::now();
        Self { run: Run::new(ceiling), start, now: start }
    }

    fn say(&mut self, event: RunEvent) -> Vec<RunAction> {
        self.run.handle(event, self.now)
    }

    fn all(&mut self, events: &[RunEvent]) -> Vec<RunAction> {
        events.iter().flat_map(|event| self.say(*event)).collect()
    }

    fn after(&mut self, time: Duration) -> Vec<RunAction> {
        self.now += time;
        self.say(RunEvent::Tick)
    }

    /// Returns the state of the machine with times relative to now, so that equal states have one key.
    fn key(&self) -> String {
        let left = |at: Option<Instant>| at.map(|at| at.saturating_duration_since(self.now));
        let run = &self.run;
        format!(
            "{:?}",
            (
                (run.state, run.owed, run.in_turn, run.has_result, run.tasks, run.woken, run.asked),
                (run.expected, run.ending, run.ended, run.stopping, run.open),
                (run.prompted, run.reads_ahead),
                (left(run.expected_until), left(run.ceiling_at)),
                run.last_prompt.map(|at| self.now.duration_since(at).min(NEXT_RUN)),
            )
        )
    }
}

#[test]
fn run_ends_with_idle_not_with_first_result() {
    // A background agent that ends before the first result wakes another turn. If the input ended with
    // the result, the permission prompt of that turn would meet a closed stream.
    let mut cli = Clocked::new(None);
    assert_eq!(cli.say(RunEvent::Prompt), [RunAction::TurnOpened]);
    assert_eq!(cli.all(&[RunEvent::EndWhenDone, RUNNING, RunEvent::Turn]), []);
    let task = [RunEvent::TasksBegan, RunEvent::TasksOver { stopped: false }];
    assert_eq!(cli.all(&task), []);
    assert_eq!(cli.say(RESULT), [], "the state is still running");
    assert_eq!(cli.after(Duration::from_secs(3600)), []);
    let woken = [RunEvent::Turn, RunEvent::State(CliState::NeedsAnswer), RunEvent::Asked];
    assert_eq!(cli.all(&woken), []);
    assert_eq!(cli.all(&[RunEvent::Answered, RUNNING, RESULT]), []);
    assert_eq!(cli.say(IDLE), [RunAction::EndInput, RunAction::TurnEnded]);
}

#[test]
fn each_prompt_owes_a_run() {
    // If the first of two runs ended the input, the second prompt would be lost.
    let mut cli = Clocked::new(None);
    cli.all(&[RunEvent::Prompt, RunEvent::Prompt, RunEvent::EndWhenDone]);
    assert_eq!(cli.all(&[RUNNING, RunEvent::Turn, RESULT, IDLE]), [], "one of two");
    assert_eq!(cli.after(NEXT_RUN / 2), []);
    assert_eq!(cli.all(&[RUNNING, RunEvent::Turn, RESULT]), []);
    assert_eq!(cli.say(IDLE), [RunAction::EndInput, RunAction::TurnEnded]);
    // A CLI that reports no state.
    let mut cli = Clocked::new(None);
    cli.all(&[RunEvent::Prompt, RunEvent::Prompt, RunEvent::EndWhenDone]);
    assert_eq!(cli.all(&[RunEvent::Turn, RESULT, RunEvent::Turn]), [], "one of two");
    assert_eq!(cli.say(RESULT), [RunAction::EndInput, RunAction::TurnEnded]);
}

#[test]
fn merged_prompts_end_the_input_after_a_wait() {
    // A CLI may answer two prompts in one run. The input must not stay open for a second one.
    for state in [true, false] {
        let mut cli = Clocked::new(None);
        cli.all(&[RunEvent::Prompt, RunEvent::Prompt, RunEvent::EndWhenDone]);
        let run = if state { &[RUNNING, RESULT, IDLE][..] } else { &[RunEvent::Turn, RESULT] };
        assert_eq!(cli.all(run), []);
        assert_eq!(cli.run.deadline(), Some(cli.now + NEXT_RUN));
        assert_eq!(cli.after(NEXT_RUN), [RunAction::EndInput, RunAction::TurnEnded]);
    }
    // A CLI that reads ahead, and reports an empty queue, has had both prompts for long.
    let mut cli = Clocked::new(None);
    cli.all(&[RunEvent::Prompt, RunEvent::Prompt, RunEvent::EndWhenDone, RUNNING]);
    cli.after(NEXT_RUN);
    assert_eq!(cli.say(RunEvent::Result { queue_empty: true }), []);
    assert_eq!(cli.say(IDLE), [RunAction::EndInput, RunAction::TurnEnded]);
}

#[test]
fn idle_without_a_result_is_reported() {
    // A reader of the turn would otherwise wait for a result that never comes.
    let mut cli = Clocked::new(None);
    cli.all(&[RunEvent::Prompt, RunEvent::EndWhenDone, RunEvent::Turn]);
    assert_eq!(cli.say(IDLE), [RunAction::TurnEnded], "a close has nothing to interrupt");
    assert_eq!(cli.after(LATE_RESULT), [RunAction::NoResult, RunAction::EndInput]);
    // Some versions send `idle` just before the result.
    let mut cli = Clocked::new(None);
    cli.all(&[RunEvent::Prompt, RUNNING, RunEvent::Turn, IDLE]);
    assert_eq!(cli.say(RESULT), []);
    assert_eq!(cli.after(LATE_RESULT), []);
    assert_eq!(cli.say(RunEvent::EndWhenDone), [RunAction::EndInput]);
    // An `idle` from before the CLI has read the prompt does not belong to its turn.
    let mut cli = Clocked::new(None);
    cli.all(&[RunEvent::Prompt, RunEvent::EndWhenDone]);
    assert_eq!((cli.say(IDLE), cli.after(NEXT_RUN)), (vec![], vec![]));
}

#[test]
fn ceiling_counts_only_the_time_between_turns() {
    // A ceiling that counted a turn would end the input of a long one; one that counted nothing would
    // leave it open for a CLI that stays `running`.
    let limit = Duration::from_secs(600);
    let begun = || {
        let mut cli = Clocked::new(Some(limit));
        cli.all(&[RunEvent::Prompt, RunEvent::EndWhenDone, RUNNING, RunEvent::Turn]);
        cli
    };
    let mut cli = begun();
    assert_eq!(cli.run.deadline(), None, "a turn is under way");
    cli.say(RESULT);
    assert_eq!(cli.after(limit - Duration::from_secs(1)), []);
    assert_eq!(cli.after(Duration::from_secs(1)), [RunAction::EndInput]);
    for stops in [
        RunEvent::Turn,
        RunEvent::State(CliState::NeedsAnswer),
        RunEvent::Asked,
        RunEvent::TasksBegan,
        RunEvent::Prompt,
    ] {
        let mut cli = begun();
        cli.all(&[RESULT, stops]);
        assert_eq!(cli.run.deadline(), None, "{stops:?}");
    }
    for begins_again in [
        &[RUNNING][..],
        &[RunEvent::State(CliState::NeedsAnswer), RUNNING],
        &[RunEvent::Turn, RESULT],
        &[RunEvent::Asked, RunEvent::Answered],
        &[RunEvent::TasksBegan, RunEvent::TasksOver { stopped: false }],
    ] {
        let mut cli = begun();
        cli.say(RESULT);
        cli.after(limit / 2);
        cli.all(begins_again);
        assert_eq!(cli.run.deadline(), Some(cli.now + limit), "{begins_again:?}");
    }
    let mut cli = Clocked::new(None);
    cli.all(&[RunEvent::Prompt, RunEvent::EndWhenDone, RUNNING, RESULT]);
    assert_eq!(cli.run.deadline(), None, "there is no ceiling");
}

#[test]
fn stopped_task_wakes_no_turn() {
    // A CLI without states. A task that completes wakes a turn, which has until the ceiling. A task that
    // is stopped wakes none, and must not keep the input open.
    for (stopped, wait) in [(true, NEXT_RUN), (false, Duration::from_secs(600))] {
        let mut cli = Clocked::new(Some(Duration::from_secs(600)));
        cli.all(&[RunEvent::Prompt, RunEvent::EndWhenDone, RunEvent::Turn, RunEvent::TasksBegan]);
        assert_eq!(cli.say(RESULT), []);
        assert!(cli.run.is_open(), "only an interrupt ends it");
        assert_eq!(cli.say(RunEvent::TasksOver { stopped }), [RunAction::TurnEnded]);
        assert_eq!(cli.run.deadline(), Some(cli.now + wait), "{stopped}");
        assert_eq!(cli.after(wait), [RunAction::EndInput]);
    }
}

#[test]
fn unanswered_request_keeps_the_input_open() {
    // The response has to go through the input.
    let mut cli = Clocked::new(None);
    cli.all(&[RunEvent::Prompt, RunEvent::EndWhenDone, RunEvent::Turn, RunEvent::Asked]);
    assert_eq!(cli.say(RESULT), [RunAction::TurnEnded]);
    assert_eq!(cli.say(RunEvent::Answered), [RunAction::EndInput]);
}

#[test]
fn dropped_result_ends_its_turn() {
    // A result above the record limit must not leave the turn, and the input, open.
    for result in [true, false] {
        let dropped = RunEvent::Dropped { result };
        let mut cli = Clocked::new(None);
        cli.all(&[RunEvent::Prompt, RunEvent::EndWhenDone, RunEvent::Turn]);
        assert!(cli.say(dropped).contains(&RunAction::TurnEnded), "a close interrupts nothing");
        assert_eq!(cli.after(NEXT_RUN).contains(&RunAction::EndInput), !result, "{result}");
        assert!(cli.run.ended);
        // If it was another record, the turn goes on.
        let mut cli = Clocked::new(None);
        cli.all(&[RunEvent::Prompt, RunEvent::Turn, dropped]);
        assert_eq!(cli.say(RunEvent::Turn), [RunAction::TurnOpened]);
        // A CLI that reports its state ends the run with `idle`, and no wait follows.
        let mut cli = Clocked::new(None);
        cli.all(&[RunEvent::Prompt, RunEvent::EndWhenDone, RUNNING, RunEvent::Turn]);
        assert_eq!(cli.say(dropped), []);
        assert_eq!(cli.say(IDLE), [RunAction::EndInput, RunAction::TurnEnded]);
        assert_eq!(cli.run.deadline(), None);
    }
}

#[test]
fn interrupt_between_turns_ends_with_its_answer() {
    // A close would otherwise wait for a turn that never comes: after merged prompts, or with a task
    // of a CLI without states.
    let doubt = [RunEvent::Prompt, RunEvent::Prompt, RunEvent::Turn, RESULT];
    let tasks = [RunEvent::Prompt, RunEvent::Turn, RunEvent::TasksBegan, RESULT];
    for events in [doubt, tasks] {
        let mut cli = Clocked::new(None);
        cli.all(&events);
        assert!(cli.run.is_open());
        assert_eq!(cli.say(RunEvent::InterruptAnswered), [RunAction::TurnEnded]);
    }
    // Within a turn, the result comes after the answer. Queued prompts are cancelled.
    for (states, end) in [(true, &[RESULT, IDLE][..]), (false, &[RESULT])] {
        let mut cli = Clocked::new(None);
        cli.all(&[RunEvent::Prompt, RunEvent::Prompt, RunEvent::Prompt]);
        cli.all(if states { &[RUNNING, RunEvent::Turn] } else { &[RunEvent::Turn] });
        assert_eq!(cli.say(RunEvent::InterruptAnswered), []);
        assert_eq!(cli.all(end), [RunAction::TurnEnded], "{states}");
    }
    for events in [
        &[RunEvent::Prompt][..],
        &[RunEvent::Prompt, RunEvent::Turn],
        &[RunEvent::Prompt, RUNNING, RESULT],
    ] {
        let mut cli = Clocked::new(None);
        cli.all(events);
        assert_eq!(cli.say(RunEvent::InterruptAnswered), [], "{events:?}");
    }
}

#[test]
fn unsent_prompt_owes_no_run() {
    // A future of `send` that is dropped must not leave a turn open.
    let mut cli = Clocked::new(None);
    assert_eq!(cli.all(&[RunEvent::Prompt, RunEvent::Prompt]), [RunAction::TurnOpened]);
    assert_eq!(cli.say(RunEvent::Unsent), [], "another one keeps it open");
    assert_eq!(cli.say(RunEvent::Unsent), [RunAction::TurnEnded]);
    assert_eq!(cli.say(RunEvent::EndWhenDone), [RunAction::EndInput]);
}

/// All events in every order, up to a depth: the invariants that hold whatever an agent does.
#[test]
fn no_event_order_ends_the_input_in_a_turn() {
    const DEPTH: usize = 8;
    let events = [
        RunEvent::Prompt,
        RunEvent::Unsent,
        RUNNING,
        RunEvent::State(CliState::NeedsAnswer),
        IDLE,
        RunEvent::Turn,
        RunEvent::Result { queue_empty: true },
        RESULT,
        RunEvent::Dropped { result: true },
        RunEvent::Dropped { result: false },
        RunEvent::TasksBegan,
        RunEvent::TasksOver { stopped: false },
        RunEvent::TasksOver { stopped: true },
        RunEvent::Asked,
        RunEvent::Answered,
        RunEvent::InterruptAnswered,
        RunEvent::EndWhenDone,
    ];
    let mut seen = HashSet::new();
    let mut front = vec![Clocked::new(Some(Duration::from_secs(600)))];
    for _ in 0..DEPTH {
        let mut next = Vec::new();
        for cli in &front {
            for step in 0..=events.len() {
                let mut after = cli.clone();
                let actions = match events.get(step) {
                    Some(event) => after.say(*event),
                    None => match after.run.deadline() {
                        Some(at) => after.after(at - after.now),
                        None => continue,
                    },
                };
                check(cli, &after, &actions, events.get(step));
                let few = after.run.owed <= 3 && after.run.asked <= 2;
                if few && seen.insert(after.key()) {
                    next.push(after);
                }
            }
        }
        front = next;
    }
    assert!(seen.len() > 2_000, "{}", seen.len());
}

fn check(before: &Clocked, after: &Clocked, actions: &[RunAction], event: Option<&RunEvent>) {
    let run = &after.run;
    let count = |action| actions.iter().filter(|found| **found == action).count();
    let ends = count(RunAction::EndInput);
    let what = || format!("{} and {event:?}: {actions:?}", before.key());
    assert!(ends <= usize::from(!before.run.ended && run.ending), "{}", what());
    assert_eq!(run.ended, before.run.ended || ends == 1, "{}", what());
    let ceiling = event.is_none() && before.run.deadline() == before.run.ceiling_at;
    if ends == 1 {
        assert!(!run.in_turn && run.asked == 0 && !run.tasks, "{}", what());
        assert!(ceiling || (run.owed == 0 && !run.is_running()), "{}", what());
    }
    let (opened, closed) = (count(RunAction::TurnOpened), count(RunAction::TurnEnded));
    assert_eq!(usize::from(before.run.open) + opened, usize::from(run.open) + closed);
    assert!(opened + closed <= 1, "{}", what());
    if run.in_turn || run.is_running() {
        assert!(run.open, "{}", what());
    }
    // Each wait has a limit, except for the turn that a task wakes.
    if matches!(run.expected, Expected::Result | Expected::End | Expected::Run) {
        assert!(run.expected_until.is_some_and(|at| at <= after.now + NEXT_RUN), "{}", what());
    }
    if let Some(deadline) = run.deadline() {
        assert!(deadline > after.now || event.is_some(), "nothing is due after a tick: {}", what());
    }
    let _start = after.start;
}

/// How a CLI behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Kind {
    /// It reports its state.
    states: bool,
    /// It reads one prompt at a time, and is idle in between.
    one_by_one: bool,
    /// It sends `idle` before the result.
    idle_first: bool,
    /// Its results are dropped by the record limit.
    loses: bool,
}

/// A CLI, the pipes, and the run machine of the host.
#[derive(Clone)]
struct World {
    kind: Kind,
    host: Clocked,
    /// Prompts in the pipe, and in the queue of the CLI.
    sent: usize,
    queued: usize,
    /// Events that the CLI sent and the host has not seen.
    said: VecDeque<RunEvent>,
    running: bool,
    in_turn: bool,
    /// The CLI waits for a response of the host.
    waits: bool,
    task: bool,
    owes_wake: bool,
    // Limits on what may still happen.
    prompts: usize,
    asks: usize,
    tasks: usize,
}

impl World {
    /// Returns the worlds to begin with. Without states, the result of a prompt and that of a woken turn
    /// look alike, so there is either one prompt or no task.
    fn all(kind: Kind) -> Vec<Self> {
        let limits = if kind.states { &[(3, 1)][..] } else { &[(3, 0), (1, 1)] };
        limits.iter().map(|(prompts, tasks)| Self::new(kind, *prompts, *tasks)).collect()
    }

    fn new(kind: Kind, prompts: usize, tasks: usize) -> Self {
        Self {
            kind,
            host: Clocked::new(None),
            sent: 0,
            queued: 0,
            said: VecDeque::new(),
            running: false,
            in_turn: false,
            waits: false,
            task: false,
            owes_wake: false,
            prompts,
            asks: 1,
            tasks,
        }
    }

    fn key(&self) -> String {
        let cli = (self.sent, self.queued, &self.said, self.running, self.in_turn, self.waits);
        format!(
            "{:?}{:?}{}",
            cli,
            (self.task, self.owes_wake, self.prompts, self.asks, self.tasks),
            self.host.key()
        )
    }

    /// Returns whether the CLI has nothing to do, and will not begin anything by itself.
    fn is_done(&self) -> bool {
        let works = self.in_turn || self.waits || self.task || self.owes_wake;
        self.sent == 0 && self.queued == 0 && !works
    }

    /// Lets the host see an event.
    fn see(&mut self, event: RunEvent) {
        let actions = self.host.say(event);
        self.obey(&actions, event);
    }

    fn obey(&self, actions: &[RunAction], event: RunEvent) {
        assert!(
            !actions.contains(&RunAction::EndInput) || self.is_done(),
            "{:?}: the input ends with {event:?}: {}",
            self.kind,
            self.key()
        );
    }

    fn say(&mut self, event: RunEvent) {
        self.said.push_back(event);
    }

    /// Returns all worlds that may follow, except by the passing of time.
    fn next(&self) -> Vec<Self> {
        let mut all = Vec::new();
        let mut may = |possible: bool, act: &dyn Fn(&mut Self)| {
            if possible {
                let mut world = self.clone();
                act(&mut world);
                all.push(world);
            }
        };
        let run = &self.host.run;
        may(self.prompts > 0 && !run.ended, &|world| {
            world.prompts -= 1;
            world.see(RunEvent::Prompt);
            world.sent += 1;
        });
        may(!run.ending, &|world| world.see(RunEvent::EndWhenDone));
        may(!self.said.is_empty(), &|world| {
            let event = world.said.pop_front().expect("something was said");
            world.see(event);
        });
        may(run.asked > 0, &|world| {
            world.see(RunEvent::Answered);
            world.waits = false;
        });
        let free = !self.waits;
        let reads = self.sent > 0 && !(self.kind.one_by_one && (self.running || self.queued > 0));
        may(free && reads, &|world| {
            world.sent -= 1;
            world.queued += 1;
            world.runs();
        });
        let begins = free && !self.in_turn && (self.queued > 0 || self.owes_wake);
        for merged in 1..=self.queued.max(1) {
            may(begins, &|world| {
                if world.owes_wake {
                    world.owes_wake = false;
                } else {
                    world.queued -= merged;
                }
                world.runs();
                world.in_turn = true;
                world.say(RunEvent::Turn);
            });
        }
        may(free && self.in_turn && self.queued > 0, &|world| world.queued -= 1);
        may(free && self.in_turn && self.asks > 0, &|world| {
            world.asks -= 1;
            world.waits = true;
            if world.kind.states {
                world.say(RunEvent::State(CliState::NeedsAnswer));
            }
            world.say(RunEvent::Asked);
            if world.kind.states {
                world.say(RUNNING);
            }
        });
        may(free && self.in_turn && self.tasks > 0, &|world| {
            world.tasks -= 1;
            world.task = true;
            world.say(RunEvent::TasksBegan);
        });
        may(self.task, &|world| {
            world.task = false;
            world.owes_wake = true;
            world.say(RunEvent::TasksOver { stopped: false });
        });
        may(free && self.in_turn, &Self::turn_ends);
        all
    }

    fn runs(&mut self) {
        if self.kind.states && !self.running {
            self.say(RUNNING);
        }
        self.running = true;
    }

    fn turn_ends(&mut self) {
        self.in_turn = false;
        let result = if self.kind.loses { RunEvent::Dropped { result: true } } else { RESULT };
        let more = self.queued > 0 || self.task || self.owes_wake;
        if !self.kind.states {
            self.running = false;
            self.say(result);
        } else if more {
            self.say(result);
        } else if self.kind.idle_first {
            self.running = false;
            self.said.extend([IDLE, result]);
        } else {
            self.running = false;
            self.said.extend([result, IDLE]);
        }
    }

    /// Returns whether time may pass: the CLI has nothing to do at once.
    fn waits_for_time(&self) -> bool {
        let at_once = self.sent > 0 || self.queued > 0 || self.owes_wake || self.in_turn;
        self.said.is_empty() && (self.waits || !at_once)
    }
}

/// The host against every kind of CLI, in every order of their events: the input never ends too early,
/// and it always ends.
#[test]
fn input_ends_only_when_the_cli_is_done() {
    let mut worlds = 0;
    for bits in 0..16_u8 {
        let bit = |n: u8| bits >> n & 1 == 1;
        let kind = Kind { states: bit(0), one_by_one: bit(1), idle_first: bit(2), loses: bit(3) };
        if kind.idle_first && !kind.states {
            continue;
        }
        let mut seen = HashSet::new();
        let mut front = World::all(kind);
        while let Some(world) = front.pop() {
            let mut next = world.next();
            let end = next.is_empty() && world.host.run.deadline().is_none();
            if end {
                let run = &world.host.run;
                assert!(run.ended, "{kind:?}: the input never ends: {}", world.key());
                assert!(!run.open, "{kind:?}: a turn stays open: {}", world.key());
            }
            if world.waits_for_time()
                && let Some(at) = world.host.run.deadline()
            {
                let mut later = world.clone();
                let actions = later.host.after(at - later.host.now);
                later.obey(&actions, RunEvent::Tick);
                assert!(!actions.contains(&RunAction::NoResult), "{kind:?}: {}", world.key());
                next.push(later);
            }
            for world in next {
                if seen.insert(world.key()) {
                    front.push(world);
                }
            }
        }
        worlds += seen.len();
    }
    assert!(worlds > 10_000, "{worlds}");
}
