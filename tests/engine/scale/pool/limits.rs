//! Idle agents never take the place of an agent that a caller waits for.

use std::sync::Barrier;
use std::thread;

use agentpipe::{Agent, Engine, Error, ErrorKind, WarmPool, WarmPoolSettings};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::super::spawn;
use super::warm;
use crate::support::own_process::{alone, test_name};
use crate::support::process::{children, open_descriptors};
use crate::support::{check_echo, fake, wait_until};

// With max_agents(4) and four idle agents in the pool, every spawn would be refused.
#[test]
fn spawn_evicts_an_idle_agent() {
    let engine = Engine::builder().max_agents(4).build().expect("io_uring");
    let warm = warm(&engine, &fake(&[]), 4);
    let ready = Barrier::new(12);
    let results: Vec<Result<Agent, Error>> = thread::scope(|scope| {
        let spawn = || {
            ready.wait();
            engine.spawn_blocking(fake(&[]))
        };
        let spawns: Vec<_> = (0..12).map(|_| scope.spawn(spawn)).collect();
        spawns.into_iter().map(|spawn| spawn.join().expect("no panic")).collect()
    });
    let (agents, refused): (Vec<_>, Vec<_>) = results.into_iter().partition(Result::is_ok);
    assert_eq!((agents.len(), refused.len()), (4, 8), "{}", warm.stats());
    for error in refused.iter().filter_map(|result| result.as_ref().err()) {
        assert_eq!(error.kind(), ErrorKind::ResourceLimit, "{error}");
    }
    let stats = warm.stats();
    assert_eq!((stats.evicted, stats.ready, stats.failed), (4, 0, 0), "{stats}");
    let mut agents: Vec<Agent> = agents.into_iter().flatten().collect();
    agents.iter_mut().for_each(|agent| check_echo(agent, "{}"));

    // A full engine has no place for spares, and says nothing of it.
    warm.refill();
    wait_until("it was tried", || warm.stats().pending == 0);
    assert_eq!((warm.stats().ready, warm.stats().failed), (0, 0));
    assert!(warm.acquire_blocking().is_err(), "nor for a cold one");
    // That take asked for spares, too: one that comes late would have the place.
    wait_until("it was tried", || warm.stats().pending == 0);
    // One place: the take has it.
    agents.pop().expect("four").close_blocking();
    let mut taken = warm.acquire_blocking().expect("a place");
    assert!(!taken.warm);
    check_echo(&mut taken.agent, "{}");
    assert_eq!(engine.abandoned(), 0);
}

// The host has just started. The pool's agents are still being spawned, so none can be closed, but
// their places are taken.
#[test]
fn spawn_goes_before_pending_idle_agents() {
    let engine = Engine::builder().max_agents(2).build().expect("io_uring");
    for _ in 0..20 {
        let warm =
            WarmPool::new(&engine, fake(&[]), WarmPoolSettings::new().size(2)).expect("a pool");
        let mut agents = [spawn(&engine, &fake(&[])), spawn(&engine, &fake(&[]))];
        agents.iter_mut().for_each(|agent| check_echo(agent, "{}"));
        let stats = warm.stats();
        assert_eq!((stats.ready, stats.spawned), (0, stats.evicted), "{stats}");
        agents.iter().for_each(|agent| drop(agent.abort_blocking()));
    }
}

#[test]
fn other_pools_are_evicted_too() {
    let engine = Engine::builder().max_agents(3).build().expect("io_uring");
    let others = warm(&engine, &fake(&["--records", "1"]), 3);
    let warm = WarmPool::new(&engine, fake(&[]), WarmPoolSettings::new()).expect("a pool");
    let mut taken = warm.acquire_blocking().expect("a cold one");
    assert!(!taken.warm);
    check_echo(&mut taken.agent, "{}");
    assert_eq!((others.stats().evicted, others.stats().ready), (1, 2));
}

// The descriptor limit is reached while idle agents hold the missing ones.
#[test]
fn idle_agents_are_evicted_for_descriptors() {
    if !alone(test_name!()) {
        return;
    }
    let engine = Engine::new().expect("io_uring");
    let warm = warm(&engine, &fake(&[]), 4);
    // Room for one agent beside them, while it is spawned, and for no other.
    let room = open_descriptors() + 7;
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: Some(room as u64), maximum }).expect("lower");
    let mut agents: Vec<Agent> = (0..4).map(|_| spawn(&engine, &fake(&[]))).collect();
    agents.iter_mut().for_each(|agent| check_echo(agent, "{}"));
    let given_up = warm.stats().evicted;
    assert!((3..=4).contains(&given_up), "{}", warm.stats());
    let error = loop {
        match engine.spawn_blocking(fake(&[])) {
            Ok(agent) => agents.push(agent),
            Err(error) => break error,
        }
        assert!(agents.len() < 8, "the limit does not bite");
    };
    assert!(error.to_string().contains("RLIMIT_NOFILE"), "{error}");
    assert_eq!((warm.stats().ready, children().len()), (0, agents.len()), "{}", warm.stats());
}
