//! The options of the CLI against real children: what arrives there, where the CLI is found, what is
//! left when it fails, and how it is asked for its version.

mod discovery;
mod environment;
mod failures;
mod launch;
mod version;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use agentpipe::session::claude::{Options, Session};
use agentpipe::{AgentCommand, Engine, Error, ErrorKind};
use serde_json::Value;
use tempfile::TempDir;

const PROGRAM: &str = env!("CARGO_BIN_EXE_agentpipe");
/// No wait in these files is longer.
const CEILING: Duration = Duration::from_secs(60);
const ALONE: &str = "AGENTPIPE_TEST_ALONE";

fn engine() -> Engine {
    Engine::new().expect("io_uring")
}

fn wait<T>(future: impl Future<Output = T>) -> T {
    // A timer of its own; the sessions do not use it, and are woken from their own thread.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    let limited = async { tokio::time::timeout(CEILING, future).await };
    runtime.expect("a runtime").block_on(limited).expect("it hangs")
}

/// A CLI that tells its command line first and then behaves as these flags of the fake say.
fn telling(flags: &[&str]) -> Options {
    let flags = ["fake", "--tell-command"].iter().chain(flags).chain(&["--"]);
    AgentCommand::claude().version_check(false).process(|_| AgentCommand::new(PROGRAM).args(flags))
}

/// What the CLI was started with.
async fn told(session: &Session) -> Value {
    let told: Value = session.next_record().await.expect("it tells").json().expect("JSON");
    assert_eq!(told["type"], "command", "{told}");
    told
}

fn arguments(told: &Value) -> Vec<&str> {
    told["args"].as_array().expect("a list").iter().filter_map(Value::as_str).collect()
}

/// The argument after this one.
fn after<'a>(args: &[&'a str], flag: &str) -> &'a str {
    let at = args.iter().position(|arg| *arg == flag).unwrap_or_else(|| panic!("{flag}: {args:?}"));
    args[at + 1]
}

/// A program, written by another process: a child that another test is just spawning could hold a
/// descriptor of ours, and what is open for writing cannot be run.
fn install(path: &Path, script: &str) {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).expect("folders");
    }
    let mut child = Command::new("/bin/sh")
        .args(["-c", r#"cat >"$0.new" && chmod +x "$0.new" && mv "$0.new" "$0""#])
        .arg(path)
        .stdin(Stdio::piped())
        .spawn()
        .expect("sh");
    child.stdin.take().expect("piped").write_all(script.as_bytes()).expect("it reads");
    assert!(child.wait().expect("it ends").success());
}

/// A CLI that runs `probe` for `-v`, and is otherwise a fake that answers and tells.
fn script(probe: &str) -> String {
    let fake = format!("exec {PROGRAM} fake --answer-initialize --tell-command");
    format!("#!/bin/sh\nif [ \"$1\" = -v ]; then\n{probe}\nfi\n{fake} -- \"$0\" \"$@\"\n")
}

fn folder() -> TempDir {
    tempfile::tempdir().expect("a folder")
}

/// As the scripts are told it: without symbolic links on the way.
fn path_of(folder: &TempDir, name: &str) -> PathBuf {
    folder.path().canonicalize().expect("it is there").join(name)
}

fn check_error(error: &Error, kind: ErrorKind, says: &[&str]) {
    let text = error.to_string();
    assert_eq!(error.kind(), kind, "{text}");
    assert!(!text.contains('\n') && text.len() < 2000, "one bounded line: {text}");
    for part in says {
        assert!(text.contains(part), "{text:?} does not say {part:?}");
    }
}

/// Waits for something that a process does; there is no event for it here.
fn await_that(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < CEILING, "never: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Whether there is such a process that is no zombie.
fn is_alive(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
    let state = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().next());
    state.is_some_and(|state| state != "Z")
}

/// True in a process of its own with this environment. Else runs the test there, and asserts that it
/// ran and passed.
fn alone(test: &str, env: &[(&str, &str)]) -> bool {
    if std::env::var_os(ALONE).is_some() {
        return true;
    }
    let output = Command::new(std::env::current_exe().expect("this binary"))
        .args(["--exact", "--nocapture", "--test-threads=1", test])
        .env(ALONE, "1")
        .envs(env.iter().copied())
        .output()
        .expect("runs");
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}{errors}");
    assert!(text.contains("1 passed"), "it did not run: {text}");
    false
}
