//! Two thousand agents on one engine thread.

use std::thread;
use std::time::{Duration, Instant};

use agentpipe::{Agent, Backend, ClosePolicy, CloseStage, ExitStatus};
use rustix::process::{Resource, getrlimit};

use super::{close_all, spawn};
use crate::support::own_process::{alone, test_name};
use crate::support::process::{children, engine_thread, open_descriptors, sleeps_of, threads};
use crate::support::{check_echo, engine, fake, wait_until};

const AGENTS: usize = 2000;
/// Looked at for so long; not a wait for anything.
const WINDOW: Duration = Duration::from_secs(1);

// One engine thread hosts a whole fleet. Every agent must answer, the quiet ones must cost nothing,
// and nothing of them may stay.
#[test]
fn two_thousand_agents_answer_and_leave_nothing() {
    if !alone(test_name!()) {
        return;
    }
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    assert!(limit > 4 * AGENTS as u64 + 100, "RLIMIT_NOFILE is {limit}: raise it for this test");
    let before_engine = (open_descriptors(), children().len(), threads());
    let engine = engine();
    // A thread names itself a moment after it is there.
    let named = || threads().iter().filter(|name| name.starts_with("agentpipe-")).count();
    wait_until("the engine's threads have their names", || named() == 3);
    let (descriptors, own_threads) = (open_descriptors(), threads());

    let begun = Instant::now();
    let command = fake(&[]);
    let mut agents: Vec<Agent> = (0..AGENTS).map(|_| spawn(&engine, &command)).collect();
    let spawned = begun.elapsed();
    for (number, agent) in agents.iter().enumerate() {
        agent.send_blocking(format!("{{\"agent\":{number}}}")).expect("sent");
    }
    for (number, agent) in agents.iter_mut().enumerate() {
        let answer = agent.next_record_blocking().expect("an echo");
        assert_eq!(answer.as_bytes(), format!("{{\"agent\":{number}}}").as_bytes());
    }
    let answered = begun.elapsed();

    // stdin, stdout, stderr, pidfd.
    assert_eq!(open_descriptors(), descriptors + 4 * AGENTS, "descriptors");
    assert_eq!(children().len(), AGENTS);
    // A pipe operation that needs a thread of the kernel would show here as iou-wrk.
    assert_eq!(threads(), own_threads, "threads, the kernel's workers among them");
    let busy = engine.metrics().total;
    assert_eq!((busy.agents, busy.records_in, busy.records_out), (2000, 2000, 2000));

    let (enters, sleeps) = (engine.metrics().total.io.enters, sleeps_of(&engine_thread()));
    thread::sleep(WINDOW);
    assert_eq!(engine.metrics().total.io.enters, enters, "calls of the kernel while all are idle");
    assert_eq!(
        sleeps_of(&engine_thread()),
        sleeps,
        "wake-ups of the engine thread while all are idle"
    );
    // Asked, the thread itself says so: one enter for the question.
    assert_eq!(engine.counters_blocking()[0].stale, 0);

    let begun = Instant::now();
    let reports = close_all(&agents, ClosePolicy::graceful());
    let closed = begun.elapsed();
    for report in &reports {
        assert_eq!(report.exit(), ExitStatus::Code(0), "{report}");
    }
    let stats = engine.metrics().total;
    assert_eq!((stats.agents, stats.closed(), stats.close_times.count()), (0, 2000, 2000));
    assert_eq!(stats.closed_in(CloseStage::Kill), 0, "{stats}");
    assert_eq!(open_descriptors(), descriptors);
    assert_eq!((children().len(), threads()), (0, own_threads));
    let ring = engine.counters_blocking()[0];
    assert_eq!((ring.in_kernel, ring.buffers - ring.buffers_free, ring.stale), (1, 0, 0));
    drop(agents);
    assert_eq!(engine.abandoned(), 0);
    drop(engine);
    // The drop does not wait for the threads.
    let left = || (open_descriptors(), children().len(), threads());
    wait_until("the engine has ended", || left() == before_engine);
    println!("spawned {spawned:?}, answered {answered:?}, closed {closed:?}; {stats}");
}

// A shutdown submits six entries per agent, four full queues at once: a pair split by the full
// queue would leave an agent with an open pipe.
#[test]
fn thousand_aborts_in_one_turn_all_end() {
    if !alone(test_name!()) {
        return;
    }
    let engine = engine();
    let descriptors = open_descriptors();
    let command =
        fake(&["--flood", "--ignore-sigterm"]).limits(agentpipe::Limits::new().inbox_high(1));
    let agents: Vec<Agent> = (0..1000).map(|_| spawn(&engine, &command)).collect();
    let paused = || agents.iter().filter(|agent| agent.stats().pauses > 0).count();
    wait_until("all are paused", || paused() == 1000);
    // Asked of the thread: what it counted last may be older than the cancel of the last read.
    let before = engine.counters_blocking()[0];
    assert!(engine.kernel_features().sq_entries < 1000, "{}", engine.kernel_features());
    let report = engine.shutdown_blocking(Duration::ZERO);
    assert_eq!((report.agents, report.aborted), (1000, 1000));
    let stats = engine.metrics().total;
    assert_eq!((stats.agents, stats.closed()), (0, 1000), "{stats}");
    for agent in &agents {
        let report = agent.close_report().expect("closed");
        assert_ne!(report.exit(), ExitStatus::StillRunning, "{report}");
    }
    assert_eq!((stats.io.stale, children().len()), (0, 0));
    // Per agent a cancel and a close for each of four ends.
    // The doorbell was rung for the question, and may be for the shutdown, and is watched again.
    let submitted = stats.io.submitted - before.submitted;
    let is_ring = engine.backend() == Backend::IoUring;
    assert!(!is_ring || (8000..=8002).contains(&submitted), "{submitted}: {stats}");
    drop(agents);
    drop(engine);
    assert!(open_descriptors() < descriptors);
}

#[test]
fn one_agent_among_many_is_served() {
    let engine = engine();
    let command = fake(&[]);
    let mut agents: Vec<Agent> = (0..50).map(|_| spawn(&engine, &command)).collect();
    for agent in agents.iter_mut().rev() {
        check_echo(agent, "{}");
    }
}
