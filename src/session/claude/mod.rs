//! Floor 4: the control protocol of Claude Code over an agent.
//!
//! [`Session::next_record`] gives the messages (`assistant`, `result`, `system`, ...) as they
//! came, those of a type that nobody knows included; control records never show there.
//! [`Message::of`] says what is in one.

mod builder;
mod cli;
mod dialect;
mod hook_output;
mod hooks;
mod input;
mod mcp;
pub mod message;
mod options;
mod permission;
mod probe;
mod run;
mod session;
mod turns;
mod version;

#[cfg(test)]
mod tests;

pub use builder::Builder;
pub use cli::Cli;
pub use hook_output::HookOutput;
pub use hooks::HookRequest;
pub use input::UserMessage;
pub use mcp::McpRequest;
pub use message::Message;
pub use options::{Options, Thinking};
pub use permission::{Permission, PermissionRequest};
pub use session::Session;
pub use version::CliVersion;
