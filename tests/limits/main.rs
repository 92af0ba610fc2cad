//! Limits and what is held: descriptors, memory, allocations and kernel operations are counted, and
//! the host refuses what an engine needs.
//!
//! A test that counts or changes what belongs to the process runs in its own process.

mod allocator;
mod closing;
mod counts;
mod footprint;
mod leaks;
mod refusals;
mod session_leaks;
mod submissions;
#[path = "../support/mod.rs"]
mod support;
