//! The system messages: hooks, background tasks, and the state of the agent.

use std::borrow::Cow;
use std::fmt;

use serde::{Serialize, Serializer};

use super::fields::view;
use super::value::{FieldValue, Json, ViewError};

view! {
    /// A hook that is configured in the agent began, wrote something, or ended.
    HookEvent: "type" = "system" {
        /// `hook_started`, `hook_progress` or `hook_response`.
        subtype: Cow<'a, str> = needed "subtype",
        /// The event. See [`event`](HookEvent::event).
        hook_event: Option<Cow<'a, str>> = maybe "hook_event",
        /// The name of the hook, which some versions send in place of the event.
        hook_name: Option<Cow<'a, str>> = maybe "hook_name",
        /// Another name for the event.
        hook_event_name: Option<Cow<'a, str>> = maybe "hook_event_name",
        /// The id of this run of the hook.
        hook_id: Option<Cow<'a, str>> = maybe "hook_id",
        /// What it wrote to stdout, so far or in all.
        stdout: Option<Cow<'a, str>> = maybe "stdout",
        /// What it wrote to stderr, so far or in all.
        stderr: Option<Cow<'a, str>> = maybe "stderr",
        /// How it ended: `success`, `error` or `cancelled`.
        outcome: Option<Cow<'a, str>> = maybe "outcome",
        /// Its exit code, if it is a command.
        exit_code: Option<u64> = maybe "exit_code",
        /// The id of the session.
        session_id: Option<Cow<'a, str>> = maybe "session_id",
        /// The id of the record.
        uuid: Option<Cow<'a, str>> = maybe "uuid",
    }
}

impl HookEvent<'_> {
    /// Returns the event, from the first of its three keys: `PreToolUse`, `SessionStart`, ...
    #[must_use]
    pub fn event(&self) -> Option<&str> {
        let names = [&self.hook_event, &self.hook_name, &self.hook_event_name];
        names.into_iter().find_map(Option::as_deref)
    }
}

view! {
    /// A background task began.
    TaskStarted: "type" = "system", "subtype" = "task_started" {
        /// The id of the task.
        task_id: Cow<'a, str> = needed "task_id",
        /// A description of the task.
        description: Option<Cow<'a, str>> = maybe "description",
        /// The id of the record.
        uuid: Option<Cow<'a, str>> = maybe "uuid",
        /// The id of the session.
        session_id: Option<Cow<'a, str>> = maybe "session_id",
        /// The id of the tool call that began it.
        tool_use_id: Option<Cow<'a, str>> = maybe "tool_use_id",
        /// The type. A session waits for `local_agent` and `local_workflow`; others may never end.
        task_type: Option<Cow<'a, str>> = maybe "task_type",
    }
}

view! {
    /// A background task has made progress.
    TaskProgress: "type" = "system", "subtype" = "task_progress" {
        /// The id of the task.
        task_id: Cow<'a, str> = needed "task_id",
        /// A description of the task.
        description: Option<Cow<'a, str>> = maybe "description",
        /// Tokens, tool calls, time.
        usage: Option<Json<'a>> = maybe "usage",
        /// The id of the record.
        uuid: Option<Cow<'a, str>> = maybe "uuid",
        /// The id of the session.
        session_id: Option<Cow<'a, str>> = maybe "session_id",
        /// The id of the tool call that began it.
        tool_use_id: Option<Cow<'a, str>> = maybe "tool_use_id",
        /// The tool that it called last.
        last_tool_name: Option<Cow<'a, str>> = maybe "last_tool_name",
    }
}

view! {
    /// A background task has ended.
    TaskNotification: "type" = "system", "subtype" = "task_notification" {
        /// The id of the task.
        task_id: Cow<'a, str> = needed "task_id",
        /// How it ended.
        status: TaskStatus<'a> = needed "status",
        /// The file with its output.
        output_file: Option<Cow<'a, str>> = maybe "output_file",
        /// A summary of its result.
        summary: Option<Cow<'a, str>> = maybe "summary",
        /// The id of the record.
        uuid: Option<Cow<'a, str>> = maybe "uuid",
        /// The id of the session.
        session_id: Option<Cow<'a, str>> = maybe "session_id",
        /// The id of the tool call that began it.
        tool_use_id: Option<Cow<'a, str>> = maybe "tool_use_id",
        /// Tokens, tool calls, time.
        usage: Option<Json<'a>> = maybe "usage",
    }
}

view! {
    /// A background task has changed. No key is required.
    TaskUpdated: "type" = "system", "subtype" = "task_updated" {
        /// The id of the task.
        task_id: Option<Cow<'a, str>> = maybe "task_id",
        /// What changed.
        patch: Option<TaskPatch<'a>> = maybe "patch",
        /// The id of the session.
        session_id: Option<Cow<'a, str>> = maybe "session_id",
        /// The id of the record.
        uuid: Option<Cow<'a, str>> = maybe "uuid",
    }
}

view! {
    /// The change of a [`TaskUpdated`]. All keys but the status are in `extra`.
    TaskPatch {
        /// The new status.
        status: Option<TaskStatus<'a>> = maybe "status",
    }
}

/// The status of a background task. See [`is_terminal`](Self::is_terminal).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TaskStatus<'a> {
    /// `completed`
    Completed,
    /// `failed`
    Failed,
    /// `stopped`
    Stopped,
    /// `killed`
    Killed,
    /// A word that has no variant here.
    Other(Cow<'a, str>),
}

impl TaskStatus<'_> {
    /// Returns the word of the record.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Stopped => "stopped",
            Self::Killed => "killed",
            Self::Other(word) => word,
        }
    }

    /// Returns whether the task is over. An unknown word counts as not over.
    #[must_use]
    pub fn is_terminal(&self) -> bool {
        !matches!(self, Self::Other(_))
    }
}

impl fmt::Display for TaskStatus<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl<'a> FieldValue<'a> for TaskStatus<'a> {
    fn read(json: Json<'a>) -> Result<(Self, bool), ViewError> {
        let (word, whole) = Cow::read(json)?;
        let word = match &*word {
            "completed" => Self::Completed,
            "failed" => Self::Failed,
            "stopped" => Self::Stopped,
            "killed" => Self::Killed,
            _ => Self::Other(word),
        };
        Ok((word, whole))
    }
}

impl Serialize for TaskStatus<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self.as_str())
    }
}

view! {
    /// The background tasks have changed.
    BackgroundTasksChanged: "type" = "system", "subtype" = "background_tasks_changed" {
        /// All that live, as objects with `task_id`, `task_type`, `description`, ...
        tasks: Option<Json<'a>> = maybe "tasks",
        /// The id of the session.
        session_id: Option<Cow<'a, str>> = maybe "session_id",
        /// The id of the record.
        uuid: Option<Cow<'a, str>> = maybe "uuid",
    }
}

view! {
    /// The CLI begins to work, waits for an answer, or owes no turn. A session keeps those to itself that
    /// it asked for.
    SessionStateChanged: "type" = "system", "subtype" = "session_state_changed" {
        /// `running`, `requires_action` or `idle`.
        state: Option<Cow<'a, str>> = maybe "state",
        /// The id of the session.
        session_id: Option<Cow<'a, str>> = maybe "session_id",
        /// The id of the record.
        uuid: Option<Cow<'a, str>> = maybe "uuid",
    }
}

view! {
    /// A turn begins. Describes the session.
    Init: "type" = "system", "subtype" = "init" {
        /// The version of the CLI. See [`Session::cli_version`](super::super::Session::cli_version).
        claude_code_version: Option<Cow<'a, str>> = maybe "claude_code_version",
        /// The working directory.
        cwd: Option<Cow<'a, str>> = maybe "cwd",
        /// The model.
        model: Option<Cow<'a, str>> = maybe "model",
        /// The tools.
        tools: Option<Vec<Cow<'a, str>>> = maybe "tools",
        /// The MCP servers, as objects with `name`, `status` and `source`.
        mcp_servers: Option<Json<'a>> = maybe "mcp_servers",
        /// The permission mode.
        permission_mode: Option<Cow<'a, str>> = maybe "permissionMode",
        /// The slash commands.
        slash_commands: Option<Vec<Cow<'a, str>>> = maybe "slash_commands",
        /// The output style.
        output_style: Option<Cow<'a, str>> = maybe "output_style",
        /// The subagents.
        agents: Option<Vec<Cow<'a, str>>> = maybe "agents",
        /// The skills.
        skills: Option<Vec<Cow<'a, str>>> = maybe "skills",
        /// The plugins, as objects with `name`, `path` and `version`.
        plugins: Option<Json<'a>> = maybe "plugins",
        /// Plugins that could not be loaded.
        plugin_errors: Option<Json<'a>> = maybe "plugin_errors",
        /// Where the credential comes from.
        api_key_source: Option<Cow<'a, str>> = maybe "apiKeySource",
        /// The beta features.
        betas: Option<Vec<Cow<'a, str>>> = maybe "betas",
        /// The effort.
        effort: Option<Cow<'a, str>> = maybe "effort",
        /// The parts of the protocol that this CLI has: `interrupt_cancel_queued_v1`, ...
        capabilities: Option<Vec<Cow<'a, str>>> = maybe "capabilities",
        /// `off`, `cooldown` or `on`.
        fast_mode_state: Option<Cow<'a, str>> = maybe "fast_mode_state",
        /// The id of the session.
        session_id: Option<Cow<'a, str>> = maybe "session_id",
        /// The id of the record.
        uuid: Option<Cow<'a, str>> = maybe "uuid",
    }
}

view! {
    /// A copy of the transcript could not be stored. Sent by SDKs.
    MirrorError: "type" = "system", "subtype" = "mirror_error" {
        /// The transcript. Its form is up to the store.
        key: Option<Json<'a>> = maybe "key",
        /// The cause.
        error: Option<Cow<'a, str>> = maybe "error",
        /// The id of the session.
        session_id: Option<Cow<'a, str>> = maybe "session_id",
        /// The id of the record.
        uuid: Option<Cow<'a, str>> = maybe "uuid",
    }
}

view! {
    /// Any other system message, of a later CLI. Its other keys are in `extra`.
    System: "type" = "system" {
        /// The subtype.
        subtype: Cow<'a, str> = needed "subtype",
        /// The id of the session.
        session_id: Option<Cow<'a, str>> = maybe "session_id",
        /// The id of the record.
        uuid: Option<Cow<'a, str>> = maybe "uuid",
    }
}
