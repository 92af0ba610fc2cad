//! The statistics of an engine: totals of all its agents, latencies, and how many agents the host allows.

mod capacity;
mod engine;
mod histogram;

pub use capacity::{Capacity, CapacityLimit};
pub use engine::EngineStats;
pub(crate) use engine::PublishedStats;
pub use histogram::Histogram;
