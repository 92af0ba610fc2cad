//! What one idle agent costs this process: bytes of user memory, descriptors, and operations in the
//! ring, counted and not estimated.

use std::thread;
use std::time::{Duration, Instant};

use crate::allocator::held;
use crate::support::own_process::{alone, test_name};
use crate::support::process::open_descriptors;
use crate::support::{CEILING, check_echo, fake};
use agentpipe::{Agent, AgentCommand, Engine, ExitStatus};

/// Enough that what is held once and grows by doubling does not decide.
const AGENTS: usize = 200;
/// The documented limit, without the handle.
const BYTES_MAX: usize = 4096;

fn echo() -> AgentCommand {
    fake(&[])
}

/// The engine thread gives things up a moment after the reader has its events.
fn await_at_most(limit: usize, look: impl Fn() -> usize, what: &str) -> usize {
    let begun = Instant::now();
    loop {
        let now = look();
        if now <= limit {
            return now;
        }
        assert!(begun.elapsed() < CEILING, "{what}: {now}, and not {limit} at the most");
        thread::sleep(Duration::from_millis(2));
    }
}

/// Much in both directions, and a record larger than any buffer.
fn burst(agent: &mut Agent) {
    let record = |number: usize| format!("{{\"n\":{number}}}");
    for number in 0..500 {
        agent.send_blocking(record(number)).expect("sent");
    }
    for number in 0..500 {
        let echo = agent.next_record_blocking().expect("an echo");
        assert_eq!(echo.as_bytes(), record(number).as_bytes());
    }
    check_echo(agent, &format!("{{\"x\":\"{}\"}}", "x".repeat(100 << 10)));
}

#[test]
fn idle_agent_costs_four_descriptors_and_4_kib() {
    if !alone(test_name!()) {
        return;
    }
    let engine = Engine::new().expect("io_uring");
    // The first pays for what there is once: the arena's chunk, the tables of the ring.
    let mut first = engine.spawn_blocking(echo()).expect("spawns");
    check_echo(&mut first, "{}");
    burst(&mut first);

    let mut agents = Vec::with_capacity(AGENTS);
    let (bytes, open) = (held(), open_descriptors());
    let in_kernel = engine.counters_blocking()[0].in_kernel;
    for _ in 0..AGENTS {
        agents.push(engine.spawn_blocking(echo()).expect("spawns"));
    }
    for agent in &mut agents {
        check_echo(agent, "{\"first\":1}");
    }
    let per_agent = || held().saturating_sub(bytes) / AGENTS;
    let quiet = await_at_most(BYTES_MAX, per_agent, "bytes of an idle agent");
    assert_eq!(open_descriptors(), open + 4 * AGENTS);
    // A read of each output and the watch of the pidfd.
    assert_eq!(engine.counters_blocking()[0].in_kernel, in_kernel + 3 * AGENTS as u64);

    // After a burst in both directions nothing of it is kept.
    for agent in &mut agents {
        burst(agent);
    }
    let after = await_at_most(BYTES_MAX, per_agent, "bytes of an agent after a burst");
    println!(
        "bytes of an idle agent: {quiet}; after a burst: {after}; of its handle: {}",
        size_of::<Agent>()
    );
    let ring = engine.counters_blocking()[0];
    assert_eq!(ring.buffers, ring.buffers_free, "idle reads hold no buffer");

    for agent in agents {
        assert_eq!(agent.close_blocking().exit(), ExitStatus::Code(0));
    }
    // The tables of the engine keep their room for the highest number of agents so far, rounded up.
    await_at_most(bytes + AGENTS * 2304, held, "bytes after all closes");
    assert_eq!(await_at_most(open, open_descriptors, "descriptors after all closes"), open);
    assert_eq!(first.close_blocking().exit(), ExitStatus::Code(0));
}

// A record that was read in a burst may be a part of a chunk, and keeps that alive.
#[test]
fn kept_record_keeps_at_most_five_times_its_length() {
    if !alone(test_name!()) {
        return;
    }
    let engine = Engine::new().expect("a backend");
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("records");
    let line = |len: usize| format!("{{\"x\":\"{}\"}}\n", "x".repeat(len));
    let pair = [line(60 << 10), line(3 << 20)].concat();
    std::fs::write(&path, pair.repeat(40)).expect("written");
    let before = held();
    let mut agent = engine.spawn_blocking(AgentCommand::new("cat").arg(path)).expect("cat starts");
    let mut kept = Vec::new();
    while let Some(record) = agent.next_record_blocking() {
        if record.len() < 1 << 20 {
            kept.push(record);
        }
    }
    agent.close_blocking();
    let bytes: usize = kept.iter().map(agentpipe::Record::len).sum();
    assert_eq!(kept.len(), 40);
    // Beside them: what an engine keeps for reuse.
    await_at_most(before + 5 * bytes + (2 << 20), held, "bytes");
}
