//! A host that denies the ring while agents run: a sandbox that is closed after the start.

use std::fs::read_to_string;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Instant;

use agentpipe::{Agent, AgentCommand, Event};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::{CEILING, engine, seccomp};

const ALONE: &str = "AGENTPIPE_TEST_ALONE";

#[test]
fn no_agent_outlives_an_engine_thread_that_fails() {
    // The story: the thread can carry nothing any more and ends. Nothing reads, closes or reaps its
    // agents then, so they must not go on; and no task waits for their reports for ever.
    if std::env::var_os(ALONE).is_some() {
        return check_no_agent_outlives_it();
    }
    // A filter stays for the life of a process.
    let output = Command::new(std::env::current_exe().expect("this binary"))
        .args(["--exact", "--nocapture", "--test-threads=1"])
        .arg("late_filter::no_agent_outlives_an_engine_thread_that_fails")
        .env(ALONE, "1")
        .output()
        .expect("runs");
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}{errors}");
    assert!(text.contains("1 passed"), "it did not run: {text}");
}

fn watch(pid: u32) -> OwnedFd {
    let pid = Pid::from_raw(i32::try_from(pid).expect("a pid")).expect("not zero");
    pidfd_open(pid, PidfdFlags::empty()).expect("it is there")
}

fn await_end(pidfd: &OwnedFd, what: &str) {
    let limit = Timespec::try_from(CEILING).expect("a time");
    let ended = poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&limit)).expect("poll");
    assert_eq!(ended, 1, "{what} lives on");
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
    seccomp::deny_from_now_on(libc::SYS_io_uring_enter, libc::EPERM);
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
        assert!(!Path::new(&folder).exists(), "it is no zombie");
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
