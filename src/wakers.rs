//! Floor 0. The tasks that wait for one thing: woken all together, and forgotten when they give up.
//!
//! A waker holds its task. A task that timed out and went away must not be held until the thing
//! happens, which may be never.

use std::task::Waker;

use slab::Slab;

/// Who waits.
#[derive(Debug, Default)]
pub(crate) struct Wakers {
    waiting: Slab<Waker>,
    /// Counts the wakings: a place is good until the next one.
    round: u64,
}

/// Where one waiter stands. It has none before its first poll.
#[derive(Debug, Default)]
pub(crate) struct Place(Option<(u64, usize)>);

impl Wakers {
    /// Wakes `waker` with the others. One entry per place, however often it is polled.
    pub(crate) fn remember(&mut self, place: &mut Place, waker: &Waker) {
        match place.0 {
            Some((round, slot)) if round == self.round => {
                if let Some(known) = self.waiting.get_mut(slot) {
                    known.clone_from(waker);
                }
            }
            _ => place.0 = Some((self.round, self.waiting.insert(waker.clone()))),
        }
    }

    /// It waits no more. The waker is dropped by the caller, who may hold a lock until then.
    pub(crate) fn forget(&mut self, place: &mut Place) -> Option<Waker> {
        let (round, slot) = place.0.take()?;
        if round == self.round { self.waiting.try_remove(slot) } else { None }
    }

    /// All of them, to be woken once no lock is held.
    pub(crate) fn take(&mut self) -> Slab<Waker> {
        self.round += 1;
        std::mem::take(&mut self.waiting)
    }
}

/// Wakes what [`Wakers::take`] gave.
pub(crate) fn wake_all(waiting: Slab<Waker>) {
    waiting.into_iter().for_each(|(_, waker)| waker.wake());
}
