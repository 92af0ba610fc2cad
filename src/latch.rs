//! Floor 0. A value that is set once and waited for by many, on any runtime or none.

use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

/// Set once; every waiter gets a clone.
#[derive(Debug)]
pub(crate) struct Latch<T>(Mutex<State<T>>);

#[derive(Debug)]
struct State<T> {
    value: Option<T>,
    wakers: Vec<Waker>,
}

impl<T: Clone> Latch<T> {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(State { value: None, wakers: Vec::new() }))
    }

    /// Sets the value and wakes everybody. Later values are passed over: false.
    pub(crate) fn set(&self, value: T) -> bool {
        let wakers = {
            let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if state.value.is_some() {
                return false;
            }
            state.value = Some(value);
            std::mem::take(&mut state.wakers)
        };
        wakers.into_iter().for_each(Waker::wake);
        true
    }

    /// The value, if it is there.
    pub(crate) fn get(&self) -> Option<T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).value.clone()
    }

    /// For a future's `poll`. A waiter that goes away costs one spurious wake at most.
    pub(crate) fn poll(&self, context: &mut Context<'_>) -> Poll<T> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &state.value {
            Some(value) => Poll::Ready(value.clone()),
            None => {
                if !state.wakers.iter().any(|known| known.will_wake(context.waker())) {
                    state.wakers.push(context.waker().clone());
                }
                Poll::Pending
            }
        }
    }

    /// Waits as a future. Cancel-safe: dropping it changes nothing.
    pub(crate) async fn wait(&self) -> T {
        std::future::poll_fn(|context| self.poll(context)).await
    }
}
