//! Floor 0. A value that is set once and waited for by many, on any runtime or none.

use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use crate::origin::Origin;
use crate::sync::{WaitKey, WaitList};

/// Set once; every waiter gets a clone.
///
/// In a forked child nothing sets it any more, and its lock may be taken for good: there it has no
/// value, and a wait for it ends with `None`.
#[derive(Debug)]
pub(crate) struct SetOnce<T> {
    state: Mutex<State<T>>,
    origin: Origin,
}

#[derive(Debug)]
struct State<T> {
    value: Option<T>,
    wakers: WaitList,
}

impl<T: Clone> Default for SetOnce<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: Clone> SetOnce<T> {
    pub(crate) fn new() -> Self {
        let state = State { value: None, wakers: WaitList::default() };
        Self { state: Mutex::new(state), origin: Origin::here() }
    }

    /// Sets the value and wakes every waiter. Later values are passed over: false.
    pub(crate) fn set(&self, value: T) -> bool {
        let Some(mut state) = self.lock() else { return false };
        if state.value.is_some() {
            return false;
        }
        state.value = Some(value);
        let waiting = state.wakers.take();
        drop(state);
        waiting.wake();
        true
    }

    /// The value, if it is there.
    pub(crate) fn get(&self) -> Option<T> {
        self.lock()?.value.clone()
    }

    /// For a future's `poll`, which keeps its own place.
    pub(crate) fn poll(&self, place: &mut WaitKey, context: &mut Context<'_>) -> Poll<Option<T>> {
        let mut own = None;
        loop {
            {
                let Some(mut state) = self.lock() else { return Poll::Ready(None) };
                if let Some(value) = &state.value {
                    return Poll::Ready(Some(value.clone()));
                }
                if state.wakers.register(place, context.waker(), &mut own) {
                    return Poll::Pending;
                }
            }
            own = Some(context.waker().clone());
        }
    }

    /// Waits as a future. Cancel-safe: dropping it changes nothing and leaves nothing.
    pub(crate) fn wait(&self) -> Wait<'_, T> {
        Wait { latch: self, place: WaitKey::default() }
    }
}

impl<T> SetOnce<T> {
    /// Whether it can have a value in this process.
    pub(crate) fn is_here(&self) -> bool {
        self.origin.is_here()
    }

    fn lock(&self) -> Option<MutexGuard<'_, State<T>>> {
        self.is_here().then(|| self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// One waiter.
#[derive(Debug)]
pub(crate) struct Wait<'a, T> {
    latch: &'a SetOnce<T>,
    place: WaitKey,
}

impl<T: Clone> Future for Wait<'_, T> {
    type Output = Option<T>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<T>> {
        let Self { latch, place } = &mut *self;
        latch.poll(place, context)
    }
}

impl<T> Drop for Wait<'_, T> {
    fn drop(&mut self) {
        let waker = self.latch.lock().and_then(|mut state| state.wakers.forget(&mut self.place));
        // Here no lock is held: the last waker of a task may free all the task has.
        drop(waker);
    }
}
