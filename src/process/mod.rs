//! Child processes: spawns at the cost of a vfork, signals process groups, reaps once. It never waits
//! for an agent, and knows nothing of rings and frames.
//!
//! - `spawn`: checks the command, makes the pipes, clones and execs. A failed spawn has a cause, and
//!   leaves no descriptor and no zombie behind.
//! - [`SpawnPool`]: the threads that spawn, so that a slow search or exec stalls no other thread.
//! - `Child`: the right to signal and to reap. Its pidfd goes to the ring, which polls it.
//! - [`Guard`]: a process that outlives this one and kills what it has spawned.
//! - `Container`: the container that a child is the client of, removed after it.
//! - [`CommandFingerprint`]: the executable and the environment that a command has now.
//! - [`AgentProcess`], [`ProcessTable`]: what a transport needs of a child, and of the processes of the
//!   host. A simulation can stand in for both.
//! - [`Family`]: whether an agent is idle, as `/proc` shows it.
//!
//! A spawn runs `environment`, `credentials` and `resolve` (all that can be refused without a process),
//! then `cgroup`, the pipes and `clone`. `error` turns what the kernel refused into an
//! [`Error`](crate::Error).
//!
//! To add a step that the child makes before its exec: extend `ExecPlan` and `SetupStep` in
//! `child_setup`, and the texts in `error`. The child shares the memory of this process: no allocation,
//! no lock, nothing that can panic.

mod activity;
mod agent_process;
mod cgroup;
mod child;
mod child_setup;
mod clone;
mod container;
mod credentials;
mod descriptors;
mod environment;
mod error;
mod executable;
mod guard;
mod host_limits;
mod procfs;
mod resolve;
mod spawn;
mod spawn_pool;
mod sys;

#[cfg(test)]
mod tests;

pub(crate) use activity::Family;
pub(crate) use agent_process::{AgentProcess, ProcessTable};
pub(crate) use cgroup::Removal;
pub(crate) use child::REAP_MAX;
pub(crate) use executable::CommandFingerprint;
pub(crate) use guard::Guard;
pub(crate) use host_limits::capacity;
pub(crate) use procfs::GroupMember;
pub(crate) use spawn::{Parts, Spawned, spawn_admitted};
pub(crate) use spawn_pool::{SpawnPool, SpawnPoolGuard};
