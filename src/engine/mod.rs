//! Floor 3: agents on threads of their own, handles that are `Send` and `Sync`.
//!
//! `process::SpawnPool` spawns, `thread.rs` runs one ring and its agents, `mailbox.rs` carries requests
//! to it; answers come back through `transport::Channel`. `control.rs` is what the handles of one
//! agent share; `warm/` keeps spares. No type of any runtime is named here: futures are woken by
//! plain wakers.

mod agent;
mod builder;
mod close;
mod control;
mod handle;
mod mailbox;
mod placement;
mod pool;
mod reader;
mod spin;
mod stats;
mod thread;
mod writer;

pub use agent::Agent;
pub use builder::EngineBuilder;
pub use handle::Engine;
pub use pool::{Acquired, WarmPool, WarmPoolSettings, WarmPoolStats};
pub use reader::AgentReader;
pub use writer::AgentWriter;
