//! Enumerates every order of events of a close, to a stated depth. The plan always ends, never skips
//! Release, never goes back, and requests each action at most once.

use super::fuzz::{EVENTS, HURRIED, Walk, any_start};
use super::*;

/// 24 events, 5 deep, from 128 starting points. Equal states are walked once.
const DEPTH: usize = 5;
const STARTS: u8 = 128;

fn start(bits: u8, now: Instant) -> (ClosePolicy, CloseStart) {
    let mut policy = if bits & 1 == 0 { ClosePolicy::graceful() } else { ClosePolicy::abort() };
    if bits & 64 != 0 {
        // Where the wait for silence may take all of the drain, `min_drain` comes on top.
        policy = policy.drain(Duration::from_millis(20)).terminate(Duration::ZERO);
    }
    policy.container = bits.count_ones() % 2 == 1;
    (policy, any_start(bits, now))
}

/// Returns a key that is equal for two walks with the same future. Times are relative to now.
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
        (plan.policy.abort_grace, plan.policy.kill, left(plan.cut_until)),
        walk.over_by.map(left),
        walk.requested,
        walk.bound,
        plan.stopped,
    )
}

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

/// Runs a close of an agent that writes nothing and shows `activity` at each check. Returns when its
/// input ended, and whether it is reported as busy.
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
    // The agent cannot be observed: a long silence is required, and the report says "unknown".
    assert_eq!(end_of_input(graceful, Activity::Unknown), (us(100_000), None));
}

/// An agent that is running, waits for a processor or is stopped is not idle, however long it is
/// silent. Its input ends with the limit of the drain, and the report says so.
#[test]
fn busy_agent_is_not_taken_for_idle() {
    for activity in [Activity::Busy, Activity::Stopped] {
        let graceful = ClosePolicy::graceful();
        assert_eq!(end_of_input(graceful, activity), (Duration::from_secs(2), Some(true)));
        let long = graceful.drain(Duration::from_secs(60));
        assert_eq!(end_of_input(long, activity), (Duration::from_secs(60), Some(true)));
    }
}

#[test]
fn zero_quiet_period_ends_input_unchecked() {
    let policy = ClosePolicy::graceful().quiet_period(Duration::ZERO);
    for activity in ALL_ACTIVITIES {
        assert_eq!(end_of_input(policy, activity), (Duration::ZERO, None));
    }
}

/// An idle agent has been silent for a long time, so its input ends with the first check.
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

/// A busy agent is checked soon at first and then less often, so that an agent that falls asleep is
/// found within as much time again as it took.
#[test]
fn checks_of_a_busy_agent_grow_apart() {
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

/// The engine may not have read for a while: an agent that sleeps with unread bytes in its pipe may
/// have more to write.
#[test]
fn unread_bytes_are_not_silence() {
    let now = Instant::now();
    let mut plan = ClosePlan::begin(ClosePolicy::graceful(), known(now), at(now, 100));
    plan.handle(CloseEvent::Unread, at(now, 100));
    assert_eq!((plan.stage(), plan.deadline()), (CloseStage::EndInput, Some(at(now, 105))));
    plan.handle(CloseEvent::CheckDeferred, at(now, 105));
    assert_eq!((plan.stage(), plan.deadline()), (CloseStage::EndInput, Some(at(now, 106))));
}

/// An answer of 83 MB takes 3 s. Each byte renews the wait, before and after the end of the input.
#[test]
fn writing_agent_is_read_up_to_drain_total() {
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

/// An agent that writes without end never falls silent. Its input ends while half of `drain` is left
/// for it to react.
#[test]
fn endless_writer_has_time_to_see_end_of_input() {
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

/// If no turn had budget for a check before the wait ended, the report says "unknown".
#[test]
fn unchecked_agent_is_reported_as_unknown() {
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

/// Without a byte of output, Drain ends 2 s after the end of the input.
#[test]
fn drain_counts_from_the_end_of_input() {
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

/// A real CLI whose pipe breaks before it has seen the end of its input takes 2 s longer. So the
/// outputs are read for a moment even with a drain of zero.
#[test]
fn outputs_are_not_cut_before_min_drain() {
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

/// Time in which the engine thread did not run moves every limit: in each stage, an agent has as
/// much time left after a stop of the host as before it.
#[test]
fn host_stop_is_not_charged_to_the_agent() {
    let now = Instant::now();
    let gap = Duration::from_secs(5);
    let asleep = CloseEvent::Activity(Activity::Asleep);
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

/// If the input is closed already, by the agent or its user, there is nothing to wait for.
#[test]
fn closed_input_is_not_waited_for() {
    let now = Instant::now();
    let start = CloseStart { input_open: false, ..known(now) };
    let plan = ClosePlan::begin(ClosePolicy::graceful(), start, now);
    assert_eq!((plan.stage(), plan.input_ended_while_busy()), (CloseStage::Drain, Some(false)));
}

/// Returns a close in Drain whose leader exits at 10 ms while another process holds an output.
fn launcher_left(policy: ClosePolicy, now: Instant) -> ClosePlan {
    let mut plan = ClosePlan::begin(policy, known(now), now);
    plan.handle(CloseEvent::Activity(Activity::Asleep), now);
    plan.take_actions();
    plan.handle(CloseEvent::Exited, at(now, 10));
    assert_eq!(plan.take_actions(), [CloseAction::FindHolders]);
    plan
}

/// A process outside the group that holds an output gets `exit_drain`, once, whatever it writes.
#[test]
fn stray_holder_delays_the_close_once() {
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

/// A busy member of the group has the whole limit of the stage, although its launcher has exited.
#[test]
fn busy_agent_behind_launcher_has_the_full_drain() {
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
    // It also has the time of Terminate, even if it sleeps: it may be saving its state.
    while plan.stage() == CloseStage::Terminate {
        plan.handle(CloseEvent::Holders(Holders::Members), moment);
        moment = plan.deadline().expect("it ends");
        plan.handle(CloseEvent::Tick, moment);
    }
    assert_eq!((plan.stage(), moment), (CloseStage::Reap, at(now, 3000)));
    assert!(plan.was_cut_short());
}

/// A silent, sleeping member gets SIGTERM after `exit_drain`, and SIGKILL only later.
#[test]
fn silent_agent_behind_launcher_gets_sigterm_first() {
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
    // The agent exits, and the close goes on at once.
    plan.handle(CloseEvent::OutputsEnded, at(now, 1900));
    assert_eq!(plan.stage(), CloseStage::Reap);
}

/// Where the policy spares the group, processes that outlive the leader are read to the same limit and
/// left running.
#[test]
fn spared_group_gets_no_signal() {
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

/// A process that has vanished is not idle. The event of its exit follows and says more.
#[test]
fn vanished_process_is_not_taken_for_idle() {
    let now = Instant::now();
    let mut plan = ClosePlan::begin(ClosePolicy::graceful(), known(now), now);
    plan.handle(CloseEvent::Activity(Activity::Gone), at(now, 1));
    assert_eq!(plan.stage(), CloseStage::EndInput);
    assert!(
        plan.deadline().is_some_and(|deadline| deadline <= at(now, 6)),
        "the next check is soon"
    );
}

/// The flush may take longer than EndInput and Drain together. The agent still has its drain.
#[test]
fn long_flush_does_not_shorten_the_drain() {
    let now = Instant::now();
    let start = CloseStart { writes_pending: true, ..known(now) };
    let policy = ClosePolicy::graceful().flush(Duration::from_secs(60));
    let mut plan = ClosePlan::begin(policy, start, now);
    plan.handle(CloseEvent::WritesDone, at(now, 10_000));
    plan.handle(CloseEvent::Activity(Activity::Asleep), at(now, 10_000));
    assert_eq!((plan.stage(), plan.deadline()), (CloseStage::Drain, Some(at(now, 12_000))));
}

/// A write that Flush has not waited for may reach an agent that was seen asleep, together with the end of its
/// input.
#[test]
fn idle_agent_with_queued_writes_may_not_be_idle() {
    let now = Instant::now();
    let start = CloseStart { writes_pending: true, ..known(now) };
    let policy = ClosePolicy::graceful().flush(Duration::from_millis(10));
    for written in [false, true] {
        let mut plan = ClosePlan::begin(policy, start, now);
        plan.handle(CloseEvent::Tick, at(now, 10));
        assert_eq!(plan.stage(), CloseStage::EndInput);
        if written {
            plan.handle(CloseEvent::WritesDone, at(now, 11));
        }
        plan.handle(CloseEvent::Activity(Activity::Asleep), at(now, 12));
        assert_eq!(plan.stage(), CloseStage::Drain);
        assert_eq!(plan.input_ended_while_busy(), written.then_some(false));
        assert_eq!(plan.was_cut_short(), !written);
    }
}

/// The interrupt is a write as well. A turn may end by itself while the agent does not read its input.
#[test]
fn idle_agent_with_an_unsent_interrupt_may_not_be_idle() {
    let now = Instant::now();
    let start = CloseStart { turn_open: true, ..known(now) };
    for written in [false, true] {
        let mut plan = ClosePlan::begin(ClosePolicy::graceful(), start, now);
        assert_eq!(plan.stage(), CloseStage::Interrupt);
        if written {
            plan.handle(CloseEvent::WritesDone, at(now, 1));
        }
        plan.handle(CloseEvent::TurnEnded, at(now, 2));
        plan.handle(CloseEvent::Activity(Activity::Asleep), at(now, 3));
        assert_eq!(plan.stage(), CloseStage::Drain);
        assert_eq!(plan.input_ended_while_busy(), written.then_some(false));
        assert_eq!(plan.was_cut_short(), !written);
    }
}

/// A launcher that exits before the input has ended does not end the wait for silence.
#[test]
fn early_launcher_exit_keeps_the_wait_for_silence() {
    let now = Instant::now();
    let mut plan = ClosePlan::begin(ClosePolicy::graceful(), known(now), now);
    plan.handle(CloseEvent::Exited, now);
    plan.handle(CloseEvent::Holders(Holders::BusyMembers), now);
    assert_eq!(plan.stage(), CloseStage::EndInput);
    plan.handle(CloseEvent::Activity(Activity::AllAsleep), at(now, 5));
    assert_eq!(plan.stage(), CloseStage::Drain);
    // Nor does one that had exited before the close.
    let start = CloseStart { exited: true, writes_pending: true, ..known(now) };
    let mut plan = ClosePlan::begin(ClosePolicy::graceful(), start, now);
    assert!(plan.take_actions().contains(&CloseAction::FindHolders));
    plan.handle(CloseEvent::Holders(Holders::Members), now);
    assert_eq!(plan.stage(), CloseStage::Flush);
    plan.handle(CloseEvent::WritesDone, now);
    assert_eq!(plan.stage(), CloseStage::EndInput);
}

/// A debugger may hold the exited process. The plan tries again within the limit of Kill, then gives
/// up.
#[test]
fn unreapable_leader_is_retried_within_kill() {
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
    assert!((20..100).contains(&tries), "the pauses grow: {tries}");
    plan.handle(CloseEvent::Reaped, moment);
    assert_eq!(plan.stage(), CloseStage::Release);
}

/// A turn in flight is interrupted before the input ends, and the close waits for the answer.
#[test]
fn open_turn_is_interrupted_first() {
    let now = Instant::now();
    let start = CloseStart { turn_open: true, writes_pending: true, ..known(now) };
    let mut plan = ClosePlan::begin(ClosePolicy::graceful(), start, at(now, 50));
    assert_eq!(plan.stage(), CloseStage::Flush);
    plan.handle(CloseEvent::WritesDone, at(now, 51));
    assert_eq!(plan.stage(), CloseStage::Interrupt);
    assert!(plan.take_actions().contains(&CloseAction::Interrupt));
    assert_eq!(plan.interrupt_answered(), Some(false));
    plan.handle(CloseEvent::Output, at(now, 60));
    plan.handle(CloseEvent::TurnEnded, at(now, 61));
    assert_eq!(plan.interrupt_answered(), Some(true));
    assert_eq!(plan.stage(), CloseStage::EndInput);
    plan.handle(CloseEvent::Activity(Activity::AllAsleep), at(now, 64));
    assert_eq!(plan.stage(), CloseStage::EndInput);
    plan.handle(CloseEvent::Activity(Activity::AllAsleep), at(now, 65));
    assert_eq!(plan.stage(), CloseStage::Drain);
}

/// An abort during a graceful close goes straight to the cut, from any stage.
#[test]
fn abort_overtakes_graceful_close() {
    let now = Instant::now();
    let mut plan = ClosePlan::begin(ClosePolicy::graceful(), known(now), at(now, 50));
    let (grace, kill) = (Duration::from_secs(1), Duration::from_secs(3));
    plan.handle(CloseEvent::Abort { grace, kill }, at(now, 51));
    assert_eq!(plan.stage(), CloseStage::Cut);
    assert_eq!(plan.mode(), CloseMode::Abort);
    assert_eq!(plan.deadline(), Some(at(now, 101)), "the limit of the plan is shorter");
    plan.handle(HURRIED, at(now, 60));
    assert_eq!(plan.deadline(), Some(at(now, 61)), "the limit of the abort is shorter");
    plan.handle(CloseEvent::Tick, at(now, 61));
    assert_eq!((plan.stage(), plan.deadline()), (CloseStage::Kill, Some(at(now, 63))));
}

/// A close whose own stages are shorter than the grace of an abort would take longer with the abort.
#[test]
fn abort_does_not_prolong_a_close() {
    let now = Instant::now();
    let policy = ClosePolicy::graceful()
        .flush(Duration::from_millis(20))
        .drain(Duration::from_millis(20))
        .terminate(Duration::ZERO)
        .cut(Duration::ZERO)
        .exit_drain(Duration::ZERO)
        .min_drain(Duration::ZERO)
        .interrupt(Duration::ZERO)
        .abort_grace(Duration::from_secs(2));
    let waits = CloseStart { writes_pending: true, ..known(now) };
    let mut plan = ClosePlan::begin(policy, waits, now);
    let (grace, kill) = (Duration::from_secs(1), Duration::from_secs(3));
    plan.postpone(Duration::from_millis(5));
    plan.handle(CloseEvent::Abort { grace, kill }, at(now, 15));
    // 20 ms of Flush and 50 ms of reading, and the stall.
    assert_eq!((plan.stage(), plan.deadline()), (CloseStage::Cut, Some(at(now, 75))));
}

/// An abort of a close that kills already leaves `kill` from then on, and not no time at all.
#[test]
fn abort_while_killing_leaves_time_to_die() {
    let now = Instant::now();
    let policy = ClosePolicy::abort().kill(Duration::from_secs(9));
    let mut plan = ClosePlan::begin(policy, known(now), now);
    plan.handle(CloseEvent::Tick, plan.deadline().expect("Cut is bounded"));
    assert_eq!(plan.stage(), CloseStage::Kill);
    let begun = plan.entered;
    plan.handle(HURRIED, at(begun, 5));
    assert_eq!(plan.deadline(), Some(at(begun, 7)));
}

/// Kill and Reap share one limit: a group whose leader dies of SIGKILL is reaped with what is left of it.
#[test]
fn reap_has_what_kill_has_left() {
    let now = Instant::now();
    let policy = ClosePolicy::abort().kill(Duration::from_secs(2));
    let mut plan = ClosePlan::begin(policy, known(now), now);
    plan.handle(CloseEvent::Tick, plan.deadline().expect("Cut is bounded"));
    let killed = plan.entered;
    plan.handle(CloseEvent::Exited, at(killed, 500));
    assert_eq!((plan.stage(), plan.deadline()), (CloseStage::Reap, Some(at(killed, 2000))));
}

/// A launcher that leaves at SIGTERM leaves members behind. They are looked at again, so the close does not
/// take all of Terminate if they leave, too.
#[test]
fn members_left_at_sigterm_are_looked_at_again() {
    let now = Instant::now();
    let mut plan = ClosePlan::begin(ClosePolicy::graceful(), known(now), now);
    plan.handle(CloseEvent::Activity(Activity::Asleep), now);
    plan.handle(CloseEvent::Tick, plan.deadline().expect("Drain is bounded"));
    assert_eq!(plan.stage(), CloseStage::Terminate);
    let begun = plan.entered;
    plan.handle(CloseEvent::Exited, at(begun, 1));
    plan.handle(CloseEvent::Holders(Holders::Members), at(begun, 1));
    assert_eq!(plan.deadline(), Some(at(begun, 1) + GROUP_CHECK_INTERVAL));
}

/// The members of the group that were known are gone, but others may still hold an output.
#[test]
fn vanished_members_are_looked_for_again() {
    let now = Instant::now();
    let mut plan = ClosePlan::begin(ClosePolicy::graceful(), known(now), now);
    plan.handle(CloseEvent::Exited, at(now, 1));
    plan.handle(CloseEvent::Holders(Holders::Members), at(now, 1));
    assert_eq!(plan.stage(), CloseStage::EndInput);
    plan.take_actions();
    plan.handle(CloseEvent::Activity(Activity::Gone), at(now, 2));
    assert_eq!(plan.take_actions(), [CloseAction::FindHolders]);
}

/// The wait for silence ends at its limit. Output just before means that the agent was busy; an agent that
/// cannot be looked at and was silent is neither busy nor idle.
#[test]
fn only_a_writer_is_called_busy_without_a_look() {
    let now = Instant::now();
    let quiet = Duration::from_secs(3);
    // Half of `drain` is kept for the reaction, so the wait ends at 1 s.
    let total = ClosePolicy::graceful().quiet_period(quiet).drain_total(Duration::from_secs(2));
    assert_eq!(end_of_input(total, Activity::Unknown), (Duration::from_secs(1), None));
    let mut plan = ClosePlan::begin(ClosePolicy::graceful().quiet_period(quiet), known(now), now);
    plan.handle(CloseEvent::Output, at(now, 5));
    plan.handle(CloseEvent::Tick, plan.deadline().expect("a check"));
    plan.handle(CloseEvent::Activity(Activity::Unknown), at(now, 6));
    // Silent for all of `drain`, to the moment.
    plan.handle(CloseEvent::Tick, at(now, 2005));
    assert_eq!((plan.stage(), plan.input_ended_while_busy()), (CloseStage::Drain, None));
}

/// A stop explains a close that runs into its limits, so the report has to mention it, also one that is
/// seen after the input has ended, and no other.
#[test]
fn stop_is_told_and_no_other_state() {
    let now = Instant::now();
    for activity in ALL_ACTIVITIES {
        let mut plan = ClosePlan::begin(ClosePolicy::abort(), known(now), now);
        assert!(!plan.was_stopped());
        plan.handle(CloseEvent::Activity(activity), now);
        assert_eq!(plan.was_stopped(), activity == Activity::Stopped, "{activity:?}");
    }
}

/// "Not busy" is said of an agent whose input the plan did not end only if the agent had exited by itself.
/// An abort cuts an agent that may be at work.
#[test]
fn unended_input_is_not_called_idle() {
    let now = Instant::now();
    let exited = CloseStart { exited: true, ..known(now) };
    let waits = CloseStart { writes_pending: true, ..known(now) };
    for (policy, start, busy) in [
        (ClosePolicy::graceful(), exited, Some(false)),
        (ClosePolicy::abort(), exited, None),
        (ClosePolicy::graceful(), waits, None),
        (ClosePolicy::abort(), waits, None),
    ] {
        let plan = ClosePlan::begin(policy, start, now);
        assert_eq!(plan.input_ended_while_busy(), busy, "{:?} {start:?}", policy.mode);
        assert!(!plan.was_cut_short());
    }
}
