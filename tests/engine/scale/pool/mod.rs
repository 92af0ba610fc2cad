//! The pool of idle agents: which caller gets one, and how the others end.

mod limits;
mod unfit;

use std::collections::BTreeSet;
use std::sync::Barrier;
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::own_process::{alone, test_name};
use crate::support::process::{children, open_descriptors, threads};
use crate::support::{check_echo, engine, fake, wait_until};
use agentpipe::{
    AgentCommand, ClosePolicy, Engine, ErrorKind, Event, ExitStatus, WarmPool, WarmPoolSettings,
};

fn warm(engine: &Engine, command: &AgentCommand, spares: usize) -> WarmPool {
    let warm = WarmPool::new(engine, command.clone(), WarmPoolSettings::new().size(spares))
        .expect("a pool");
    wait_until("the spares are there", || warm.stats().ready == spares);
    warm
}

// Two callers with the same agent would read each other's records.
#[test]
fn idle_agent_is_handed_out_once() {
    let engine = engine();
    let warm = warm(&engine, &fake(&[]), 4);
    let ready = Barrier::new(8);
    let taken: Vec<_> = thread::scope(|scope| {
        let take = || {
            ready.wait();
            warm.acquire_blocking().expect("taken")
        };
        let takes: Vec<_> = (0..8).map(|_| scope.spawn(take)).collect();
        takes.into_iter().map(|take| take.join().expect("no panic")).collect()
    });
    let pids: BTreeSet<u32> = taken.iter().map(|taken| taken.agent.pid()).collect();
    assert_eq!(pids.len(), 8, "each has its own");
    let ready_ones = taken.iter().filter(|taken| taken.warm).count();
    assert!(ready_ones >= 4, "{}", warm.stats());
    for (number, mut taken) in taken.into_iter().enumerate() {
        check_echo(&mut taken.agent, &format!("{{\"customer\":{number}}}"));
        assert_eq!(taken.agent.close_blocking().exit(), ExitStatus::Code(0));
    }
    wait_until("they are replaced", || warm.stats().ready == 4);
    let stats = warm.stats();
    assert_eq!((stats.warm, stats.warm + stats.misses), (ready_ones as u64, 8), "{stats}");
    assert_eq!(stats.spawned, stats.warm + 4, "none came back: {stats}");
    // Nor is one that was replaced.
    assert!(!pids.contains(&warm.acquire_blocking().expect("taken").agent.pid()));
}

// The agent of a request that timed out may not go to the next caller.
#[test]
fn agent_of_a_cancelled_acquire_is_closed() {
    let engine = engine();
    let warm = warm(&engine, &fake(&[]), 1);
    let mut heard_at_once = 0;
    while warm.stats().unused < 20 {
        let before = warm.stats();
        let mut take = Box::pin(warm.acquire());
        if let Poll::Ready(taken) = take.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            heard_at_once += 1;
            assert!(heard_at_once < 1000, "every take is done when it is asked for");
            taken.expect("taken").agent.close_blocking();
        }
        drop(take);
        wait_until("it is replaced", || {
            let now = warm.stats();
            now.warm + now.unused == before.warm + before.unused + 1 && now.ready == 1
        });
    }
    let stats = warm.stats();
    assert_eq!((stats.warm, stats.misses, engine.abandoned()), (heard_at_once, 0, 0), "{stats}");
    assert_eq!(stats.spawned, stats.warm + stats.unused + 1, "none was put back: {stats}");
    // The two counts change at different moments: one counts from the hand-over on, the other from the
    // adoption by the engine thread.
    wait_until("all others are closed", || {
        (engine.agents(), engine.metrics().total.agents) == (1, 1)
    });
}

// An agent says hello when it starts; the host waits for that hello.
#[test]
fn startup_output_is_kept() {
    let engine = engine();
    let warm = warm(&engine, &fake(&["--records", "3"]), 1);
    wait_until("it wrote", || engine.metrics().total.records_in == 3);
    let mut taken = warm.acquire_blocking().expect("taken");
    assert!(taken.warm);
    for wanted in 0..3 {
        let record = taken.agent.next_record_blocking().expect("kept");
        assert_eq!(record.json::<serde_json::Value>().expect("JSON")["seq"].as_u64(), Some(wanted));
    }
    check_echo(&mut taken.agent, "{}");
    assert_eq!(warm.stats().records_discarded, 0);
}

#[test]
fn startup_output_can_be_discarded() {
    let engine = engine();
    let settings = WarmPoolSettings::new().discard_startup_output(true);
    let warm = WarmPool::new(&engine, fake(&["--records", "3"]), settings).expect("a pool");
    wait_until("it wrote", || engine.metrics().total.records_in == 3);
    let mut taken = warm.acquire_blocking().expect("taken");
    assert!(taken.warm);
    check_echo(&mut taken.agent, "{\"first\":true}");
    assert_eq!(warm.stats().records_discarded, 3, "{}", warm.stats());
    // A cold one is the taker's from its first byte.
    wait_until("it is replaced", || warm.stats().ready == 1);
    let none = WarmPool::new(&engine, fake(&["--records", "3"]), settings.size(0)).expect("a pool");
    let mut cold = none.acquire_blocking().expect("taken");
    assert!(!cold.warm && cold.agent.next_record_blocking().is_some());
}

// The idle agent prints without end and is acquired an hour later.
#[test]
fn flooding_idle_agent_is_held_back() {
    let engine = engine();
    let limits = agentpipe::Limits::new().inbox_high(64 << 10);
    let warm = warm(&engine, &fake(&["--flood"]).limits(limits), 1);
    wait_until("its reading is paused", || engine.metrics().total.pauses == 1);
    let held = engine.metrics().total.bytes_in;
    assert!(held < (64 << 10) + (1 << 20), "{held}");
    let mut taken = warm.acquire_blocking().expect("taken");
    assert!(taken.warm);
    for wanted in 0..5000 {
        let record = taken.agent.next_record_blocking().expect("without end");
        assert_eq!(record.json::<serde_json::Value>().expect("JSON")["seq"].as_u64(), Some(wanted));
    }
    taken.agent.abort_blocking();
}

// A deploy drops the pool of the old version; its agents must go within the limits of the policy,
// the deaf ones too.
#[test]
fn dropped_pool_closes_its_agents() {
    if !alone(test_name!()) {
        return;
    }
    let engine = engine();
    let before = open_descriptors();
    let quick = Duration::from_millis(20);
    let policy = ClosePolicy::graceful().drain(quick).min_drain(quick).terminate(quick).cut(quick);
    let deaf = fake(&["--ignore-eof", "--ignore-sigterm"]).close_policy(policy);
    for command in [fake(&[]), deaf] {
        let warm = warm(&engine, &command, 5);
        assert_eq!(children().len(), 5);
        let other = warm.clone();
        drop(warm);
        assert_eq!(other.stats().ready, 5, "a clone is one, too");
        drop(other);
        wait_until("all are gone", || (children().len(), engine.metrics().total.agents) == (0, 0));
    }
    assert_eq!((open_descriptors(), engine.abandoned()), (before, 0));
    // One that is dropped before its spares are there.
    for _ in 0..20 {
        drop(WarmPool::new(&engine, fake(&[]), WarmPoolSettings::new().size(8)).expect("a pool"));
    }
    // The jobs of all of them are before this one's.
    engine.spawn_blocking(fake(&[])).expect("spawns").close_blocking();
    wait_until("all are gone", || (children().len(), engine.metrics().total.agents) == (0, 0));
    assert_eq!((open_descriptors(), engine.abandoned()), (before, 0));
}

#[test]
fn shutdown_closes_idle_agents_for_good() {
    if !alone(test_name!()) {
        return;
    }
    let engine = engine();
    let warm = warm(&engine, &fake(&[]), 3);
    let report = engine.shutdown_blocking(Duration::from_secs(10));
    assert_eq!((report.agents, report.aborted), (3, 0));
    assert_eq!(children().len(), 0);
    assert_eq!(warm.acquire_blocking().expect_err("stopped").kind(), ErrorKind::EngineStopped);
    warm.refill();
    assert_eq!(warm.stats().pending, 0);
    wait_until("it knows", || warm.stats().unused == 3);
    let stats = warm.stats();
    assert_eq!((stats.spawned, stats.ready, stats.died), (3, 0, 0), "{stats}");
    drop(engine);
    assert_eq!(warm.stats().spawned, 3, "it keeps the engine, and asks nothing of it");
}

#[test]
fn pool_can_be_the_last_handle() {
    if !alone(test_name!()) {
        return;
    }
    let before = (open_descriptors(), children().len(), threads());
    let engine = engine();
    let warm = warm(&engine, &fake(&["--ignore-eof", "--ignore-sigterm"]), 3);
    drop(engine);
    let mut taken = warm.acquire_blocking().expect("the threads are still there");
    check_echo(&mut taken.agent, "{}");
    drop(taken);
    drop(warm);
    wait_until("all is gone", || (open_descriptors(), children().len(), threads()) == before);
}

// The agent needs 300 ms before its first record, as the quickest of the real ones do.
#[test]
fn warm_agent_answers_sooner_than_a_start() {
    let slow = AgentCommand::new("/bin/sh").arg("-c").arg("sleep 0.3; echo '{}'; exec cat");
    let engine = engine();
    let to_first_record = |warm: &WarmPool| {
        let begun = Instant::now();
        let mut taken = warm.acquire_blocking().expect("taken");
        assert!(taken.agent.next_record_blocking().is_some());
        (begun.elapsed(), taken.warm)
    };
    let none =
        WarmPool::new(&engine, slow.clone(), WarmPoolSettings::new().size(0)).expect("a pool");
    let (cold, was_warm) = to_first_record(&none);
    assert!(!was_warm && cold >= Duration::from_millis(300));
    let one = warm(&engine, &slow, 1);
    let records = engine.metrics().total.records_in;
    wait_until("it is up", || engine.metrics().total.records_in > records);
    let (ready, was_warm) = to_first_record(&one);
    println!("to the first record: {ready:?} from a spare, {cold:?} from a cold start");
    assert!(was_warm && ready < cold / 3, "{ready:?} against {cold:?}");
}

/// Everything to the exit.
fn exit_of(agent: &mut agentpipe::Agent) -> Option<ExitStatus> {
    let mut last = None;
    while let Some(event) = agent.next_blocking() {
        last = Some(event);
    }
    match last {
        Some(Event::Exit(status)) => Some(status),
        _ => None,
    }
}
