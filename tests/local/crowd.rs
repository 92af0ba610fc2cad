//! Two hundred agents on the caller's thread, and how many there may be.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use agentpipe::{AgentCommand, ErrorKind, ExitStatus, LocalAgent, LocalEngine};
use tokio::task::LocalSet;

use super::{check_echo, in_each, spawn, until};
use crate::support::own_process::{alone, test_name};
use crate::support::process::{open_descriptors, sleeps_of, threads};
use crate::support::{HANG, fake};

const AGENTS: usize = 200;

/// All of them at once, while the caller's other tasks run.
async fn crowd(engine: &LocalEngine) -> Vec<LocalAgent> {
    let spawns: Vec<_> = (0..AGENTS)
        .map(|_| {
            let engine = engine.clone();
            tokio::task::spawn_local(async move { spawn(&engine, &[]).await })
        })
        .collect();
    let mut agents = Vec::new();
    for spawn in spawns {
        agents.push(spawn.await.expect("no panic"));
    }
    agents
}

// A server has a thread for each core and agents on each. All must answer, the quiet ones must cost
// nothing, and nothing of them may stay.
#[test]
fn two_hundred_local_agents_leave_nothing() {
    if !alone(test_name!()) {
        return;
    }
    // With a clock, for the test alone.
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build();
    // The first one in a process leaves what catches signals.
    drop(runtime().expect("a runtime"));
    let before = (open_descriptors(), threads());
    let runtime = runtime().expect("a runtime");
    LocalSet::new().block_on(&runtime, async {
        let engine = LocalEngine::new().expect("io_uring");
        let named = || threads().iter().filter(|name| *name == "agentpipe-spawn").count();
        until("the spawning threads have their names", || named() == 2).await;
        let (descriptors, own_threads) = (open_descriptors(), threads());
        let mut agents = crowd(&engine).await;
        for (number, agent) in agents.iter_mut().enumerate() {
            check_echo(agent, &format!("{{\"agent\":{number}}}")).await;
        }
        // stdin, stdout, stderr, pidfd.
        assert_eq!(open_descriptors(), descriptors + 4 * AGENTS);
        // A burst of spawns starts more spawn threads, which end by themselves. A pipe operation that
        // needs a thread of the kernel would show here as iou-wrk.
        until("the spawn threads of the burst have ended", || named() == 2).await;
        assert_eq!(threads(), own_threads, "threads, the kernel's workers among them");

        let (enters, slept) =
            (engine.metrics().io.enters, sleeps_of(Path::new("/proc/thread-self")));
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(engine.metrics().io.enters, enters, "calls of the kernel while all are idle");
        let slept = sleeps_of(Path::new("/proc/thread-self")) - slept;
        // The test's own clock wakes it, and by milliseconds too early at that.
        assert!(slept <= 3, "{slept} wake-ups while all are idle");

        let closes: Vec<_> = agents
            .into_iter()
            .map(|agent| tokio::task::spawn_local(async move { agent.close().await }))
            .collect();
        for close in closes {
            let report = close.await.expect("no panic");
            assert_eq!(report.exit(), ExitStatus::Code(0), "{report}");
            assert!(!fs::exists(format!("/proc/{}", report.pid())).expect("proc"), "{report}");
        }
        assert_eq!((engine.agents(), engine.abandoned()), (0, 0));
        let counters = engine.metrics().io;
        assert_eq!((counters.in_kernel, counters.stale, counters.queued), (0, 0, 0));
        assert_eq!(counters.buffers_free, counters.buffers);
        assert_eq!((open_descriptors(), threads()), (descriptors, own_threads));
    });
    drop(runtime);
    // The spawning threads end by themselves.
    let begun = Instant::now();
    while (open_descriptors(), threads()) != before {
        assert!(begun.elapsed() < HANG, "{:?} is left, and was {before:?}", threads());
        std::thread::yield_now();
    }
}

// There were nine agents at a limit of two, because each spawn looked at the count before any had
// spawned.
#[test]
fn burst_never_exceeds_max_agents() {
    in_each(async |_: LocalEngine| {
        let engine = LocalEngine::builder().max_agents(3).build().expect("io_uring");
        let spawns: Vec<_> = (0..16)
            .map(|_| {
                let engine = engine.clone();
                tokio::task::spawn_local(async move { engine.spawn(fake(&[])).await })
            })
            .collect();
        let (mut agents, mut refused) = (Vec::new(), 0);
        for spawn in spawns {
            match spawn.await.expect("no panic") {
                Ok(agent) => agents.push(agent),
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::ResourceLimit, "{error}");
                    assert!(error.to_string().contains("the engine has its 3 agents"), "{error}");
                    refused += 1;
                }
            }
        }
        assert_eq!((agents.len(), refused), (3, 13));
        // A close frees its place at once, every time.
        for _ in 0..20 {
            agents.pop().expect("three of them").abort().await;
            let mut next = engine.spawn(fake(&[])).await.expect("its place is free");
            check_echo(&mut next, "{}").await;
            agents.push(next);
            assert!(engine.spawn(fake(&[])).await.is_err(), "and no other");
        }
        agents.pop().expect("three of them").abort().await;
        let missing = engine.spawn(AgentCommand::new("/no/such")).await.expect_err("no program");
        assert_eq!(missing.kind(), ErrorKind::ProgramNotFound, "a failed spawn takes no place");
        agents.push(engine.spawn(fake(&[])).await.expect("still free"));
        for agent in agents {
            agent.close().await;
        }
    });
}

#[test]
fn too_large_max_agents_is_refused_at_the_start() {
    in_each(async |_: LocalEngine| {
        let error = LocalEngine::builder().max_agents(1 << 40).build().expect_err("does not fit");
        assert_eq!(error.kind(), ErrorKind::ResourceLimit);
        assert!(error.to_string().contains("max_agents("), "{error}");
    });
}
