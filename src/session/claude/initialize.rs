//! The handshake: the body of `initialize`, its answer, and what has to be in the answer.

use std::collections::BTreeMap;

use crate::error::{Error, ErrorKind, Result};
use crate::record::Record;

use super::wire::received;

const OPERATION: &str = "initialize";

received! {
    /// The answer to `initialize`.
    pub Initialized {
        /// The slash commands, as objects with `name` and `description`.
        commands: Record = "commands",
        /// The subagents, as objects with `name` and `description`.
        agents: Record = "agents",
        /// The output style.
        output_style: String = "output_style",
        /// The output styles that can be chosen.
        available_output_styles: Vec<String> = "available_output_styles",
        /// The models that can be chosen, as objects with `value` and `displayName`.
        models: Record = "models",
        /// The account of the user.
        account: Record = "account",
        /// The version of the CLI. See [`Session::cli_version`](super::Session::cli_version).
        claude_code_version: String = "claude_code_version",
        /// The parts of the protocol that this CLI has.
        capabilities: Vec<String> = "capabilities",
        /// Whether the hooks are registered. False if the CLI ran before with others.
        hooks_applied: bool = "hooks_applied",
        /// Whether the CLI knows [`HookMatcher::block_on_failure`](super::HookMatcher::block_on_failure).
        hook_on_failure_supported: bool = "hook_on_failure_supported",
        /// Whether the plugins are loaded that came in `initialize`.
        plugins_applied: bool = "plugins_applied",
        /// Whether the MCP servers are known that came in `initialize`.
        mcp_servers_applied: bool = "mcp_servers_applied",
        /// What became of each manifest of an MCP server of this process, by its name.
        sdk_mcp_manifests_parked: BTreeMap<String, String> = "sdk_mcp_manifests_parked",
        /// `off`, `cooldown` or `on`.
        fast_mode_state: String = "fast_mode_state",
    }
}

/// What `initialize` asks for that a CLI may ignore without a word, so that its answer has to name it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct NeededAnswers {
    /// A hook has to block if it fails.
    pub(super) blocking_hooks: bool,
    /// The MCP servers are in `initialize`.
    pub(super) mcp_servers: bool,
    /// The plugins are in `initialize`.
    pub(super) plugins: bool,
}

impl NeededAnswers {
    /// Checks that the CLI has taken everything.
    pub(super) fn check(self, answer: &Initialized) -> Result<()> {
        let refused = |what: &str, remedy: &str| {
            Err(Error::new(ErrorKind::Unsupported, OPERATION, what).remedy(remedy))
        };
        if self.blocking_hooks && answer.hook_on_failure_supported != Some(true) {
            return refused(
                "the CLI does not know hooks that block if they fail, and would let the tool run",
                "update Claude Code, or leave out block_on_failure",
            );
        }
        if self.blocking_hooks && answer.hooks_applied == Some(false) {
            return refused(
                "the CLI has not registered the hooks, so one that blocks would never run",
                "start a new CLI, or leave out block_on_failure",
            );
        }
        if self.mcp_servers && answer.mcp_servers_applied != Some(true) {
            return refused(
                "the CLI has not taken the MCP servers from initialize",
                "update Claude Code, or leave out mcp_servers_in_initialize",
            );
        }
        if self.plugins && answer.plugins_applied != Some(true) {
            return refused(
                "the CLI has not taken the plugins from initialize",
                "update Claude Code, or leave out plugins_in_initialize",
            );
        }
        Ok(())
    }
}

/// The keys of `initialize`. Each key stands there once.
#[derive(Clone, Debug, Default)]
pub(super) struct InitializeKeys(BTreeMap<String, Record>);

impl InitializeKeys {
    /// Sets a key of the user. The last value counts.
    pub(super) fn set(&mut self, key: &str, value: Record) {
        self.0.insert(key.into(), value);
    }

    /// Sets a key unless it is set.
    pub(super) fn set_default(&mut self, key: &str, value: Record) {
        self.0.entry(key.into()).or_insert(value);
    }

    /// Sets a key that the session itself has to write.
    ///
    /// # Errors
    /// [`InvalidCommand`](ErrorKind::InvalidCommand) if the user has set it as well: with both values
    /// in one object, the CLI would take either.
    pub(super) fn set_own(&mut self, key: &str, value: Record, setter: &str) -> Result<()> {
        if self.0.contains_key(key) {
            let what = format!("option(\"{key}\") and {setter} exclude each other");
            return Err(Error::new(ErrorKind::InvalidCommand, OPERATION, what)
                .remedy("leave one of them out"));
        }
        self.set(key, value);
        Ok(())
    }

    /// Returns the body.
    pub(super) fn body(mut self) -> Result<Record> {
        if self.0.contains_key("subtype") {
            let what = "option(\"subtype\") is the name of the request";
            return Err(Error::new(ErrorKind::InvalidCommand, OPERATION, what));
        }
        self.set_default("hooks", Record::from(b"null".to_vec()));
        Record::from_json(&self.0)
    }
}
