//! Floor 4. The messages of a turn: of the user, of the assistant, and its result.

use std::borrow::Cow;

use super::block::Block;
use super::fields::view;
use super::json::Json;
use super::value::{Content, words};

view! {
    /// A message in the user's role: a tool's result, mostly, or what the user said.
    User: "type" = "user" {
        /// What was said.
        message: UserContent<'a> = needed "message",
        /// Its id.
        uuid: Option<Cow<'a, str>> = maybe "uuid",
        /// The tool call whose subagent this belongs to.
        parent_tool_use_id: Option<Cow<'a, str>> = maybe "parent_tool_use_id",
        /// The tool's result as the tool has it; the shape is the tool's own.
        tool_use_result: Option<Json<'a>> = maybe "tool_use_result",
        /// Where it comes from.
        origin: Option<Origin<'a>> = maybe "origin",
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
    /// Where a message comes from. An `origin` without a text as `kind` is none, and stands in
    /// `extra`.
    Origin {
        /// What kind of place.
        kind: Cow<'a, str> = needed "kind",
    }
}

view! {
    /// What the model said, or a part of it: one record for each finished block.
    Assistant: "type" = "assistant" {
        /// What was said.
        message: AssistantContent<'a> = needed "message",
        /// The tool call whose subagent said it.
        parent_tool_use_id: Option<Cow<'a, str>> = maybe "parent_tool_use_id",
        /// Why there is no answer, where the API refused.
        error: Option<AssistantError<'a>> = maybe "error",
        /// The session.
        session_id: Option<Cow<'a, str>> = maybe "session_id",
        /// Its id.
        uuid: Option<Cow<'a, str>> = maybe "uuid",
    }
}

view! {
    /// The `message` of an [`Assistant`].
    AssistantContent {
        /// The blocks.
        content: Vec<Block<'a>> = needed "content",
        /// Who said it; `<synthetic>` where it was the CLI itself.
        model: Cow<'a, str> = needed "model",
        /// Tokens.
        usage: Option<Json<'a>> = maybe "usage",
        /// The API's id, shared by all records of one answer.
        id: Option<Cow<'a, str>> = maybe "id",
        /// Why the model stopped, where it did.
        stop_reason: Option<Cow<'a, str>> = maybe "stop_reason",
    }
}

words! {
    /// Why the API gave no answer.
    AssistantError {
        /// `authentication_failed`
        AuthenticationFailed = "authentication_failed",
        /// `billing_error`
        BillingError = "billing_error",
        /// `rate_limit`
        RateLimit = "rate_limit",
        /// `invalid_request`
        InvalidRequest = "invalid_request",
        /// `server_error`
        ServerError = "server_error",
        /// `unknown`: the agent's own word.
        Unknown = "unknown",
    }
}

view! {
    /// The end of a turn.
    TurnResult: "type" = "result" {
        /// `success`, `error_max_turns`, `error_during_execution`, `error_max_budget_usd`, ...
        subtype: Cow<'a, str> = needed "subtype",
        /// How long it took, in milliseconds.
        duration_ms: u64 = needed "duration_ms",
        /// How much of that the API took, in milliseconds.
        duration_api_ms: u64 = needed "duration_api_ms",
        /// Whether it is an error. The subtype alone does not say: where the API refuses, it is
        /// `success` with an error.
        is_error: bool = needed "is_error",
        /// How often the model was asked.
        num_turns: u64 = needed "num_turns",
        /// The session.
        session_id: Cow<'a, str> = needed "session_id",
        /// Why the model stopped.
        stop_reason: Option<Cow<'a, str>> = maybe "stop_reason",
        /// What it cost, in US dollars, as the agent reckons.
        total_cost_usd: Option<f64> = maybe "total_cost_usd",
        /// Tokens.
        usage: Option<Json<'a>> = maybe "usage",
        /// The last text.
        result: Option<Cow<'a, str>> = maybe "result",
        /// What was asked for with a JSON schema.
        structured_output: Option<Json<'a>> = maybe "structured_output",
        /// Tokens and cost, by model.
        model_usage: Option<Json<'a>> = maybe "modelUsage",
        /// The tool calls that were not allowed.
        permission_denials: Option<Json<'a>> = maybe "permission_denials",
        /// A tool call that is left to the host.
        deferred_tool_use: Option<DeferredToolUse<'a>> = maybe "deferred_tool_use",
        /// The errors, in words.
        errors: Option<Vec<Cow<'a, str>>> = maybe "errors",
        /// The HTTP status with which the API refused.
        api_error_status: Option<u64> = maybe "api_error_status",
        /// Its id.
        uuid: Option<Cow<'a, str>> = maybe "uuid",
        /// Why the turn ended.
        terminal_reason: Option<Cow<'a, str>> = maybe "terminal_reason",
        /// Where the message that it answers came from.
        origin: Option<Origin<'a>> = maybe "origin",
    }
}

view! {
    /// A tool call that the turn ended with and the host is to carry out.
    DeferredToolUse {
        /// What the result has to refer to.
        id: Cow<'a, str> = needed "id",
        /// The tool.
        name: Cow<'a, str> = needed "name",
        /// What it is called with.
        input: Json<'a> = needed "input",
    }
}

view! {
    /// An event of the API as it streams; with `--include-partial-messages` only.
    StreamEvent: "type" = "stream_event" {
        /// Its id.
        uuid: Cow<'a, str> = needed "uuid",
        /// The session.
        session_id: Cow<'a, str> = needed "session_id",
        /// The event: `message_start`, `content_block_delta`, ... in its `type`.
        event: Json<'a> = needed "event",
        /// The tool call whose subagent it belongs to.
        parent_tool_use_id: Option<Cow<'a, str>> = maybe "parent_tool_use_id",
    }
}

view! {
    /// A rate limit came nearer, or was reached.
    RateLimitEvent: "type" = "rate_limit_event" {
        /// The limit.
        rate_limit_info: RateLimitInfo<'a> = needed "rate_limit_info",
        /// Its id.
        uuid: Cow<'a, str> = needed "uuid",
        /// The session.
        session_id: Cow<'a, str> = needed "session_id",
    }
}

view! {
    /// The limit of a [`RateLimitEvent`].
    RateLimitInfo {
        /// `allowed`, `allowed_warning`, `rejected`, ...
        status: Cow<'a, str> = needed "status",
        /// When it is over, in seconds since 1970.
        resets_at: Option<u64> = maybe "resetsAt",
        /// Which limit.
        rate_limit_type: Option<Cow<'a, str>> = maybe "rateLimitType",
        /// How much of it is used, 1 being all.
        utilization: Option<f64> = maybe "utilization",
        /// The state of what may be used beyond it.
        overage_status: Option<Cow<'a, str>> = maybe "overageStatus",
        /// When that is over, in seconds since 1970.
        overage_resets_at: Option<u64> = maybe "overageResetsAt",
        /// Why there is none of that.
        overage_disabled_reason: Option<Cow<'a, str>> = maybe "overageDisabledReason",
    }
}

view! {
    /// The conversation begins anew, under another id.
    ConversationReset: "type" = "conversation_reset" {
        /// The new id.
        new_conversation_id: Cow<'a, str> = needed "new_conversation_id",
        /// Its id.
        uuid: Cow<'a, str> = needed "uuid",
        /// The session.
        session_id: Cow<'a, str> = needed "session_id",
    }
}
