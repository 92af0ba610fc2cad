//! Floor 4. What the agent says of itself: hooks, background tasks, its state.

use std::borrow::Cow;

use super::fields::view;
use super::json::Json;
use super::value::words;

view! {
    /// A hook that is configured in the agent began or ended.
    HookEvent: "type" = "system" {
        /// `hook_started` or `hook_response`.
        subtype: Cow<'a, str> = needed "subtype",
        /// The event; see [`event`](HookEvent::event).
        hook_event: Option<Cow<'a, str>> = maybe "hook_event",
        /// The hook's name, which may stand for the event.
        hook_name: Option<Cow<'a, str>> = maybe "hook_name",
        /// Another name for the event.
        hook_event_name: Option<Cow<'a, str>> = maybe "hook_event_name",
        /// The session.
        session_id: Option<Cow<'a, str>> = maybe "session_id",
        /// Its id.
        uuid: Option<Cow<'a, str>> = maybe "uuid",
    }
}

impl HookEvent<'_> {
    /// The event, under whichever of its three keys: `PreToolUse`, `SessionStart`, ...
    #[must_use]
    pub fn event(&self) -> Option<&str> {
        let names = [&self.hook_event, &self.hook_name, &self.hook_event_name];
        names.into_iter().find_map(Option::as_deref)
    }
}

view! {
    /// A background task began.
    TaskStarted: "type" = "system", "subtype" = "task_started" {
        /// The task.
        task_id: Cow<'a, str> = needed "task_id",
        /// What it is about.
        description: Cow<'a, str> = needed "description",
        /// Its id.
        uuid: Cow<'a, str> = needed "uuid",
        /// The session.
        session_id: Cow<'a, str> = needed "session_id",
        /// The tool call that began it.
        tool_use_id: Option<Cow<'a, str>> = maybe "tool_use_id",
        /// `local_agent`, `local_workflow`: a session waits for these. Others may never end.
        task_type: Option<Cow<'a, str>> = maybe "task_type",
    }
}

view! {
    /// A background task goes on.
    TaskProgress: "type" = "system", "subtype" = "task_progress" {
        /// The task.
        task_id: Cow<'a, str> = needed "task_id",
        /// What it is about.
        description: Cow<'a, str> = needed "description",
        /// Tokens, tool calls, time.
        usage: Json<'a> = needed "usage",
        /// Its id.
        uuid: Cow<'a, str> = needed "uuid",
        /// The session.
        session_id: Cow<'a, str> = needed "session_id",
        /// The tool call that began it.
        tool_use_id: Option<Cow<'a, str>> = maybe "tool_use_id",
        /// What it called last.
        last_tool_name: Option<Cow<'a, str>> = maybe "last_tool_name",
    }
}

view! {
    /// A background task is over.
    TaskNotification: "type" = "system", "subtype" = "task_notification" {
        /// The task.
        task_id: Cow<'a, str> = needed "task_id",
        /// How it ended.
        status: TaskStatus<'a> = needed "status",
        /// Where its output is.
        output_file: Cow<'a, str> = needed "output_file",
        /// What became of it, in words.
        summary: Cow<'a, str> = needed "summary",
        /// Its id.
        uuid: Cow<'a, str> = needed "uuid",
        /// The session.
        session_id: Cow<'a, str> = needed "session_id",
        /// The tool call that began it.
        tool_use_id: Option<Cow<'a, str>> = maybe "tool_use_id",
        /// Tokens, tool calls, time.
        usage: Option<Json<'a>> = maybe "usage",
    }
}

view! {
    /// Something about a background task changed. No key is required.
    TaskUpdated: "type" = "system", "subtype" = "task_updated" {
        /// The task.
        task_id: Option<Cow<'a, str>> = maybe "task_id",
        /// What changed.
        patch: Option<TaskPatch<'a>> = maybe "patch",
        /// The session.
        session_id: Option<Cow<'a, str>> = maybe "session_id",
        /// Its id.
        uuid: Option<Cow<'a, str>> = maybe "uuid",
    }
}

view! {
    /// What changed in a [`TaskUpdated`]. Everything but the status stands in `extra`.
    TaskPatch {
        /// The new status.
        status: Option<TaskStatus<'a>> = maybe "status",
    }
}

words! {
    /// Where a background task stands. See [`is_terminal`](TaskStatus::is_terminal).
    TaskStatus {
        /// `completed`
        Completed = "completed",
        /// `failed`
        Failed = "failed",
        /// `stopped`
        Stopped = "stopped",
        /// `killed`
        Killed = "killed",
    }
}

impl TaskStatus<'_> {
    /// Whether the task is over. No word that is unknown here says so.
    #[must_use]
    pub fn is_terminal(&self) -> bool {
        !matches!(self, Self::Other(_))
    }
}

view! {
    /// A copy of the transcript could not be stored. SDKs make it; no CLI was seen to.
    MirrorError: "type" = "system", "subtype" = "mirror_error" {
        /// Which transcript; the shape is the store's own.
        key: Option<Json<'a>> = maybe "key",
        /// Why not.
        error: Option<Cow<'a, str>> = maybe "error",
    }
}

view! {
    /// Any other system message: `init`, `status`, `session_state_changed`, `api_retry`, ...
    /// Its keys stand in `extra`.
    System: "type" = "system" {
        /// Which.
        subtype: Cow<'a, str> = needed "subtype",
    }
}
