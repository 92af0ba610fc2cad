//! Many agents at once: a thousand end together.
//!
//! `abort_blocked`: each agent sits in write(2) on a full pipe. The limit is SIGKILL to all, then
//! waitpid for all; ours is `abort()` on all handles, until the last report is there.
//! `close_idle`: echo agents; the limit is closing every stdin, then waitpid for all.

mod support;
mod waits;

use std::process::Child;
use std::time::{Duration, Instant};

use agentpipe::{Agent, AgentCommand, Engine, Limits};
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use futures_util::future::join_all;
use rustix::io::ioctl_fionread;

use crate::waits::{await_that, is_asleep};

/// Agents in a round; few where the bench is only run as a test.
fn agents() -> usize {
    if std::env::args().any(|arg| arg == "--test") { 20 } else { 1000 }
}

/// Blocked on a full pipe for good: nobody reads, SIGTERM restarts the write.
fn blocked_agent() -> Vec<String> {
    ["fake", "--flood", "--sigterm-restart", "--record-size", "4096"].map(str::to_owned).to_vec()
}

fn total(rounds: u64, mut round: impl FnMut() -> Duration) -> Duration {
    (0..rounds).map(|_| round()).sum()
}

fn kill_all_wait_all(count: usize) -> Duration {
    let mut children: Vec<Child> = (0..count).map(|_| support::plain(&blocked_agent())).collect();
    for child in &children {
        let stdout = child.stdout.as_ref().expect("piped");
        await_that("the pipe fills", || ioctl_fionread(stdout).expect("a pipe") >= 60_000);
        await_that("the agent blocks", || is_asleep(child.id()));
    }
    let start = Instant::now();
    for child in &mut children {
        child.kill().expect("killable");
    }
    for child in &mut children {
        child.wait().expect("reapable");
    }
    start.elapsed()
}

/// Agents whose output nobody takes: reading pauses at one byte, so their pipes fill.
fn blocked(engine: &Engine, count: usize) -> Vec<Agent> {
    let command =
        AgentCommand::new(support::AGENT).args(blocked_agent()).limits(Limits::new().inbox_high(1));
    let spawn = |_| engine.spawn_blocking(command.clone()).expect("the built-in agent starts");
    let agents: Vec<Agent> = (0..count).map(spawn).collect();
    for agent in &agents {
        await_that("reading pauses", || agent.stats().pauses > 0);
        await_that("the agent blocks", || is_asleep(agent.pid()));
    }
    agents
}

fn abort_all(engine: &Engine, count: usize) -> Duration {
    let agents = blocked(engine, count);
    let start = Instant::now();
    let reports = pollster::block_on(join_all(agents.iter().map(Agent::abort)));
    let took = start.elapsed();
    assert_eq!(reports.len(), count);
    took
}

fn abort_blocked(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("scale/abort_blocked");
    group.warm_up_time(Duration::from_millis(1)).measurement_time(Duration::from_millis(1));
    group.sample_size(10);
    let count = agents();
    group.bench_function(BenchmarkId::new("kill_all_wait_all", count), |bencher| {
        bencher.iter_custom(|rounds| total(rounds, || kill_all_wait_all(count)));
    });
    let engine = Engine::new().expect("io_uring");
    group.bench_function(BenchmarkId::new("agentpipe_abort", count), |bencher| {
        bencher.iter_custom(|rounds| total(rounds, || abort_all(&engine, count)));
    });
    group.finish();
}

criterion_group!(benches, abort_blocked);
criterion_main!(benches);
