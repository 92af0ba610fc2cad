//! The tasks that wait for one event: all are woken together, and a task that gives up is removed.
//!
//! A waker keeps its task alive, so the waker of a task that timed out must not stay until the event,
//! which may never happen.
//!
//! Cloning, waking and dropping a waker run code of the user. None of the three happens under a lock, and
//! on a thread of an engine a panic in it is contained.

use std::task::Waker;

use slab::Slab;

use crate::contain::contain;

/// The waiting tasks.
#[derive(Debug, Default)]
pub(crate) struct WaitList {
    waiting: Slab<Waker>,
    /// Counts the wake-ups: a key is valid until the next one.
    round: u64,
}

/// The registration of one task. Empty before its first poll.
#[derive(Debug, Default)]
pub(crate) struct WaitKey(Option<(u64, usize)>);

impl WaitList {
    /// Registers `own`, a clone of `waker` that the caller made before it took its lock. Returns false if
    /// a clone is needed and `own` is empty: release the lock, clone, and try again.
    ///
    /// The caller drops what is left in `own` after it released its lock. A key has one entry, however
    /// often its task polls.
    pub(crate) fn register(
        &mut self,
        key: &mut WaitKey,
        waker: &Waker,
        own: &mut Option<Waker>,
    ) -> bool {
        // A key of an earlier round is void: after a wake-up its slot may belong to another task.
        let known = match key.0 {
            Some((round, slot)) if round == self.round => self.waiting.get_mut(slot),
            _ => None,
        };
        if known.as_ref().is_some_and(|known| known.will_wake(waker)) {
            return true;
        }
        let Some(new) = own.take() else { return false };
        match known {
            Some(known) => *own = Some(std::mem::replace(known, new)),
            None => key.0 = Some((self.round, self.waiting.insert(new))),
        }
        true
    }

    /// Removes a task. The caller drops the waker after it released its lock.
    #[must_use]
    pub(crate) fn forget(&mut self, key: &mut WaitKey) -> Option<Waker> {
        let (round, slot) = key.0.take()?;
        if round == self.round { self.waiting.try_remove(slot) } else { None }
    }

    /// Removes all tasks. The caller wakes them after it released its lock.
    #[must_use]
    pub(crate) fn take(&mut self) -> TasksToWake {
        // From here on the keys given out before are void, and their slots can be used again.
        self.round += 1;
        TasksToWake(std::mem::take(&mut self.waiting))
    }
}

/// Contains panics, because the last owner may be a thread of an engine.
impl Drop for WaitList {
    fn drop(&mut self) {
        self.waiting.drain().for_each(discard);
    }
}

/// Tasks to be woken.
#[derive(Debug)]
pub(crate) struct TasksToWake(Slab<Waker>);

impl TasksToWake {
    /// Wakes each task, also if a waker before it panics.
    pub(crate) fn wake(self) {
        self.0.into_iter().for_each(|(_, waker)| wake(Some(waker)));
    }
}

/// The waker of the only task that waits for an event.
#[derive(Debug, Default)]
pub(crate) struct Sole(Option<Waker>);

impl Sole {
    /// Registers a task that never gives up, as [`WaitList::register`] does.
    pub(crate) fn register(&mut self, waker: &Waker, own: &mut Option<Waker>) -> bool {
        if self.0.as_ref().is_some_and(|known| known.will_wake(waker)) {
            return true;
        }
        if own.is_none() {
            return false;
        }
        // The caller gets the old waker back in `own`, to be dropped without its lock.
        std::mem::swap(&mut self.0, own);
        true
    }

    /// Removes the task. The caller wakes it after it released its lock.
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

/// Wakes a task, if there is one. Contains a panic of its waker.
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

    /// A waker that panics when it is woken and when it is dropped.
    struct PanickingWaker(Arc<AtomicUsize>);

    impl Wake for PanickingWaker {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
            panic!("a waker");
        }
    }

    impl Drop for PanickingWaker {
        fn drop(&mut self) {
            if !std::thread::panicking() {
                self.0.fetch_add(1, Ordering::Relaxed);
                panic!("a destructor");
            }
        }
    }

    fn waiting(counts: &Arc<AtomicUsize>) -> (WaitList, Vec<WaitKey>) {
        let mut wakers = WaitList::default();
        let mut keys = Vec::new();
        for _ in 0..3 {
            let waker = Waker::from(Arc::new(PanickingWaker(Arc::clone(counts))));
            let (mut key, mut own) = (WaitKey::default(), Some(waker.clone()));
            assert!(wakers.register(&mut key, &waker, &mut own) && own.is_none());
            keys.push(key);
        }
        (wakers, keys)
    }

    #[test]
    fn panicking_waker_does_not_stop_the_others() {
        let counts = Arc::default();
        let (mut wakers, _keys) = waiting(&counts);
        wakers.take().wake();
        assert_eq!(counts.load(Ordering::Relaxed), 3);
    }

    #[test]
    fn panic_in_a_waker_drop_is_contained() {
        let counts = Arc::default();
        let (wakers, _keys) = waiting(&counts);
        drop(wakers);
        assert_eq!(counts.load(Ordering::Relaxed), 3);
    }

    #[test]
    fn stale_key_does_not_remove_a_later_waker() {
        let mut wakers = WaitList::default();
        let mut old = WaitKey::default();
        let mut new = WaitKey::default();
        assert!(wakers.register(&mut old, Waker::noop(), &mut Some(Waker::noop().clone())));
        wakers.take().wake();
        assert!(wakers.register(&mut new, Waker::noop(), &mut Some(Waker::noop().clone())));
        assert!(wakers.forget(&mut old).is_none(), "the slot belongs to another task");
        assert!(wakers.forget(&mut new).is_some());
    }
}
