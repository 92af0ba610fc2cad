//! Floor 4: requests and responses over an agent, both ways.
//!
//! [`claude::Session`] speaks the control protocol of Claude Code, [`jsonrpc::Session`] JSON-RPC
//! 2.0: MCP, ACP, Codex, language servers. Both stand on [`Session`], which has what they share.
//! docs/sessions.md begins with examples.
//!
//! - Every request has one outcome: the agent's answer, its deadline, or the end of the session.
//!   However the agent ends, every open request fails at once and says how.
//! - Answers and requests of the agent pass by data that nobody reads, up to
//!   [`Settings::unread_max`]; beyond it requests fail at once and say how much is unread.
//! - Handlers run as tasks of their own. One that fails, panics or never ends costs its answer and
//!   nothing else.

// router.rs decides, purely; pump.rs reads for it; core.rs is what they share with the handles;
// serve.rs runs handlers; host.rs is the thread where all that happens unless told otherwise.

#[cfg(feature = "claude")]
pub mod claude;
pub mod jsonrpc;

mod clock;
mod close;
mod core;
mod dialect;
mod end;
mod expire;
mod failure;
mod handle;
mod host;
mod lost;
mod pump;
mod router;
mod serve;
mod settings;
mod stats;
mod unread;

pub use failure::RpcError;
pub use handle::Session;
pub use serve::AgentRequest;
pub use settings::{Settings, Task};
pub use stats::SessionStats;
