//! What the test binaries share: the built-in agent, waits with a ceiling, tests that run in their
//! own process, and counts of what a process holds.
#![expect(dead_code, reason = "no binary uses all of it")]

pub(crate) mod bursts;
pub(crate) mod dialogue;
pub(crate) mod doomed;
pub(crate) mod lease;
pub(crate) mod own_process;
pub(crate) mod process;
pub(crate) mod trees;

use std::io::Write;
use std::thread;
use std::time::{Duration, Instant};

use agentpipe::{Agent, AgentCommand, Backend, CloseReport, Engine, Error, ErrorKind};

/// The binary under test, which is also the agent of most tests.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_agentpipe");

/// No wait in the tests is longer. A slow machine stays far below it; a hang does not.
pub(crate) const CEILING: Duration = Duration::from_secs(120);

/// Longer than any close takes on a slow machine; shorter than a hang.
pub(crate) const HANG: Duration = Duration::from_secs(30);

pub(crate) fn engine() -> Engine {
    Engine::new().expect("an engine: see `agentpipe doctor`")
}

/// Returns what engines use here: `AGENTPIPE_BACKEND` and the host decide.
pub(crate) fn backend() -> Backend {
    let engine = engine();
    let backend = engine.backend();
    // Nothing of it is left when the test counts descriptors.
    engine.shutdown_blocking(Duration::ZERO);
    backend
}

/// `agentpipe fake ARGS`: without arguments it echoes.
pub(crate) fn fake(args: &[&str]) -> AgentCommand {
    AgentCommand::new(PROGRAM).arg("fake").args(args)
}

pub(crate) fn shell(script: &str) -> AgentCommand {
    AgentCommand::new("/bin/sh").arg("-c").arg(script)
}

pub(crate) fn spawn(engine: &Engine, command: AgentCommand) -> Agent {
    engine.spawn_blocking(command).expect("spawns")
}

/// Sends a record and expects it back.
pub(crate) fn check_echo(agent: &mut Agent, text: &str) {
    agent.send_blocking(text).expect("sent");
    let answer = agent.next_record_blocking().expect("an echo");
    assert_eq!(answer.as_bytes(), text.as_bytes());
}

/// The agent lives, and its stream is where it was.
pub(crate) fn check_alive(agent: &mut Agent) {
    check_echo(agent, "{\"still\":\"here\"}");
}

/// The error is of this kind, and its text is one bounded line with these parts.
pub(crate) fn check_error(error: &Error, kind: ErrorKind, says: &[&str]) {
    assert_eq!(error.kind(), kind, "{error}");
    check_line(&error.to_string(), says);
}

/// The text is one line of bounded length with these parts.
pub(crate) fn check_line(text: &str, says: &[&str]) {
    assert!(!text.contains(['\n', '\r']), "one line: {text:?}");
    assert!(text.len() < 1500, "bounded: {} bytes: {text}", text.len());
    for part in says {
        assert!(text.contains(part), "{text:?} does not say {part:?}");
    }
}

/// The stages of the close came in order, and the process is gone.
pub(crate) fn assert_sound(report: &CloseReport) {
    let stages: Vec<_> = report.stages().iter().map(|(stage, _)| *stage).collect();
    assert!(stages.is_sorted(), "{report:?}");
    for stage in ["cut", "reap", "release"] {
        assert!(stages.iter().any(|s| s.as_str() == stage), "no {stage}: {report:?}");
    }
    process::assert_gone(report.pid());
}

/// Reports that this machine cannot run a test, also where the output of tests is captured. `.ci/run`
/// counts these lines.
pub(crate) fn skipped(test: &str, why: &str) {
    // A lost line is a test that is not counted as skipped.
    writeln!(std::io::stderr(), "\n-- SKIPPED: test {test}: {why}").expect("stderr is open");
}

/// Returns whether engines use io_uring here. If not, reports a test of the ring as skipped.
pub(crate) fn has_ring(test: &str) -> bool {
    let has_ring = backend() == Backend::IoUring;
    if !has_ring {
        skipped(test, "it is about io_uring, and engines use epoll here");
    }
    has_ring
}

/// Returns whether this process gets a ring, whatever backend engines use. If not, reports the calling test,
/// or the part of it that needs one, as skipped.
pub(crate) fn gets_ring() -> bool {
    let refused = match Engine::builder().backend(Backend::IoUring).build() {
        Ok(engine) => {
            engine.shutdown_blocking(Duration::ZERO);
            return true;
        }
        Err(error) => error,
    };
    let is_denied =
        matches!(refused.kind(), ErrorKind::BackendDenied | ErrorKind::BackendUnsupported);
    assert!(is_denied, "{refused}");
    let thread = thread::current();
    skipped(thread.name().unwrap_or_default(), "it needs io_uring, which is denied here");
    false
}

/// Waits for something that raises no event in the test.
pub(crate) fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < CEILING, "{what}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// Runs a future to its end, which comes within `limit`.
pub(crate) fn block_on_within<T>(limit: Duration, future: impl Future<Output = T>) -> T {
    // The timer is only for the limit: sessions do not use it.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    let limited = async { tokio::time::timeout(limit, future).await };
    runtime.expect("a runtime").block_on(limited).expect("it ends in time")
}
