//! The local engine is held to what the engine threads are held to, inside tokio's current-thread
//! runtime and inside tokio-uring's: the same closes, the same reports, nothing left behind.
//!
//! The agents are real processes. Times are asserted against generous ceilings only.

mod close;
mod crowd;
mod ends;
mod socket;
mod wakers;

use std::fs;
use std::future::Future;
use std::pin::Pin;
use std::thread;
use std::time::{Duration, Instant};

use agentpipe::{AgentCommand, CloseReport, LocalAgent, LocalEngine};
use tokio::task::LocalSet;

/// The binary under test, which is also the misbehaving agent.
pub(crate) const AGENT: &str = env!("CARGO_BIN_EXE_agentpipe");

/// A machine that is merely slow never takes this long; a hang always does.
pub(crate) const HANG: Duration = Duration::from_secs(30);

/// `agentpipe fake` with these flags.
pub(crate) fn fake(flags: &[&str]) -> AgentCommand {
    AgentCommand::new(AGENT).arg("fake").args(flags)
}

pub(crate) async fn spawn(engine: &LocalEngine, flags: &[&str]) -> LocalAgent {
    engine.spawn(fake(flags)).await.expect("the built-in agent starts")
}

/// One request and its answer.
pub(crate) async fn check_echo(agent: &mut LocalAgent, text: &str) {
    agent.send(text).await.expect("sent");
    let answer = agent.next_record().await.expect("an echo");
    assert_eq!(answer.as_bytes(), text.as_bytes());
}

type Program = Pin<Box<dyn Future<Output = ()>>>;

/// The runtimes that the engine promises to work in.
pub(crate) const RUNTIMES: [fn(Program); 2] = [in_tokio, in_tokio_uring];

/// With I/O and nothing else: the engine brings its own timer.
fn in_tokio(program: Program) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
    LocalSet::new().block_on(&runtime.expect("a runtime"), program);
}

fn in_tokio_uring(program: Program) {
    tokio_uring::start(program);
}

/// The program with an engine of its own, in each of the runtimes.
pub(crate) fn in_each(program: impl AsyncFn(LocalEngine) + Copy + 'static) {
    for runtime in RUNTIMES {
        runtime(Box::pin(async move {
            program(LocalEngine::new().expect("io_uring")).await;
        }));
    }
}

/// Waits until nobody has this number any more: dead and reaped.
pub(crate) fn assert_gone(pid: u32) {
    let begun = Instant::now();
    while fs::exists(format!("/proc/{pid}")).expect("readable") {
        assert!(begun.elapsed() < HANG, "process {pid} is still there");
        thread::yield_now();
    }
}

/// Lets everybody else on this thread run until it holds.
pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < HANG, "{what}");
        tokio::task::yield_now().await;
    }
}

/// Every stage came in its order, and the process is gone.
pub(crate) fn assert_sound(report: &CloseReport) {
    let stages: Vec<_> = report.stages().iter().map(|(stage, _)| *stage).collect();
    assert!(stages.is_sorted(), "{report:?}");
    for stage in ["cut", "reap", "release"] {
        assert!(stages.iter().any(|s| s.as_str() == stage), "no {stage}: {report:?}");
    }
    assert_gone(report.pid());
}
