//! The engine and its agents, which are real processes: pipes and back-pressure, handles, spawning,
//! many agents at once, and hosts that misbehave.
//!
//! Times are asserted against generous ceilings, or as ratios of one run.

mod bursts;
mod handles;
mod hazards;
mod host;
mod pipes;
mod scale;
mod spawn;
#[path = "../support/mod.rs"]
mod support;
