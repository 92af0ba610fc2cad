//! What the benches share: the built-in agent and the ways to spawn it without agentpipe, waits for its
//! state, and contests in which all take turns.
#![expect(dead_code, reason = "each bench uses a part")]

#[path = "../../src/cli/bench/read_buffer.rs"]
pub(crate) mod read_buffer;

#[path = "../../src/cli/bench/stopwatch.rs"]
pub(crate) mod stopwatch;

pub(crate) mod contest;

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Runtime};

/// The binary under test, which is also the agent.
pub(crate) const AGENT: &str = env!("CARGO_BIN_EXE_agentpipe");

/// How long a wait for an agent may take. A thousand processes have to start on a busy machine.
pub(crate) const WAIT_MAX: Duration = Duration::from_secs(60);

/// Spawns the agent as a plain child with pipes.
pub(crate) fn plain(args: &[String]) -> Child {
    let mut command = Command::new(AGENT);
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    command.spawn().expect("the built-in agent starts")
}

/// Spawns the agent as a child of tokio. Must be called inside a runtime.
pub(crate) fn tokio_child(args: &[String]) -> tokio::process::Child {
    let mut command = tokio::process::Command::new(AGENT);
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    command.kill_on_drop(true).spawn().expect("the built-in agent starts")
}

/// Returns tokio's current-thread runtime.
pub(crate) fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// Waits until `holds` returns true.
pub(crate) fn await_that(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + WAIT_MAX;
    while !holds() {
        assert!(Instant::now() < deadline, "in vain: {what}");
        std::thread::yield_now();
    }
}

/// Whether the agent has slept during 20 checks. The agents of the benches sleep in write(2), or in
/// read(2) once they have written everything; no event reports this. Every contestant waits in the same
/// way, because an agent that ran a moment ago exits sooner, by a hundred microseconds.
pub(crate) fn is_asleep(pid: u32) -> bool {
    let stat = format!("/proc/{pid}/stat");
    (0..20).all(|_| {
        std::thread::yield_now();
        std::fs::read_to_string(&stat).is_ok_and(|text| text.contains(") S "))
    })
}

/// Whether this is `cargo bench -- --test`, which runs each contestant once.
pub(crate) fn is_test() -> bool {
    std::env::args().any(|arg| arg == "--test")
}
