//! Eviction: a spawn that finds a limit reached takes the place of idle agents. Without it a pool
//! would use up `max_agents`, or the descriptors of the host, and every other spawn would be refused
//! in favour of agents that do nothing.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use crate::agent::Agent;
use crate::command::AgentCommand;
use crate::error::{ErrorKind, Result};
use crate::sync::Permit;

use super::super::Engine;
use super::state::{PoolShared, Room};

/// How often a spawn that the host refuses evicts an idle agent. A spawn needs seven descriptors for
/// a moment and an idle agent has four: if two of them do not help, the host is short of something else.
const EVICTIONS_FOR_THE_HOST: usize = 2;

/// The warm pools of an engine.
#[derive(Debug, Default)]
pub(in super::super) struct WarmPools {
    // The list is weak, because a pool holds its engine: the two would keep each other alive.
    pools: Mutex<Vec<Weak<PoolShared>>>,
    /// Spawns that wait for the place of an idle agent.
    waiting: AtomicUsize,
}

/// While it lives no pool takes a permit: the place that becomes free is for its spawn.
struct WaitingSpawn<'a>(&'a AtomicUsize);

impl Drop for WaitingSpawn<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl WarmPools {
    fn lock(&self) -> MutexGuard<'_, Vec<Weak<PoolShared>>> {
        self.pools.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn add(&self, pool: &Arc<PoolShared>) {
        let mut pools = self.lock();
        pools.retain(|pool| pool.strong_count() > 0);
        pools.push(Arc::downgrade(pool));
    }

    pub(in super::super) fn is_empty(&self) -> bool {
        // Pools that are gone are forgotten first. Afterwards a spawn costs what it did without
        // any.
        let mut pools = self.lock();
        pools.retain(|pool| pool.strong_count() > 0);
        pools.is_empty()
    }

    /// Takes a permit for an idle agent, unless a spawn waits for it.
    pub(super) fn permit(&self, engine: &Engine) -> Option<Permit> {
        // A pool counts its agent as pending before it looks here, and a spawn counts itself before it
        // looks for pending agents: one of them sees the other.
        let spawn_waits = self.waiting.load(Ordering::SeqCst) > 0;
        if spawn_waits { None } else { engine.shared.admission.try_acquire() }
    }

    fn wait(&self) -> WaitingSpawn<'_> {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        WaitingSpawn(&self.waiting)
    }

    /// Evicts an idle agent of the pool that has the most.
    fn evict(&self) -> Option<Room> {
        // Collected first: a pool that is dropped here must not be dropped under the lock.
        let mut pools: Vec<Arc<PoolShared>> =
            self.lock().iter().filter_map(Weak::upgrade).collect();
        pools.sort_by_key(|pool| std::cmp::Reverse(pool.stats().ready));
        pools.iter().find_map(|pool| pool.evict())
    }
}

/// [`Engine::spawn`] for an engine with warm pools.
pub(in super::super) async fn spawn_evicting(
    engine: &Engine,
    command: AgentCommand,
) -> Result<Agent> {
    let pools = &engine.shared.pools;
    let mut waits = None;
    let mut refused_by_host = 0;
    loop {
        let refused = match engine.shared.admission.acquire() {
            Err(error) => error,
            Ok(permit) => match engine.spawn_with(command.clone(), permit).await {
                Ok(agent) => return Ok(agent),
                Err(error) => {
                    // The pool had a permit, so the host refused. Refusals for want of a permit need
                    // no bound: each eviction frees one.
                    refused_by_host += 1;
                    error
                }
            },
        };
        if refused.kind() != ErrorKind::ResourceLimit || refused_by_host > EVICTIONS_FOR_THE_HOST {
            return Err(refused);
        }
        // The pools are held back from the first refusal until the spawn is over. A spawn that
        // finds room holds none back.
        waits.get_or_insert_with(|| pools.wait());
        match pools.evict() {
            // The place is free once the report is there.
            Some(Room::Closing(writer)) => drop(writer.closed().await),
            // It can be closed only once it has arrived.
            Some(Room::Pending(arrived)) => drop(arrived.wait().await),
            None => return Err(refused),
        }
    }
}
