//! What an agent has put into the background: killed with a guard, named without one.

use agentpipe::{AgentCommand, CloseReason, CloseReport, Engine, ExitStatus};
use rustix::process::{Signal, kill_process};

use crate::support::trees::Trees;
use crate::support::{engine, shell, spawn, wait_until};

/// A job in a session of its own, and two daemons, one without an environment; none holds an output.
fn jobs(trees: &Trees, end: &str) -> AgentCommand {
    let token = &trees.0;
    shell(&format!(
        "setsid sleep {token} </dev/null >/dev/null 2>&1 &
         setsid sh -c 'sleep {token} & exit' </dev/null >/dev/null 2>&1
         env -i $(command -v setsid) sh -c '(sleep {token} &) ; exit' </dev/null >/dev/null 2>&1
         echo '{{}}'; {end}"
    ))
}

fn guarded() -> Engine {
    Engine::builder().guard(true).build().expect("a guard")
}

/// Starts the jobs, and closes the agent or waits for its end.
fn close(engine: &Engine, trees: &Trees, end: &str) -> CloseReport {
    let mut agent = spawn(engine, jobs(trees, end));
    agent.next_record_blocking().expect("it is up");
    wait_until("the jobs are up", || trees.alive().len() == 3);
    match end {
        // It leaves before any close.
        "read line; exit 4" => {
            agent.send_blocking("{}").expect("sent");
            agent.closed_blocking()
        }
        "exec sleep 1000" => agent.abort_blocking(),
        _ => agent.close_blocking(),
    }
}

// Background jobs of a tool left the group of the agent, lived on, and the report said nothing.
#[test]
fn guard_kills_background_jobs_at_the_close() {
    let engine = guarded();
    for end in
        ["read line; exit 3", "exec sleep 1000", "read line; exit 4", "trap '' TERM; sleep 1000"]
    {
        let trees = Trees::new();
        let report = close(&engine, &trees, end);
        assert_eq!(trees.alive(), [], "{end}: {report}");
        assert_eq!(
            (report.strays_killed(), report.left_running()),
            (3, Some(0)),
            "{end}: {report}"
        );
        assert!(report.to_string().contains("3 background processes of it killed"), "{report}");
        let wanted = ExitStatus::Code(4) == report.exit();
        assert_eq!(report.reason() == CloseReason::Exited, wanted, "{end}: {report}");
    }
}

#[test]
fn agent_without_jobs_has_no_strays() {
    let (host, trees) = (guarded(), Trees::new());
    let mut other = spawn(&host, jobs(&trees, "read line"));
    other.next_record_blocking().expect("it is up");
    wait_until("the jobs are up", || trees.alive().len() == 3);
    let report = spawn(&host, shell("read line; exit 3")).close_blocking();
    assert_eq!((report.exit(), report.strays_killed()), (ExitStatus::Code(3), 0));
    assert_eq!(report.left_running(), Some(0), "{report}");
    assert_eq!(trees.alive().len(), 3, "they are jobs of another agent");
    assert_eq!(other.close_blocking().strays_killed(), 3);
    let report = spawn(&engine(), shell("read line; exit 3")).close_blocking();
    assert_eq!(report.left_running(), None, "a daemon would not be known: {report}");
    assert!(!report.to_json().contains("left_running"), "{}", report.to_json());
}

// Without a guard nothing is killed. The job is a child of the agent, so the close has met it.
#[test]
fn job_without_a_guard_is_named_and_lives() {
    let trees = Trees::new();
    let report = close(&engine(), &trees, "read line; exit 3");
    let alive = trees.alive();
    for pid in &alive {
        kill_process(*pid, Signal::KILL).expect("ours");
    }
    assert_eq!(alive.len(), 3, "{report}");
    assert_eq!((report.strays_killed(), report.left_running()), (0, Some(1)), "{report}");
    assert!(report.to_json().contains("\"left_running\":1"), "{}", report.to_json());
}

// A policy that leaves alone what the agent has started holds for the guard, too.
#[test]
fn guard_spares_jobs_of_a_lone_kill() {
    let trees = Trees::new();
    let engine = guarded();
    let policy = agentpipe::ClosePolicy::graceful().kill_group(false);
    let mut agent = spawn(&engine, jobs(&trees, "read line; exit 3").close_policy(policy));
    agent.next_record_blocking().expect("it is up");
    wait_until("the jobs are up", || trees.alive().len() == 3);
    let report = agent.close_with_blocking(policy);
    let alive = trees.alive();
    for pid in &alive {
        kill_process(*pid, Signal::KILL).expect("ours");
    }
    assert_eq!((alive.len(), report.strays_killed()), (3, 0), "{report}");
}
