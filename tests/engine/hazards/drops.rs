//! The last handle of an engine, dropped where nothing may wait; and the ends that do wait.

use std::time::Duration;

use agentpipe::session::jsonrpc;
use agentpipe::{Agent, AgentCommand, ClosePolicy, Engine};

use super::raw;
use crate::support::own_process::{alone, check_passed, is_alone, test_name, this_test};
use crate::support::process::{Held, is_gone};
use crate::support::{engine, fake, spawn, wait_until};

/// Only SIGKILL ends it, and that comes this long after an abort began.
fn stubborn(grace: Duration) -> AgentCommand {
    let policy = ClosePolicy::graceful().abort_grace(grace);
    fake(&["--ignore-eof", "--ignore-sigterm"]).close_policy(policy)
}

fn is_running(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

// A server on a current-thread runtime dropped its last agent, and blocked for up to three seconds
// until the agent was killed.
#[test]
fn last_drop_in_async_code_does_not_block() {
    if !alone(test_name!()) {
        return;
    }
    let before = Held::now();
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let pid = runtime.block_on(async {
        let engine = Engine::builder().threads(2).build().expect("io_uring");
        let agent = engine.spawn(stubborn(Duration::from_secs(2))).await.expect("spawns");
        let pid = agent.pid();
        drop(engine);
        drop(agent);
        pid
    });
    assert!(is_running(pid), "the drop waited for its end");
    // The threads do it all the same.
    wait_until("it is killed and reaped", || is_gone(pid));
    wait_until("nothing of the engine is left", || Held::now() == before);
}

#[test]
fn finished_shutdown_leaves_nothing() {
    if !alone(test_name!()) {
        return;
    }
    let before = Held::now();
    for blocking in [false, true] {
        let engine = Engine::builder().threads(2).build().expect("io_uring");
        let agents: Vec<_> =
            (0..4).map(|_| spawn(&engine, stubborn(Duration::from_millis(1)))).collect();
        let report = if blocking {
            engine.shutdown_blocking(Duration::ZERO)
        } else {
            pollster::block_on(engine.shutdown(Duration::ZERO))
        };
        assert_eq!((report.agents, report.aborted), (4, 4));
        // Without a wait, and while all handles are there: no agent, no pipe, no ring.
        let mut now = Held::now();
        assert_eq!(now.children, before.children);
        // The handles keep what wakes their threads.
        let kept = now.descriptors.remove("anon_inode");
        assert_eq!((now.descriptors, kept), (before.descriptors.clone(), Some(2)), "{blocking}");
        drop((agents, engine));
        wait_until("the threads have ended", || Held::now() == before);
    }
}

/// Runs the test again, where its last act is a drop, and asserts that its agents are gone with it.
fn check_no_agent_outlives(test: &str) {
    let text = check_passed(&this_test(test).output().expect("runs"));
    let pids: Vec<u32> =
        text.lines().filter_map(|line| line.rsplit_once("agent ")?.1.parse().ok()).collect();
    assert_eq!(pids.len(), 4, "{text}");
    // At once: there is nothing to wait for.
    let left: Vec<u32> = pids.into_iter().filter(|pid| is_running(*pid)).collect();
    assert_eq!(left, Vec::<u32>::new(), "they outlive their process");
}

/// Agents that are killed half a second after their handles are dropped.
#[expect(clippy::print_stdout, reason = "the outer process reads it")]
fn spawn_four(engine: &Engine) -> Vec<Agent> {
    let agents: Vec<Agent> =
        (0..4).map(|_| spawn(engine, stubborn(Duration::from_millis(500)))).collect();
    for agent in &agents {
        println!("agent {}", agent.pid());
    }
    agents
}

// `main` drops its engine and returns. The drop does not wait, and an agent that ignores the end of
// its input would stay behind.
#[test]
fn exit_after_the_last_drop_leaves_no_agent() {
    if is_alone() {
        let engine = Engine::builder().threads(2).build().expect("io_uring");
        let agents = spawn_four(&engine);
        drop(engine);
        drop(agents);
    } else {
        check_no_agent_outlives(test_name!());
    }
}

// The engine is in a static. Its agents are dropped before the exit, which only begins their
// aborts.
#[test]
fn exit_with_a_static_engine_leaves_no_agent() {
    if is_alone() {
        let engine = Box::leak(Box::new(engine()));
        drop(spawn_four(engine));
    } else {
        check_no_agent_outlives(test_name!());
    }
}

// The task that reads for a session has the last handle, on the thread that all sessions share.
#[test]
fn exit_after_dropped_sessions_leaves_no_agent() {
    if is_alone() {
        let engine = engine();
        let start = |agent| pollster::block_on(jsonrpc::Session::builder().start(&engine, agent));
        let grace = Duration::from_millis(500);
        let sessions: Vec<_> = (0..4).map(|_| start(stubborn(grace)).expect("starts")).collect();
        for session in &sessions {
            println!("agent {}", session.as_session().pid());
        }
        drop((sessions, engine));
    } else {
        check_no_agent_outlives(test_name!());
    }
}

// An engine in a static is never dropped. The process must end all the same, and its agents see the
// end of their input.
#[test]
fn exit_does_not_wait_for_a_live_engine() {
    if is_alone() {
        let engine = Box::leak(Box::new(engine()));
        let agent = Box::leak(Box::new(spawn(engine, fake(&[]))));
        raw::exit(if agent.pid() > 0 { 42 } else { 1 });
    }
    let output = this_test(test_name!()).output().expect("runs");
    assert_eq!(output.status.code(), Some(42));
}
