//! The setters of [`Options`]: each names its flag, its type and its default.

use std::ffi::OsStr;
use std::path::Path;

use serde::Serialize;
use serde_json::Value;

use crate::command::AgentCommand;
use crate::record::Record;

use super::{Options, Skills, SystemPrompt, Thinking, strings};

/// The prompt and the model.
impl Options {
    /// Sets the system prompt in place of the CLI's own. Default: an empty one.
    /// (`--system-prompt`)
    ///
    /// It is one argument, so it has to be below 128 KiB.
    /// [`system_prompt_file`](Self::system_prompt_file) has no limit.
    #[must_use]
    pub fn system_prompt(mut self, text: impl Into<String>) -> Self {
        self.prompt = SystemPrompt::Text(text.into());
        self
    }

    /// Sets a file from which the CLI reads the system prompt. (`--system-prompt-file`)
    #[must_use]
    pub fn system_prompt_file(mut self, path: impl AsRef<Path>) -> Self {
        self.prompt = SystemPrompt::File(path.as_ref().to_owned());
        self
    }

    /// Keeps the CLI's own system prompt.
    #[must_use]
    pub fn claude_code_prompt(mut self) -> Self {
        self.prompt = SystemPrompt::Preset(String::new());
        self
    }

    /// Keeps the CLI's own system prompt and appends a text to it. (`--append-system-prompt`)
    #[must_use]
    pub fn append_system_prompt(mut self, text: impl Into<String>) -> Self {
        self.prompt = SystemPrompt::Preset(text.into());
        self
    }

    /// Sets the system prompt in parts, each of which can be cached. Of any size.
    /// (`initialize`: `systemPrompt`)
    #[must_use]
    pub fn system_prompt_parts<I, S>(mut self, parts: I) -> Self
    where
        I: IntoIterator<Item = S>,
        S: Into<String>,
    {
        self.prompt = SystemPrompt::Parts(strings(parts));
        self
    }

    /// Adds a subagent, in place of an earlier one with the same name. (`initialize`: `agents`)
    ///
    /// The definition serializes to an object (`description`, `prompt`, `tools`, `model`, ...). Keys
    /// with the value `null` are left out. It is sent over stdin and not in the arguments, so it may
    /// have any size.
    #[must_use]
    pub fn agent(mut self, name: impl Into<String>, definition: impl Serialize) -> Self {
        let name = name.into();
        if let Some(definition) = self.json("agent", &definition) {
            self.agents.retain(|(known, _)| *known != name);
            self.agents.push((name, without_nulls(definition)));
        }
        self
    }

    /// Sets the model: an alias (`opus`) or a full name. Default: that of the CLI. (`--model`)
    #[must_use]
    pub fn model(mut self, model: impl Into<String>) -> Self {
        self.model = model.into();
        self
    }

    /// Sets the model to use while the first one is overloaded. Default: none.
    /// (`--fallback-model`)
    #[must_use]
    pub fn fallback_model(mut self, model: impl Into<String>) -> Self {
        self.fallback_model = model.into();
        self
    }

    /// Sets the effort: `low`, `medium`, `high`, `xhigh` or `max`. Default: that of the model.
    /// (`--effort`)
    #[must_use]
    pub fn effort(mut self, effort: impl Into<String>) -> Self {
        self.effort = effort.into();
        self
    }

    /// Sets beta features of the API, by the names of their headers. Default: none. (`--betas`)
    #[must_use]
    pub fn betas<I, S>(mut self, betas: I) -> Self
    where
        I: IntoIterator<Item = S>,
        S: Into<String>,
    {
        self.betas = strings(betas);
        self
    }
}

/// Limits, and the form of the result.
impl Options {
    /// Sets after how many turns of the model a prompt ends with an error. Default 0, which is no
    /// limit and not sent. (`--max-turns`)
    #[must_use]
    pub fn max_turns(mut self, turns: u32) -> Self {
        self.max_turns = turns;
        self
    }

    /// Sets after how many US dollars the session ends with an error. Default: no limit.
    /// (`--max-budget-usd`)
    #[must_use]
    pub fn max_budget_usd(mut self, dollars: f64) -> Self {
        self.max_budget_usd = Some(dollars);
        self
    }

    /// Sets how many tokens the model should get by with. Default: not sent. (`--task-budget`)
    #[must_use]
    pub fn task_budget(mut self, tokens: u64) -> Self {
        self.task_budget = Some(tokens);
        self
    }

    /// Sets how the model thinks. Default: that of the CLI. (`--thinking`,
    /// `--max-thinking-tokens`)
    #[must_use]
    pub fn thinking(mut self, thinking: Thinking) -> Self {
        self.thinking = Some(thinking);
        self
    }

    /// Sets how thinking is shown: `summarized` or `omitted`. Default: that of the CLI. Not sent
    /// unless [`thinking`](Self::thinking) is on. (`--thinking-display`)
    #[must_use]
    pub fn thinking_display(mut self, display: impl Into<String>) -> Self {
        self.thinking_display = display.into();
        self
    }

    /// Sets the tokens for thinking: the older form of [`Thinking::Enabled`]. Default: not sent. Not
    /// sent either if [`thinking`](Self::thinking) is set. (`--max-thinking-tokens`)
    #[must_use]
    pub fn max_thinking_tokens(mut self, tokens: u64) -> Self {
        self.max_thinking_tokens = Some(tokens);
        self
    }

    /// Sets the JSON Schema of the result's `structured_output`. `schema` serializes to it. Default:
    /// none. (`--json-schema`)
    #[must_use]
    pub fn json_schema(mut self, schema: impl Serialize) -> Self {
        self.json_schema = self.json("json_schema", &schema).or(self.json_schema);
        self
    }
}

/// Tools, permissions, MCP servers and plugins.
impl Options {
    /// Sets the built-in tools, in place of the CLI's default set. (`--tools`)
    #[must_use]
    pub fn tools<I, S>(mut self, tools: I) -> Self
    where
        I: IntoIterator<Item = S>,
        S: Into<String>,
    {
        self.tools = Some(strings(tools));
        self
    }

    /// Removes all built-in tools. (`--tools ""`)
    #[must_use]
    pub fn no_tools(mut self) -> Self {
        self.tools = Some(Vec::new());
        self
    }

    /// Names the default set of tools explicitly. (`--tools default`)
    #[must_use]
    pub fn default_tools(self) -> Self {
        self.tools(["default"])
    }

    /// Sets the tools and rules (`Bash(git log:*)`) that need no permission. Default: none.
    /// (`--allowedTools`)
    #[must_use]
    pub fn allowed_tools<I, S>(mut self, rules: I) -> Self
    where
        I: IntoIterator<Item = S>,
        S: Into<String>,
    {
        self.allowed_tools = strings(rules);
        self
    }

    /// Sets the tools and rules that are denied. Default: none. (`--disallowedTools`)
    #[must_use]
    pub fn disallowed_tools<I, S>(mut self, rules: I) -> Self
    where
        I: IntoIterator<Item = S>,
        S: Into<String>,
    {
        self.disallowed_tools = strings(rules);
        self
    }

    /// Sets the skills of the main agent, by name. An empty list removes all skills. Default: not sent.
    /// (`initialize`: `skills`)
    ///
    /// Each skill is allowed as a tool, and the settings of the user and of the project are read,
    /// unless [`setting_sources`](Self::setting_sources) is set. A name that would mean something else
    /// inside of a rule is refused: one with a delimiter, a wildcard, a backslash or a control
    /// character, with white space around it, or with a leading slash.
    #[must_use]
    pub fn skills<I, S>(mut self, names: I) -> Self
    where
        I: IntoIterator<Item = S>,
        S: Into<String>,
    {
        self.skills = Some(Skills::Named(strings(names)));
        self
    }

    /// Gives the main agent all skills that the CLI finds. Otherwise like
    /// [`skills`](Self::skills).
    #[must_use]
    pub fn all_skills(mut self) -> Self {
        self.skills = Some(Skills::All);
        self
    }

    /// Sets the permission mode: `default`, `acceptEdits`, `plan`, `bypassPermissions`, `dontAsk` or
    /// `auto`. Default: that of the settings. (`--permission-mode`)
    #[must_use]
    pub fn permission_mode(mut self, mode: impl Into<String>) -> Self {
        self.permission_mode = mode.into();
        self
    }

    /// Sets the MCP tool that decides on permissions. Default: none. (`--permission-prompt-tool`)
    ///
    /// With [`can_use_tool`](super::super::Builder::can_use_tool) the flag is `stdio`, and setting a
    /// tool as well is an error.
    #[must_use]
    pub fn permission_prompt_tool(mut self, tool: impl Into<String>) -> Self {
        self.prompt_tool = tool.into();
        self
    }

    /// Adds an MCP server, in place of an earlier one with the same name. `config` serializes to its
    /// configuration: `command` and `args`, or `type` and `url`. (`--mcp-config`)
    ///
    /// The configuration is part of the arguments, which other users of the host can read. A secret
    /// belongs into a file ([`mcp_config`](Self::mcp_config)) or into the environment.
    ///
    /// Servers of this process ([`Builder::mcp_server`](super::super::Builder::mcp_server)) need no
    /// entry here. The key `instance` of an entry with `"type": "sdk"` is left out.
    #[must_use]
    pub fn mcp_server(mut self, name: impl Into<String>, config: impl Serialize) -> Self {
        let name = name.into();
        if let Some(config) = self.json("mcp_server", &config) {
            self.mcp_servers.retain(|(known, _)| *known != name);
            self.mcp_servers.push((name, config));
        }
        self
    }

    /// Sets the MCP servers as a path or as JSON, which is passed on unchanged. Default: none.
    /// Excludes [`mcp_server`](Self::mcp_server). (`--mcp-config`)
    #[must_use]
    pub fn mcp_config(mut self, config: impl AsRef<OsStr>) -> Self {
        self.mcp_config = config.as_ref().to_owned();
        self
    }

    /// Sets whether the CLI ignores the MCP servers of its settings. Default off.
    /// (`--strict-mcp-config`)
    #[must_use]
    pub fn strict_mcp_config(mut self, on: bool) -> Self {
        self.strict_mcp = on;
        self
    }

    /// Sets who answers permission prompts: `host`, or `none`, which denies them. Default: the host.
    /// (`--permission-prompts=WHO`)
    #[must_use]
    pub fn permission_prompts(mut self, who: impl Into<String>) -> Self {
        self.permission_prompts = who.into();
        self
    }

    /// Sets whether the mode `bypassPermissions` may be chosen. Default off.
    /// (`--allow-dangerously-skip-permissions`)
    #[must_use]
    pub fn allow_dangerously_skip_permissions(mut self, on: bool) -> Self {
        self.skip_permissions = on;
        self
    }

    /// Sets whether the servers of [`mcp_server`](Self::mcp_server) go into `initialize` and not into the
    /// arguments, which other users of the host can read. Default off. The start fails if the CLI does
    /// not say that it has taken them. (`--await-initialize`, `initialize`: `mcpServers`)
    #[must_use]
    pub fn mcp_servers_in_initialize(mut self, on: bool) -> Self {
        self.mcp_in_initialize = on;
        self
    }

    /// Sets whether the folders of [`plugin_dir`](Self::plugin_dir) go into `initialize`. Default off. The
    /// start fails if the CLI does not say that it has taken them. (`--await-initialize`, `initialize`:
    /// `plugins`)
    #[must_use]
    pub fn plugins_in_initialize(mut self, on: bool) -> Self {
        self.plugins_in_initialize = on;
        self
    }

    /// Sets the form of previews in questions of the CLI: `markdown` or `html`. Default: that of the CLI.
    /// (`CLAUDE_CODE_QUESTION_PREVIEW_FORMAT`)
    #[must_use]
    pub fn question_preview(mut self, format: impl Into<String>) -> Self {
        self.question_preview = format.into();
        self
    }

    /// Adds a folder with a plugin. (`--plugin-dir`)
    #[must_use]
    pub fn plugin_dir(mut self, dir: impl AsRef<Path>) -> Self {
        self.plugin_dirs.push(dir.as_ref().to_owned());
        self
    }

    /// Sets the sandbox of commands. `sandbox` serializes to an object (`enabled`, `network`, ...),
    /// which becomes the key `sandbox` of the [`settings`](Self::settings). Default: none.
    /// (`--settings`)
    #[must_use]
    pub fn sandbox(mut self, sandbox: impl Serialize) -> Self {
        self.sandbox = self.json("sandbox", &sandbox).or(self.sandbox);
        self
    }
}

/// The conversation, the settings, and which messages come.
impl Options {
    /// Sets whether the last conversation of the working directory is continued. Default off.
    /// (`--continue`)
    #[must_use]
    pub fn continue_conversation(mut self, on: bool) -> Self {
        self.continue_conversation = on;
        self
    }

    /// Sets the id of the session to resume. Default: none. (`--resume=ID`)
    #[must_use]
    pub fn resume(mut self, session: impl Into<String>) -> Self {
        self.resume = session.into();
        self
    }

    /// Sets the id of the new session, a UUID. Default: the CLI makes one. (`--session-id=ID`)
    #[must_use]
    pub fn session_id(mut self, id: impl Into<String>) -> Self {
        self.session_id = id.into();
        self
    }

    /// Sets whether a resumed session gets a new id. Default off. (`--fork-session`)
    #[must_use]
    pub fn fork_session(mut self, on: bool) -> Self {
        self.fork_session = on;
        self
    }

    /// Sets the message of the assistant up to which a session is resumed. Default: the last one.
    /// (`--resume-session-at=UUID`)
    #[must_use]
    pub fn resume_session_at(mut self, message: impl Into<String>) -> Self {
        self.resume_at = message.into();
        self
    }

    /// Sets the turn without which a session is resumed. An empty text is sent as well. Default: not
    /// sent. (`--resume-drops-turn=ID`)
    #[must_use]
    pub fn resume_drops_turn(mut self, turn: impl Into<String>) -> Self {
        self.resume_drops_turn = Some(turn.into());
        self
    }

    /// Sets whether the transcript comes as `transcript_mirror` messages. Default off.
    /// (`--session-mirror`)
    #[must_use]
    pub fn session_mirror(mut self, on: bool) -> Self {
        self.session_mirror = on;
        self
    }

    /// Sets the settings: a path, or a JSON object as text. Default: none. Passed on unchanged,
    /// unless a [`sandbox`](Self::sandbox) has to be merged into it. (`--settings`)
    #[must_use]
    pub fn settings(mut self, settings: impl Into<String>) -> Self {
        self.settings = settings.into();
        self
    }

    /// Sets settings that the user cannot change: an object. Default: none. (`--managed-settings`)
    #[must_use]
    pub fn managed_settings(mut self, settings: impl Serialize) -> Self {
        self.managed_settings = self.json("managed_settings", &settings).or(self.managed_settings);
        self
    }

    /// Sets the folder whose project settings are read. Default: the working directory.
    /// (`--project-config-root=DIR`)
    #[must_use]
    pub fn project_config_root(mut self, dir: impl AsRef<Path>) -> Self {
        self.project_config_root = dir.as_ref().to_owned();
        self
    }

    /// Sets whether the session is stored, so that it can be resumed. Default on. The transcript can also
    /// come as messages: [`session_mirror`](Self::session_mirror). (`--no-session-persistence`)
    #[must_use]
    pub fn persist_session(mut self, on: bool) -> Self {
        self.no_persistence = !on;
        self
    }

    /// Sets whether each message of the user is delivered as it is written: without slash commands, and
    /// without files for `@path`. Default off. Needs Claude Code 2.1.248.
    /// [`UserMessage::client_composed`](crate::session::claude::UserMessage::client_composed) does the same
    /// for one message.
    #[must_use]
    pub fn verbatim_prompts(mut self, on: bool) -> Self {
        self.verbatim_prompts = on;
        self
    }

    /// Sets which settings files are read: `user`, `project`, `local`. An empty list is none.
    /// Default: those of the CLI. (`--setting-sources=A,B`)
    #[must_use]
    pub fn setting_sources<I, S>(mut self, sources: I) -> Self
    where
        I: IntoIterator<Item = S>,
        S: Into<String>,
    {
        self.setting_sources = Some(strings(sources));
        self
    }

    /// Adds a directory in which the agent may work. (`--add-dir`)
    #[must_use]
    pub fn add_dir(mut self, dir: impl AsRef<Path>) -> Self {
        self.add_dirs.push(dir.as_ref().to_owned());
        self
    }

    /// Sets whether parts of messages come as `stream_event`, as they are generated. Default off.
    /// (`--include-partial-messages`)
    #[must_use]
    pub fn include_partial_messages(mut self, on: bool) -> Self {
        self.partial_messages = on;
        self
    }

    /// Sets whether the beginning and end of hooks come as messages. Default off.
    /// (`--include-hook-events`)
    #[must_use]
    pub fn include_hook_events(mut self, on: bool) -> Self {
        self.hook_events = on;
        self
    }
}

/// The process of the CLI.
impl Options {
    /// Sets the CLI: a path, or a name that is searched on the agent's `PATH`. A relative path counts
    /// from the agent's working directory. Default: `claude`, searched as [`AgentCommand::claude`]
    /// says.
    #[must_use]
    pub fn cli_path(mut self, path: impl AsRef<Path>) -> Self {
        self.process.0.program = path.as_ref().as_os_str().to_owned();
        self
    }

    /// Sets the working directory, and `PWD` to it. Default: that of this process.
    #[must_use]
    pub fn cwd(self, dir: impl AsRef<Path>) -> Self {
        self.process(|command| command.cwd(dir))
    }

    /// Sets a variable of the environment. The environment is otherwise that of this process without
    /// `CLAUDECODE`.
    ///
    /// The value wins over the inherited one and over the defaults: `CLAUDE_CODE_ENTRYPOINT=sdk-cli`,
    /// and `CLAUDE_AGENT_SDK_CLIENT_APP=agentpipe/VERSION` if this process has none.
    ///
    /// Two variables cannot be set. `AGENTPIPE_VERSION` is always the version of this crate.
    /// `CLAUDE_AGENT_SDK_VERSION` is always removed, because it is the version of an SDK that is not
    /// in use.
    #[must_use]
    pub fn env(self, key: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.process(|command| command.env(key, value))
    }

    /// Names this host to the CLI: `my-app/1.0`. Default `agentpipe/VERSION`, or the name that this process
    /// has inherited. (`CLAUDE_AGENT_SDK_CLIENT_APP`)
    #[must_use]
    pub fn client_app(mut self, name: impl Into<String>) -> Self {
        self.client_app = name.into();
        self
    }

    /// Sets whether the CLI logs what it does, to its stderr. Default off. (`--debug`)
    #[must_use]
    pub fn debug(mut self, on: bool) -> Self {
        self.debug = on;
        self
    }

    /// Sets a file into which the CLI logs what it does. Default: none. (`--debug-file=PATH`)
    #[must_use]
    pub fn debug_file(mut self, path: impl AsRef<Path>) -> Self {
        self.debug_file = path.as_ref().to_owned();
        self
    }

    /// Changes anything else about the process: user, limits, cgroup, close policy, an empty
    /// environment. Arguments that are added here come before the options, for a CLI that another
    /// program runs.
    ///
    /// ```
    /// use agentpipe::{AgentCommand, Limits};
    ///
    /// let options = AgentCommand::claude()
    ///     .cli_path("node")
    ///     .process(|command| command.arg("cli.js").limits(Limits::new().record_max(64 << 20)));
    /// let command = options.command()?;
    /// assert_eq!(command.get_program(), "node");
    /// # Ok::<(), agentpipe::Error>(())
    /// ```
    #[must_use]
    pub fn process(mut self, change: impl FnOnce(AgentCommand) -> AgentCommand) -> Self {
        self.process.0 = change(self.process.0);
        self
    }

    /// Sets whether the CLI keeps copies of the files that tools change, so that
    /// [`rewind_files`](crate::session::claude::Session::rewind_files) can restore them. Default off.
    /// (`CLAUDE_CODE_ENABLE_SDK_FILE_CHECKPOINTING=true`)
    #[must_use]
    pub fn file_checkpointing(mut self, on: bool) -> Self {
        self.file_checkpointing = on;
        self
    }

    /// Adds a flag that has no setter: its name without dashes, and its value if it takes one. The
    /// order is kept. A value that begins with `-` is sent as `--name=value`.
    #[must_use]
    pub fn extra_arg<'a>(
        mut self,
        name: impl Into<String>,
        value: impl Into<Option<&'a str>>,
    ) -> Self {
        self.extra_args.push((name.into(), value.into().map(Into::into)));
        self
    }
}

fn without_nulls(definition: Record) -> Record {
    let Ok(Value::Object(mut keys)) = definition.json() else { return definition };
    if !keys.values().any(Value::is_null) {
        return definition;
    }
    keys.retain(|_, value| !value.is_null());
    Record::from(Value::Object(keys).to_string().into_bytes())
}
