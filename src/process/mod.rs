//! Floor 1. Child processes: spawn at vfork cost, signal the group, reap once. It never waits
//! for an agent, and knows nothing of rings and frames.
//!
//! - `spawn`: checks the command, makes the pipes, clones, execs. Every failure has a cause,
//!   and leaves no descriptor and no zombie behind.
//! - [`SpawnPool`]: the threads that do it, so that a slow search or exec stalls no engine.
//! - [`Child`]: the right to signal and to reap. Its pidfd goes to the ring,
//!   which polls it, and is lent for signals.
//! - [`Meaning`]: which file and which environment a command means just now.
//! - [`find_members`], [`descendants`]: who else is in a group.
//! - [`Family`]: what an agent is doing, as `/proc` shows it.
//!
//! Order of a spawn: `environment`, `credentials`, `resolve` (all that can be refused without a
//! process), `cgroup`, `pipes`, `clone`, and `failure`, which turns what the kernel said into an
//! [`Error`](crate::Error).
//!
//! To add a step that the child does before its exec: `Plan` and `Step` in `child_setup`, the text
//! in `failure`. The child shares our memory: no allocation, no lock, nothing that may panic.

mod activity;
#[cfg(feature = "__bench")]
mod bare;
mod cgroup;
mod cgroup_place;
mod child;
mod child_setup;
mod clone;
mod credentials;
mod environment;
mod executable;
mod exit;
mod failure;
mod group;
mod host_limits;
mod pipes;
mod proc_stat;
mod refusal;
mod resolve;
mod signal;
mod spawn;
mod spawn_pool;
mod sys;

#[cfg(test)]
mod tests;

pub(crate) use activity::Family;
#[cfg(feature = "__bench")]
pub use bare::spawn_here;
pub(crate) use cgroup::Removal;
pub(crate) use child::{Child, REAP_MAX};
pub(crate) use executable::{CommandFingerprint, Executable};
pub(crate) use group::{Member, descendants, find_members, living_members};
pub(crate) use host_limits::capacity;
pub(crate) use spawn::{Spawned, spawn_admitted};
pub(crate) use spawn_pool::{SpawnPool, SpawnPoolGuard};
