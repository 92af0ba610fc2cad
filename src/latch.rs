//! Floor 0. A value that is set once and waited for by many, on any runtime or none.

use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use crate::wakers::{Place, Wakers, wake_all};

/// Set once; every waiter gets a clone.
#[derive(Debug)]
pub(crate) struct Latch<T>(Mutex<State<T>>);

#[derive(Debug)]
struct State<T> {
    value: Option<T>,
    wakers: Wakers,
}

impl<T: Clone> Default for Latch<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: Clone> Latch<T> {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(State { value: None, wakers: Wakers::default() }))
    }

    /// Sets the value and wakes everybody. Later values are passed over: false.
    pub(crate) fn set(&self, value: T) -> bool {
        let waiting = {
            let mut state = self.lock();
            if state.value.is_some() {
                return false;
            }
            state.value = Some(value);
            state.wakers.take()
        };
        wake_all(waiting);
        true
    }

    /// The value, if it is there.
    pub(crate) fn get(&self) -> Option<T> {
        self.lock().value.clone()
    }

    /// For a future's `poll`, which keeps its own place.
    pub(crate) fn poll(&self, place: &mut Place, context: &mut Context<'_>) -> Poll<T> {
        let mut state = self.lock();
        if let Some(value) = &state.value {
            return Poll::Ready(value.clone());
        }
        state.wakers.remember(place, context.waker());
        Poll::Pending
    }

    /// Waits as a future. Cancel-safe: dropping it changes nothing and leaves nothing.
    pub(crate) fn wait(&self) -> Wait<'_, T> {
        Wait { latch: self, place: Place::default() }
    }
}

impl<T> Latch<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One waiter.
#[derive(Debug)]
pub(crate) struct Wait<'a, T> {
    latch: &'a Latch<T>,
    place: Place,
}

impl<T: Clone> Future for Wait<'_, T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        let Self { latch, place } = &mut *self;
        latch.poll(place, context)
    }
}

impl<T> Drop for Wait<'_, T> {
    fn drop(&mut self) {
        let waker = self.latch.lock().wakers.forget(&mut self.place);
        // Here no lock is held: the last waker of a task may free all the task has.
        drop(waker);
    }
}
