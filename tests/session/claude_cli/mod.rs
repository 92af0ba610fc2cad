//! The options of the CLI against real children: what arrives there, where the CLI is found, what is
//! left when it fails, and how its version is probed.

mod discovery;
mod environment;
mod failures;
mod launch;
mod version;

use std::path::PathBuf;

use crate::support::{CEILING, PROGRAM, block_on_within};
use agentpipe::AgentCommand;
use agentpipe::session::claude::{Options, Session};
use serde_json::Value;
use tempfile::TempDir;

fn wait<T>(future: impl Future<Output = T>) -> T {
    block_on_within(CEILING, future)
}

/// A CLI that tells its command line first and then behaves as these flags of the fake say.
fn telling(flags: &[&str]) -> Options {
    let flags = ["fake", "--tell-command"].iter().chain(flags).chain(&["--"]);
    AgentCommand::claude().process(|_| AgentCommand::new(PROGRAM).args(flags))
}

/// Returns the command that the CLI was started with.
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

/// Whether the process exists and is not a zombie.
fn is_alive(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
    let state = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().next());
    state.is_some_and(|state| state != "Z")
}
