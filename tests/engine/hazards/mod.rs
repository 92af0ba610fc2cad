//! Faults around an engine: wakers and subscribers that panic, threads that die, spawns that race a
//! shutdown, drops in async code, forks.

mod drops;
mod ended;
mod forks;
mod panics;
pub(crate) mod raw;
mod subscriber;
