//! Floor 4. The environment of the CLI: what it says of who started it.
//!
//! Nothing is claimed that is not so. The CLI knows hosts by `CLAUDE_CODE_ENTRYPOINT`; `sdk-cli` is
//! its own name for a run by a program that none of its SDKs is part of. Who that program is
//! stands in `CLAUDE_AGENT_SDK_CLIENT_APP`, which is there for it. `CLAUDE_AGENT_SDK_VERSION` is a
//! version of the vendor's SDK: there is none here, so the variable is not passed on.

use std::ffi::{OsStr, OsString};
use std::time::Duration;

use crate::command::AgentCommand;

use super::Options;

const ENTRYPOINT: (&str, &str) = ("CLAUDE_CODE_ENTRYPOINT", "sdk-cli");
const CLIENT_APP: (&str, &str) =
    ("CLAUDE_AGENT_SDK_CLIENT_APP", concat!("agentpipe/", env!("CARGO_PKG_VERSION")));
const VERSION: (&str, &str) = ("AGENTPIPE_VERSION", env!("CARGO_PKG_VERSION"));
/// Set by a CLI for what it runs. One that is started under another is not part of it.
const NESTED: &str = "CLAUDECODE";
const SDK_VERSION: &str = "CLAUDE_AGENT_SDK_VERSION";
const CHECKPOINTING: &str = "CLAUDE_CODE_ENABLE_SDK_FILE_CHECKPOINTING";

/// Asks the CLI for its state: when it is at work, and when it owes no turn any more.
const READS_STATE: &str = "CLAUDE_CODE_SDK_READS_SESSION_STATE";
/// How long the CLI waits for background work once its input has ended, in milliseconds.
const BACKGROUND_WAIT: &str = "CLAUDE_CODE_PRINT_BG_WAIT_CEILING_MS";
/// What the CLI takes where that is not set.
const BACKGROUND_WAIT_DEFAULT: Duration = Duration::from_secs(600);

type Change = (OsString, Option<OsString>);

impl Options {
    /// What runs the CLI: the environment is complete, no option is among the arguments yet.
    pub(super) fn launcher(&self) -> AgentCommand {
        let mut command = self.process.clone();
        let inherits = |key: &str| inherited(&command, key).is_some();
        let mut env = vec![unset(NESTED), set(ENTRYPOINT)];
        // A host that has named itself keeps its name.
        if !inherits(CLIENT_APP.0) {
            env.push(set(CLIENT_APP));
        }
        env.append(&mut command.env);
        env.extend([unset(SDK_VERSION), set(VERSION)]);
        if self.file_checkpointing {
            env.push(set((CHECKPOINTING, "true")));
        }
        command.env = env;
        command
    }
}

/// A session reads the state of its CLI, whatever command that is. A value that is there stays.
pub(in super::super) fn reads_state(mut command: AgentCommand) -> AgentCommand {
    let chosen = command.env.iter().any(|(key, _)| key == READS_STATE);
    if !chosen && inherited(&command, READS_STATE).is_none() {
        command.env.push(set((READS_STATE, "1")));
    }
    command
}

/// How long the CLI of this command waits for background work; `None` where it has no limit.
pub(in super::super) fn background_wait(command: Option<&AgentCommand>) -> Option<Duration> {
    let change = |command: &AgentCommand| {
        let last = command.env.iter().rev().find(|(key, _)| key == BACKGROUND_WAIT);
        last.map_or_else(|| inherited(command, BACKGROUND_WAIT), |(_, value)| value.clone())
    };
    let value = command.map_or_else(|| std::env::var_os(BACKGROUND_WAIT), change);
    let millis = value.as_deref().and_then(OsStr::to_str).and_then(|text| text.trim().parse().ok());
    let wait = millis.map_or(BACKGROUND_WAIT_DEFAULT, Duration::from_millis);
    (!wait.is_zero()).then_some(wait)
}

fn inherited(command: &AgentCommand, key: &str) -> Option<OsString> {
    if command.env_clear { None } else { std::env::var_os(key) }
}

fn set((key, value): (&str, &str)) -> Change {
    (key.into(), Some(OsStr::new(value).to_owned()))
}

fn unset(key: &str) -> Change {
    (key.into(), None)
}
