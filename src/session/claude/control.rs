//! The control requests to the CLI, as a table, and their answers.

use serde::Serialize;

use crate::record::Record;

use super::wire::{GivenJson, received};

/// A control request, for [`Session::control`](super::Session::control).
///
/// The types of this module cover the requests that the CLI has today. A type of the user's own can stand
/// for a later one: it serializes to the other keys of the request.
///
/// ```no_run
/// use agentpipe::Record;
/// use agentpipe::session::claude::Session;
/// use agentpipe::session::claude::control::{ControlRequest, Interrupt};
///
/// #[derive(serde::Serialize)]
/// struct Rest { minutes: u32 }
///
/// impl ControlRequest for Rest {
///     const SUBTYPE: &'static str = "rest";
///     type Answer = Record;
/// }
///
/// # async fn run(session: Session) -> Result<(), agentpipe::Error> {
/// let stopped = session.control(Interrupt::new().cancel_queued(true)).await?;
/// println!("cancelled: {:?}", stopped.cancelled);
/// let answer: Record = session.control(Rest { minutes: 5 }).await?;
/// # Ok(()) }
/// ```
pub trait ControlRequest: Serialize {
    /// The subtype.
    const SUBTYPE: &'static str;
    /// The answer, made from its JSON. [`Record`] takes it as it is.
    type Answer: From<Record>;
}

/// The type of a field, by the kind of its value.
macro_rules! field {
    (text) => { String };
    (flag) => { bool };
    (number) => { u64 };
    (json) => { GivenJson };
    (text_or_null) => { Option<String> };
    (flag_or_null) => { Option<bool> };
    (number_or_null) => { Option<u64> };
}

/// The type of an argument, by the kind of its value.
macro_rules! argument {
    (text) => { impl Into<String> };
    (flag) => { bool };
    (number) => { u64 };
    (json) => { impl Serialize };
    (text_or_null) => { Option<&str> };
    (flag_or_null) => { Option<bool> };
    (number_or_null) => { Option<u64> };
}

/// The value of a field, from its argument.
macro_rules! value {
    (text, $value:ident) => {
        $value.into()
    };
    (json, $value:ident) => {
        GivenJson::new($value)
    };
    (text_or_null, $value:ident) => {
        $value.map(Into::into)
    };
    ($kind:ident, $value:ident) => {
        $value
    };
}

/// Implements `Default` for a request that needs no keys.
macro_rules! default {
    ($name:ident,) => {
        impl Default for $name {
            fn default() -> Self {
                Self::new()
            }
        }
    };
    ($name:ident, $($needed:ident)+) => {};
}

/// Declares requests: the type, its subtype and answer, the keys that it needs, and those that it may have.
macro_rules! requests {
    ($(
        $(#[$doc:meta])*
        $name:ident = $subtype:literal -> $answer:ty,
        ($($needed:ident $(= $needed_key:literal)?: $needed_kind:ident),*)
        { $($(#[$field_doc:meta])* $field:ident $(= $key:literal)?: $kind:ident,)* }
    )*) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, Serialize)]
        #[must_use]
        pub struct $name {
            $($(#[serde(rename = $needed_key)])? $needed: field!($needed_kind),)*
            $(
                $(#[serde(rename = $key)])?
                #[serde(skip_serializing_if = "Option::is_none")]
                $field: Option<field!($kind)>,
            )*
        }

        impl $name {
            #[doc = concat!("Creates the request `", $subtype, "`.")]
            pub fn new($($needed: argument!($needed_kind)),*) -> Self {
                Self { $($needed: value!($needed_kind, $needed),)* $($field: None,)* }
            }

            $(
                $(#[$field_doc])*
                pub fn $field(mut self, $field: argument!($kind)) -> Self {
                    self.$field = Some(value!($kind, $field));
                    self
                }
            )*
        }

        default!($name, $($needed)*);

        impl ControlRequest for $name {
            const SUBTYPE: &'static str = $subtype;
            type Answer = $answer;
        }
    )*};
}

// Turns, messages and tasks.
requests! {
    /// Interrupts the turn. Its result comes all the same.
    Interrupt = "interrupt" -> Interrupted, () {
        /// Cancels the messages that are queued, too. Without it the CLI begins a turn for them.
        cancel_queued: flag,
    }
    /// Removes a queued message of the user, by the [`uuid`](super::UserMessage::uuid) with which it was
    /// sent.
    CancelAsyncMessage = "cancel_async_message" -> Record, (message_uuid: text) {}
    /// Puts running tools and subagents into the background, so that the turn goes on.
    BackgroundTasks = "background_tasks" -> Record, () {
        /// The tool call to put there. Default: all.
        tool_use_id: text,
    }
    /// Stops a background task. A `task_notification` follows.
    StopTask = "stop_task" -> Record, (task_id: text) {}
    /// Returns the end of the output of a background command.
    GetTaskOutput = "get_task_output" -> TaskOutput, (task_id: text) {}
    /// Restores files to what they were at a user message. Needs
    /// [`Options::file_checkpointing`](super::Options::file_checkpointing).
    RewindFiles = "rewind_files" -> Rewound, (user_message_id: text) {
        /// Only tells what would change.
        dry_run: flag,
    }
    /// Tells the CLI that a file was read, although the read is no longer part of the conversation.
    /// `mtime` is the file's time in milliseconds since 1970.
    SeedReadState = "seed_read_state" -> Record, (path: text, mtime: number) {}
    /// Tells the CLI whether its stream events are watched. `None` is unknown, which counts as watched.
    SetHasSubscribers = "set_has_subscribers" -> Record, (has_subscribers: flag_or_null) {}
}

// The session, its model and its settings.
requests! {
    /// Sets the permission mode: `default`, `acceptEdits`, `plan`, `bypassPermissions`, `dontAsk` or
    /// `auto`.
    SetPermissionMode = "set_permission_mode" -> Record, (mode: text) {}
    /// Sets the model. `None` is the default one.
    SetModel = "set_model" -> Record, (model: text_or_null) {}
    /// Sets the tokens for thinking. `None` is the default of the session.
    SetMaxThinkingTokens = "set_max_thinking_tokens" -> Record, (max_thinking_tokens: number_or_null) {
        /// How thinking is shown: `summarized`, `omitted` or `highlights`.
        thinking_display: text,
    }
    /// Sets the title of the session.
    RenameSession = "rename_session" -> Record, (title: text) {
        /// Who chose it: `remote`, which is the default, or `host`.
        source: text,
        /// The session that is meant. The CLI refuses the request if it is at another one.
        session_id: text,
    }
    /// Sets the accent color of the session. `default` resets it. A CLI without a user interface, such as
    /// 2.1.332 over stream-json, refuses it.
    SetColor = "set_color" -> Record, (color: text) {}
    /// Returns the settings in effect, and those of each source.
    GetSettings = "get_settings" -> Record, () {}
    /// Merges settings into those of the command line.
    ApplyFlagSettings = "apply_flag_settings" -> Record, (settings: json) {}
    /// Writes settings into a file: `localSettings` or `userSettings`. The CLI takes few keys.
    UpdateSettings = "update_settings" -> Record, (source: text, settings: json) {}
    /// Returns the permission rules and the working directories.
    ListPermissionRules = "list_permission_rules" -> Record, () {}
    /// Returns the models that can be chosen.
    ListModels = "list_models" -> Record, () {}
    /// Returns what fills the context, in tokens.
    GetContextUsage = "get_context_usage" -> Record, () {
        /// `full`, which is the default, or `summary`, which asks the API nothing.
        detail: text,
    }
    /// Returns the cost of the session, as a text.
    GetSessionCost = "get_session_cost" -> Record, () {}
    /// Returns the usage of the session and the limits of the plan.
    GetUsage = "get_usage" -> Record, () {
        /// Leaves out what takes a scan of the transcripts.
        skip_behaviors: flag,
    }
    /// Returns the version of the CLI. See [`Session::cli_version`](super::Session::cli_version).
    GetBinaryVersion = "get_binary_version" -> Record, () {}
    /// Returns the hooks of settings, session and plugins.
    GetHooksListing = "get_hooks_listing" -> Record, () {}
}

// Files, skills and plugins.
requests! {
    /// Returns paths that match the beginning of one.
    FileSuggestions = "file_suggestions" -> Record, (query: text) {}
    /// Reads a file, as far as the rules of the tool `Read` allow it.
    ReadFile = "read_file" -> FileRead, (path: text) {
        /// How many bytes to read at most.
        max_bytes: number,
        /// `utf-8`, which is the default, or `base64`.
        encoding: text,
    }
    /// Adds a working directory below the present ones.
    RegisterRepoRoot = "register_repo_root" -> Record, (directory: text) {
        /// Reads its `CLAUDE.md`.
        reload_claude_md: flag,
        /// Loads its plugins.
        reload_plugins: flag,
        /// Loads its skills.
        reload_skills: flag,
    }
    /// Reads the output styles again.
    ReloadOutputStyles = "reload_output_styles" -> OutputStyles, () {}
    /// Loads the skills again.
    ReloadSkills = "reload_skills" -> Record, () {}
    /// Loads the plugins again.
    ReloadPlugins = "reload_plugins" -> Record, () {
        /// Changes nothing if the change would cost the prompt cache.
        hold_on_cache_impact: flag,
        /// Plugins to load as well: a list of objects with `type` and `path`.
        add_plugins: json,
        /// Fails if a turn is under way.
        refuse_if_busy: flag,
    }
}

// MCP servers.
requests! {
    /// Returns the MCP servers: `{"mcpServers": [...]}`.
    McpStatus = "mcp_status" -> Record, () {
        /// Sends the answer of a remote session to those only who are attached now.
        live_reply = "liveReply": flag,
    }
    /// Reconnects an MCP server.
    McpReconnect = "mcp_reconnect" -> Record, (server = "serverName": text) {}
    /// Turns an MCP server on or off.
    McpToggle = "mcp_toggle" -> Record, (server = "serverName": text, enabled: flag) {}
    /// Sets the MCP servers that come and go with the session: an object of configurations, by name.
    McpSetServers = "mcp_set_servers" -> ServersSet, (servers: json) {}
    /// Calls a tool of an MCP server, without the model. `tool` is `mcp__server__tool`.
    McpCall = "mcp_call" -> Record, (tool: text) {
        /// The arguments of the tool: an object.
        arguments: json,
        /// How long it may take, in milliseconds. The timeout of the request counts as well: see
        /// [`Session::control_with_timeout`](super::Session::control_with_timeout).
        timeout_ms: number,
        /// Asks for permission as a call of the model would.
        check_permissions: flag,
        /// Returns an error of the tool as a result.
        soft_error_result: flag,
        /// Returns the content unchanged, because no model reads it.
        result_not_for_model: flag,
        /// When the call is no longer wanted: a time in RFC 3339.
        expires_at: text,
        /// Files that the call reads.
        input_files: json,
        /// Files that the call writes.
        output_files: json,
    }
    /// Reads a `ui://` resource of an MCP server.
    McpReadResource = "mcp_read_resource" -> Record, (server = "serverName": text, uri: text) {}
    /// Sends a JSON-RPC message of an MCP server of this process: a notification, or a request, whose
    /// response comes to the server as an [`McpRequest`](super::McpRequest) without a method.
    McpMessage = "mcp_message" -> Record, (server_name: text, message: json) {}
}

received! {
    /// The answer to [`Interrupt`]. An older CLI answers with no keys.
    pub Interrupted {
        /// Messages of the user that survive, by their `uuid`.
        still_queued: Vec<String> = "still_queued",
        /// Messages of the user that were cancelled, by their `uuid`.
        cancelled: Vec<String> = "cancelled",
    }
}

received! {
    /// The answer to [`RewindFiles`].
    pub Rewound {
        /// Whether the files can be restored.
        can_rewind: bool = "canRewind",
        /// Why they cannot.
        error: String = "error",
        /// The files that change.
        files_changed: Vec<String> = "filesChanged",
        /// Lines that are added.
        insertions: u64 = "insertions",
        /// Lines that are removed.
        deletions: u64 = "deletions",
    }
}

received! {
    /// The answer to [`GetTaskOutput`].
    pub TaskOutput {
        /// The end of the output.
        output: String = "output",
        /// The bytes of the whole output.
        total_bytes: u64 = "total_bytes",
        /// Whether the output is longer.
        truncated: bool = "truncated",
    }
}

received! {
    /// The answer to [`ReadFile`].
    pub FileRead {
        /// The contents, in the encoding of the answer.
        contents: String = "contents",
        /// The absolute path.
        path: String = "absPath",
        /// Whether the file is longer.
        truncated: bool = "truncated",
        /// `base64`; nothing is UTF-8.
        encoding: String = "encoding",
        /// Whether bytes that are not UTF-8 were replaced.
        lossy: bool = "lossy",
    }
}

received! {
    /// The answer to [`ReloadOutputStyles`].
    pub OutputStyles {
        /// The names of the styles.
        available: Vec<String> = "available_output_styles",
    }
}

received! {
    /// The answer to [`McpSetServers`].
    pub ServersSet {
        /// The servers that were added.
        added: Vec<String> = "added",
        /// The servers that were removed.
        removed: Vec<String> = "removed",
        /// Why a server could not be added, by its name.
        errors: Record = "errors",
    }
}
