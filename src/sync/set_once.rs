//! A value that is set once, and that any number of tasks wait for, on any runtime or none.

use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use crate::origin::Origin;
use crate::sync::{WaitKey, WaitList};

/// A value that is set once. Every waiter gets a clone.
///
/// In a forked child no thread sets it, and its lock may be taken for good: it has no value there, and a
/// wait resolves to `None`.
#[derive(Debug)]
pub(crate) struct SetOnce<T> {
    state: Mutex<SetOnceState<T>>,
    origin: Origin,
}

#[derive(Debug)]
struct SetOnceState<T> {
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
        let state = SetOnceState { value: None, wakers: WaitList::default() };
        Self { state: Mutex::new(state), origin: Origin::here() }
    }

    /// Sets the value and wakes every waiter. Returns false, and drops the value, if there is one already.
    pub(crate) fn set(&self, value: T) -> bool {
        let Some(mut state) = self.lock() else { return false };
        if state.value.is_some() {
            return false;
        }
        state.value = Some(value);
        // The value is in place before a waker runs, so a woken task finds it. The wakers run
        // without the lock because they are code of the user.
        let waiting = state.wakers.take();
        drop(state);
        waiting.wake();
        true
    }

    /// Returns a clone of the value, if it is set.
    pub(crate) fn get(&self) -> Option<T> {
        self.lock()?.value.clone()
    }

    /// Polls for the value. The caller keeps `key` from one poll to the next.
    pub(crate) fn poll(&self, key: &mut WaitKey, context: &mut Context<'_>) -> Poll<Option<T>> {
        // The waker is cloned without the lock, and only if it must be registered: hence the second
        // pass. A waker that was replaced is left in `own`, which is dropped after the guard.
        let mut own = None;
        loop {
            {
                let Some(mut state) = self.lock() else { return Poll::Ready(None) };
                if let Some(value) = &state.value {
                    return Poll::Ready(Some(value.clone()));
                }
                if state.wakers.register(key, context.waker(), &mut own) {
                    return Poll::Pending;
                }
            }
            own = Some(context.waker().clone());
        }
    }

    /// Waits for the value. Cancel-safe: a dropped future deregisters its task.
    pub(crate) fn wait(&self) -> Wait<'_, T> {
        Wait { cell: self, key: WaitKey::default() }
    }
}

impl<T> SetOnce<T> {
    /// Returns whether it belongs to this process.
    pub(crate) fn is_here(&self) -> bool {
        self.origin.is_here()
    }

    fn lock(&self) -> Option<MutexGuard<'_, SetOnceState<T>>> {
        self.is_here().then(|| self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The future of [`SetOnce::wait`].
#[derive(Debug)]
pub(crate) struct Wait<'a, T> {
    cell: &'a SetOnce<T>,
    key: WaitKey,
}

impl<T: Clone> Future for Wait<'_, T> {
    type Output = Option<T>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<T>> {
        let Self { cell, key } = &mut *self;
        cell.poll(key, context)
    }
}

impl<T> Drop for Wait<'_, T> {
    fn drop(&mut self) {
        let waker = self.cell.lock().and_then(|mut state| state.wakers.forget(&mut self.key));
        // Dropped without the lock: the last waker of a task frees all that the task owns.
        drop(waker);
    }
}
