//! The messages beside the conversation: progress, notices, and what the CLI could not do.

use std::borrow::Cow;

use super::fields::view;
use super::turn::AssistantError;
use super::value::Json;

/// Declares a view that has, beside its own keys, those of the session and the record.
macro_rules! notice {
    ($(#[$doc:meta])* $name:ident: $($tag:literal = $is:literal),+ { $($fields:tt)* }) => {
        view! {
            $(#[$doc])*
            $name: $($tag = $is),+ {
                $($fields)*
                /// The id of the session.
                session_id: Option<Cow<'a, str>> = maybe "session_id",
                /// The id of the record.
                uuid: Option<Cow<'a, str>> = maybe "uuid",
            }
        }
    };
}

notice! {
    /// The goal of the session has changed.
    ActiveGoal: "type" = "active_goal" {
        /// The goal: `condition`, `iterations`, `last_reason`, ... No value is no goal.
        value: Option<Json<'a>> = maybe "value",
    }
}

notice! {
    /// A login is under way, or over.
    AuthStatus: "type" = "auth_status" {
        /// Whether the login is under way.
        is_authenticating: Option<bool> = maybe "isAuthenticating",
        /// The lines to show.
        output: Option<Vec<Cow<'a, str>>> = maybe "output",
        /// Why it failed.
        error: Option<Cow<'a, str>> = maybe "error",
    }
}

notice! {
    /// The prompt that the user may send next.
    PromptSuggestion: "type" = "prompt_suggestion" {
        /// The text.
        suggestion: Option<Cow<'a, str>> = maybe "suggestion",
    }
}

notice! {
    /// A tool is still at work.
    ToolProgress: "type" = "tool_progress" {
        /// The id of the tool call.
        tool_use_id: Option<Cow<'a, str>> = maybe "tool_use_id",
        /// The tool.
        tool_name: Option<Cow<'a, str>> = maybe "tool_name",
        /// The tool call whose subagent runs it.
        parent_tool_use_id: Option<Cow<'a, str>> = maybe "parent_tool_use_id",
        /// How long it has run, in seconds.
        elapsed_time_seconds: Option<f64> = maybe "elapsed_time_seconds",
        /// The background task that it belongs to.
        task_id: Option<Cow<'a, str>> = maybe "task_id",
    }
}

notice! {
    /// A summary of tool calls.
    ToolUseSummary: "type" = "tool_use_summary" {
        /// The text.
        summary: Option<Cow<'a, str>> = maybe "summary",
        /// The ids of the tool calls.
        preceding_tool_use_ids: Option<Vec<Cow<'a, str>>> = maybe "preceding_tool_use_ids",
    }
}

notice! {
    /// A request to the API failed and is repeated.
    ApiRetry: "type" = "system", "subtype" = "api_retry" {
        /// The number of the attempt that failed.
        attempt: Option<u64> = maybe "attempt",
        /// How often the CLI repeats it.
        max_retries: Option<u64> = maybe "max_retries",
        /// When it is repeated, in milliseconds.
        retry_delay_ms: Option<u64> = maybe "retry_delay_ms",
        /// The HTTP status; none without a response.
        error_status: Option<u64> = maybe "error_status",
        /// Why it failed.
        error: Option<AssistantError<'a>> = maybe "error",
    }
}

notice! {
    /// The slash commands have changed.
    CommandsChanged: "type" = "system", "subtype" = "commands_changed" {
        /// All of them.
        commands: Option<Json<'a>> = maybe "commands",
    }
}

notice! {
    /// The conversation before this was compacted.
    CompactBoundary: "type" = "system", "subtype" = "compact_boundary" {
        /// `trigger`, `pre_tokens`, `post_tokens`, ...
        compact_metadata: Option<Json<'a>> = maybe "compact_metadata",
    }
}

notice! {
    /// A control request is still at work.
    ControlProgress: "type" = "system", "subtype" = "control_request_progress" {
        /// Its id.
        request_id: Option<Cow<'a, str>> = maybe "request_id",
        /// `started` or `api_retry`.
        status: Option<Cow<'a, str>> = maybe "status",
    }
}

notice! {
    /// The user has completed an elicitation in the browser.
    ElicitationComplete: "type" = "system", "subtype" = "elicitation_complete" {
        /// The MCP server that asked.
        mcp_server_name: Option<Cow<'a, str>> = maybe "mcp_server_name",
        /// The id of the elicitation.
        elicitation_id: Option<Cow<'a, str>> = maybe "elicitation_id",
    }
}

notice! {
    /// Files were stored.
    FilesPersisted: "type" = "system", "subtype" = "files_persisted" {
        /// Those that were, as objects with `filename` and `file_id`.
        files: Option<Json<'a>> = maybe "files",
        /// Those that were not, as objects with `filename` and `error`.
        failed: Option<Json<'a>> = maybe "failed",
        /// The time.
        processed_at: Option<Cow<'a, str>> = maybe "processed_at",
    }
}

notice! {
    /// A line for the user: the feedback of a hook, the output of a command.
    Informational: "type" = "system", "subtype" = "informational" {
        /// The text.
        content: Option<Cow<'a, str>> = maybe "content",
        /// `info`, `notice`, `suggestion` or `warning`.
        level: Option<Cow<'a, str>> = maybe "level",
        /// The tool call that it is about.
        tool_use_id: Option<Cow<'a, str>> = maybe "tool_use_id",
        /// Whether the turn stops here.
        prevent_continuation: Option<bool> = maybe "prevent_continuation",
    }
}

notice! {
    /// The output of a slash command.
    LocalCommandOutput: "type" = "system", "subtype" = "local_command_output" {
        /// The text.
        content: Option<Cow<'a, str>> = maybe "content",
    }
}

notice! {
    /// Memories came into the turn.
    MemoryRecall: "type" = "system", "subtype" = "memory_recall" {
        /// `select` or `synthesize`.
        mode: Option<Cow<'a, str>> = maybe "mode",
        /// Objects with `path`, `scope` and `content`.
        memories: Option<Json<'a>> = maybe "memories",
    }
}

notice! {
    /// The model refused. `model_refusal_fallback`: another model answers instead.
    ModelRefusal: "type" = "system" {
        /// `model_refusal_fallback` or `model_refusal_no_fallback`.
        subtype: Cow<'a, str> = needed "subtype",
        /// The model that refused.
        original_model: Option<Cow<'a, str>> = maybe "original_model",
        /// The model that answers.
        fallback_model: Option<Cow<'a, str>> = maybe "fallback_model",
        /// `retry`, `revert` or `sticky`.
        direction: Option<Cow<'a, str>> = maybe "direction",
        /// The category of the refusal.
        api_refusal_category: Option<Cow<'a, str>> = maybe "api_refusal_category",
        /// The user message that was refused.
        refused_user_message_uuid: Option<Cow<'a, str>> = maybe "refused_user_message_uuid",
        /// The messages that count no more.
        retracted_message_uuids: Option<Vec<Cow<'a, str>>> = maybe "retracted_message_uuids",
        /// A text for the user.
        content: Option<Cow<'a, str>> = maybe "content",
    }
}

notice! {
    /// A notification for the user.
    Notification: "type" = "system", "subtype" = "notification" {
        /// One of the same key takes its place.
        key: Option<Cow<'a, str>> = maybe "key",
        /// The text.
        text: Option<Cow<'a, str>> = maybe "text",
        /// `low`, `medium`, `high` or `immediate`.
        priority: Option<Cow<'a, str>> = maybe "priority",
        /// How long to show it, in milliseconds.
        timeout_ms: Option<u64> = maybe "timeout_ms",
    }
}

notice! {
    /// A tool call was denied, and no handler had to decide.
    PermissionDenied: "type" = "system", "subtype" = "permission_denied" {
        /// The tool.
        tool_name: Option<Cow<'a, str>> = maybe "tool_name",
        /// The id of the tool call.
        tool_use_id: Option<Cow<'a, str>> = maybe "tool_use_id",
        /// The subagent that asked.
        agent_id: Option<Cow<'a, str>> = maybe "agent_id",
        /// The kind of reason: `rule`, `mode`, `classifier`, ...
        decision_reason_type: Option<Cow<'a, str>> = maybe "decision_reason_type",
        /// The reason.
        decision_reason: Option<Cow<'a, str>> = maybe "decision_reason",
        /// The text that the model gets.
        message: Option<Cow<'a, str>> = maybe "message",
    }
}

notice! {
    /// Plugins are installed.
    PluginInstall: "type" = "system", "subtype" = "plugin_install" {
        /// `started`, `installed`, `failed` or `completed`.
        status: Option<Cow<'a, str>> = maybe "status",
        /// The marketplace.
        name: Option<Cow<'a, str>> = maybe "name",
        /// Why it failed.
        error: Option<Cow<'a, str>> = maybe "error",
    }
}

notice! {
    /// The CLI could not save all of its state, because the disk or the quota was full.
    SessionWritesLost: "type" = "system", "subtype" = "session_writes_lost" {
        /// `ENOSPC` or `EDQUOT`.
        error_code: Option<Cow<'a, str>> = maybe "error_code",
        /// `transcript`, `global_config`.
        lost: Option<Vec<Cow<'a, str>>> = maybe "lost",
        /// The sessions whose transcripts miss lines.
        transcript_session_ids: Option<Vec<Cow<'a, str>>> = maybe "transcript_session_ids",
    }
}

notice! {
    /// The CLI is at a step of its work.
    Status: "type" = "system", "subtype" = "status" {
        /// `compacting` or `requesting`; none when that is over.
        status: Option<Cow<'a, str>> = maybe "status",
        /// The permission mode.
        permission_mode: Option<Cow<'a, str>> = maybe "permissionMode",
        /// `success` or `failed`.
        compact_result: Option<Cow<'a, str>> = maybe "compact_result",
        /// Why it could not compact.
        compact_error: Option<Cow<'a, str>> = maybe "compact_error",
    }
}

notice! {
    /// How much the model has thought.
    ThinkingTokens: "type" = "system", "subtype" = "thinking_tokens" {
        /// Tokens of the thinking block so far.
        estimated_tokens: Option<u64> = maybe "estimated_tokens",
        /// Tokens since the last of these messages.
        estimated_tokens_delta: Option<u64> = maybe "estimated_tokens_delta",
        /// The user message that the turn answers.
        user_message_uuid: Option<Cow<'a, str>> = maybe "user_message_uuid",
    }
}

notice! {
    /// The host of a remote session ends it.
    WorkerShuttingDown: "type" = "system", "subtype" = "worker_shutting_down" {
        /// `host_exit`, ...
        reason: Option<Cow<'a, str>> = maybe "reason",
    }
}
