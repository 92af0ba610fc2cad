//! Floor 2: one child, one byte stream each way. Where the ring, the process and the framer meet.
//!
//! ```text
//! in    ring buffer -> read.rs -> frame -> channel.rs -> the reader
//! out   the writer -> channel.rs -> write.rs -> write_queue.rs -> ring
//! close request.rs -> driver.rs -> close.rs -> close::plan (pure) -> close_reap.rs -> close_report.rs
//! ```
//!
//! `driver.rs` holds all agents of a thread and is driven by floor 3. To add a close stage, touch
//! `CloseStage`, `close/plan.rs`, `close.rs` and docs/close.md; tests/tidy.rs compares them.

mod adoption;
mod buffers;
mod catch_up;
mod channel;
mod close;
mod close_activity;
mod close_cgroup;
mod close_reap;
mod close_report;
mod connect;
mod driver;
mod read;
mod request;
mod state;
mod tally;
mod unserved;
mod write;
mod write_queue;

pub(crate) use adoption::{Adoption, LiveAgents};
pub(crate) use catch_up::CatchUp;
pub(crate) use channel::{Channel, Offer};
pub(crate) use driver::{Driver, ShutdownCounts};
pub(crate) use request::{CloseLimits, Request};
