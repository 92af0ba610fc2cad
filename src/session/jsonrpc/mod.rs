//! Floor 4: JSON-RPC 2.0 over an agent: MCP, ACP, Codex, language servers.
//!
//! The framing is the agent's own ([`AgentCommand::framing`](crate::AgentCommand::framing)).
//! Notifications are data: [`Session::next_record`] gives them as they came. A batch is refused,
//! with an answer if a request in it waits for one.

mod dialect;
mod session;
#[cfg(test)]
mod tests;

pub use dialect::Cancellation;
pub use session::{Builder, Session};
