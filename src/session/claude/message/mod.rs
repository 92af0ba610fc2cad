//! Typed views of the messages of Claude Code.
//!
//! [`Message::of`] parses a [`Record`] from
//! [`next_record`](crate::session::Session::next_record) or
//! [`read_turn`](super::Session::read_turn), and borrows from it. The session itself makes no view, so a
//! message without one costs the session nothing. Nothing is lost: unknown types, blocks and words have a
//! variant `Other`, keys without a field are in `extra`, and a view serializes to the object that it was
//! read from.
//!
//! ```
//! use agentpipe::Record;
//! use agentpipe::session::claude::message::{Block, Message};
//!
//! let record = Record::from(br#"{"type":"assistant","message":{"model":"m","role":"assistant",
//!     "content":[{"type":"text","text":"Hello"}]}}"#.to_vec());
//! if let Message::Assistant(said) = Message::of(&record)? {
//!     assert_eq!(said.message.model, "m");
//!     assert!(matches!(&said.message.content[0], Block::Text(block) if block.text == "Hello"));
//!     assert_eq!(said.message.extra.get("role").map(|role| role.as_str()), Some("\"assistant\""));
//! }
//! # Ok::<(), agentpipe::Error>(())
//! ```

// turn.rs, system.rs and block.rs declare views as tables of keys, from which the macro `view` in
// fields.rs makes types. value.rs has the types of their fields.

mod block;
mod fields;
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
pub use system::{
    HookEvent, MirrorError, System, TaskNotification, TaskPatch, TaskProgress, TaskStarted,
    TaskStatus, TaskUpdated,
};
pub use turn::{
    Assistant, AssistantContent, AssistantError, ConversationReset, DeferredToolUse, Origin,
    RateLimitEvent, RateLimitInfo, StreamEvent, TurnResult, User, UserContent,
};
pub use value::{Extra, Json};

/// A view of a message, by its `type` and `subtype`.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Message<'a> {
    /// `user`
    User(User<'a>),
    /// `assistant`
    Assistant(Assistant<'a>),
    /// `system`, `hook_started` or `hook_response`
    HookEvent(HookEvent<'a>),
    /// `system`, `task_started`
    TaskStarted(TaskStarted<'a>),
    /// `system`, `task_progress`
    TaskProgress(TaskProgress<'a>),
    /// `system`, `task_notification`
    TaskNotification(Box<TaskNotification<'a>>),
    /// `system`, `task_updated`
    TaskUpdated(TaskUpdated<'a>),
    /// `system`, `mirror_error`
    MirrorError(MirrorError<'a>),
    /// `system` of any other subtype
    System(System<'a>),
    /// `result`: the end of a turn
    Result(Box<TurnResult<'a>>),
    /// `stream_event`
    StreamEvent(StreamEvent<'a>),
    /// `rate_limit_event`
    RateLimitEvent(Box<RateLimitEvent<'a>>),
    /// `conversation_reset`
    ConversationReset(ConversationReset<'a>),
    /// Any other type: `keep_alive`, `transcript_mirror`, and types of a later CLI
    Other(OtherMessage<'a>),
}

/// A message of a type without a view.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct OtherMessage<'a> {
    /// Its `type`.
    pub kind: Cow<'a, str>,
    /// The whole record.
    pub record: &'a Record,
}

impl<'a> Message<'a> {
    /// Returns the view of a record. It borrows texts without escapes, and JSON without a type, from the
    /// record. Takes time in proportion to the length of the record.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidRecord`] if the record is not a JSON object, has no `type`, or lacks a required
    /// key of its type, or if that key has another type. The error names the key and the type of the
    /// message. An optional key is never an error.
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
        let message = match &*kind {
            "user" => User::of(fields).map(Self::User),
            "assistant" => Assistant::of(fields).map(Self::Assistant),
            "system" => Self::system(fields),
            "result" => TurnResult::of(fields).map(|view| Self::Result(Box::new(view))),
            "stream_event" => StreamEvent::of(fields).map(Self::StreamEvent),
            "rate_limit_event" => {
                RateLimitEvent::of(fields).map(|view| Self::RateLimitEvent(Box::new(view)))
            }
            "conversation_reset" => ConversationReset::of(fields).map(Self::ConversationReset),
            _ => return Ok(Self::Other(OtherMessage { kind, record })),
        };
        message.map_err(|wrong| wrong.inside(kind))
    }

    fn system(fields: ObjectFields<'a>) -> std::result::Result<Self, ViewError> {
        let subtype = fields.tag("subtype")?;
        let message = match &*subtype {
            "hook_started" | "hook_response" => HookEvent::of(fields).map(Self::HookEvent),
            "task_started" => TaskStarted::of(fields).map(Self::TaskStarted),
            "task_progress" => TaskProgress::of(fields).map(Self::TaskProgress),
            "task_notification" => {
                TaskNotification::of(fields).map(|view| Self::TaskNotification(Box::new(view)))
            }
            "task_updated" => TaskUpdated::of(fields).map(Self::TaskUpdated),
            "mirror_error" => MirrorError::of(fields).map(Self::MirrorError),
            _ => System::of(fields).map(Self::System),
        };
        message.map_err(|wrong| wrong.inside(subtype))
    }
}

/// Writes the JSON that the view was read from. The order of keys may differ.
impl Serialize for Message<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> std::result::Result<S::Ok, S::Error> {
        match self {
            Self::User(view) => view.serialize(to),
            Self::Assistant(view) => view.serialize(to),
            Self::HookEvent(view) => view.serialize(to),
            Self::TaskStarted(view) => view.serialize(to),
            Self::TaskProgress(view) => view.serialize(to),
            Self::TaskNotification(view) => view.serialize(to),
            Self::TaskUpdated(view) => view.serialize(to),
            Self::MirrorError(view) => view.serialize(to),
            Self::System(view) => view.serialize(to),
            Self::Result(view) => view.serialize(to),
            Self::StreamEvent(view) => view.serialize(to),
            Self::RateLimitEvent(view) => view.serialize(to),
            Self::ConversationReset(view) => view.serialize(to),
            Self::Other(other) => other.record.serialize(to),
        }
    }
}
