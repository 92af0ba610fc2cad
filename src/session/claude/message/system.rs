//! The system messages: hooks, background tasks, and the state of the agent.

use std::borrow::Cow;
use std::fmt;

use serde::{Serialize, Serializer};

use super::fields::view;
use super::value::{FieldValue, Json, ViewError};

view! {
    /// A hook that is configured in the agent began or ended.
    HookEvent: "type" = "system" {
        /// `hook_started` or `hook_response`.
        subtype: Cow<'a, str> = needed "subtype",
        /// The event. See [`event`](HookEvent::event).
        hook_event: Option<Cow<'a, str>> = maybe "hook_event",
        /// The name of the hook, which some versions send in place of the event.
        hook_name: Option<Cow<'a, str>> = maybe "hook_name",
        /// Another name for the event.
        hook_event_name: Option<Cow<'a, str>> = maybe "hook_event_name",
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
        description: Cow<'a, str> = needed "description",
        /// The id of the record.
        uuid: Cow<'a, str> = needed "uuid",
        /// The id of the session.
        session_id: Cow<'a, str> = needed "session_id",
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
        description: Cow<'a, str> = needed "description",
        /// Tokens, tool calls, time.
        usage: Json<'a> = needed "usage",
        /// The id of the record.
        uuid: Cow<'a, str> = needed "uuid",
        /// The id of the session.
        session_id: Cow<'a, str> = needed "session_id",
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
        output_file: Cow<'a, str> = needed "output_file",
        /// A summary of its result.
        summary: Cow<'a, str> = needed "summary",
        /// The id of the record.
        uuid: Cow<'a, str> = needed "uuid",
        /// The id of the session.
        session_id: Cow<'a, str> = needed "session_id",
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
    /// A copy of the transcript could not be stored. Sent by SDKs.
    MirrorError: "type" = "system", "subtype" = "mirror_error" {
        /// The transcript. Its form is up to the store.
        key: Option<Json<'a>> = maybe "key",
        /// The cause.
        error: Option<Cow<'a, str>> = maybe "error",
    }
}

view! {
    /// Any other system message: `init`, `status`, `session_state_changed`, `api_retry`, ...
    /// Its keys are in `extra`.
    System: "type" = "system" {
        /// The subtype.
        subtype: Cow<'a, str> = needed "subtype",
    }
}
