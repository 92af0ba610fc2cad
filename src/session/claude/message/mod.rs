//! Floor 4. What an agent's messages say: typed views, made on request only.
//!
//! [`Message::of`] looks at a [`Record`] that [`Session::next_record`](super::Session::next_record)
//! or [`read_turn`](super::Session::read_turn) gave, and borrows from it; the session itself never
//! does, so a message that has no view costs nobody anything but the view. Nothing is dropped on
//! the way: types, blocks and words that are not known have a variant `Other`, keys without a
//! field are in `extra`, and a view serializes to the object it was read from.
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

// A view is a table of keys (turn.rs, system.rs, block.rs); fields.rs makes a type of it.

mod block;
mod fields;
mod json;
mod system;
mod turn;
mod value;

#[cfg(test)]
mod tests;

use std::borrow::Cow;

use serde::{Serialize, Serializer};

use crate::error::{Error, ErrorKind, Result};
use crate::record::Record;

use fields::{Fields, Wrong};

pub use block::{
    AdvisorToolResult, Block, ServerToolUse, TextBlock, Thinking, ToolResult, ToolUse,
};
pub use json::{Extra, Json};
pub use system::{
    HookEvent, MirrorError, System, TaskNotification, TaskPatch, TaskProgress, TaskStarted,
    TaskStatus, TaskUpdated,
};
pub use turn::{
    Assistant, AssistantContent, AssistantError, ConversationReset, DeferredToolUse, Origin,
    RateLimitEvent, RateLimitInfo, StreamEvent, TurnResult, User, UserContent,
};
pub use value::Content;

/// A message of the agent, by its `type` and `subtype`.
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
    /// Any other type: `keep_alive`, `transcript_mirror`, and those to come.
    Other(Other<'a>),
}

/// A message of a type that has no view.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Other<'a> {
    /// Its `type`.
    pub kind: Cow<'a, str>,
    /// All of it.
    pub record: &'a Record,
}

impl<'a> Message<'a> {
    /// The view of a record. It borrows: texts without escapes, and all that has no type of its
    /// own here, are not copied. Takes time in proportion to the record's length.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidRecord`] where the record is no JSON object, has no `type`, or lacks a
    /// required key of its type, or where the value of that is none for it. The error names the
    /// key and the type it was looked for in. An optional key never makes an error.
    pub fn of(record: &'a Record) -> Result<Self> {
        Self::read(record).map_err(|wrong| {
            let what = format!("a record of {} bytes is no message: {wrong}", record.len());
            Error::new(ErrorKind::InvalidRecord, "parse", what)
        })
    }

    fn read(record: &'a Record) -> std::result::Result<Self, Wrong> {
        let json = Json::of(record).map_err(|error| Wrong::new(error.to_string()))?;
        let fields = Fields::of(json)?;
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
            _ => return Ok(Self::Other(Other { kind, record })),
        };
        message.map_err(|wrong| wrong.inside(kind))
    }

    fn system(fields: Fields<'a>) -> std::result::Result<Self, Wrong> {
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

/// The JSON it was read from; the keys of an object may stand in another order.
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
