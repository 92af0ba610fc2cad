//! Every order of events of a close, to a stated depth: the plan always ends, never passes over
//! Release, never goes back, and asks for each thing at most once.

use super::*;

/// Shorter than any policy of these tests, so that it hurries every stage.
const HURRIED: CloseEvent =
    CloseEvent::Abort { grace: Duration::from_millis(1), kill: Duration::from_millis(2) };

const EVENTS: [CloseEvent; 23] = [
    CloseEvent::WritesDone,
    CloseEvent::TurnEnded,
    CloseEvent::Output,
    CloseEvent::Activity(Activity::Asleep),
    CloseEvent::Activity(Activity::AllAsleep),
    CloseEvent::Activity(Activity::Busy),
    CloseEvent::Activity(Activity::Stopped),
    CloseEvent::Activity(Activity::Unknown),
    CloseEvent::Activity(Activity::Gone),
    CloseEvent::Unread,
    CloseEvent::CheckDeferred,
    CloseEvent::OutputsEnded,
    CloseEvent::Exited,
    CloseEvent::Holders(Holders::None),
    CloseEvent::Holders(Holders::Strays),
    CloseEvent::Holders(Holders::Members),
    CloseEvent::Holders(Holders::BusyMembers),
    CloseEvent::Reaped,
    CloseEvent::NotReaped,
    CloseEvent::Released,
    CloseEvent::Abort { grace: Duration::from_secs(1), kill: Duration::from_secs(3) },
    HURRIED,
    CloseEvent::Tick,
];

/// 23 events, 5 deep, from 128 starting points; equal states are walked once.
const DEPTH: usize = 5;
const STARTS: u32 = 128;

fn start(bits: u32, now: Instant) -> (ClosePolicy, CloseStart) {
    let mut policy = if bits & 1 == 0 { ClosePolicy::graceful() } else { ClosePolicy::abort() };
    if bits & 64 != 0 {
        // Where the wait for silence may take all of the drain, the least drain comes on top.
        policy = policy.drain(Duration::from_millis(20)).terminate(Duration::ZERO);
    }
    let known = CloseStart {
        exited: bits & 2 != 0,
        outputs_ended: bits & 4 != 0,
        writes_pending: bits & 8 != 0,
        turn_open: bits & 16 != 0,
        input_open: bits & 32 == 0,
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
        let bound = policy.max_duration();
        let plan = ClosePlan::begin(policy, known, now);
        let mut walk = Self { plan, bound, begun: now, over_by: None, now, asked: Vec::new() };
        walk.collect();
        walk
    }

    fn collect(&mut self) {
        for action in self.plan.take_actions() {
            match action {
                // Again after each output.
                CloseAction::CheckActivity => {
                    assert_eq!(self.plan.stage(), CloseStage::EndInput);
                    continue;
                }
                CloseAction::FindHolders => {
                    assert!(self.plan.known.exited && self.plan.stage() < CloseStage::Cut);
                    continue;
                }
                // Until it is answered.
                CloseAction::Reap | CloseAction::GiveUpReap => {
                    assert_eq!(self.plan.stage(), CloseStage::Reap);
                    if self.asked.contains(&CloseAction::Reap) {
                        continue;
                    }
                }
                _ => {}
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

    /// Reap is answered when its time is over, and Release by time alone: the slowest they can be.
    fn answer(&mut self) {
        if self.plan.stage() == CloseStage::Reap {
            match self.plan.deadline() {
                Some(_) => self.step(CloseEvent::NotReaped),
                None => self.step(CloseEvent::Reaped),
            }
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
        for _ in 0..10_000 {
            self.answer();
            if self.done() {
                break;
            }
            if self.plan.deadline().is_some() {
                self.step(CloseEvent::Tick);
            } else {
                // Only the last attempt to reap, which is answered at once.
                assert_eq!(self.plan.stage(), CloseStage::Reap, "it never ends");
            }
        }
        assert!(self.done(), "stuck in {}", self.plan.stage());
        let took = self.now.duration_since(self.begun);
        let bound = policy.max_duration().max(self.bound);
        assert!(took <= bound, "took {took:?}, bound {bound:?}");
        if let Some(limit) = self.over_by {
            assert!(self.now <= limit, "{:?} later than its abort allows", self.now - limit);
        }
        // The order that nothing may change.
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
    let left = |at: Instant| at.saturating_duration_since(walk.now);
    format!(
        "{:?} {:?} {:?} {:?} {:?} {:?} {:?} {:?} {:?} {:?} {:?} {:?}",
        (plan.stage, plan.policy.mode, ago(plan.entered), plan.deadline.map(left)),
        (ago(plan.progress), left(plan.reading_until), left(plan.stage_until)),
        (plan.known.exited, plan.known.outputs_ended, plan.known.writes_pending),
        (plan.known.turn_open, ago(plan.known.last_output)),
        (plan.activity, plan.input_ended_while_busy, plan.signalled),
        (plan.holders, ago(plan.members_moved), plan.strays_until.map(left)),
        plan.reap_retry,
        (plan.policy.abort_grace, plan.policy.kill),
        walk.over_by.map(left),
        walk.asked,
        walk.bound,
        plan.stopped,
    )
}

/// A close always ends, never passes over Release, and never goes back a stage.
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
        input_open: true,
        last_output: now,
    }
}

fn at(now: Instant, ms: u64) -> Instant {
    now + Duration::from_millis(ms)
}

const ALL_ACTIVITIES: [Activity; 6] = [
    Activity::Asleep,
    Activity::AllAsleep,
    Activity::Busy,
    Activity::Stopped,
    Activity::Unknown,
    Activity::Gone,
];

/// What became of a close whose agent looks like this at each look and writes nothing: when its
/// input was ended, and what was said of it.
fn end_of_input(policy: ClosePolicy, activity: Activity) -> (Duration, Option<bool>) {
    let now = Instant::now();
    let mut plan = ClosePlan::begin(policy, known(now), now);
    let mut at = now;
    while plan.stage() == CloseStage::EndInput {
        if plan.take_actions().contains(&CloseAction::CheckActivity) {
            plan.handle(CloseEvent::Activity(activity), at);
        } else {
            at = plan.deadline().expect("it ends");
            plan.handle(CloseEvent::Tick, at);
        }
    }
    (at.duration_since(now), plan.input_ended_while_busy())
}

#[test]
fn input_ends_once_the_agent_is_seen_asleep() {
    let graceful = ClosePolicy::graceful();
    let us = Duration::from_micros;
    assert_eq!(end_of_input(graceful, Activity::Asleep), (us(100), Some(false)));
    assert_eq!(end_of_input(graceful, Activity::AllAsleep), (us(5000), Some(false)));
    // It cannot be seen: long silence, and no claim.
    assert_eq!(end_of_input(graceful, Activity::Unknown), (us(100_000), None));
}

/// Silence is never enough for an agent that is running, waits for a processor or is stopped: its
/// input ends with the limit of the drain, and the report says so.
#[test]
fn busy_agent_is_never_taken_for_done() {
    for activity in [Activity::Busy, Activity::Stopped] {
        let graceful = ClosePolicy::graceful();
        assert_eq!(end_of_input(graceful, activity), (Duration::from_secs(2), Some(true)));
        let long = graceful.drain(Duration::from_secs(60));
        assert_eq!(end_of_input(long, activity), (Duration::from_secs(60), Some(true)));
    }
}

#[test]
fn quiet_period_of_zero_ends_the_input_at_once_and_claims_nothing() {
    let policy = ClosePolicy::graceful().quiet_period(Duration::ZERO);
    for activity in ALL_ACTIVITIES {
        assert_eq!(end_of_input(policy, activity), (Duration::ZERO, None));
    }
}

/// An idle agent has been silent for long: its input ends with the first look.
#[test]
fn idle_agent_is_not_kept_waiting() {
    let now = Instant::now();
    let begun = at(now, 1000);
    let mut plan = ClosePlan::begin(ClosePolicy::graceful(), known(now), begun);
    assert_eq!(plan.take_actions(), [CloseAction::ReadOn, CloseAction::CheckActivity]);
    plan.handle(CloseEvent::Activity(Activity::AllAsleep), begun);
    assert_eq!(plan.take_actions(), [CloseAction::EndInput]);
    assert_eq!((plan.stage(), plan.input_ended_while_busy()), (CloseStage::Drain, Some(false)));
}

/// An agent that is busy is looked at soon at first and then less often, and one that falls asleep
/// is found within as much time as it took.
#[test]
fn busy_agent_is_looked_at_in_growing_steps() {
    let now = Instant::now();
    let us = |count| now + Duration::from_micros(count);
    let mut plan = ClosePlan::begin(ClosePolicy::graceful(), known(now), us(0));
    for moment in [100, 200, 400, 800, 1600, 3200, 6400, 11_400] {
        assert_eq!(plan.deadline(), Some(us(moment)));
        plan.handle(CloseEvent::Tick, us(moment));
        plan.handle(CloseEvent::Activity(Activity::Busy), us(moment));
    }
    plan.handle(CloseEvent::Tick, us(16_400));
    plan.handle(CloseEvent::Activity(Activity::AllAsleep), us(16_400));
    assert_eq!(plan.stage(), CloseStage::Drain);
}

/// Bytes in the pipe are no silence, however the agent looks: the engine may not have read for long.
#[test]
fn agent_that_sleeps_on_a_full_pipe_is_not_done() {
    let now = Instant::now();
    let mut plan = ClosePlan::begin(ClosePolicy::graceful(), known(now), at(now, 100));
    plan.handle(CloseEvent::Unread, at(now, 100));
    assert_eq!((plan.stage(), plan.deadline()), (CloseStage::EndInput, Some(at(now, 105))));
    plan.handle(CloseEvent::CheckDeferred, at(now, 105));
    assert_eq!((plan.stage(), plan.deadline()), (CloseStage::EndInput, Some(at(now, 106))));
}

/// An answer of 83 MB takes 3 s: each byte renews the wait, before the end of the input and after it.
#[test]
fn agent_that_writes_is_read_up_to_the_total() {
    let now = Instant::now();
    let mut plan = ClosePlan::begin(ClosePolicy::graceful(), known(now), now);
    for ms in (0..3000).step_by(100) {
        plan.handle(CloseEvent::Output, at(now, ms));
        plan.handle(CloseEvent::Tick, at(now, ms));
    }
    assert_eq!(plan.stage(), CloseStage::EndInput);
    plan.handle(CloseEvent::Activity(Activity::Asleep), at(now, 3000));
    assert_eq!((plan.stage(), plan.input_ended_while_busy()), (CloseStage::Drain, Some(false)));
    for ms in (3000..5000).step_by(500) {
        plan.handle(CloseEvent::Output, at(now, ms));
        plan.handle(CloseEvent::Tick, at(now, ms));
        assert_eq!(plan.stage(), CloseStage::Drain, "after {ms} ms");
    }
    plan.handle(CloseEvent::Tick, at(now, 5000));
    assert_eq!(plan.stage(), CloseStage::Terminate, "5 s in all");
    assert!(plan.was_cut_short());
}

/// A flood never falls silent. Its input ends while half of the drain is left to act on that.
#[test]
fn agent_that_never_falls_silent_has_time_to_see_the_end_of_its_input() {
    let now = Instant::now();
    let mut plan = ClosePlan::begin(ClosePolicy::graceful(), known(now), now);
    for ms in (0..4000).step_by(100) {
        plan.handle(CloseEvent::Output, at(now, ms));
        plan.handle(CloseEvent::Tick, at(now, ms));
    }
    assert_eq!(
        (plan.stage(), plan.deadline()),
        (CloseStage::EndInput, Some(at(now, 3900) + Duration::from_micros(100)))
    );
    plan.handle(CloseEvent::Tick, at(now, 4000));
    assert_eq!((plan.stage(), plan.input_ended_while_busy()), (CloseStage::Drain, Some(true)));
    plan.handle(CloseEvent::Output, at(now, 4999));
    plan.handle(CloseEvent::Tick, at(now, 4999));
    assert_eq!(plan.stage(), CloseStage::Drain);
    plan.handle(CloseEvent::Tick, at(now, 5000));
    assert_eq!(plan.stage(), CloseStage::Terminate);
}

/// No turn had time for a look before the wait was over: the report claims nothing.
#[test]
fn agent_that_was_never_looked_at_is_not_said_to_be_done() {
    let now = Instant::now();
    let mut plan = ClosePlan::begin(ClosePolicy::graceful(), known(now), now);
    for ms in 1..=2000 {
        assert_eq!(plan.stage(), CloseStage::EndInput);
        plan.handle(CloseEvent::CheckDeferred, at(now, ms));
        plan.handle(CloseEvent::Tick, at(now, ms));
    }
    assert_eq!((plan.stage(), plan.input_ended_while_busy()), (CloseStage::Drain, None));
    assert!(plan.was_cut_short());
}

/// Without a byte the drain is over after 2 s, and those count from the end of the input.
#[test]
fn silent_agent_has_the_drain_after_the_end_of_its_input() {
    let now = Instant::now();
    let mut plan = ClosePlan::begin(ClosePolicy::graceful(), known(now), now);
    plan.handle(CloseEvent::Activity(Activity::Busy), at(now, 1));
    plan.handle(CloseEvent::Tick, at(now, 2000));
    assert_eq!(plan.stage(), CloseStage::Drain);
    plan.handle(CloseEvent::Tick, at(now, 3999));
    assert_eq!(plan.stage(), CloseStage::Drain);
    plan.handle(CloseEvent::Tick, at(now, 4000));
    assert_eq!(plan.stage(), CloseStage::Terminate);
}

/// Cut before the agent saw the end of input costs a real CLI 2 s: even with a drain of zero the
/// outputs are read for a moment.
#[test]
fn outputs_are_never_cut_within_the_least_drain() {
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

/// Time in which the engine thread did not run moves every limit: what an agent had left before a
/// stop of the host it has after it, in each stage.
#[test]
fn stop_of_the_host_is_not_charged_to_the_agent() {
    let now = Instant::now();
    let gap = Duration::from_secs(5);
    let asleep = CloseEvent::Activity(Activity::Asleep);
    // In EndInput, in Drain, in Terminate.
    for stage in [CloseStage::EndInput, CloseStage::Drain, CloseStage::Terminate] {
        let mut plan = ClosePlan::begin(ClosePolicy::graceful(), known(now), now);
        let mut begun = now;
        if stage >= CloseStage::Drain {
            plan.handle(asleep, begun);
        }
        if stage == CloseStage::Terminate {
            begun = at(now, 2000);
            plan.handle(CloseEvent::Tick, begun);
        }
        plan.handle(CloseEvent::Activity(Activity::Busy), begun);
        let mut stopped = plan.clone();
        stopped.postpone(gap);
        while plan.stage() == stage {
            assert_eq!(stopped.stage(), stage);
            plan.take_actions();
            stopped.take_actions();
            let moment = plan.deadline().expect("it ends");
            assert_eq!(stopped.deadline(), Some(moment + gap), "{stage}");
            plan.handle(CloseEvent::Tick, moment);
            stopped.handle(CloseEvent::Tick, moment + gap);
        }
        assert_eq!(stopped.stage(), plan.stage(), "{stage}");
    }
}

/// The input is closed already, by the agent or its user: there is nothing to wait for.
#[test]
fn input_that_is_closed_is_not_waited_for() {
    let now = Instant::now();
    let start = CloseStart { input_open: false, ..known(now) };
    let plan = ClosePlan::begin(ClosePolicy::graceful(), start, now);
    assert_eq!((plan.stage(), plan.input_ended_while_busy()), (CloseStage::Drain, Some(false)));
}

/// A close in Drain whose leader exits at 10 ms, while a process still holds an output.
fn launcher_left(policy: ClosePolicy, now: Instant) -> ClosePlan {
    let mut plan = ClosePlan::begin(policy, known(now), now);
    plan.handle(CloseEvent::Activity(Activity::Asleep), now);
    plan.take_actions();
    plan.handle(CloseEvent::Exited, at(now, 10));
    assert_eq!(plan.take_actions(), [CloseAction::FindHolders]);
    plan
}

/// A process outside the group holds an output: it has `exit_drain`, once, whatever it writes.
#[test]
fn stray_that_holds_an_output_is_waited_for_once() {
    let now = Instant::now();
    let mut plan = launcher_left(ClosePolicy::graceful(), now);
    plan.handle(CloseEvent::Holders(Holders::Strays), at(now, 10));
    assert_eq!(plan.deadline(), Some(at(now, 1510)));
    plan.handle(CloseEvent::Output, at(now, 900));
    plan.handle(CloseEvent::Exited, at(now, 900));
    assert_eq!(plan.deadline(), Some(at(now, 1510)));
    plan.handle(CloseEvent::Tick, at(now, 1510));
    assert_eq!(plan.stage(), CloseStage::Reap);
    assert_eq!(plan.ended_by(), CloseStage::Drain);
    assert!(!plan.is_alive() && !plan.was_cut_short());
}

/// A member of the group that is at work has the limit of the stage: the launcher before it shortens
/// nothing.
#[test]
fn busy_agent_behind_a_launcher_has_the_whole_drain() {
    let now = Instant::now();
    let mut plan = launcher_left(ClosePolicy::graceful(), now);
    let mut moment = at(now, 10);
    while plan.stage() == CloseStage::Drain {
        plan.handle(CloseEvent::Holders(Holders::BusyMembers), moment);
        moment = plan.deadline().expect("it ends");
        plan.handle(CloseEvent::Tick, moment);
        assert!(plan.take_actions().len() == 1);
    }
    assert_eq!((plan.stage(), moment), (CloseStage::Terminate, at(now, 2000)));
    // And the time of Terminate, asleep or not: it may be saving its state.
    while plan.stage() == CloseStage::Terminate {
        plan.handle(CloseEvent::Holders(Holders::Members), moment);
        moment = plan.deadline().expect("it ends");
        plan.handle(CloseEvent::Tick, moment);
    }
    assert_eq!((plan.stage(), moment), (CloseStage::Reap, at(now, 3000)));
    assert!(plan.was_cut_short());
}

/// One that sleeps and says nothing is asked to leave after `exit_drain`, by SIGTERM before SIGKILL.
#[test]
fn silent_agent_behind_a_launcher_gets_sigterm_first() {
    let now = Instant::now();
    let mut plan = launcher_left(ClosePolicy::graceful(), now);
    let mut moment = at(now, 10);
    let mut actions = Vec::new();
    while plan.stage() == CloseStage::Drain {
        plan.handle(CloseEvent::Holders(Holders::Members), moment);
        moment = plan.deadline().expect("it ends");
        plan.handle(CloseEvent::Tick, moment);
        actions = plan.take_actions();
    }
    assert_eq!((plan.stage(), moment), (CloseStage::Terminate, at(now, 1500)));
    assert_eq!(actions, [CloseAction::Terminate]);
    // It leaves: nothing is left to wait for.
    plan.handle(CloseEvent::OutputsEnded, at(now, 1900));
    assert_eq!(plan.stage(), CloseStage::Reap);
}

/// Where the policy spares the group, what outlives the leader is read to the same limit and left alone.
#[test]
fn agent_behind_a_launcher_gets_no_signal_where_the_group_is_spared() {
    let now = Instant::now();
    let mut plan = launcher_left(ClosePolicy::graceful().kill_group(false), now);
    plan.take_actions();
    let mut moment = at(now, 10);
    while plan.stage() == CloseStage::Drain {
        plan.handle(CloseEvent::Holders(Holders::Members), moment);
        moment = plan.deadline().expect("it ends");
        plan.handle(CloseEvent::Tick, moment);
    }
    assert_eq!((plan.stage(), moment), (CloseStage::Reap, at(now, 1500)));
    assert!(!plan.take_actions().contains(&CloseAction::Terminate));
}

/// A dead process is no silent one: its exit is on the way, and tells more.
#[test]
fn agent_that_is_gone_before_its_exit_is_seen_is_not_said_to_be_done() {
    let now = Instant::now();
    let mut plan = ClosePlan::begin(ClosePolicy::graceful(), known(now), now);
    plan.handle(CloseEvent::Activity(Activity::Gone), at(now, 1));
    assert_eq!(plan.stage(), CloseStage::EndInput);
    assert!(plan.deadline().is_some_and(|deadline| deadline <= at(now, 6)), "it looks again soon");
}

/// The flush may take longer than EndInput and Drain together: the agent has its drain all the same.
#[test]
fn long_flush_takes_nothing_from_the_drain() {
    let now = Instant::now();
    let start = CloseStart { writes_pending: true, ..known(now) };
    let policy = ClosePolicy::graceful().flush(Duration::from_secs(60));
    let mut plan = ClosePlan::begin(policy, start, now);
    plan.handle(CloseEvent::WritesDone, at(now, 10_000));
    plan.handle(CloseEvent::Activity(Activity::Asleep), at(now, 10_000));
    assert_eq!((plan.stage(), plan.deadline()), (CloseStage::Drain, Some(at(now, 12_000))));
}

/// A launcher that leaves before the input has ended leaves the wait for silence as it was.
#[test]
fn launcher_that_leaves_early_does_not_end_the_wait_for_silence() {
    let now = Instant::now();
    let mut plan = ClosePlan::begin(ClosePolicy::graceful(), known(now), now);
    plan.handle(CloseEvent::Exited, now);
    plan.handle(CloseEvent::Holders(Holders::BusyMembers), now);
    assert_eq!(plan.stage(), CloseStage::EndInput);
    plan.handle(CloseEvent::Activity(Activity::AllAsleep), at(now, 5));
    assert_eq!(plan.stage(), CloseStage::Drain);
    // The same where it had left before the close.
    let start = CloseStart { exited: true, writes_pending: true, ..known(now) };
    let mut plan = ClosePlan::begin(ClosePolicy::graceful(), start, now);
    assert!(plan.take_actions().contains(&CloseAction::FindHolders));
    plan.handle(CloseEvent::Holders(Holders::Members), now);
    assert_eq!(plan.stage(), CloseStage::Flush);
    plan.handle(CloseEvent::WritesDone, now);
    assert_eq!(plan.stage(), CloseStage::EndInput);
}

/// A debugger holds the exited process: it is tried again within the limit of Kill, and then left
/// to later.
#[test]
fn leader_that_cannot_be_reaped_is_tried_within_the_limit_of_kill() {
    let now = Instant::now();
    let mut plan = ClosePlan::begin(ClosePolicy::graceful(), known(now), now);
    plan.handle(CloseEvent::OutputsEnded, now);
    plan.handle(CloseEvent::Exited, now);
    assert_eq!(plan.stage(), CloseStage::Reap);
    plan.take_actions();
    let mut moment = now;
    let mut tries = 0;
    loop {
        plan.handle(CloseEvent::NotReaped, moment);
        moment = plan.deadline().expect("it is bounded");
        plan.handle(CloseEvent::Tick, moment);
        tries += 1;
        if plan.take_actions() == [CloseAction::GiveUpReap] {
            break;
        }
        assert_eq!(plan.stage(), CloseStage::Reap);
    }
    assert_eq!(moment, at(now, 2000));
    assert!((20..100).contains(&tries), "in growing steps: {tries}");
    plan.handle(CloseEvent::Reaped, moment);
    assert_eq!(plan.stage(), CloseStage::Release);
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
    plan.handle(CloseEvent::Activity(Activity::AllAsleep), at(now, 64));
    assert_eq!(plan.stage(), CloseStage::EndInput);
    plan.handle(CloseEvent::Activity(Activity::AllAsleep), at(now, 65));
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
