//! The local engine is held to what the engine threads are held to, inside tokio's current-thread
//! runtime and inside tokio-uring's: the same closes, the same reports, nothing left behind.
//!
//! The agents are real processes. Times are asserted against generous ceilings only.

mod bursts;
mod close;
mod crowd;
mod ends;
mod guard;
mod socket;
#[path = "../support/mod.rs"]
mod support;
mod wakers;

use std::future::Future;
use std::pin::Pin;
use std::time::Instant;

use crate::support::{HANG, fake, gets_ring};
use agentpipe::{LocalAgent, LocalEngine};
use tokio::task::LocalSet;

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

/// The runtimes that the engine promises to work in. That of tokio-uring needs io_uring, with either backend.
pub(crate) fn runtimes() -> Vec<fn(Program)> {
    if gets_ring() { vec![in_tokio, in_tokio_uring] } else { vec![in_tokio] }
}

/// With I/O and nothing else: the engine brings its own timer.
fn in_tokio(program: Program) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
    LocalSet::new().block_on(&runtime.expect("a runtime"), program);
}

fn in_tokio_uring(program: Program) {
    tokio_uring::start(program);
}

/// Runs the program with a new engine in each of the runtimes.
pub(crate) fn in_each(program: impl AsyncFn(LocalEngine) + Copy + 'static) {
    for runtime in runtimes() {
        runtime(Box::pin(async move {
            program(LocalEngine::new().expect("a backend")).await;
        }));
    }
}

/// Yields to the other tasks of this thread until the condition holds.
pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < HANG, "{what}");
        tokio::task::yield_now().await;
    }
}
