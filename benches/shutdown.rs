//! From the decision to close until the agent is reaped.
//!
//! `blocked`: the agent sits in write(2) on a full pipe and has a SIGTERM handler that restarts
//! it. The limit is SIGKILL and waitpid; the peer is tokio: drop the ChildStdout, then wait.
//! `idle`: an echo agent; the limit is closing its stdin and waitpid.

mod support;

use std::io::Read;
use std::process::Child;
use std::time::{Duration, Instant};

use agentpipe::{Agent, AgentCommand, Engine, Limits};
use criterion::{Criterion, criterion_group, criterion_main};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::ioctl_fionread;

/// Blocked on a full pipe for good: nobody reads, SIGTERM restarts the write.
fn blocked_agent() -> Vec<String> {
    ["fake", "--flood", "--sigterm-restart", "--record-size", "4096"].map(str::to_owned).to_vec()
}

/// Waits until a default pipe holds all that it can: then the writer is blocked.
fn await_full(stdout: impl std::os::fd::AsFd) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while ioctl_fionread(&stdout).expect("a pipe") < 60_000 {
        assert!(Instant::now() < deadline, "the pipe never filled");
        let mut fds = [PollFd::new(&stdout, PollFlags::IN)];
        poll(&mut fds, None).expect("pollable");
        std::thread::yield_now();
    }
}

fn total(rounds: u64, mut round: impl FnMut() -> Duration) -> Duration {
    (0..rounds).map(|_| round()).sum()
}

fn timed(act: impl FnOnce()) -> Duration {
    let start = Instant::now();
    act();
    start.elapsed()
}

fn kill_and_wait(mut child: Child) -> Duration {
    timed(|| {
        child.kill().expect("killable");
        child.wait().expect("reapable");
    })
}

/// An agent whose output nobody takes: reading pauses at one byte, so its pipe fills.
fn stuck(engine: &Engine) -> Agent {
    let command =
        AgentCommand::new(support::AGENT).args(blocked_agent()).limits(Limits::new().inbox_high(1));
    let agent = engine.spawn_blocking(command).expect("the built-in agent starts");
    let deadline = Instant::now() + Duration::from_secs(10);
    while agent.stats().pauses == 0 {
        assert!(Instant::now() < deadline, "reading never paused");
        std::thread::yield_now();
    }
    // The pipe is the engine's; that its writer is blocked shows in its state: this agent sleeps
    // nowhere but in write(2).
    let stat = format!("/proc/{}/stat", agent.pid());
    let mut asleep = 0;
    while asleep < 20 {
        assert!(Instant::now() < deadline, "the agent never blocked");
        let sleeps = std::fs::read_to_string(&stat).is_ok_and(|text| text.contains(") S "));
        asleep = if sleeps { asleep + 1 } else { 0 };
        std::thread::yield_now();
    }
    agent
}

fn blocked(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("shutdown/blocked");
    group.warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(3));
    group.sample_size(20);
    group.bench_function("sigkill_waitpid", |bencher| {
        bencher.iter_custom(|rounds| {
            total(rounds, || {
                let child = support::plain(&blocked_agent());
                await_full(child.stdout.as_ref().expect("piped"));
                kill_and_wait(child)
            })
        });
    });
    group.bench_function("tokio_drop_wait", |bencher| {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        bencher.iter_custom(|rounds| {
            total(rounds, || {
                runtime.block_on(async {
                    let mut child = tokio::process::Command::new(support::AGENT)
                        .args(blocked_agent())
                        .stdin(std::process::Stdio::piped())
                        .stdout(std::process::Stdio::piped())
                        .spawn()
                        .expect("the built-in agent starts");
                    await_full(child.stdout.as_ref().expect("piped"));
                    let start = Instant::now();
                    drop(child.stdout.take());
                    child.wait().await.expect("reapable");
                    start.elapsed()
                })
            })
        });
    });
    let engine = Engine::new().expect("io_uring");
    group.bench_function("agentpipe_abort", |bencher| {
        bencher.iter_custom(|rounds| {
            total(rounds, || {
                let agent = stuck(&engine);
                timed(|| {
                    let report = agent.abort_blocking();
                    assert!(report.exit().code().is_some(), "it leaves by itself: {report}");
                })
            })
        });
    });
    group.finish();
}

fn idle(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("shutdown/idle");
    group.warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(3));
    group.sample_size(20);
    group.bench_function("eof_waitpid", |bencher| {
        bencher.iter_custom(|rounds| {
            total(rounds, || {
                let mut child =
                    support::plain(&["fake".to_owned(), "--records".into(), "1".into()]);
                let mut first = [0; 2048];
                let count = child.stdout.as_mut().expect("piped").read(&mut first);
                assert!(count.expect("readable") > 0);
                timed(|| {
                    drop(child.stdin.take());
                    child.wait().expect("reapable");
                })
            })
        });
    });
    let engine = Engine::new().expect("io_uring");
    group.bench_function("agentpipe_close", |bencher| {
        bencher.iter_custom(|rounds| {
            total(rounds, || {
                let command = AgentCommand::new(support::AGENT).args(["fake", "--records", "1"]);
                let mut agent = engine.spawn_blocking(command).expect("it starts");
                agent.next_record_blocking().expect("a record");
                // An idle agent has been silent for longer than the settling takes.
                std::thread::sleep(Duration::from_millis(6));
                timed(|| {
                    let report = agent.close_blocking();
                    assert!(report.exit().success(), "{report}");
                })
            })
        });
    });
    group.finish();
}

criterion_group!(benches, blocked, idle);
criterion_main!(benches);
