//! The host process around an engine: its signals, its forks, its standard descriptors, its death.
//!
//! What belongs to a process is tried in a process of its own, see `alone`. Times are asserted
//! against generous ceilings only.

mod forks;
mod signals;
mod spawning;
mod stdio;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use std::{fs, thread};

use agentpipe::{Agent, AgentCommand, Engine, ExitStatus};

const PROGRAM: &str = env!("CARGO_BIN_EXE_agentpipe");
const ALONE: &str = "AGENTPIPE_TEST_ALONE";
/// No wait in these files is longer.
const CEILING: Duration = Duration::from_secs(60);

fn fake(args: &[&str]) -> AgentCommand {
    AgentCommand::new(PROGRAM).arg("fake").args(args)
}

fn engine() -> Engine {
    Engine::new().expect("io_uring")
}

/// One request and its answer.
fn check_echo(agent: &mut Agent) {
    agent.send_blocking("{\"still\":\"here\"}").expect("sent");
    let answer = agent.next_record_blocking().expect("an echo");
    assert_eq!(answer.as_bytes(), b"{\"still\":\"here\"}");
}

fn check_close(agent: &Agent) {
    let report = agent.close_blocking();
    assert_eq!(report.exit(), ExitStatus::Code(0), "{report}");
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < CEILING, "{what}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// This binary again, for one test in a process of its own.
fn this_test(test: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("this binary"));
    command.args(["--exact", "--nocapture", "--test-threads=1", test]).env(ALONE, "1");
    command
}

fn is_alone() -> bool {
    std::env::var_os(ALONE).is_some()
}

/// True in the process of its own. Else runs the test there, and asserts that it ran and passed.
fn alone(test: &str) -> bool {
    if is_alone() {
        return true;
    }
    check_passed(&mut this_test(test));
    false
}

fn check_passed(command: &mut Command) {
    let output = command.output().expect("runs");
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}{errors}");
    assert!(text.contains("1 passed"), "it did not run: {text}");
}

/// The folder in `/proc` of this process's only engine thread.
fn engine_thread() -> PathBuf {
    let tasks = fs::read_dir("/proc/self/task").expect("proc").flatten().map(|task| task.path());
    let name = |task: &Path| fs::read_to_string(task.join("comm")).unwrap_or_default();
    tasks.into_iter().find(|task| name(task).trim() == "agentpipe-0").expect("it runs")
}
