//! Engines under code that is not theirs and hosts that are not careful: wakers and subscribers that
//! panic, threads that die, spawns that race a shutdown, drops in async code, forks.
//!
//! The agents are real processes. Times are asserted against generous ceilings only.

mod hazards {
    mod drops;
    mod ended;
    mod forks;
    mod panics;
    mod raw;
    mod subscriber;
}
mod held;

use std::fs;
use std::process::{Command, Output};
use std::thread;
use std::time::{Duration, Instant};

use agentpipe::{Agent, AgentCommand, Engine};

const PROGRAM: &str = env!("CARGO_BIN_EXE_agentpipe");
/// No wait in these tests is longer.
const CEILING: Duration = Duration::from_secs(60);
const ALONE: &str = "AGENTPIPE_TEST_ALONE";

fn fake(args: &[&str]) -> AgentCommand {
    AgentCommand::new(PROGRAM).arg("fake").args(args)
}

fn engine() -> Engine {
    Engine::new().expect("io_uring")
}

fn spawn(engine: &Engine, command: AgentCommand) -> Agent {
    engine.spawn_blocking(command).expect("spawns")
}

/// One request and its answer.
fn check_echo(agent: &mut Agent, text: &str) {
    agent.send_blocking(text).expect("sent");
    let answer = agent.next_record_blocking().expect("an echo");
    assert_eq!(answer.as_bytes(), text.as_bytes());
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < CEILING, "{what}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// Neither running nor a zombie.
fn is_gone(pid: u32) -> bool {
    !fs::exists(format!("/proc/{pid}")).expect("readable")
}

/// This binary again, for one test in a process of its own.
fn run_alone(test: &str) -> Output {
    Command::new(std::env::current_exe().expect("this binary"))
        .args(["--exact", "--nocapture", "--test-threads=1", test])
        .env(ALONE, "1")
        .output()
        .expect("runs")
}

fn is_alone() -> bool {
    std::env::var_os(ALONE).is_some()
}

/// True in the process of its own. Else runs it there, and asserts that the test ran and passed.
fn alone(test: &str) -> bool {
    if is_alone() {
        return true;
    }
    check_passed(&run_alone(test));
    false
}

fn check_passed(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {text}{errors}", output.status);
    assert!(text.contains("1 passed"), "it did not run: {text}");
    text
}
