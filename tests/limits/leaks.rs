//! Nothing leaks: 1000 agents come and go in every way there is, and afterwards descriptors,
//! children, threads, pool buffers and kernel operations are exactly what they were.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Waker};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::own_process::{alone, test_name};
use crate::support::process::{Held, marked};
use crate::support::{CEILING, PROGRAM};
use agentpipe::{
    AgentCommand, ClosePolicy, CloseReason, CloseStage, Engine, ErrorKind, Event, ExitStatus,
    Limits,
};

/// In the environment of every agent, and so of whatever it leaves behind.
const MARK: &str = "AGENTPIPE_LEAK_TEST";
const CYCLES: usize = 1000;
/// Agents at a time.
const LANES: usize = 16;

fn fake(args: &[&str]) -> AgentCommand {
    let mark = std::process::id().to_string();
    AgentCommand::new(PROGRAM).arg("fake").args(args).env(MARK, mark)
}

/// The ways an agent comes and goes.
const WAYS: usize = 11;

async fn cycle(engine: &Engine, number: usize) {
    match number % WAYS {
        0 => closed_idle(engine).await,
        1 => aborted_in_a_flood(engine).await,
        2 => closed_unread(engine).await,
        3 => drop(engine.spawn(fake(&["--flood"])).await.expect("spawns")),
        4 => died_by_itself(engine).await,
        5 => killed(engine).await,
        6 => never_spawned(engine, number).await,
        7 => forgotten_spawn(engine),
        8 => left_a_grandchild(engine).await,
        9 => aborted_with_writes_pending(engine).await,
        _ => went_mute(engine).await,
    }
}

async fn closed_idle(engine: &Engine) {
    let mut agent = engine.spawn(fake(&[])).await.expect("spawns");
    agent.send("{\"a\":1}").await.expect("sent");
    assert_eq!(agent.next_record().await.expect("an echo").as_bytes(), b"{\"a\":1}");
    let report = agent.close().await;
    assert_eq!(report.exit(), ExitStatus::Code(0), "{report}");
}

async fn aborted_in_a_flood(engine: &Engine) {
    let mut agent = engine.spawn(fake(&["--flood"])).await.expect("spawns");
    assert!(agent.next_record().await.is_some());
    // All the time it may want on a busy machine: EPIPE ends it, and no signal.
    let report = agent.close_with(ClosePolicy::abort().abort_grace(CEILING)).await;
    assert_eq!(report.exit(), ExitStatus::Code(1), "{report}");
}

async fn closed_unread(engine: &Engine) {
    let command = fake(&["--flood", "512k"]).limits(Limits::new().inbox_high(32 << 10));
    let agent = engine.spawn(command).await.expect("spawns");
    let report = agent.close().await;
    assert_eq!(report.exit(), ExitStatus::Code(0), "{report}");
    assert_eq!(report.stats().records_in, 512, "{report}");
}

async fn died_by_itself(engine: &Engine) {
    let command = fake(&["--records", "3", "--exit-after", "3", "--die-by-signal", "KILL"]);
    let mut agent = engine.spawn(command).await.expect("spawns");
    let mut last = None;
    while let Some(event) = agent.next().await {
        last = Some(event);
    }
    assert_eq!(last, Some(Event::Exit(ExitStatus::Signal(9))));
    assert_eq!(agent.closed().await.stats().records_in, 3);
}

async fn killed(engine: &Engine) {
    let deaf = ["--flood", "--ignore-eof", "--ignore-sigterm", "--ignore-epipe"];
    let mut agent = engine.spawn(fake(&deaf)).await.expect("spawns");
    assert!(agent.next_record().await.is_some());
    let tiny = Duration::from_millis(1);
    let policy = ClosePolicy::graceful().quiet_period(tiny).drain(tiny).min_drain(tiny);
    let report = agent.close_with(policy.terminate(tiny).cut(tiny)).await;
    assert_eq!((report.stage(), report.exit()), (CloseStage::Kill, ExitStatus::Signal(9)));
}

async fn never_spawned(engine: &Engine, number: usize) {
    let (command, kind) = match number % 3 {
        0 => (AgentCommand::new("/no/such/program"), ErrorKind::ProgramNotFound),
        1 => (fake(&[]).cwd("/no/such/folder"), ErrorKind::BadWorkingDirectory),
        _ => (AgentCommand::new("/etc/passwd"), ErrorKind::ProgramNotExecutable),
    };
    assert_eq!(engine.spawn(command).await.expect_err("refused").kind(), kind);
}

/// Polled once, so that it is under way, and dropped.
fn forgotten_spawn(engine: &Engine) {
    let mut spawning = pin!(engine.spawn(fake(&["--flood"])));
    let _under_way = spawning.as_mut().poll(&mut Context::from_waker(Waker::noop()));
}

async fn left_a_grandchild(engine: &Engine) {
    let command = fake(&["--grandchild-holds-stdout", "600s"]);
    let agent = engine.spawn(command).await.expect("spawns");
    agent.send("{}").await.expect("sent");
    let policy = ClosePolicy::graceful().exit_drain(Duration::from_millis(1));
    let report = agent.close_with(policy).await;
    assert_eq!((report.exit(), report.killed_extra()), (ExitStatus::Code(0), 1), "{report}");
}

async fn aborted_with_writes_pending(engine: &Engine) {
    let agent = engine.spawn(fake(&["--never-read-stdin"])).await.expect("spawns");
    let record = format!("\"{}\"", "x".repeat(200 << 10));
    agent.send(&record).await.expect("queued");
    let report = agent.abort().await;
    assert!(report.unsent_bytes() > 64 << 10, "{report}");
}

async fn went_mute(engine: &Engine) {
    let command = fake(&["--close-stdout"])
        .close_policy(ClosePolicy::graceful().exit_drain(Duration::from_millis(5)));
    let agent = engine.spawn(command).await.expect("spawns");
    assert_eq!(agent.closed().await.reason(), CloseReason::OutputEnded);
}

/// Runs the cycles, some at a time, on one thread.
fn run_cycles(engine: &Engine, cycles: std::ops::Range<usize>) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        let mut next = cycles;
        let mut running = tokio::task::JoinSet::new();
        loop {
            while running.len() < LANES
                && let Some(number) = next.next()
            {
                let engine = engine.clone();
                running.spawn_local(async move { cycle(&engine, number).await });
            }
            let Some(done) = running.join_next().await else { break };
            done.expect("a cycle holds what it says");
        }
    });
}

/// What this process holds, without the spawn threads: their number depends on how many spawns were
/// under way at once. The comparison after the engine's end includes them.
fn held_by_the_engine() -> Held {
    let mut held = Held::now();
    let all = held.threads.len();
    held.threads.retain(|name| name != "agentpipe-spawn");
    assert!(all - held.threads.len() <= 8, "the limit of spawn threads");
    held
}

/// Dropped agents are aborted in the background. Waits until nothing of them is left.
fn in_kernel_when_idle(engine: &Engine) -> Vec<(u64, u64, u64)> {
    let begun = Instant::now();
    loop {
        let counters = engine.counters_blocking();
        let idle = counters.iter().all(|ring| ring.in_kernel == 1);
        if idle || begun.elapsed() > CEILING {
            assert!(counters.iter().all(|ring| ring.stale == 0), "{counters:?}");
            let what = counters.iter();
            return what.map(|ring| (ring.in_kernel, ring.buffers, ring.buffers_free)).collect();
        }
        thread::sleep(Duration::from_millis(2));
    }
}

fn await_equal<T: PartialEq + std::fmt::Debug>(look: impl Fn() -> T, wanted: &T, what: &str) {
    let begun = Instant::now();
    while look() != *wanted {
        if begun.elapsed() > CEILING {
            assert_eq!(look(), *wanted, "{what}");
        }
        thread::sleep(Duration::from_millis(2));
    }
}

// A server hosts agents for weeks. One descriptor, zombie, thread, buffer or kernel operation lost
// in ten thousand closes ends in an outage.
#[test]
fn thousand_agents_leave_nothing_behind() {
    if !alone(test_name!()) {
        return;
    }
    let before_engine = Held::now();
    let engine = Engine::new().expect("io_uring");
    // The first of each way pays for what is set up once.
    run_cycles(&engine, 0..WAYS);
    let idle = in_kernel_when_idle(&engine);
    // The wake-up eventfd is watched; a pool at rest has every buffer.
    assert!(idle.iter().all(|(in_kernel, all, free)| *in_kernel == 1 && all == free), "{idle:?}");
    let with_engine = held_by_the_engine();
    assert_eq!(with_engine.children, Vec::<u32>::new());

    run_cycles(&engine, WAYS..WAYS + CYCLES);
    await_equal(held_by_the_engine, &with_engine, "after all closes, with the engine alive");
    assert_eq!(in_kernel_when_idle(&engine), idle, "operations in the kernel, pool buffers");
    assert_eq!(held_by_the_engine(), with_engine, "nothing was still on its way");
    assert_eq!(engine.agents(), 0);
    let dropped = (WAYS + CYCLES).div_ceil(WAYS) as u64;
    // A forgotten spawn is dropped without a close as well, unless it never got that far.
    assert!((dropped..=2 * dropped).contains(&engine.abandoned()), "{}", engine.abandoned());

    drop(engine);
    await_equal(Held::now, &before_engine, "after the engine");
    await_equal(|| marked(MARK), &Vec::new(), "no grandchild of any agent is left");
}
