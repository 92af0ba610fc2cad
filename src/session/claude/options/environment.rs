//! Floor 4. The environment of the CLI: what it says of who started it.
//!
//! Nothing is claimed that is not so. The CLI knows hosts by `CLAUDE_CODE_ENTRYPOINT`; `sdk-cli` is
//! its own name for a run by a program that none of its SDKs is part of. Who that program is
//! stands in `CLAUDE_AGENT_SDK_CLIENT_APP`, which is there for it. `CLAUDE_AGENT_SDK_VERSION` is a
//! version of the vendor's SDK: there is none here, so the variable is not passed on.

use std::ffi::{OsStr, OsString};

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

type Change = (OsString, Option<OsString>);

impl Options {
    /// What runs the CLI: the environment is complete, no option is among the arguments yet.
    pub(super) fn launcher(&self) -> AgentCommand {
        let mut command = self.process.clone();
        let inherits = |key: &str| !command.env_clear && std::env::var_os(key).is_some();
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

fn set((key, value): (&str, &str)) -> Change {
    (key.into(), Some(OsStr::new(value).to_owned()))
}

fn unset(key: &str) -> Change {
    (key.into(), None)
}
