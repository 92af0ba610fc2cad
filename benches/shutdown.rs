//! Shutdown: from the decision to close until the agent is reaped. `shutdown/SCENARIO/CONTESTANT/AGENTS`.
//!
//! `idle`: the agent has written one record and waits for input. `flush_1m`: it is in the middle of
//! writing 1 MiB, and all of it must arrive. `blocked`: it is blocked in write(2) on a full pipe that is
//! not read, and restarts that write on SIGTERM; one such agent, or 100 or 1000 that are closed at once.
//! The first contestant of each is the limit. `ladder_10ms` is the close of most SDKs (end of input,
//! SIGTERM, SIGKILL, without reading) with 10 ms per stage where they wait 2 to 10 s.

mod support;

use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::process::Child;
use std::time::{Duration, Instant};

use agentpipe::{
    Agent, AgentCommand, Backend, ClosePolicy, CloseReport, Engine, Limits, LocalAgent, LocalEngine,
};
use criterion::{Criterion, criterion_group, criterion_main};
use futures_util::future::join_all;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::ioctl_fionread;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use tokio::io::AsyncReadExt;
use tokio::task::LocalSet;

use crate::support::contest::{Contest, Contestant, rounds};
use crate::support::read_buffer::ReadBuffer;
use crate::support::stopwatch::{Stopwatch, Took};
use crate::support::{WAIT_MAX, await_that, is_asleep, is_test};

const FLUSH: u64 = 1 << 20;
/// How long each stage of `ladder_10ms` waits.
const RUNG: Duration = Duration::from_millis(10);

fn idle_agent() -> Vec<String> {
    ["fake", "--records", "1"].map(str::to_owned).into()
}

fn flushing_agent() -> Vec<String> {
    ["fake", "--flood", "1m", "--record-size", "4096"].map(str::to_owned).into()
}

fn blocked_agent() -> Vec<String> {
    ["fake", "--flood", "--sigterm-restart", "--record-size", "4096"].map(str::to_owned).into()
}

fn timed(act: impl FnOnce()) -> Took {
    let watch = Stopwatch::start();
    act();
    watch.stop()
}

/// Runs a contest. The start of the agents is a part of each slice.
fn contest(
    criterion: &mut Criterion,
    group: &'static str,
    agents: usize,
    contestants: Vec<Contestant<'_>>,
) {
    let parameter = agents.to_string();
    let slice = Duration::from_millis(250);
    let contest = Contest { group, parameter, slice, throughput: None };
    contest.run(criterion, contestants);
}

/// Waits until a pipe of the default size is full and its writer is blocked.
fn await_full(stdout: impl AsFd, pid: u32) {
    let is_full = || ioctl_fionread(&stdout).expect("a pipe") >= 60_000;
    await_that("the agent blocks", || is_full() && is_asleep(pid));
}

fn full(child: &mut Child) {
    await_full(child.stdout.as_ref().expect("piped"), child.id());
}

fn spoke(child: &mut Child) {
    let count = child.stdout.as_mut().expect("piped").read(&mut [0; 4096]);
    assert!(count.expect("readable") > 0);
    await_asleep(child.id());
}

/// Waits until an agent that has written everything waits for input.
fn await_asleep(pid: u32) {
    await_that("the agent waits for input", || is_asleep(pid));
}

/// Spawns plain children and waits until each is in the state that is measured.
fn plain(args: &[String], count: usize, ready: fn(&mut Child)) -> Vec<Child> {
    let mut children: Vec<Child> = (0..count).map(|_| support::plain(args)).collect();
    children.iter_mut().for_each(ready);
    children
}

fn wait_all(children: &mut [Child]) {
    for child in children {
        child.wait().expect("reapable");
    }
}

fn sigkill_waitpid(mut children: Vec<Child>) -> Took {
    timed(|| {
        for child in &mut children {
            child.kill().expect("killable");
        }
        wait_all(&mut children);
    })
}

fn eof_waitpid(mut children: Vec<Child>) -> Took {
    timed(|| {
        for child in &mut children {
            drop(child.stdin.take());
        }
        wait_all(&mut children);
    })
}

/// Closes stdin, reads everything, waits.
fn eof_read_waitpid(mut children: Vec<Child>) -> Took {
    let mut buffer = ReadBuffer::new();
    timed(|| {
        for child in &mut children {
            drop(child.stdin.take());
            let (stdout, mut bytes) = (child.stdout.as_mut().expect("piped"), 0);
            loop {
                match stdout.read(buffer.bytes()).expect("readable") {
                    0 => break,
                    count => bytes += count as u64,
                }
            }
            assert_eq!(bytes, FLUSH);
            assert!(child.wait().expect("reapable").success());
        }
    })
}

/// A stage is over when all agents have exited, or its time is over.
fn ladder(mut children: Vec<Child>) -> Took {
    let pids: Vec<Pid> = children.iter().map(Pid::from_child).collect();
    let open = |pid: &Pid| pidfd_open(*pid, PidfdFlags::empty()).expect("unreaped");
    let exits: Vec<OwnedFd> = pids.iter().map(open).collect();
    timed(|| {
        for child in &mut children {
            drop(child.stdin.take());
        }
        let mut left = stay(&exits, Instant::now() + RUNG);
        if !left.is_empty() {
            for index in &left {
                kill_process(pids[*index], Signal::TERM).expect("unreaped");
            }
            left = stay(&exits, Instant::now() + RUNG);
        }
        for index in left {
            children[index].kill().expect("killable");
        }
        wait_all(&mut children);
    })
}

/// Returns the agents that have not exited at `until`.
fn stay(exits: &[OwnedFd], until: Instant) -> Vec<usize> {
    let stays = |exit: &OwnedFd| {
        let left = until.saturating_duration_since(Instant::now());
        let limit = Timespec::try_from(left).expect("short");
        poll(&mut [PollFd::new(exit, PollFlags::IN)], Some(&limit)).expect("pollable") == 0
    };
    (0..exits.len()).filter(|index| stays(&exits[*index])).collect()
}

type TokioChild = tokio::process::Child;

/// Closes a number of children of tokio at once.
fn tokio(
    args: &[String],
    count: usize,
    is_full: bool,
    close: impl AsyncFn(&mut TokioChild) + Copy,
) -> Took {
    support::runtime().block_on(async {
        let child = |_| support::tokio_child(args);
        let mut children: Vec<TokioChild> = (0..count).map(child).collect();
        for child in &mut children {
            let pid = child.id().expect("unreaped");
            let stdout = child.stdout.as_mut().expect("piped");
            if is_full {
                await_full(stdout.as_fd(), pid);
            } else {
                assert!(stdout.read(&mut [0; 4096]).await.expect("readable") > 0);
                await_asleep(pid);
            }
        }
        let watch = Stopwatch::start();
        join_all(children.iter_mut().map(async |child| close(child).await)).await;
        watch.stop()
    })
}

async fn drop_wait(child: &mut TokioChild) {
    drop(child.stdout.take());
    child.wait().await.expect("reapable");
}

async fn eof_read_wait(child: &mut TokioChild) {
    drop(child.stdin.take());
    let mut bytes = Vec::new();
    child.stdout.as_mut().expect("piped").read_to_end(&mut bytes).await.expect("readable");
    assert_eq!(bytes.len() as u64, FLUSH);
    assert!(child.wait().await.expect("reapable").success());
}

/// An agent whose output is not taken: reading pauses at one byte, so its pipe fills.
fn unread(args: &[String]) -> AgentCommand {
    AgentCommand::new(support::AGENT).args(args).limits(Limits::new().inbox_high(1))
}

fn await_blocked(agent: &Agent) {
    await_that("the agent blocks", || agent.stats().pauses > 0 && is_asleep(agent.pid()));
}

async fn await_local_blocked(agent: &LocalAgent) {
    let deadline = Instant::now() + WAIT_MAX;
    while agent.stats().pauses == 0 || !is_asleep(agent.pid()) {
        assert!(Instant::now() < deadline, "the agent never blocked");
        tokio::task::yield_now().await;
    }
}

fn blocked_agents(engine: &Engine, args: &[String], count: usize) -> Vec<Agent> {
    let spawn = |_| engine.spawn_blocking(unread(args)).expect("it starts");
    let agents: Vec<Agent> = (0..count).map(spawn).collect();
    agents.iter().for_each(await_blocked);
    agents
}

/// Asserts that each agent exited because its pipe was closed. Of many agents some may not get a CPU
/// within the grace of an abort, and are killed.
fn assert_exited(reports: &[CloseReport]) {
    const SIGKILL: i32 = 9;
    for report in reports {
        let exit = report.exit();
        let killed = exit.signal() == Some(SIGKILL) && reports.len() > 1;
        assert!(exit.code().is_some() || killed, "{report}");
    }
}

fn agentpipe_abort(engine: &Engine, args: &[String], count: usize) -> Took {
    let agents = blocked_agents(engine, args, count);
    timed(|| {
        assert_exited(&pollster::block_on(join_all(agents.iter().map(Agent::abort))));
    })
}

fn local_abort(args: &[String], count: usize) -> Took {
    LocalSet::new().block_on(&support::runtime(), async {
        let engine = LocalEngine::new().expect("io_uring");
        let mut agents = Vec::new();
        for _ in 0..count {
            agents.push(engine.spawn(unread(args)).await.expect("it starts"));
        }
        for agent in &agents {
            await_local_blocked(agent).await;
        }
        let watch = Stopwatch::start();
        let reports = join_all(agents.iter().map(LocalAgent::abort)).await;
        let took = watch.stop();
        assert_exited(&reports);
        took
    })
}

fn idle(criterion: &mut Criterion) {
    let engine = Engine::new().expect("io_uring");
    let args = idle_agent();
    let agentpipe_close = || {
        let command = AgentCommand::new(support::AGENT).args(&args);
        let mut agent = engine.spawn_blocking(command).expect("it starts");
        agent.next_record_blocking().expect("a record");
        await_asleep(agent.pid());
        timed(|| assert!(agent.close_blocking().exit().success()))
    };
    let contestants = vec![
        rounds("eof_waitpid", || eof_waitpid(plain(&args, 1, spoke))),
        rounds("sigkill_waitpid", || sigkill_waitpid(plain(&args, 1, spoke))),
        rounds("tokio_drop_wait", || tokio(&args, 1, false, drop_wait)),
        rounds("ladder_10ms", || ladder(plain(&args, 1, spoke))),
        rounds("agentpipe_close", agentpipe_close),
    ];
    contest(criterion, "shutdown/idle", 1, contestants);
}

fn flush(criterion: &mut Criterion) {
    let engine = Engine::new().expect("io_uring");
    let args = flushing_agent();
    let close = |policy: ClosePolicy| {
        let agents = blocked_agents(&engine, &args, 1);
        timed(|| {
            let report = pollster::block_on(agents[0].close_with(policy));
            assert!(report.exit().success(), "{report}");
            assert_eq!(report.stats().bytes_in, FLUSH);
        })
    };
    let contestants = vec![
        rounds("eof_read_waitpid", || eof_read_waitpid(plain(&args, 1, full))),
        rounds("tokio_eof_read_wait", || tokio(&args, 1, true, eof_read_wait)),
        rounds("ladder_10ms_loses_it", || ladder(plain(&args, 1, full))),
        rounds("agentpipe_close", || close(ClosePolicy::graceful())),
        // For agents that do not drop their queued output when their input ends.
        rounds("agentpipe_close_unsettled", || {
            close(ClosePolicy::graceful().quiet_period(Duration::ZERO))
        }),
    ];
    contest(criterion, "shutdown/flush_1m", 1, contestants);
}

fn blocked(criterion: &mut Criterion) {
    let with = |backend| Engine::builder().backend(backend).build().expect("the backend");
    let (engine, epoll) = (with(Backend::IoUring), with(Backend::Epoll));
    let args = blocked_agent();
    for agents in [1_usize, 100, 1000] {
        // A test run needs few agents.
        let count = if is_test() { agents.div_ceil(50) } else { agents };
        let contestants = vec![
            rounds("sigkill_waitpid", || sigkill_waitpid(plain(&args, count, full))),
            rounds("tokio_drop_wait", || tokio(&args, count, true, drop_wait)),
            rounds("ladder_10ms", || ladder(plain(&args, count, full))),
            rounds("agentpipe_abort", || agentpipe_abort(&engine, &args, count)),
            rounds("agentpipe_epoll_abort", || agentpipe_abort(&epoll, &args, count)),
            rounds("agentpipe_local_abort", || local_abort(&args, count)),
        ];
        contest(criterion, "shutdown/blocked", agents, contestants);
    }
}

criterion_group!(benches, idle, flush, blocked);
criterion_main!(benches);
