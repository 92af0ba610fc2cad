//! Engines under code that is not theirs and hosts that are not careful: wakers and subscribers that
//! panic, threads that die, spawns that race a shutdown, drops in async code, forks.
//!
//! The agents are real processes. Times are asserted against generous ceilings only.

mod drops;
mod ended;
mod forks;
mod panics;
mod raw;
mod subscriber;
