//! What an engine counts: totals of all its agents, latencies, and how many agents the host allows.

mod capacity;
mod engine;
mod histogram;
mod published;

pub use capacity::{Capacity, CapacityLimit};
pub use engine::EngineStats;
pub use histogram::Histogram;
pub(crate) use published::{Board, Meter};
