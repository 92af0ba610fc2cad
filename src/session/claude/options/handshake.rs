//! The options that `initialize` carries: of any size, and not for other users of the host to read.

use serde::Serialize;

use crate::error::Result;
use crate::record::Record;
use crate::session::claude::initialize::NeededAnswers;
use crate::session::claude::version::{CliVersion, VersionNeed};

use super::{Options, OrderedObject, Skills, SystemPrompt, is_own_server};

/// Keys of `initialize` that tell about the MCP servers of this process. The CLI ignores them without the
/// list of the servers.
const OWN_SERVER_KEYS: [&str; 2] = ["sdkMcpServerConfigs", "sdkMcpServerManifests"];
const OWN_SERVERS: &str = "sdkMcpServers";

/// Declares setters of keys of `initialize` by a table. A key that was not set is not sent.
macro_rules! initialize_keys {
    ($($(#[$doc:meta])* $name:ident($value:ident: $type:ty) = $key:literal,)*) => {
        /// The handshake. Each option is a key of `initialize`.
        impl Options {
            $(
                $(#[$doc])*
                #[doc = concat!("\n\nDefault: not sent. (`initialize`: `", $key, "`)")]
                #[must_use]
                pub fn $name(mut self, $value: $type) -> Self {
                    if let Some(value) = self.json(stringify!($name), &$value) {
                        self.keys.retain(|(known, _)| *known != $key);
                        self.keys.push(($key, value));
                    }
                    self
                }
            )*
        }
    };
}

initialize_keys! {
    /// Sets whether the CLI's own system prompt leaves out what differs between machines and days, so
    /// that it can be cached.
    exclude_dynamic_sections(on: bool) = "excludeDynamicSections",
    /// Sets whether the text and the thinking of subagents come as messages.
    forward_subagent_text(on: bool) = "forwardSubagentText",
    /// Sets whether the system prompt of the first request is kept for the whole conversation. Needs
    /// Claude Code 2.1.257.
    system_prompt_snapshot(on: bool) = "systemPromptSnapshot",
    /// Sets the instructions of the plan mode.
    plan_mode_instructions(text: &str) = "planModeInstructions",
    /// Sets tools that take the place of others: an object of names.
    tool_aliases(aliases: impl Serialize) = "toolAliases",
    /// Sets the title of the session. The CLI then makes none.
    title(title: &str) = "title",
    /// Sets whether the CLI suggests the next prompt, as `prompt_suggestion` messages.
    prompt_suggestions(on: bool) = "promptSuggestions",
    /// Sets whether the progress of subagents is summarized.
    agent_progress_summaries(on: bool) = "agentProgressSummaries",
    /// Says that this host can stop single background tasks
    /// ([`StopTask`](crate::session::claude::control::StopTask)). An interrupt then spares them.
    per_task_stop(on: bool) = "perTaskStopAffordance",
    /// Sets the JSON Schema of the result, as [`json_schema`](Self::json_schema) does, but of any size.
    json_schema_in_initialize(schema: impl Serialize) = "jsonSchema",
    /// Appends a text to the system prompt, as [`append_system_prompt`](Self::append_system_prompt) does,
    /// but of any size. Goes with [`claude_code_prompt`](Self::claude_code_prompt).
    append_system_prompt_in_initialize(text: &str) = "appendSystemPrompt",
    /// Sets the timeout and the tool policies of MCP servers of this process: an object by name, with
    /// `timeout` in milliseconds and `tools`.
    own_mcp_server_configs(configs: impl Serialize) = "sdkMcpServerConfigs",
    /// Sets what MCP servers of this process would answer to `initialize` and `tools/list`, so that the
    /// CLI need not ask: an object by name, with `initializeResult` and `toolsListResult`.
    own_mcp_server_manifests(manifests: impl Serialize) = "sdkMcpServerManifests",
}

impl Options {
    /// Returns the keys and values that `initialize` carries. `own` are the MCP servers of this process.
    pub(in super::super) fn initialize(&self, own: &[&str]) -> Result<Vec<(&'static str, Record)>> {
        let mut keys = Vec::new();
        if !self.agents.is_empty() {
            keys.push(("agents", Record::from_json(&OrderedObject(&self.agents))?));
        }
        if let Some(Skills::Named(names)) = &self.skills {
            keys.push(("skills", Record::from_json(names)?));
        }
        if let SystemPrompt::Parts(parts) = &self.prompt {
            keys.push(("systemPrompt", Record::from_json(parts)?));
        }
        keys.extend(self.keys.iter().cloned());
        if self.keys.iter().any(|(key, _)| OWN_SERVER_KEYS.contains(key)) {
            keys.push((OWN_SERVERS, Record::from_json(own)?));
        }
        let servers = self.servers_in_initialize();
        if !servers.is_empty() {
            keys.push(("mcpServers", Record::from_json(&OrderedObject(&servers))?));
        }
        if self.needed_answers().plugins {
            #[derive(Serialize)]
            struct LocalPlugin<'a> {
                #[serde(rename = "type")]
                kind: &'static str,
                path: &'a std::path::Path,
            }
            let plugin = |path| LocalPlugin { kind: "local", path };
            let plugins: Vec<_> = self.plugin_dirs.iter().map(|path| plugin(path)).collect();
            keys.push(("plugins", Record::from_json(&plugins)?));
        }
        Ok(keys)
    }

    /// Returns the MCP servers that go into `initialize`: those that the CLI runs or connects to.
    fn servers_in_initialize(&self) -> Vec<(String, Record)> {
        let servers = self.mcp_servers.iter().filter(|(_, config)| !is_own_server(config));
        servers.filter(|_| self.mcp_in_initialize).cloned().collect()
    }

    /// Returns what the answer to `initialize` has to name.
    pub(in super::super) fn needed_answers(&self) -> NeededAnswers {
        NeededAnswers {
            mcp_servers: !self.servers_in_initialize().is_empty(),
            plugins: self.plugins_in_initialize && !self.plugin_dirs.is_empty(),
            ..NeededAnswers::default()
        }
    }

    /// Returns whether the CLI has to wait for `initialize` before it starts.
    pub(super) fn awaits_initialize(&self) -> bool {
        let needed = self.needed_answers();
        needed.mcp_servers || needed.plugins
    }

    /// Returns what needs a newer CLI.
    pub(in super::super) fn version_needs(&self) -> Vec<VersionNeed> {
        let snapshot = self.keys.iter().any(|(key, _)| *key == "systemPromptSnapshot");
        let needs = [
            (self.verbatim_prompts, "verbatim_prompts", CliVersion::new(2, 1, 248)),
            (snapshot, "system_prompt_snapshot", CliVersion::new(2, 1, 257)),
        ];
        let needs = needs.into_iter().filter(|(is_set, ..)| *is_set);
        needs.map(|(_, what, since)| VersionNeed { what, since }).collect()
    }
}
