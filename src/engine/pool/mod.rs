//! Warm pools: agents of one command that are spawned before they are wanted, because some take
//! seconds to start.
//!
//! A pool is a policy on top of [`Engine::spawn`]: its own thread replaces what was acquired, has
//! ended or grew too old. `state.rs` holds the idle agents and decides about each, `evict.rs` lets
//! them give way to a spawn that would be refused.

mod evict;
mod settings;
mod state;

use std::fmt;
use std::sync::Arc;
use std::thread;

use crate::agent::Agent;
use crate::command::AgentCommand;
use crate::error::{Error, ErrorKind, Result};

use super::Engine;

pub(super) use evict::{WarmPools, spawn_evicting};
pub use settings::{WarmPoolSettings, WarmPoolStats};
use state::PoolShared;

/// Keeps idle agents of one exact command ready, because some take seconds to start. Cheap to clone.
///
/// Each idle agent is handed out once and then belongs to its caller: it never comes back. It is
/// closed instead if it is older than [`WarmPoolSettings::max_age`], has ended, or the executable or
/// environment of its command has changed. What the executable itself loads (an interpreter,
/// libraries, settings) is not compared: `max_age` bounds how old that can be.
///
/// Agents that were acquired or closed are replaced in the background. One that ended within its
/// first 10 s, or could not be spawned, is replaced only at the next [`acquire`](Self::acquire), so a
/// program that ends at once is not started over and over.
///
/// Idle agents are agents of the engine: they count for
/// [`max_agents`](super::EngineBuilder::max_agents), [`Engine::agents`] and the stats. A spawn that
/// finds a limit reached evicts idle agents of any pool of the engine instead of failing, and no
/// pool takes the place meanwhile.
///
/// A pool has a thread, which sleeps while there is nothing to replace. Dropping the last clone ends
/// it and closes all idle agents by the command's [`close_policy`](AgentCommand::close_policy),
/// inside the engine and without waiting. Like an [`Agent`], a pool keeps the engine's threads alive.
///
/// ```
/// use agentpipe::{AgentCommand, Engine, WarmPool, WarmPoolSettings};
///
/// let engine = Engine::new()?;
/// let pool = WarmPool::new(&engine, AgentCommand::new("cat"), WarmPoolSettings::new().size(2))?;
/// let mut agent = pool.acquire_blocking()?.agent;
/// agent.send_blocking(r#"{"question":1}"#)?;
/// assert!(agent.next_record_blocking().is_some());
/// agent.close_blocking();
/// # Ok::<(), agentpipe::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct WarmPool {
    owner: Arc<PoolOwner>,
}

/// Ends the pool when the last handle is dropped.
struct PoolOwner(Arc<PoolShared>);

impl fmt::Debug for PoolOwner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PoolOwner").field(&self.0.stats()).finish()
    }
}

impl Drop for PoolOwner {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// An agent, and whether it was ready.
#[derive(Debug)]
#[non_exhaustive]
pub struct Acquired {
    /// The agent, which belongs to the caller alone.
    pub agent: Agent,
    /// True for an idle agent of the pool, false for one that was spawned for this call.
    pub warm: bool,
}

/// Replaces what an acquire took, also if its future is dropped.
struct RefillOnDrop<'a>(&'a PoolShared);

impl Drop for RefillOnDrop<'_> {
    fn drop(&mut self) {
        self.0.refill();
    }
}

impl WarmPool {
    /// Makes a pool and begins to spawn its idle agents in the background.
    ///
    /// # Errors
    /// [`InvalidSettings`](ErrorKind::InvalidSettings) if a setting is out of its range,
    /// [`ResourceLimit`](ErrorKind::ResourceLimit) if the pool's thread cannot be started,
    /// [`EngineStopped`](ErrorKind::EngineStopped) in a forked child.
    pub fn new(engine: &Engine, command: AgentCommand, settings: WarmPoolSettings) -> Result<Self> {
        settings.check()?;
        engine.shared.origin.check("start")?;
        let shared = PoolShared::new(engine.clone(), command, settings);
        // The handle is made before the thread starts: if that fails, its drop ends the pool.
        let pool = Self { owner: Arc::new(PoolOwner(Arc::clone(&shared))) };
        // The pool is registered before anything is ordered, so that a spawn at a limit can evict
        // all of it.
        engine.shared.pools.add(&shared);
        shared.refill();
        let thread = thread::Builder::new().name("agentpipe-pool".to_owned());
        // Not joined: it may wait for an exec that hangs.
        let _detached = thread.spawn(move || shared.maintain()).map_err(|error| {
            Error::new(ErrorKind::ResourceLimit, "start", "cannot start the thread of a warm pool")
                .cause(error)
                .remedy("raise the thread limit of this process")
        })?;
        Ok(pool)
    }

    /// Takes the oldest idle agent that is fit, or spawns an agent if there is none.
    ///
    /// An idle agent costs a search for the program's file, on a spawn thread of the engine. What it
    /// wrote before comes first, unless [`WarmPoolSettings::discard_startup_output`] is set. It was
    /// alive as far as the engine had seen; like any agent it may end at the next moment.
    ///
    /// Cancel-safe: an agent that was on its way to a dropped future is closed.
    ///
    /// # Errors
    /// As [`Engine::spawn`].
    pub async fn acquire(&self) -> Result<Acquired> {
        let shared = &self.owner.0;
        let engine = &shared.engine;
        engine.shared.check()?;
        let _refill = RefillOnDrop(shared);
        let picking = Arc::clone(shared);
        // This runs on a spawning thread, because the search for the program may block and the
        // caller may be async.
        let picked = engine.shared.spawn_pool.run(move || picking.pick()).await;
        if let Some(checkout) = picked.ok_or_else(|| engine.gone())? {
            return Ok(Acquired { agent: checkout.hand_out(), warm: true });
        }
        let agent = engine.spawn(shared.command.clone()).await?;
        // The count follows the spawn: an acquire that failed is not a miss.
        shared.count(|stats| stats.misses += 1);
        Ok(Acquired { agent, warm: false })
    }

    /// [`acquire`](Self::acquire) for callers without a runtime. Blocks the thread.
    ///
    /// # Errors
    /// As [`Engine::spawn`].
    pub fn acquire_blocking(&self) -> Result<Acquired> {
        pollster::block_on(self.acquire())
    }

    /// Orders the missing idle agents, as every acquire does. Does not wait for them.
    pub fn refill(&self) {
        self.owner.0.refill();
    }

    /// Returns what the pool has done so far; all zero in a forked child.
    #[must_use]
    pub fn stats(&self) -> WarmPoolStats {
        self.owner.0.stats()
    }
}
