//! The messages of a turn: of the user, of the assistant, and its result.

use std::borrow::Cow;
use std::fmt;

use serde::{Serialize, Serializer};

use super::block::Content;
use super::fields::view;
use super::value::{FieldValue, Json, ViewError};

view! {
    /// A message in the role of the user: mostly the result of a tool, or a prompt.
    User: "type" = "user" {
        /// The message.
        message: UserContent<'a> = needed "message",
        /// The id of the record.
        uuid: Option<Cow<'a, str>> = maybe "uuid",
        /// The tool call to whose subagent this belongs.
        parent_tool_use_id: Option<Cow<'a, str>> = maybe "parent_tool_use_id",
        /// The result of the tool. Its form is up to the tool.
        tool_use_result: Option<Json<'a>> = maybe "tool_use_result",
        /// The origin of the message.
        origin: Option<Origin<'a>> = maybe "origin",
        /// The id of the session.
        session_id: Option<Cow<'a, str>> = maybe "session_id",
        /// When it is taken: `now`, `next` or `later`.
        priority: Option<Cow<'a, str>> = maybe "priority",
        /// The time, in ISO 8601.
        timestamp: Option<Cow<'a, str>> = maybe "timestamp",
        /// Whether no user wrote it.
        is_synthetic: Option<bool> = maybe "isSynthetic",
        /// Whether it repeats a message that was sent.
        is_replay: Option<bool> = maybe "isReplay",
    }
}

view! {
    /// The `message` of a [`User`].
    UserContent {
        /// A text, or blocks.
        content: Content<'a> = needed "content",
    }
}

view! {
    /// The origin of a message. An `origin` whose `kind` is not a text stays in `extra`.
    Origin {
        /// The kind of origin.
        kind: Cow<'a, str> = needed "kind",
    }
}

view! {
    /// A message of the model, or a part of one: there is one record for each finished block.
    Assistant: "type" = "assistant" {
        /// The message.
        message: AssistantContent<'a> = needed "message",
        /// The tool call whose subagent sent it.
        parent_tool_use_id: Option<Cow<'a, str>> = maybe "parent_tool_use_id",
        /// Why there is no answer, if the API refused.
        error: Option<AssistantError<'a>> = maybe "error",
        /// The id of the session.
        session_id: Option<Cow<'a, str>> = maybe "session_id",
        /// The id of the record.
        uuid: Option<Cow<'a, str>> = maybe "uuid",
        /// The message of the user that the turn answers, by the `uuid` with which it was sent.
        user_message_uuid: Option<Cow<'a, str>> = maybe "user_message_uuid",
        /// All messages of the user that the turn has taken, in their order.
        user_message_uuids: Option<Vec<Cow<'a, str>>> = maybe "user_message_uuids",
        /// The id of the request to the API.
        request_id: Option<Cow<'a, str>> = maybe "request_id",
        /// The time, in ISO 8601.
        timestamp: Option<Cow<'a, str>> = maybe "timestamp",
        /// Whether an interrupt cut the message short.
        aborted: Option<bool> = maybe "aborted",
        /// Whether the message is an error of the API, in words.
        is_api_error_message: Option<bool> = maybe "is_api_error_message",
        /// The HTTP status with which the API refused.
        api_error_status: Option<u64> = maybe "api_error_status",
        /// The kind of error with which the API refused.
        api_error_type: Option<Cow<'a, str>> = maybe "api_error_type",
    }
}

view! {
    /// The `message` of an [`Assistant`].
    AssistantContent {
        /// The blocks. A gateway may send a text.
        content: Content<'a> = needed "content",
        /// The model; `<synthetic>` for a message of the CLI itself.
        model: Option<Cow<'a, str>> = maybe "model",
        /// The tokens that were used.
        usage: Option<Json<'a>> = maybe "usage",
        /// The id of the API, which all records of one answer share.
        id: Option<Cow<'a, str>> = maybe "id",
        /// Why the model stopped, if it did.
        stop_reason: Option<Cow<'a, str>> = maybe "stop_reason",
    }
}

/// Why the API gave no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AssistantError<'a> {
    /// `authentication_failed`
    AuthenticationFailed,
    /// `billing_error`
    BillingError,
    /// `rate_limit`
    RateLimit,
    /// `invalid_request`
    InvalidRequest,
    /// `server_error`
    ServerError,
    /// `unknown`, which is a word of the agent.
    Unknown,
    /// A word that has no variant here.
    Other(Cow<'a, str>),
}

impl AssistantError<'_> {
    /// Returns the word of the record.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::AuthenticationFailed => "authentication_failed",
            Self::BillingError => "billing_error",
            Self::RateLimit => "rate_limit",
            Self::InvalidRequest => "invalid_request",
            Self::ServerError => "server_error",
            Self::Unknown => "unknown",
            Self::Other(word) => word,
        }
    }
}

impl fmt::Display for AssistantError<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl<'a> FieldValue<'a> for AssistantError<'a> {
    fn read(json: Json<'a>) -> Result<(Self, bool), ViewError> {
        let (word, whole) = Cow::read(json)?;
        let word = match &*word {
            "authentication_failed" => Self::AuthenticationFailed,
            "billing_error" => Self::BillingError,
            "rate_limit" => Self::RateLimit,
            "invalid_request" => Self::InvalidRequest,
            "server_error" => Self::ServerError,
            "unknown" => Self::Unknown,
            _ => Self::Other(word),
        };
        Ok((word, whole))
    }
}

impl Serialize for AssistantError<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self.as_str())
    }
}

view! {
    /// The end of a turn.
    TurnResult: "type" = "result" {
        /// `success`, `error_max_turns`, `error_during_execution`, `error_max_budget_usd`, ...
        subtype: Cow<'a, str> = needed "subtype",
        /// The duration of the turn in milliseconds.
        duration_ms: Option<u64> = maybe "duration_ms",
        /// The part of the duration that the API took, in milliseconds.
        duration_api_ms: Option<u64> = maybe "duration_api_ms",
        /// Whether the turn ended with an error. See [`failed`](TurnResult::failed).
        is_error: Option<bool> = maybe "is_error",
        /// The number of requests to the model.
        num_turns: Option<u64> = maybe "num_turns",
        /// The id of the session.
        session_id: Option<Cow<'a, str>> = maybe "session_id",
        /// Why the model stopped.
        stop_reason: Option<Cow<'a, str>> = maybe "stop_reason",
        /// The cost in US dollars, as the agent estimates it.
        total_cost_usd: Option<f64> = maybe "total_cost_usd",
        /// The tokens that were used.
        usage: Option<Json<'a>> = maybe "usage",
        /// The last text of the model.
        result: Option<Cow<'a, str>> = maybe "result",
        /// The output in the form of the JSON Schema.
        structured_output: Option<Json<'a>> = maybe "structured_output",
        /// The tokens and the cost, by model.
        model_usage: Option<Json<'a>> = maybe "modelUsage",
        /// The tool calls that were denied.
        permission_denials: Option<Json<'a>> = maybe "permission_denials",
        /// A tool call that is left to the host.
        deferred_tool_use: Option<DeferredToolUse<'a>> = maybe "deferred_tool_use",
        /// The messages of the errors.
        errors: Option<Vec<Cow<'a, str>>> = maybe "errors",
        /// The HTTP status with which the API refused.
        api_error_status: Option<u64> = maybe "api_error_status",
        /// The id of the record.
        uuid: Option<Cow<'a, str>> = maybe "uuid",
        /// Why the turn ended.
        terminal_reason: Option<Cow<'a, str>> = maybe "terminal_reason",
        /// The origin of the message that it answers.
        origin: Option<Origin<'a>> = maybe "origin",
        /// The message of the user that the turn answers, by the `uuid` with which it was sent.
        user_message_uuid: Option<Cow<'a, str>> = maybe "user_message_uuid",
        /// All messages of the user that the turn has taken, in their order.
        user_message_uuids: Option<Vec<Cow<'a, str>>> = maybe "user_message_uuids",
        /// Messages of the user that are still queued.
        queued_turn_count: Option<u64> = maybe "queued_turn_count",
        /// The number of results before this one.
        result_index: Option<u64> = maybe "result_index",
        /// What the subagents have used.
        subagent_stats: Option<Json<'a>> = maybe "subagent_stats",
        /// The tokens and the cost since the last result, by model.
        model_usage_since_last_result: Option<Json<'a>> = maybe "model_usage_since_last_result",
        /// Milliseconds to the first frame with content.
        first_content_frame_ms: Option<u64> = maybe "first_content_frame_ms",
        /// Milliseconds to the first token.
        ttft_ms: Option<u64> = maybe "ttft_ms",
        /// Milliseconds to the first token of the stream.
        ttft_stream_ms: Option<u64> = maybe "ttft_stream_ms",
        /// Milliseconds to the request to the API.
        time_to_request_ms: Option<u64> = maybe "time_to_request_ms",
        /// Why the API stopped the model.
        safety_stops: Option<Json<'a>> = maybe "safety_stops",
        /// `off`, `cooldown` or `on`.
        fast_mode_state: Option<Cow<'a, str>> = maybe "fast_mode_state",
        /// Why there is no fast mode.
        fast_mode_disabled_reason: Option<Cow<'a, str>> = maybe "fast_mode_disabled_reason",
        /// The kind of error with which the API refused.
        api_error_type: Option<Cow<'a, str>> = maybe "api_error_type",
        /// Why the CLI could not start.
        startup_failure_reason: Option<Cow<'a, str>> = maybe "startup_failure_reason",
    }
}

impl TurnResult<'_> {
    /// Returns whether the turn ended with an error: `is_error`, or without that key a subtype other
    /// than `success`. The subtype alone does not tell: if the API refuses, it is `success`.
    #[must_use]
    pub fn failed(&self) -> bool {
        self.is_error.unwrap_or(self.subtype != "success")
    }
}

view! {
    /// A tool call that ended the turn, and that the host has to carry out.
    DeferredToolUse {
        /// The id to which the result has to refer.
        id: Cow<'a, str> = needed "id",
        /// The tool.
        name: Cow<'a, str> = needed "name",
        /// The input of the tool.
        input: Json<'a> = needed "input",
    }
}

view! {
    /// A streaming event of the API. Sent with `--include-partial-messages`.
    StreamEvent: "type" = "stream_event" {
        /// The id of the record.
        uuid: Option<Cow<'a, str>> = maybe "uuid",
        /// The id of the session.
        session_id: Option<Cow<'a, str>> = maybe "session_id",
        /// The event. Its `type` is `message_start`, `content_block_delta`, ...
        event: Json<'a> = needed "event",
        /// The tool call to whose subagent it belongs.
        parent_tool_use_id: Option<Cow<'a, str>> = maybe "parent_tool_use_id",
        /// The message of the user that the turn answers, by the `uuid` with which it was sent.
        user_message_uuid: Option<Cow<'a, str>> = maybe "user_message_uuid",
        /// All messages of the user that the turn has taken, in their order.
        user_message_uuids: Option<Vec<Cow<'a, str>>> = maybe "user_message_uuids",
    }
}

view! {
    /// A rate limit is near, or was reached.
    RateLimitEvent: "type" = "rate_limit_event" {
        /// The limit.
        rate_limit_info: RateLimitInfo<'a> = needed "rate_limit_info",
        /// The id of the record.
        uuid: Option<Cow<'a, str>> = maybe "uuid",
        /// The id of the session.
        session_id: Option<Cow<'a, str>> = maybe "session_id",
    }
}

view! {
    /// The limit of a [`RateLimitEvent`].
    RateLimitInfo {
        /// `allowed`, `allowed_warning`, `rejected`, ...
        status: Cow<'a, str> = needed "status",
        /// When the limit is reset, in seconds since 1970.
        resets_at: Option<u64> = maybe "resetsAt",
        /// The type of the limit.
        rate_limit_type: Option<Cow<'a, str>> = maybe "rateLimitType",
        /// The used part of the limit, from 0 to 1.
        utilization: Option<f64> = maybe "utilization",
        /// The status of usage beyond the limit.
        overage_status: Option<Cow<'a, str>> = maybe "overageStatus",
        /// When usage beyond the limit is reset, in seconds since 1970.
        overage_resets_at: Option<u64> = maybe "overageResetsAt",
        /// Why usage beyond the limit is disabled.
        overage_disabled_reason: Option<Cow<'a, str>> = maybe "overageDisabledReason",
    }
}

view! {
    /// The conversation begins again with another id.
    ConversationReset: "type" = "conversation_reset" {
        /// The new id.
        new_conversation_id: Cow<'a, str> = needed "new_conversation_id",
        /// The id of the record.
        uuid: Option<Cow<'a, str>> = maybe "uuid",
        /// The id of the session.
        session_id: Option<Cow<'a, str>> = maybe "session_id",
    }
}
