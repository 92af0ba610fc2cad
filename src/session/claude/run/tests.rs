//! The machine in every order of events, and against every CLI that there may be behind it.

use std::collections::{HashSet, VecDeque};
use std::time::{Duration, Instant};

use super::{Action, After, Happened, LATE_RESULT, NEXT_RUN, Run, State};

const RESULT: Happened = Happened::Result { queue_empty: false };
const RUNNING: Happened = Happened::Said(State::Running);
const IDLE: Happened = Happened::Said(State::Idle);

/// A machine on a clock of its own.
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

    fn say(&mut self, event: Happened) -> Vec<Action> {
        self.run.handle(event, self.now)
    }

    fn all(&mut self, events: &[Happened]) -> Vec<Action> {
        events.iter().flat_map(|event| self.say(*event)).collect()
    }

    fn after(&mut self, time: Duration) -> Vec<Action> {
        self.now += time;
        self.say(Happened::Tick)
    }

    /// What of the machine matters, whatever the time is.
    fn key(&self) -> String {
        let left = |at: Option<Instant>| at.map(|at| at.saturating_duration_since(self.now));
        let run = &self.run;
        format!(
            "{:?}",
            (
                (run.state, run.owed, run.in_turn, run.has_result, run.tasks, run.woken, run.asked),
                (run.after, run.ending, run.ended, run.stopping, run.open),
                (run.prompted, run.reads_ahead),
                (left(run.after_until), left(run.ceiling_at)),
                run.last_prompt.map(|at| self.now.duration_since(at).min(NEXT_RUN)),
            )
        )
    }
}

#[test]
fn a_run_ends_with_idle_and_not_with_its_first_result() {
    // The story: a background agent was done before the first result, and the permission prompt of the
    // turn that it woke met a closed stream.
    let mut cli = Clocked::new(None);
    assert_eq!(cli.say(Happened::Prompt), [Action::TurnOpened]);
    assert_eq!(cli.all(&[Happened::EndWhenDone, RUNNING, Happened::Turn]), []);
    let task = [Happened::TasksBegan, Happened::TasksOver { stopped: false }];
    assert_eq!(cli.all(&task), []);
    assert_eq!(cli.say(RESULT), [], "the state is still running");
    assert_eq!(cli.after(Duration::from_secs(3600)), []);
    let woken = [Happened::Turn, Happened::Said(State::NeedsAnswer), Happened::Asked];
    assert_eq!(cli.all(&woken), []);
    assert_eq!(cli.all(&[Happened::Answered, RUNNING, RESULT]), []);
    assert_eq!(cli.say(IDLE), [Action::EndInput, Action::TurnEnded]);
}

#[test]
fn each_prompt_owes_a_run_of_its_own() {
    let mut cli = Clocked::new(None);
    cli.all(&[Happened::Prompt, Happened::Prompt, Happened::EndWhenDone]);
    assert_eq!(cli.all(&[RUNNING, Happened::Turn, RESULT, IDLE]), [], "one of two");
    assert_eq!(cli.after(NEXT_RUN / 2), []);
    assert_eq!(cli.all(&[RUNNING, Happened::Turn, RESULT]), []);
    assert_eq!(cli.say(IDLE), [Action::EndInput, Action::TurnEnded]);
    // A CLI that tells no state, the same.
    let mut cli = Clocked::new(None);
    cli.all(&[Happened::Prompt, Happened::Prompt, Happened::EndWhenDone]);
    assert_eq!(cli.all(&[Happened::Turn, RESULT, Happened::Turn]), [], "one of two");
    assert_eq!(cli.say(RESULT), [Action::EndInput, Action::TurnEnded]);
}

#[test]
fn prompts_that_were_answered_in_one_run_end_the_input_a_moment_later() {
    for state in [true, false] {
        let mut cli = Clocked::new(None);
        cli.all(&[Happened::Prompt, Happened::Prompt, Happened::EndWhenDone]);
        let run = if state { &[RUNNING, RESULT, IDLE][..] } else { &[Happened::Turn, RESULT] };
        assert_eq!(cli.all(run), []);
        assert_eq!(cli.run.deadline(), Some(cli.now + NEXT_RUN));
        assert_eq!(cli.after(NEXT_RUN), [Action::EndInput, Action::TurnEnded]);
    }
    // One that reads ahead, and says that nothing is queued, has known them for long.
    let mut cli = Clocked::new(None);
    cli.all(&[Happened::Prompt, Happened::Prompt, Happened::EndWhenDone, RUNNING]);
    cli.after(NEXT_RUN);
    assert_eq!(cli.say(Happened::Result { queue_empty: true }), []);
    assert_eq!(cli.say(IDLE), [Action::EndInput, Action::TurnEnded]);
}

#[test]
fn idle_without_a_result_ends_the_turn_and_says_so() {
    let mut cli = Clocked::new(None);
    cli.all(&[Happened::Prompt, Happened::EndWhenDone, Happened::Turn]);
    assert_eq!(cli.say(IDLE), [Action::TurnEnded], "a close has nothing to interrupt");
    assert_eq!(cli.after(LATE_RESULT), [Action::NoResult, Action::EndInput]);
    // Some hosts of the CLI say it just before the result.
    let mut cli = Clocked::new(None);
    cli.all(&[Happened::Prompt, RUNNING, Happened::Turn, IDLE]);
    assert_eq!(cli.say(RESULT), []);
    assert_eq!(cli.after(LATE_RESULT), []);
    assert_eq!(cli.say(Happened::EndWhenDone), [Action::EndInput]);
    // What the CLI says before it has the prompt is none of its turn.
    let mut cli = Clocked::new(None);
    cli.all(&[Happened::Prompt, Happened::EndWhenDone]);
    assert_eq!((cli.say(IDLE), cli.after(NEXT_RUN)), (vec![], vec![]));
}

#[test]
fn the_ceiling_counts_the_time_between_turns_and_no_other() {
    let limit = Duration::from_secs(600);
    let begun = || {
        let mut cli = Clocked::new(Some(limit));
        cli.all(&[Happened::Prompt, Happened::EndWhenDone, RUNNING, Happened::Turn]);
        cli
    };
    let mut cli = begun();
    assert_eq!(cli.run.deadline(), None, "a turn is under way");
    cli.say(RESULT);
    assert_eq!(cli.after(limit - Duration::from_secs(1)), []);
    assert_eq!(cli.after(Duration::from_secs(1)), [Action::EndInput]);
    for stops in [
        Happened::Turn,
        Happened::Said(State::NeedsAnswer),
        Happened::Asked,
        Happened::TasksBegan,
        Happened::Prompt,
    ] {
        let mut cli = begun();
        cli.all(&[RESULT, stops]);
        assert_eq!(cli.run.deadline(), None, "{stops:?}");
    }
    for begins_again in [
        &[RUNNING][..],
        &[Happened::Said(State::NeedsAnswer), RUNNING],
        &[Happened::Turn, RESULT],
        &[Happened::Asked, Happened::Answered],
        &[Happened::TasksBegan, Happened::TasksOver { stopped: false }],
    ] {
        let mut cli = begun();
        cli.say(RESULT);
        cli.after(limit / 2);
        cli.all(begins_again);
        assert_eq!(cli.run.deadline(), Some(cli.now + limit), "{begins_again:?}");
    }
    let mut cli = Clocked::new(None);
    cli.all(&[Happened::Prompt, Happened::EndWhenDone, RUNNING, RESULT]);
    assert_eq!(cli.run.deadline(), None, "no ceiling was asked for");
}

#[test]
fn a_task_that_is_stopped_wakes_no_turn_and_keeps_no_input_open() {
    // Of a CLI that tells no state. One that is done wakes a turn, for which the ceiling holds.
    for (stopped, wait) in [(true, NEXT_RUN), (false, Duration::from_secs(600))] {
        let mut cli = Clocked::new(Some(Duration::from_secs(600)));
        cli.all(&[Happened::Prompt, Happened::EndWhenDone, Happened::Turn, Happened::TasksBegan]);
        assert_eq!(cli.say(RESULT), []);
        assert!(cli.run.is_open(), "an interrupt ends it, and nothing else");
        assert_eq!(cli.say(Happened::TasksOver { stopped }), [Action::TurnEnded]);
        assert_eq!(cli.run.deadline(), Some(cli.now + wait), "{stopped}");
        assert_eq!(cli.after(wait), [Action::EndInput]);
    }
}

#[test]
fn an_agent_that_waits_for_an_answer_keeps_its_input() {
    let mut cli = Clocked::new(None);
    cli.all(&[Happened::Prompt, Happened::EndWhenDone, Happened::Turn, Happened::Asked]);
    assert_eq!(cli.say(RESULT), [Action::TurnEnded]);
    assert_eq!(cli.say(Happened::Answered), [Action::EndInput]);
}

#[test]
fn a_result_that_is_lost_ends_its_turn() {
    for result in [true, false] {
        let lost = Happened::Lost { result };
        let mut cli = Clocked::new(None);
        cli.all(&[Happened::Prompt, Happened::EndWhenDone, Happened::Turn]);
        assert!(cli.say(lost).contains(&Action::TurnEnded), "a close interrupts nothing");
        assert_eq!(cli.after(NEXT_RUN).contains(&Action::EndInput), !result, "{result}");
        assert!(cli.run.ended);
        // It was another record, and the turn goes on.
        let mut cli = Clocked::new(None);
        cli.all(&[Happened::Prompt, Happened::Turn, lost]);
        assert_eq!(cli.say(Happened::Turn), [Action::TurnOpened]);
        // One that tells its state is over when it says so, and no turn is missed twice.
        let mut cli = Clocked::new(None);
        cli.all(&[Happened::Prompt, Happened::EndWhenDone, RUNNING, Happened::Turn]);
        assert_eq!(cli.say(lost), []);
        assert_eq!(cli.say(IDLE), [Action::EndInput, Action::TurnEnded]);
        assert_eq!(cli.run.deadline(), None);
    }
}

#[test]
fn an_interrupt_that_finds_no_turn_ends_with_its_answer() {
    // The doubt whether a further run comes, and tasks of a CLI that tells no state.
    let doubt = [Happened::Prompt, Happened::Prompt, Happened::Turn, RESULT];
    let tasks = [Happened::Prompt, Happened::Turn, Happened::TasksBegan, RESULT];
    for events in [doubt, tasks] {
        let mut cli = Clocked::new(None);
        cli.all(&events);
        assert!(cli.run.is_open());
        assert_eq!(cli.say(Happened::InterruptAnswered), [Action::TurnEnded]);
    }
    // In a turn, the answer comes first and the result after it. What was queued is cancelled.
    for (states, end) in [(true, &[RESULT, IDLE][..]), (false, &[RESULT])] {
        let mut cli = Clocked::new(None);
        cli.all(&[Happened::Prompt, Happened::Prompt, Happened::Prompt]);
        cli.all(if states { &[RUNNING, Happened::Turn] } else { &[Happened::Turn] });
        assert_eq!(cli.say(Happened::InterruptAnswered), []);
        assert_eq!(cli.all(end), [Action::TurnEnded], "{states}");
    }
    for events in [
        &[Happened::Prompt][..],
        &[Happened::Prompt, Happened::Turn],
        &[Happened::Prompt, RUNNING, RESULT],
    ] {
        let mut cli = Clocked::new(None);
        cli.all(events);
        assert_eq!(cli.say(Happened::InterruptAnswered), [], "{events:?}");
    }
}

#[test]
fn a_prompt_that_was_not_sent_owes_nothing() {
    let mut cli = Clocked::new(None);
    assert_eq!(cli.all(&[Happened::Prompt, Happened::Prompt]), [Action::TurnOpened]);
    assert_eq!(cli.say(Happened::Unsent), [], "another one keeps it open");
    assert_eq!(cli.say(Happened::Unsent), [Action::TurnEnded]);
    assert_eq!(cli.say(Happened::EndWhenDone), [Action::EndInput]);
}

/// Everything that can happen, in every order: what must hold whatever an agent says.
#[test]
fn no_order_of_events_ends_the_input_twice_or_under_a_turn() {
    const DEPTH: usize = 8;
    let events = [
        Happened::Prompt,
        Happened::Unsent,
        RUNNING,
        Happened::Said(State::NeedsAnswer),
        IDLE,
        Happened::Turn,
        Happened::Result { queue_empty: true },
        RESULT,
        Happened::Lost { result: true },
        Happened::Lost { result: false },
        Happened::TasksBegan,
        Happened::TasksOver { stopped: false },
        Happened::TasksOver { stopped: true },
        Happened::Asked,
        Happened::Answered,
        Happened::InterruptAnswered,
        Happened::EndWhenDone,
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

fn check(before: &Clocked, after: &Clocked, actions: &[Action], event: Option<&Happened>) {
    let run = &after.run;
    let count = |action| actions.iter().filter(|found| **found == action).count();
    let ends = count(Action::EndInput);
    let what = || format!("{} and {event:?}: {actions:?}", before.key());
    assert!(ends <= usize::from(!before.run.ended && run.ending), "{}", what());
    assert_eq!(run.ended, before.run.ended || ends == 1, "{}", what());
    let ceiling = event.is_none() && before.run.deadline() == before.run.ceiling_at;
    if ends == 1 {
        assert!(!run.in_turn && run.asked == 0 && !run.tasks, "{}", what());
        assert!(ceiling || (run.owed == 0 && !run.is_running()), "{}", what());
    }
    let (opened, closed) = (count(Action::TurnOpened), count(Action::TurnEnded));
    assert_eq!(usize::from(before.run.open) + opened, usize::from(run.open) + closed);
    assert!(opened + closed <= 1, "{}", what());
    if run.in_turn || run.is_running() {
        assert!(run.open, "{}", what());
    }
    // What is waited for has an end, unless the agent owes it.
    if matches!(run.after, After::Result | After::End | After::Run) {
        assert!(run.after_until.is_some_and(|at| at <= after.now + NEXT_RUN), "{}", what());
    }
    if let Some(deadline) = run.deadline() {
        assert!(deadline > after.now || event.is_some(), "a tick leaves nothing due: {}", what());
    }
    let _start = after.start;
}

/// What a CLI does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Kind {
    /// It tells its state.
    states: bool,
    /// It reads its input one prompt at a time, and is idle in between.
    one_by_one: bool,
    /// It says `idle` before the result.
    idle_first: bool,
    /// Its results are dropped on the way.
    loses: bool,
}

/// A CLI, the pipes, and the host's machine.
#[derive(Clone)]
struct World {
    kind: Kind,
    host: Clocked,
    /// Prompts on their way to the CLI, and in its queue.
    sent: usize,
    queued: usize,
    /// What the CLI said and the host has not seen.
    said: VecDeque<Happened>,
    running: bool,
    in_turn: bool,
    /// The CLI waits for an answer of the host.
    waits: bool,
    task: bool,
    owes_wake: bool,
    // How much more may happen.
    prompts: usize,
    asks: usize,
    tasks: usize,
}

impl World {
    /// Without states the result of a prompt and that of a woken turn look alike, so there is either
    /// one prompt or no task.
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

    /// The CLI has nothing to do, and will not have by itself.
    fn is_done(&self) -> bool {
        let works = self.in_turn || self.waits || self.task || self.owes_wake;
        self.sent == 0 && self.queued == 0 && !works
    }

    /// The host's machine sees something.
    fn see(&mut self, event: Happened) {
        let actions = self.host.say(event);
        self.obey(&actions, event);
    }

    fn obey(&self, actions: &[Action], event: Happened) {
        assert!(
            !actions.contains(&Action::EndInput) || self.is_done(),
            "{:?}: the input ends with {event:?}: {}",
            self.kind,
            self.key()
        );
    }

    fn say(&mut self, event: Happened) {
        self.said.push_back(event);
    }

    /// All that can happen next, but for time.
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
            world.see(Happened::Prompt);
            world.sent += 1;
        });
        may(!run.ending, &|world| world.see(Happened::EndWhenDone));
        may(!self.said.is_empty(), &|world| {
            let event = world.said.pop_front().expect("something was said");
            world.see(event);
        });
        may(run.asked > 0, &|world| {
            world.see(Happened::Answered);
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
                world.say(Happened::Turn);
            });
        }
        may(free && self.in_turn && self.queued > 0, &|world| world.queued -= 1);
        may(free && self.in_turn && self.asks > 0, &|world| {
            world.asks -= 1;
            world.waits = true;
            if world.kind.states {
                world.say(Happened::Said(State::NeedsAnswer));
            }
            world.say(Happened::Asked);
            if world.kind.states {
                world.say(RUNNING);
            }
        });
        may(free && self.in_turn && self.tasks > 0, &|world| {
            world.tasks -= 1;
            world.task = true;
            world.say(Happened::TasksBegan);
        });
        may(self.task, &|world| {
            world.task = false;
            world.owes_wake = true;
            world.say(Happened::TasksOver { stopped: false });
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
        let result = if self.kind.loses { Happened::Lost { result: true } } else { RESULT };
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

    /// Time goes by only where the CLI has nothing to do at once.
    fn waits_for_time(&self) -> bool {
        let at_once = self.sent > 0 || self.queued > 0 || self.owes_wake || self.in_turn;
        self.said.is_empty() && (self.waits || !at_once)
    }
}

/// The host against every CLI, in every order in which the two can meet.
#[test]
fn no_cli_loses_an_answer_to_an_input_that_ended_and_every_input_ends() {
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
                later.obey(&actions, Happened::Tick);
                assert!(!actions.contains(&Action::NoResult), "{kind:?}: {}", world.key());
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
