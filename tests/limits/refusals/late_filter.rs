//! A host that denies the ring while agents run: a sandbox that is closed after the start.

use std::fs::read_to_string;
use std::path::Path;
use std::thread;
use std::time::Instant;

use agentpipe::{Agent, AgentCommand, Backend, Event};

use super::seccomp;
use crate::support::own_process::{alone, test_name};
use crate::support::process::{await_end, watch};
use crate::support::{CEILING, engine};

// The thread can submit nothing any more and ends. Its agents must end with it, and no task may
// wait for their reports without end.
#[test]
fn failed_engine_thread_leaves_no_agent() {
    if alone(test_name!()) {
        check_no_agent_outlives_it();
    }
}

/// Nothing but SIGKILL ends it, nor its child, whose process id it says.
fn deaf_with_a_child(engine: &agentpipe::Engine) -> (Agent, u32) {
    let script = "trap '' TERM PIPE HUP; sleep 1000 & echo \"[$!]\"; while :; do sleep 1000; done";
    let command = AgentCommand::new("/bin/sh").args(["-c", script]);
    let mut agent = engine.spawn_blocking(command).expect("spawns");
    let said: [u32; 1] = agent.next_record_blocking().expect("a record").json().expect("JSON");
    (agent, said[0])
}

fn check_no_agent_outlives_it() {
    let engine = engine();
    let mut agents: Vec<_> = (0..3).map(|_| deaf_with_a_child(&engine)).collect();
    let watched: Vec<_> =
        agents.iter().map(|(agent, child)| (watch(agent.pid()), watch(*child))).collect();
    let is_ring = engine.backend() == Backend::IoUring;
    let call = if is_ring { libc::SYS_io_uring_enter } else { libc::SYS_epoll_pwait };
    seccomp::deny_from_now_on(call, libc::EPERM);
    // Has the thread act, and so enter once more.
    let _no_answer = engine.counters_blocking();
    for (leader, child) in &watched {
        await_end(leader, "an agent");
        await_end(child, "a child of an agent");
    }
    for (agent, _) in &mut agents {
        let mut last = None;
        while let Some(event) = agent.next_blocking() {
            last = Some(event);
        }
        assert!(matches!(last, Some(Event::Exit(_))), "{last:?}");
        let report = agent.closed_blocking();
        agent.send_blocking("{}").expect_err("the agent is gone");
        let folder = format!("/proc/{}", report.pid());
        assert!(!Path::new(&folder).exists(), "it is reaped");
    }
    drop(agents);
    drop(engine);
    let begun = Instant::now();
    let is_engine = |task: &std::fs::DirEntry| {
        read_to_string(task.path().join("comm")).is_ok_and(|name| name.starts_with("agentpipe-"))
    };
    let threads = || std::fs::read_dir("/proc/self/task").expect("proc").flatten();
    while threads().any(|task| is_engine(&task)) {
        assert!(begun.elapsed() < CEILING, "the thread is still there");
        thread::yield_now();
    }
}
