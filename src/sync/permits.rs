//! Permits bound the number of agents: a spawn takes one before it begins. Checking the limit and
//! taking the permit are one atomic step, so a burst of spawns never exceeds the limit.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::error::{Error, ErrorKind};

/// A number of permits. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Permits(Arc<PermitCount>);

#[derive(Debug)]
struct PermitCount {
    taken: AtomicUsize,
    limit: usize,
}

/// The right to have one agent; given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Permit(Arc<PermitCount>);

impl Permits {
    /// Checks the limit of a builder, before anything is made.
    pub(crate) fn check(limit: Option<usize>) -> Result<(), Error> {
        if limit == Some(0) {
            let what = "max_agents is 0, and must be at least 1";
            return Err(Error::new(ErrorKind::InvalidSettings, "start", what));
        }
        Ok(())
    }

    /// Makes as many permits as `limit`; `None` is no limit.
    pub(crate) fn new(limit: Option<usize>) -> Self {
        let limit = limit.unwrap_or(usize::MAX);
        Self(Arc::new(PermitCount { taken: AtomicUsize::new(0), limit }))
    }

    /// Takes a permit; `None` if all are taken.
    pub(crate) fn try_acquire(&self) -> Option<Permit> {
        let PermitCount { taken, limit } = &*self.0;
        let take = |taken: usize| (taken < *limit).then_some(taken + 1);
        // The acquire pairs with the drop of a permit: what its owner did before that is visible to
        // the next owner. A refusal reads nothing else, so it is relaxed.
        taken.fetch_update(Ordering::AcqRel, Ordering::Relaxed, take).ok()?;
        Some(Permit(Arc::clone(&self.0)))
    }

    /// Takes a permit, or fails with the error of a spawn that exceeds `max_agents`.
    pub(crate) fn acquire(&self) -> Result<Permit, Error> {
        self.try_acquire().ok_or_else(|| {
            let limit = self.0.limit;
            let what = format!("the engine has its {limit} agents (max_agents)");
            Error::new(ErrorKind::ResourceLimit, "spawn", what)
                .remedy("close an agent and try again, or raise max_agents")
        })
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::AcqRel);
    }
}
