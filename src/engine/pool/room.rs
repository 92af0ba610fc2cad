//! Floor 3. A spawn that finds a limit reached goes before all spares.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use crate::command::AgentCommand;
use crate::error::{Error, ErrorKind, Result};
use crate::process::open_parcel;

use super::super::agent::Agent;
use super::super::handle::Engine;
use super::pool::{Pool, Room};

/// A spawn wants seven descriptors for a moment and a spare has four, so if two of them do not
/// help, spares are not what the host is full of.
const GIVEN_UP_FOR_THE_HOST: usize = 2;

/// The pools of an engine.
#[derive(Default)]
pub(in super::super) struct Pools(Mutex<Vec<Weak<Pool>>>);

impl std::fmt::Debug for Pools {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pools").finish_non_exhaustive()
    }
}

impl Pools {
    fn lock(&self) -> MutexGuard<'_, Vec<Weak<Pool>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn add(&self, pool: &Arc<Pool>) {
        let mut pools = self.lock();
        pools.retain(|pool| pool.strong_count() > 0);
        pools.push(Arc::downgrade(pool));
    }

    pub(in super::super) fn are_there(&self) -> bool {
        let mut pools = self.lock();
        pools.retain(|pool| pool.strong_count() > 0);
        !pools.is_empty()
    }

    /// A spare less: of the pool that has the most.
    fn make_room(&self) -> Option<Room> {
        // Not under the lock: a pool dropped here drops what it has.
        let mut pools: Vec<Arc<Pool>> = self.lock().iter().filter_map(Weak::upgrade).collect();
        pools.sort_by_key(|pool| std::cmp::Reverse(pool.ready()));
        pools.iter().find_map(|pool| pool.give_up())
    }
}

/// [`Engine::spawn`] where there are spares.
pub(in super::super) async fn spawn_before_spares(
    engine: &Engine,
    command: AgentCommand,
) -> Result<Agent> {
    let mut pressed = None;
    let mut refused_by_host = 0;
    loop {
        let error = match engine.order(command.clone(), &engine.inner.admission) {
            Err(error) => error,
            Ok(reply) => {
                let parcel = reply.wait().await.and_then(|parcel| open_parcel(&parcel));
                match parcel.unwrap_or_else(|| Err(engine.gone())) {
                    Ok(agent) => return Ok(agent),
                    Err(error) => {
                        refused_by_host += 1;
                        error
                    }
                }
            }
        };
        if !is_full(&error) || refused_by_host > GIVEN_UP_FOR_THE_HOST {
            return Err(error);
        }
        // The place that becomes free is not for a new spare.
        pressed.get_or_insert_with(|| engine.inner.admission.press());
        match engine.inner.pools.make_room() {
            Some(Room::Leaving(spare)) => drop(spare.closed().await),
            Some(Room::Coming(came)) => drop(came.wait().await),
            None => return Err(error),
        }
    }
}

fn is_full(error: &Error) -> bool {
    error.kind() == ErrorKind::ResourceLimit
}
