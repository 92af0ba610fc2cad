//! Floor 0. Places for agents: who has one may spawn. No check is apart from its act, so a burst of
//! spawns never exceeds the number.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::error::{Error, ErrorKind};

/// A number of places. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Permits(Arc<Places>);

#[derive(Debug)]
struct Places {
    taken: AtomicUsize,
    most: usize,
    /// Spawns that had no place and make room for themselves.
    pressed: AtomicUsize,
}

/// A place; given back when dropped.
#[derive(Debug)]
pub(crate) struct Permit(Arc<Places>);

/// A spawn that goes before spares.
#[derive(Debug)]
pub(crate) struct Pressed(Arc<Places>);

impl Drop for Pressed {
    fn drop(&mut self) {
        self.0.pressed.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Permits {
    pub(crate) fn new(most: Option<usize>) -> Self {
        let most = most.unwrap_or(usize::MAX);
        Self(Arc::new(Places { taken: AtomicUsize::new(0), most, pressed: AtomicUsize::new(0) }))
    }

    /// Takes a place, or says that there is none.
    pub(crate) fn admit(&self) -> Result<Permit, Error> {
        self.take().ok_or_else(|| {
            let most = self.0.most;
            let what = format!("the engine has its {most} agents (max_agents)");
            Error::new(ErrorKind::ResourceLimit, "spawn", what)
                .remedy("close an agent and try again, or raise max_agents")
        })
    }

    /// Takes a place for a spare, if there is one that nobody else waits for.
    pub(crate) fn admit_spare(&self) -> Option<Permit> {
        if self.0.pressed.load(Ordering::Acquire) > 0 { None } else { self.take() }
    }

    /// From now on no spare gets a place, until this is dropped.
    pub(crate) fn press(&self) -> Pressed {
        self.0.pressed.fetch_add(1, Ordering::AcqRel);
        Pressed(Arc::clone(&self.0))
    }

    fn take(&self) -> Option<Permit> {
        let Places { taken, most, .. } = &*self.0;
        let take = |taken: usize| (taken < *most).then_some(taken + 1);
        taken.fetch_update(Ordering::AcqRel, Ordering::Relaxed, take).ok()?;
        Some(Permit(Arc::clone(&self.0)))
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::AcqRel);
    }
}
