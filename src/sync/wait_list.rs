//! Floor 0. The tasks that wait for one thing: woken all together, and forgotten when they give up.
//!
//! A waker holds its task. A task that timed out and went away must not be held until the thing
//! happens, which may be never.
//!
//! To clone, wake or drop a waker runs code of the user: none of the three happens under a lock,
//! and on a thread of ours a panic in it is contained.

use std::task::Waker;

use slab::Slab;

use crate::contain::contain;

/// Waiting tasks.
#[derive(Debug, Default)]
pub(crate) struct WaitList {
    waiting: Slab<Waker>,
    /// Counts the wakings: a place is good until the next one.
    round: u64,
}

/// The registration of one waiting task. Empty before its first poll.
#[derive(Debug, Default)]
pub(crate) struct WaitKey(Option<(u64, usize)>);

impl WaitList {
    /// Registers `own`, a clone of `waker` that the caller made before it took its lock. False
    /// where there is none yet and one is needed: make it and try again.
    ///
    /// What `own` holds afterwards is to be dropped once no lock is held. One entry per place,
    /// however often it is polled.
    pub(crate) fn register(
        &mut self,
        place: &mut WaitKey,
        waker: &Waker,
        own: &mut Option<Waker>,
    ) -> bool {
        let known = match place.0 {
            Some((round, slot)) if round == self.round => self.waiting.get_mut(slot),
            _ => None,
        };
        if known.as_ref().is_some_and(|known| known.will_wake(waker)) {
            return true;
        }
        let Some(new) = own.take() else { return false };
        match known {
            Some(known) => *own = Some(std::mem::replace(known, new)),
            None => place.0 = Some((self.round, self.waiting.insert(new))),
        }
        true
    }

    /// The task waits no more. Its waker is to be dropped once no lock is held.
    #[must_use]
    pub(crate) fn forget(&mut self, place: &mut WaitKey) -> Option<Waker> {
        let (round, slot) = place.0.take()?;
        if round == self.round { self.waiting.try_remove(slot) } else { None }
    }

    /// All of them, to be woken once no lock is held.
    #[must_use]
    pub(crate) fn take(&mut self) -> Waiting {
        self.round += 1;
        Waiting(std::mem::take(&mut self.waiting))
    }
}

/// The last owner may be a thread of ours.
impl Drop for WaitList {
    fn drop(&mut self) {
        self.waiting.drain().for_each(discard);
    }
}

/// Tasks that are to be woken.
#[derive(Debug)]
pub(crate) struct Waiting(Slab<Waker>);

impl Waiting {
    /// Wakes each, whatever the wakers before it did.
    pub(crate) fn wake(self) {
        self.0.into_iter().for_each(|(_, waker)| wake(Some(waker)));
    }
}

/// The only task that waits for something.
#[derive(Debug, Default)]
pub(crate) struct Sole(Option<Waker>);

impl Sole {
    /// [`WaitList::register`] for a task that cannot give up.
    pub(crate) fn register(&mut self, waker: &Waker, own: &mut Option<Waker>) -> bool {
        if self.0.as_ref().is_some_and(|known| known.will_wake(waker)) {
            return true;
        }
        if own.is_none() {
            return false;
        }
        std::mem::swap(&mut self.0, own);
        true
    }

    /// To be woken once no lock is held.
    #[must_use]
    pub(crate) fn take(&mut self) -> Option<Waker> {
        self.0.take()
    }
}

impl Drop for Sole {
    fn drop(&mut self) {
        self.0.take().into_iter().for_each(discard);
    }
}

/// Wakes a task of the user's, if there is one.
pub(crate) fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        contain("a waker", || waker.wake());
    }
}

fn discard(waker: Waker) {
    contain("the destructor of a waker", || drop(waker));
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;

    /// Panics when woken, and when dropped.
    struct Mine(Arc<AtomicUsize>);

    impl Wake for Mine {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
            panic!("a waker");
        }
    }

    impl Drop for Mine {
        fn drop(&mut self) {
            if !std::thread::panicking() {
                self.0.fetch_add(1, Ordering::Relaxed);
                panic!("a destructor");
            }
        }
    }

    fn waiting(counts: &Arc<AtomicUsize>) -> (WaitList, Vec<WaitKey>) {
        let mut wakers = WaitList::default();
        let mut places = Vec::new();
        for _ in 0..3 {
            let waker = Waker::from(Arc::new(Mine(Arc::clone(counts))));
            let (mut place, mut own) = (WaitKey::default(), Some(waker.clone()));
            assert!(wakers.register(&mut place, &waker, &mut own) && own.is_none());
            places.push(place);
        }
        (wakers, places)
    }

    #[test]
    fn a_waker_that_panics_keeps_no_other_from_being_woken() {
        let counts = Arc::default();
        let (mut wakers, _places) = waiting(&counts);
        wakers.take().wake();
        assert_eq!(counts.load(Ordering::Relaxed), 3);
    }

    #[test]
    fn a_waker_that_panics_when_dropped_is_contained() {
        let counts = Arc::default();
        let (wakers, _places) = waiting(&counts);
        drop(wakers);
        assert_eq!(counts.load(Ordering::Relaxed), 3);
    }

    #[test]
    fn a_place_of_an_earlier_round_touches_no_later_waker() {
        let mut wakers = WaitList::default();
        let mut old = WaitKey::default();
        let mut new = WaitKey::default();
        assert!(wakers.register(&mut old, Waker::noop(), &mut Some(Waker::noop().clone())));
        wakers.take().wake();
        assert!(wakers.register(&mut new, Waker::noop(), &mut Some(Waker::noop().clone())));
        assert!(wakers.forget(&mut old).is_none(), "the slot has another task now");
        assert!(wakers.forget(&mut new).is_some());
    }
}
