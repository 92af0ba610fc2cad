//! Every order of events of a close, to a stated depth: the plan always ends, never passes over
//! Release, never goes back, and asks for each thing at most once.

use super::*;

/// Shorter than any policy of these tests, so that it hurries every stage.
const HURRIED: CloseEvent =
    CloseEvent::Abort { grace: Duration::from_millis(1), kill: Duration::from_millis(2) };

const EVENTS: [CloseEvent; 15] = [
    CloseEvent::WritesDone,
    CloseEvent::TurnEnded,
    CloseEvent::Output,
    CloseEvent::Seen(Rest::One),
    CloseEvent::Seen(Rest::Threads),
    CloseEvent::Seen(Rest::Unknown),
    CloseEvent::Seen(Rest::AtWork),
    CloseEvent::Unread,
    CloseEvent::OutputsEnded,
    CloseEvent::Exited,
    CloseEvent::Reaped,
    CloseEvent::Released,
    CloseEvent::Abort { grace: Duration::from_secs(1), kill: Duration::from_secs(3) },
    HURRIED,
    CloseEvent::Tick,
];

/// 15 events, 6 deep, from 128 starting points: 1458 million orders; equal states are walked once.
const DEPTH: usize = 6;
const STARTS: u32 = 128;

fn start(bits: u32, now: Instant) -> (ClosePolicy, CloseStart) {
    let mut policy = if bits & 1 == 0 { ClosePolicy::graceful() } else { ClosePolicy::abort() };
    if bits & 64 != 0 {
        // Where the settling may take all of the drain, the gap comes on top.
        policy = policy.drain(Duration::from_millis(20)).terminate(Duration::ZERO);
    }
    let known = CloseStart {
        exited: bits & 2 != 0,
        outputs_ended: bits & 4 != 0,
        writes_pending: bits & 8 != 0,
        turn_open: bits & 16 != 0,
        paused: bits & 32 != 0,
        backlog: false,
        last_output: now,
    };
    (policy, known)
}

/// A close under test, with everything it ever asked for.
#[derive(Clone)]
struct Walk {
    plan: ClosePlan,
    /// The worst case of the policy it began with: an abort that comes later takes no longer.
    bound: Duration,
    begun: Instant,
    /// Where it was aborted: when it must be over.
    over_by: Option<Instant>,
    now: Instant,
    asked: Vec<CloseAction>,
}

impl Walk {
    fn begin(policy: ClosePolicy, known: CloseStart, now: Instant) -> Self {
        let bound = policy.worst_case();
        let plan = ClosePlan::begin(policy, known, now);
        let mut walk = Self { plan, bound, begun: now, over_by: None, now, asked: Vec::new() };
        walk.collect();
        walk
    }

    fn collect(&mut self) {
        for action in self.plan.take_actions() {
            if action == CloseAction::Look {
                // Again after each output.
                assert_eq!(self.plan.stage(), CloseStage::EndInput);
                continue;
            }
            assert!(!self.asked.contains(&action), "{action:?} twice: {:?}", self.asked);
            self.asked.push(action);
        }
    }

    fn step(&mut self, event: CloseEvent) {
        let before = self.plan.stage();
        if event == CloseEvent::Tick {
            self.now = self.plan.deadline().unwrap_or(self.now).max(self.now);
        }
        if let CloseEvent::Abort { grace, kill } = event
            && before < CloseStage::Reap
        {
            // Its worst case, without the window for outputs that an abort does not open.
            let limit = self.now + grace + kill + ClosePolicy::RELEASE_MAX;
            self.over_by = Some(self.over_by.map_or(limit, |known| known.min(limit)));
        }
        self.plan.handle(event, self.now);
        assert!(self.plan.stage() >= before, "went back from {before} to {}", self.plan.stage());
        self.collect();
    }

    /// The executor's duty: answer Reap at once. Release is answered by time alone, which is the
    /// slowest it can be.
    fn answer(&mut self) {
        if self.plan.stage() == CloseStage::Reap {
            self.step(CloseEvent::Reaped);
        }
    }

    fn done(&self) -> bool {
        self.plan.stage() == CloseStage::Done
    }

    fn position(&self, action: CloseAction) -> usize {
        self.asked.iter().position(|asked| *asked == action).unwrap_or_else(|| {
            panic!("{action:?} was never asked for: {:?}", self.asked);
        })
    }

    /// Lets only time pass until the end, then checks the whole of it.
    fn check_to_the_end(mut self) {
        let policy = self.plan.policy;
        for _ in 0..CloseStage::ALL.len() * 12 {
            self.answer();
            if self.done() {
                break;
            }
            assert!(self.plan.deadline().is_some(), "stage {} never ends", self.plan.stage());
            self.step(CloseEvent::Tick);
        }
        assert!(self.done(), "stuck in {}", self.plan.stage());
        let took = self.now.duration_since(self.begun);
        let bound = policy.worst_case().max(self.bound);
        assert!(took <= bound, "took {took:?}, bound {bound:?}");
        if let Some(limit) = self.over_by {
            assert!(self.now <= limit, "{:?} later than its abort allows", self.now - limit);
        }
        // The order that nothing may change.
        assert_eq!(self.asked[0], CloseAction::RefuseWrites);
        let cut = self.position(CloseAction::Cut);
        let reap = self.position(CloseAction::Reap);
        let release = self.position(CloseAction::Release);
        let finish = self.position(CloseAction::Finish);
        assert!(cut < reap && reap < release && release < finish, "{:?}", self.asked);
        assert_eq!(finish, self.asked.len() - 1);
        let stages: Vec<_> = self.plan.spent().iter().map(|(stage, _)| *stage).collect();
        assert!(stages.is_sorted(), "{stages:?}");
        assert!(stages.contains(&CloseStage::Release), "{stages:?}");
    }
}

/// What makes two walks the same from here on, times relative to now.
fn key(walk: &Walk) -> String {
    let plan = &walk.plan;
    let ago = |at: Instant| walk.now.saturating_duration_since(at);
    format!(
        "{:?} {:?} {:?} {:?} {:?} {:?} {:?} {:?} {:?} {:?} {:?}",
        plan.stage,
        plan.policy.mode,
        ago(plan.entered),
        plan.deadline.map(|deadline| deadline.saturating_duration_since(walk.now)),
        ago(plan.output_budget_from),
        (plan.known.exited, plan.known.outputs_ended, plan.known.writes_pending),
        (plan.known.turn_open, plan.known.backlog, ago(plan.known.last_output)),
        (plan.exit_window.is_some(), plan.settling_reads),
        (plan.policy.abort_grace, plan.policy.kill),
        walk.over_by.map(|limit| limit.saturating_duration_since(walk.now)),
        walk.asked,
    )
}

/// The demand: always ends, never skips Release, never goes back a stage.
#[test]
fn every_order_of_events_ends_and_releases() {
    let origin = Instant::now();
    let mut ends = 0_u64;
    for bits in 0..STARTS {
        let (policy, known) = start(bits, origin);
        let mut level = vec![Walk::begin(policy, known, origin)];
        let mut seen = std::collections::HashSet::new();
        for _ in 0..DEPTH {
            let mut next = Vec::new();
            for walk in &level {
                for event in EVENTS {
                    let mut after = walk.clone();
                    after.step(event);
                    if seen.insert(key(&after)) {
                        ends += 1;
                        after.clone().check_to_the_end();
                        next.push(after);
                    }
                }
            }
            level = next;
        }
    }
    assert!(ends > 1000, "only {ends} states were reached: the enumeration is broken");
}

fn known(now: Instant) -> CloseStart {
    CloseStart {
        exited: false,
        outputs_ended: false,
        writes_pending: false,
        turn_open: false,
        paused: false,
        backlog: false,
        last_output: now,
    }
}

fn at(now: Instant, ms: u64) -> Instant {
    now + Duration::from_millis(ms)
}

/// An idle agent has been silent for long: its input is ended at once, not 5 ms later.
#[test]
fn an_idle_agent_is_not_kept_waiting_for_silence() {
    let now = Instant::now();
    let begun = at(now, 1000);
    let mut plan = ClosePlan::begin(ClosePolicy::graceful(), known(now), begun);
    assert_eq!(
        plan.take_actions(),
        [CloseAction::RefuseWrites, CloseAction::ReadOn, CloseAction::Look]
    );
    plan.handle(CloseEvent::Seen(Rest::Unknown), begun);
    assert_eq!(plan.stage(), CloseStage::Drain);
    assert_eq!(plan.take_actions(), [CloseAction::EndInput]);
}

/// The Node build of a real CLI drops its queue at end of input: with a backlog the silence must
/// last four times as long, and each byte starts it anew, up to a limit.
#[test]
fn a_backlog_is_read_out_before_the_input_is_ended() {
    let now = Instant::now();
    let start = CloseStart { paused: true, ..known(now) };
    let mut plan = ClosePlan::begin(ClosePolicy::graceful(), start, now);
    for ms in (0..480).step_by(10) {
        plan.handle(CloseEvent::Output, at(now, ms));
        plan.handle(CloseEvent::Tick, at(now, ms + 9));
        plan.handle(CloseEvent::Seen(Rest::Unknown), at(now, ms + 9));
        assert_eq!(plan.stage(), CloseStage::EndInput, "after {ms} ms");
    }
    plan.handle(CloseEvent::Output, at(now, 495));
    plan.handle(CloseEvent::Tick, at(now, 500));
    assert_eq!(plan.stage(), CloseStage::Drain, "the settling has a limit");
    let end = plan.deadline().expect("drain has a deadline");
    assert_eq!(end, at(now, 2000), "settling is taken from the drain budget");
}

/// How long an agent that is being closed must be silent, by what is seen of it.
fn silence(backlog: bool, rest: Rest) -> Duration {
    let now = Instant::now();
    let start = CloseStart { paused: backlog, ..known(now) };
    let mut plan = ClosePlan::begin(ClosePolicy::graceful(), start, now);
    let mut at = now;
    while plan.stage() == CloseStage::EndInput {
        if plan.take_actions().contains(&CloseAction::Look) {
            plan.handle(CloseEvent::Seen(rest), at);
        } else {
            at = plan.deadline().expect("it ends");
            plan.handle(CloseEvent::Tick, at);
        }
    }
    at.duration_since(now)
}

/// An agent of one thread that sleeps after all was read has nothing queued: who could write
/// would run. 100 us of silence are enough then, where 20 ms were.
#[test]
fn an_agent_seen_at_rest_is_not_kept_waiting_for_silence() {
    let us = Duration::from_micros;
    for backlog in [false, true] {
        assert_eq!(silence(backlog, Rest::One), us(100));
        assert_eq!(silence(backlog, Rest::Threads), us(5000));
    }
    assert_eq!(silence(false, Rest::Unknown), us(5000));
    assert_eq!(silence(true, Rest::Unknown), us(20_000));
}

/// On a busy machine an agent in the middle of its output may not run for 5 ms. Its input was
/// ended then, and a Node program dropped what it had queued: half a record at the end.
#[test]
fn an_agent_that_is_at_work_is_not_taken_for_silent() {
    assert_eq!(silence(false, Rest::AtWork), Duration::from_millis(100));
    // One that has said nothing for long is at work on something else.
    let now = Instant::now();
    let mut plan = ClosePlan::begin(ClosePolicy::graceful(), known(now), at(now, 100));
    plan.handle(CloseEvent::Seen(Rest::AtWork), at(now, 100));
    assert_eq!(plan.stage(), CloseStage::Drain);
    // Unless whoever listens did not run for so long.
    let mut plan = ClosePlan::begin(ClosePolicy::graceful(), known(now), at(now, 100));
    plan.handle(CloseEvent::Unread, at(now, 100));
    assert_eq!((plan.stage(), plan.deadline()), (CloseStage::EndInput, Some(at(now, 105))));
    // First soon, then after twice the silence each time.
    let us = |count| now + Duration::from_micros(count);
    let mut plan = ClosePlan::begin(ClosePolicy::graceful(), known(now), us(0));
    for moment in [100, 200, 400, 800] {
        assert_eq!(plan.deadline(), Some(us(moment)));
        plan.handle(CloseEvent::Tick, us(moment));
        plan.handle(CloseEvent::Seen(Rest::AtWork), us(moment));
    }
    // And one that falls asleep has said what it had to say.
    let mut plan = ClosePlan::begin(ClosePolicy::graceful(), known(now), at(now, 50));
    assert!(plan.take_actions().contains(&CloseAction::Look));
    plan.handle(CloseEvent::Seen(Rest::AtWork), at(now, 50));
    assert_eq!(plan.deadline(), Some(at(now, 55)), "looked at again");
    plan.handle(CloseEvent::Tick, at(now, 55));
    assert!(plan.take_actions().contains(&CloseAction::Look));
    plan.handle(CloseEvent::Seen(Rest::Threads), at(now, 55));
    assert_eq!(plan.stage(), CloseStage::Drain);
}

/// Cut before the agent saw the end of input costs a real CLI 2 s: even with a drain of zero the
/// outputs are read for the gap.
#[test]
fn the_outputs_are_never_cut_within_the_gap() {
    let now = Instant::now();
    let policy = ClosePolicy::graceful().drain(Duration::ZERO).terminate(Duration::ZERO);
    let mut plan = ClosePlan::begin(policy, known(now), at(now, 100));
    assert_eq!(plan.stage(), CloseStage::Drain);
    plan.handle(CloseEvent::Tick, at(now, 119));
    assert_eq!(plan.stage(), CloseStage::Drain);
    plan.handle(CloseEvent::Tick, at(now, 120));
    assert_eq!(plan.stage(), CloseStage::Terminate);
    plan.handle(CloseEvent::Tick, at(now, 139));
    assert_eq!(plan.stage(), CloseStage::Terminate);
    plan.handle(CloseEvent::Tick, at(now, 140));
    assert_eq!(plan.stage(), CloseStage::Cut);
}

/// An agent whose output was not read for long has been silent for long, and has a queue: its
/// silence counts from when it is read again. Seen on a busy machine: 9 MB lost at end of input.
#[test]
fn the_silence_of_an_agent_nobody_read_counts_for_nothing() {
    let now = Instant::now();
    let start = CloseStart { paused: true, ..known(now) };
    let mut plan = ClosePlan::begin(ClosePolicy::graceful(), start, at(now, 5000));
    plan.handle(CloseEvent::Seen(Rest::Unknown), at(now, 5019));
    assert_eq!(plan.stage(), CloseStage::EndInput);
    plan.handle(CloseEvent::Seen(Rest::Unknown), at(now, 5020));
    assert_eq!(plan.stage(), CloseStage::Drain);
}

/// Reading was resumed a moment before the close, and on a busy machine the agent has not run
/// since: its silence is not that of one that has nothing to say. Seen: half a record at the end.
#[test]
fn the_silence_before_a_backlog_moves_counts_for_nothing() {
    let now = Instant::now();
    let start = CloseStart { backlog: true, last_output: at(now, 4990), ..known(now) };
    let mut plan = ClosePlan::begin(ClosePolicy::graceful(), start, at(now, 5000));
    plan.handle(CloseEvent::Seen(Rest::Unknown), at(now, 5009));
    assert_eq!(plan.stage(), CloseStage::EndInput);
    plan.handle(CloseEvent::Seen(Rest::Unknown), at(now, 5010));
    assert_eq!(plan.stage(), CloseStage::Drain);
}

/// Exit and end of output are two events: a grandchild holding the pipe gets a short window, set
/// once, whatever it writes.
#[test]
fn a_grandchild_holding_the_output_is_waited_for_once() {
    let now = Instant::now();
    let mut plan = ClosePlan::begin(ClosePolicy::graceful(), known(now), at(now, 150));
    plan.handle(CloseEvent::Seen(Rest::One), at(now, 150));
    plan.handle(CloseEvent::Exited, at(now, 160));
    assert_eq!(plan.deadline(), Some(at(now, 260)));
    plan.handle(CloseEvent::Output, at(now, 250));
    plan.handle(CloseEvent::Exited, at(now, 255));
    assert_eq!(plan.deadline(), Some(at(now, 260)));
    plan.handle(CloseEvent::Tick, at(now, 260));
    assert_eq!(plan.stage(), CloseStage::Reap);
    assert_eq!(plan.ended_by(), CloseStage::Drain);
}

/// A turn in flight is interrupted before the input ends, and the answer is waited for.
#[test]
fn an_open_turn_is_interrupted_first() {
    let now = Instant::now();
    let start = CloseStart { turn_open: true, writes_pending: true, ..known(now) };
    let mut plan = ClosePlan::begin(ClosePolicy::graceful(), start, at(now, 50));
    assert_eq!(plan.stage(), CloseStage::Flush);
    plan.handle(CloseEvent::WritesDone, at(now, 51));
    assert_eq!(plan.stage(), CloseStage::Interrupt);
    assert!(plan.take_actions().contains(&CloseAction::Interrupt));
    plan.handle(CloseEvent::Output, at(now, 60));
    plan.handle(CloseEvent::TurnEnded, at(now, 61));
    assert_eq!(plan.stage(), CloseStage::EndInput);
    plan.handle(CloseEvent::Seen(Rest::Unknown), at(now, 64));
    assert_eq!(plan.stage(), CloseStage::EndInput);
    plan.handle(CloseEvent::Seen(Rest::Unknown), at(now, 65));
    assert_eq!(plan.stage(), CloseStage::Drain);
}

/// An abort after a graceful close began goes straight to the cut, in whatever stage it was.
#[test]
fn an_abort_overtakes_a_graceful_close() {
    let now = Instant::now();
    let mut plan = ClosePlan::begin(ClosePolicy::graceful(), known(now), at(now, 50));
    let (grace, kill) = (Duration::from_secs(1), Duration::from_secs(3));
    plan.handle(CloseEvent::Abort { grace, kill }, at(now, 51));
    assert_eq!(plan.stage(), CloseStage::Cut);
    assert_eq!(plan.mode(), CloseMode::Abort);
    assert_eq!(plan.deadline(), Some(at(now, 101)), "its own limit is the shorter one");
    plan.handle(HURRIED, at(now, 60));
    assert_eq!(plan.deadline(), Some(at(now, 61)), "that of the abort is");
    plan.handle(CloseEvent::Tick, at(now, 61));
    assert_eq!((plan.stage(), plan.deadline()), (CloseStage::Kill, Some(at(now, 63))));
}
