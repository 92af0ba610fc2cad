//! The control protocol of Claude Code over an agent.
//!
//! [`Session::next_record`](super::Session::next_record) returns the messages (`assistant`, `result`,
//! `system`, ...) as they came, including those of an unknown type. Control records never appear
//! there. [`Message::of`] parses a message.

pub mod message;

mod builder;
mod hooks;
mod input;
mod mcp;
mod options;
mod permission;
mod protocol;
mod run;
mod session;
mod turns;
mod version;

#[cfg(test)]
mod tests;

pub use builder::{Builder, Cli};
pub use hooks::{HookOutput, HookRequest};
pub use input::UserMessage;
pub use mcp::McpRequest;
pub use message::Message;
pub use options::{Options, Thinking};
pub use permission::{Permission, PermissionRequest};
pub use session::Session;
pub use version::CliVersion;
