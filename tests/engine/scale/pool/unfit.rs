//! Idle agents that must not be handed out: dead, expired, or of another executable.

use std::fs;
use std::time::Duration;

use agentpipe::{AgentCommand, ErrorKind, ExitStatus, WarmPool, WarmPoolSettings};
use rustix::process::{Pid, Signal, kill_process};

use super::{exit_of, warm};
use crate::support::own_process::{alone, test_name};
use crate::support::process::{children, install};
use crate::support::{check_echo, engine, fake, wait_until};

// The memory killer of the host took the idle agent an hour ago.
#[test]
fn dead_idle_agent_is_not_handed_out() {
    if !alone(test_name!()) {
        return;
    }
    let engine = engine();
    let warm = warm(&engine, &fake(&[]), 2);
    let pids = children();
    let first = Pid::from_raw(i32::try_from(pids[0]).expect("a pid")).expect("not zero");
    kill_process(first, Signal::KILL).expect("ours");
    wait_until("its end is seen", || warm.stats().died == 1);
    let stats = warm.stats();
    assert_eq!((stats.ready, stats.spawned), (1, 2), "it died young, so not replaced yet: {stats}");
    let mut taken = warm.acquire_blocking().expect("taken");
    assert_eq!((taken.agent.pid(), taken.warm), (pids[1], true), "the one that lives");
    check_echo(&mut taken.agent, "{}");
    wait_until("both are replaced", || warm.stats().ready == 2);
    assert_eq!(engine.abandoned(), 0);
}

// The agent's login expired, so it exits at once. The pool must not start it a thousand times a
// second.
#[test]
fn program_that_exits_is_not_respawned_in_a_loop() {
    let engine = engine();
    let command = AgentCommand::new("/bin/sh").arg("-c").arg("exit 7");
    let warm = WarmPool::new(&engine, command, WarmPoolSettings::new().size(3)).expect("a pool");
    for round in 1..=5 {
        wait_until("all have ended", || warm.stats().died == 3 * round);
        // Were one ordered, it would be before this.
        engine.spawn_blocking(fake(&[])).expect("spawns").close_blocking();
        let stats = warm.stats();
        assert_eq!((stats.spawned, stats.ready, stats.pending), (3 * round, 0, 0), "{stats}");
        let mut taken = warm.acquire_blocking().expect("a cold one");
        assert!(!taken.warm);
        assert_eq!(exit_of(&mut taken.agent), Some(ExitStatus::Code(7)));
    }
}

#[test]
fn expired_idle_agent_is_replaced() {
    if !alone(test_name!()) {
        return;
    }
    let engine = engine();
    let settings = WarmPoolSettings::new().size(2).max_age(Duration::from_secs(1));
    let warm = WarmPool::new(&engine, fake(&[]), settings).expect("a pool");
    wait_until("the spares are there", || warm.stats().ready == 2);
    let old = children();
    wait_until("both are replaced", || (warm.stats().expired, warm.stats().ready) == (2, 2));
    wait_until("the old ones are gone", || children().iter().all(|pid| !old.contains(pid)));
    let mut taken = warm.acquire_blocking().expect("taken");
    assert!(!old.contains(&taken.agent.pid()));
    check_echo(&mut taken.agent, "{}");
    // Nor does age follow an agent that was taken.
    wait_until("the others were replaced again", || warm.stats().expired >= 5);
    check_echo(&mut taken.agent, "{}");
    assert_eq!(taken.agent.close_report(), None);
    assert_eq!((engine.abandoned(), warm.stats().died), (0, 0));
}

// The longest duration as `max_age` has no expiry instant: the thread that spawns panicked.
#[test]
fn unlimited_age_is_accepted() {
    let engine = engine();
    let settings = WarmPoolSettings::new().max_age(Duration::MAX);
    let warm = WarmPool::new(&engine, fake(&[]), settings).expect("a pool");
    wait_until("the spare is there", || warm.stats().ready == 1);
    let mut taken = warm.acquire_blocking().expect("taken");
    assert!(taken.warm, "{}", warm.stats());
    check_echo(&mut taken.agent, "{}");
    wait_until("it is replaced", || warm.stats().ready == 1);
}

fn script(version: u32) -> String {
    format!("#!/bin/sh\necho '{{\"version\":{version}}}'\nexec cat\n")
}

/// The version that this take gives, and whether it was warm.
fn take(warm: &WarmPool) -> (u64, bool) {
    let mut taken = warm.acquire_blocking().expect("taken");
    let hello = taken.agent.next_record_blocking().expect("a hello");
    let version = hello.json::<serde_json::Value>().expect("JSON")["version"].as_u64();
    taken.agent.abort_blocking();
    (version.expect("a number"), taken.warm)
}

// The agent was updated in place, or the link in PATH points to another version now.
#[test]
fn replaced_executable_evicts_idle_agents() {
    let folder = tempfile::tempdir().expect("a folder");
    let (early, late) = (folder.path().join("early"), folder.path().join("late"));
    fs::create_dir(&early).expect("ours");
    fs::create_dir(&late).expect("ours");
    install(&late.join("agent"), &script(1));
    let path = format!("{}:{}:/bin:/usr/bin", early.display(), late.display());
    let engine = engine();
    let warm = warm(&engine, &AgentCommand::new("agent").env("PATH", path), 2);
    assert_eq!(take(&warm), (1, true));

    // Replaced.
    wait_until("it is replaced", || warm.stats().ready == 2);
    install(&late.join("agent"), &script(2));
    assert_eq!(take(&warm), (2, false));
    assert_eq!(warm.stats().changed, 2, "{}", warm.stats());
    wait_until("new spares", || warm.stats().ready == 2);
    assert_eq!(take(&warm), (2, true));

    // Another that comes before it on the path.
    wait_until("it is replaced", || warm.stats().ready == 2);
    install(&early.join("agent"), &script(3));
    assert_eq!(take(&warm), (3, false));
    assert_eq!(warm.stats().changed, 4, "{}", warm.stats());

    // Nowhere any more: the error is that of a spawn.
    wait_until("new spares", || warm.stats().ready == 2);
    fs::remove_dir_all(&early).expect("ours");
    fs::remove_dir_all(&late).expect("ours");
    let error = warm.acquire_blocking().expect_err("no program");
    assert_eq!(error.kind(), ErrorKind::ProgramNotFound, "{error}");
    wait_until("nor are there spares", || warm.stats().pending == 0);
    let stats = warm.stats();
    // A shell that had not read its script yet found none.
    assert_eq!((stats.ready, stats.changed + stats.died), (0, 6), "{stats}");
    assert!(stats.failed >= 2, "{stats}");
    assert_eq!(engine.abandoned(), 0);
}
