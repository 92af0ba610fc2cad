//! Floor 3: agents on the caller's own thread, inside tokio's current-thread runtime or
//! tokio-uring's. The same core as the engine threads drive, without the hop between threads.
//!
//! ```text
//! handle  -> control.rs -> hub.rs: the core is asked directly, and the driver is woken
//! driver.rs: one task of the caller's LocalSet; runs after the tasks that woke it, submits what
//!            all of them asked for in one call, hands out what came
//! ready.rs: the ring's eventfd and a timer, watched by the caller's runtime
//! ```
//!
//! Nothing here is `Send`. The locks of `transport::Channel` are never contended here: a lock and
//! its release are two atomic instructions. docs/local.md has the program to begin with.

mod agent;
mod builder;
mod close;
mod control;
mod driver;
mod engine;
mod hub;
mod reader;
mod ready;
#[cfg(feature = "tokio-uring")]
mod run;
mod writer;

pub use agent::LocalAgent;
pub use builder::LocalEngineBuilder;
pub use engine::LocalEngine;
pub use reader::LocalAgentReader;
pub use writer::LocalAgentWriter;
