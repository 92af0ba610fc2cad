//! The control protocol of Claude Code over an agent.
//!
//! [`Session::next_record`](super::Session::next_record) returns the messages (`assistant`, `result`,
//! `system`, ...) as they came, including those of an unknown type. Control records never appear
//! there. [`Message::of`] parses a message.

pub mod control;
pub mod message;

mod builder;
mod dialog;
mod hooks;
mod initialize;
mod input;
mod mcp;
mod options;
mod permission;
mod protocol;
mod run;
mod session;
mod turns;
mod version;
mod wire;

#[cfg(test)]
mod tests;

pub use builder::{Builder, Cli};
pub use dialog::{DialogAnswer, Elicitation, ElicitationAnswer, UserDialog};
pub use hooks::{HookKind, HookMatcher, HookOutput, HookRequest};
pub use initialize::Initialized;
pub use input::{MessagePriority, UserMessage};
pub use mcp::McpRequest;
pub use message::Message;
pub use options::{Options, Thinking};
pub use permission::{
    AskRule, McpOrigin, Permission, PermissionBehavior, PermissionDestination, PermissionMode,
    PermissionRequest, PermissionRule, PermissionUpdate,
};
pub use session::Session;
pub use version::CliVersion;
