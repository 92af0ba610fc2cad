//! Floor 0. Places for agents: who has one may spawn. No check is apart from its act, so a burst of
//! spawns never exceeds the number.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::error::{Error, ErrorKind};

/// A number of places. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Admission(Arc<Places>);

#[derive(Debug)]
struct Places {
    taken: AtomicUsize,
    most: usize,
}

/// A place; given back when dropped.
#[derive(Debug)]
pub(crate) struct Permit(Arc<Places>);

impl Admission {
    pub(crate) fn new(most: Option<usize>) -> Self {
        let most = most.unwrap_or(usize::MAX);
        Self(Arc::new(Places { taken: AtomicUsize::new(0), most }))
    }

    /// Takes a place, or says that there is none.
    pub(crate) fn admit(&self) -> Result<Permit, Error> {
        let Places { taken, most } = &*self.0;
        let take = |taken: usize| (taken < *most).then_some(taken + 1);
        if taken.fetch_update(Ordering::AcqRel, Ordering::Relaxed, take).is_err() {
            let what = format!("the engine has its {most} agents (EngineBuilder::max_agents)");
            return Err(Error::new(ErrorKind::ResourceLimit, "spawn", what)
                .remedy("close an agent and try again, or raise max_agents"));
        }
        Ok(Permit(Arc::clone(&self.0)))
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::AcqRel);
    }
}
