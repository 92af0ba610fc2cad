//! Typed views of the messages of Claude Code.
//!
//! [`Message::of`] parses a [`Record`] from
//! [`next_record`](crate::session::Session::next_record) or
//! [`read_turn`](super::Session::read_turn), and borrows from it. The session itself makes no view, so a
//! message without one costs the session nothing. Nothing is lost: unknown types, blocks and words have a
//! variant `Other`, as does a message or block without a key that its view needs. Keys without a field are
//! in `extra`, and a view serializes to the object that it was read from.
//!
//! ```
//! use agentpipe::Record;
//! use agentpipe::session::claude::message::Message;
//!
//! let record = Record::from(br#"{"type":"assistant","message":{"model":"m","role":"assistant",
//!     "content":[{"type":"text","text":"Hello"}]}}"#.to_vec());
//! if let Message::Assistant(said) = Message::of(&record)? {
//!     assert_eq!(said.message.model.as_deref(), Some("m"));
//!     assert_eq!(said.message.content.texts().collect::<Vec<_>>(), ["Hello"]);
//!     assert_eq!(said.message.extra.get("role").map(|role| role.as_str()), Some("\"assistant\""));
//! }
//! # Ok::<(), agentpipe::Error>(())
//! ```

// turn.rs, system.rs, notice.rs and block.rs declare views as tables of keys, from which the macro `view` in
// fields.rs makes types. value.rs has the types of their fields.

mod block;
mod fields;
mod notice;
mod system;
mod turn;
mod value;

#[cfg(test)]
mod tests;

use std::borrow::Cow;

use serde::{Serialize, Serializer};

use crate::error::{Error, ErrorKind, Result};
use crate::record::Record;

use fields::ObjectFields;
use value::ViewError;

pub use block::{
    AdvisorToolResult, Block, Content, ServerToolUse, TextBlock, ThinkingBlock, ToolResult, ToolUse,
};
pub use notice::{
    ActiveGoal, ApiRetry, AuthStatus, CommandsChanged, CompactBoundary, ControlProgress,
    ElicitationComplete, FilesPersisted, Informational, LocalCommandOutput, MemoryRecall,
    ModelRefusal, Notification, PermissionDenied, PluginInstall, PromptSuggestion,
    SessionWritesLost, Status, ThinkingTokens, ToolProgress, ToolUseSummary, WorkerShuttingDown,
};
pub use system::{
    BackgroundTasksChanged, HookEvent, Init, MirrorError, SessionStateChanged, System,
    TaskNotification, TaskPatch, TaskProgress, TaskStarted, TaskStatus, TaskUpdated,
};
pub use turn::{
    Assistant, AssistantContent, AssistantError, ConversationReset, DeferredToolUse, Origin,
    RateLimitEvent, RateLimitInfo, StreamEvent, TurnResult, User, UserContent,
};
pub use value::{Extra, Json};

/// Declares [`Message`] by a table of its variants: the type or subtypes, the variant, what it holds, and
/// its view.
macro_rules! messages {
    (
        types { $($(#[$doc:meta])* $kind:literal => $variant:ident($held:ty) $view:ident,)* }
        subtypes {
            $($(#[$sub_doc:meta])* $($subtype:literal)|+ => $sub:ident($sub_held:ty) $sub_view:ident,)*
        }
    ) => {
        /// A view of a message, by its `type` and `subtype`.
        #[derive(Clone, Debug, PartialEq)]
        #[non_exhaustive]
        pub enum Message<'a> {
            $($(#[$doc])* $variant($held),)*
            $($(#[$sub_doc])* $sub($sub_held),)*
            /// `system` of any other subtype
            System(System<'a>),
            /// Any other type: `keep_alive`, `transcript_mirror`, and types of a later CLI. Also a
            /// message without a key that its view needs
            Other(OtherMessage<'a>),
        }

        impl<'a> Message<'a> {
            /// Returns the view of a message, or why it has none; `None` if its type has no view.
            fn view(
                kind: &str,
                fields: ObjectFields<'a>,
            ) -> Option<std::result::Result<Self, ViewError>> {
                Some(match kind {
                    $($kind => $view::of(fields).map(|view| Self::$variant(view.into())),)*
                    "system" => Self::system(fields),
                    _ => return None,
                })
            }

            fn system(fields: ObjectFields<'a>) -> std::result::Result<Self, ViewError> {
                let subtype = fields.tag("subtype")?;
                let view = match &*subtype {
                    $($($subtype)|+ => $sub_view::of(fields).map(|view| Self::$sub(view.into())),)*
                    _ => System::of(fields).map(Self::System),
                };
                view.map_err(|wrong| wrong.inside(subtype))
            }
        }

        /// Writes the JSON that the view was read from. The order of keys may differ.
        impl Serialize for Message<'_> {
            fn serialize<S: Serializer>(&self, to: S) -> std::result::Result<S::Ok, S::Error> {
                match self {
                    $(Self::$variant(view) => view.serialize(to),)*
                    $(Self::$sub(view) => view.serialize(to),)*
                    Self::System(view) => view.serialize(to),
                    Self::Other(other) => other.record.serialize(to),
                }
            }
        }
    };
}

messages! {
    types {
        /// `user`
        "user" => User(User<'a>) User,
        /// `assistant`
        "assistant" => Assistant(Box<Assistant<'a>>) Assistant,
        /// `result`: the end of a turn
        "result" => Result(Box<TurnResult<'a>>) TurnResult,
        /// `stream_event`
        "stream_event" => StreamEvent(StreamEvent<'a>) StreamEvent,
        /// `rate_limit_event`
        "rate_limit_event" => RateLimitEvent(Box<RateLimitEvent<'a>>) RateLimitEvent,
        /// `conversation_reset`
        "conversation_reset" => ConversationReset(ConversationReset<'a>) ConversationReset,
        /// `tool_progress`
        "tool_progress" => ToolProgress(ToolProgress<'a>) ToolProgress,
        /// `tool_use_summary`
        "tool_use_summary" => ToolUseSummary(ToolUseSummary<'a>) ToolUseSummary,
        /// `prompt_suggestion`
        "prompt_suggestion" => PromptSuggestion(PromptSuggestion<'a>) PromptSuggestion,
        /// `auth_status`
        "auth_status" => AuthStatus(AuthStatus<'a>) AuthStatus,
        /// `active_goal`
        "active_goal" => ActiveGoal(ActiveGoal<'a>) ActiveGoal,
    }
    subtypes {
        /// `system`, `hook_started`, `hook_progress` or `hook_response`
        "hook_started" | "hook_progress" | "hook_response" => HookEvent(Box<HookEvent<'a>>) HookEvent,
        /// `system`, `task_started`
        "task_started" => TaskStarted(Box<TaskStarted<'a>>) TaskStarted,
        /// `system`, `task_progress`
        "task_progress" => TaskProgress(Box<TaskProgress<'a>>) TaskProgress,
        /// `system`, `task_notification`
        "task_notification" => TaskNotification(Box<TaskNotification<'a>>) TaskNotification,
        /// `system`, `task_updated`
        "task_updated" => TaskUpdated(TaskUpdated<'a>) TaskUpdated,
        /// `system`, `background_tasks_changed`
        "background_tasks_changed" => BackgroundTasksChanged(BackgroundTasksChanged<'a>)
            BackgroundTasksChanged,
        /// `system`, `mirror_error`
        "mirror_error" => MirrorError(MirrorError<'a>) MirrorError,
        /// `system`, `init`: the beginning of a turn
        "init" => Init(Box<Init<'a>>) Init,
        /// `system`, `session_state_changed`
        "session_state_changed" => SessionStateChanged(SessionStateChanged<'a>) SessionStateChanged,
        /// `system`, `status`
        "status" => Status(Status<'a>) Status,
        /// `system`, `api_retry`
        "api_retry" => ApiRetry(ApiRetry<'a>) ApiRetry,
        /// `system`, `commands_changed`
        "commands_changed" => CommandsChanged(CommandsChanged<'a>) CommandsChanged,
        /// `system`, `compact_boundary`
        "compact_boundary" => CompactBoundary(CompactBoundary<'a>) CompactBoundary,
        /// `system`, `control_request_progress`
        "control_request_progress" => ControlProgress(ControlProgress<'a>) ControlProgress,
        /// `system`, `elicitation_complete`
        "elicitation_complete" => ElicitationComplete(ElicitationComplete<'a>) ElicitationComplete,
        /// `system`, `files_persisted`
        "files_persisted" => FilesPersisted(FilesPersisted<'a>) FilesPersisted,
        /// `system`, `informational`
        "informational" => Informational(Informational<'a>) Informational,
        /// `system`, `local_command_output`
        "local_command_output" => LocalCommandOutput(LocalCommandOutput<'a>) LocalCommandOutput,
        /// `system`, `memory_recall`
        "memory_recall" => MemoryRecall(MemoryRecall<'a>) MemoryRecall,
        /// `system`, `model_refusal_fallback` or `model_refusal_no_fallback`
        "model_refusal_fallback" | "model_refusal_no_fallback" => ModelRefusal(Box<ModelRefusal<'a>>)
            ModelRefusal,
        /// `system`, `notification`
        "notification" => Notification(Notification<'a>) Notification,
        /// `system`, `permission_denied`
        "permission_denied" => PermissionDenied(Box<PermissionDenied<'a>>) PermissionDenied,
        /// `system`, `plugin_install`
        "plugin_install" => PluginInstall(PluginInstall<'a>) PluginInstall,
        /// `system`, `session_writes_lost`
        "session_writes_lost" => SessionWritesLost(SessionWritesLost<'a>) SessionWritesLost,
        /// `system`, `thinking_tokens`
        "thinking_tokens" => ThinkingTokens(ThinkingTokens<'a>) ThinkingTokens,
        /// `system`, `worker_shutting_down`
        "worker_shutting_down" => WorkerShuttingDown(WorkerShuttingDown<'a>) WorkerShuttingDown,
    }
}

/// A message without a view.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct OtherMessage<'a> {
    /// Its `type`.
    pub kind: Cow<'a, str>,
    /// The whole record.
    pub record: &'a Record,
    /// Why a message whose type has a view has none: the key that is missing or of another type.
    pub why: Option<String>,
}

impl<'a> Message<'a> {
    /// Returns the view of a record. It borrows texts without escapes, and JSON without a type, from the
    /// record. Takes time in proportion to the length of the record.
    ///
    /// A view needs few keys. A message without one of them is [`Message::Other`], which names the key;
    /// such a block is [`Block::Other`].
    ///
    /// # Errors
    /// [`ErrorKind::InvalidRecord`] if the record is not a JSON object with a `type`.
    pub fn of(record: &'a Record) -> Result<Self> {
        Self::read(record).map_err(|wrong| {
            let what = format!("a record of {} bytes is not a message: {wrong}", record.len());
            Error::new(ErrorKind::InvalidRecord, "parse", what)
        })
    }

    fn read(record: &'a Record) -> std::result::Result<Self, ViewError> {
        let json = Json::of(record).map_err(|error| ViewError::new(error.to_string()))?;
        let fields = ObjectFields::of(json)?;
        let kind = fields.tag("type")?;
        let why = match Self::view(&kind, fields) {
            Some(Ok(view)) => return Ok(view),
            Some(Err(wrong)) => Some(wrong.inside(&kind).to_string()),
            None => None,
        };
        Ok(Self::Other(OtherMessage { kind, record, why }))
    }
}
