//! A one-shot channel: the result of a job that runs on another thread.
//!
//! The receiver is a future and needs no runtime. A value that is never received is dropped, which
//! undoes the work: a spawned child whose caller gave up is killed and reaped.

use std::mem;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use crate::origin::Origin;
use crate::sync::wake;

/// Sends the value. Dropped without a value, it ends the wait of the receiver.
#[derive(Debug)]
pub(crate) struct Sender<T>(Arc<OneShot<T>>);

/// Receives the value: a future that resolves to `None` if the sender was dropped without one.
///
/// In a forked child the sender does not exist and the lock may be held for good: the future
/// resolves to `None` there.
#[derive(Debug)]
pub(crate) struct Receiver<T>(Arc<OneShot<T>>);

#[derive(Debug)]
struct OneShot<T> {
    slot: Mutex<Slot<T>>,
    origin: Origin,
}

#[derive(Debug)]
enum Slot<T> {
    /// No value yet; holds the waker of the task that polled last.
    Waiting(Option<Waker>),
    Sent(T),
    /// The receiver has the value, or one of the two sides is gone.
    Closed,
}

/// Makes both sides.
pub(crate) fn channel<T>() -> (Sender<T>, Receiver<T>) {
    let channel = OneShot { slot: Mutex::new(Slot::Waiting(None)), origin: Origin::here() };
    let channel = Arc::new(channel);
    (Sender(Arc::clone(&channel)), Receiver(channel))
}

impl<T> OneShot<T> {
    /// `None` in a forked child.
    fn lock(&self) -> Option<MutexGuard<'_, Slot<T>>> {
        let lock = || self.slot.lock().unwrap_or_else(PoisonError::into_inner);
        self.origin.is_here().then(lock)
    }

    /// Replaces a slot that still waits, and wakes the receiver.
    fn complete(&self, outcome: Slot<T>) {
        let Some(mut slot) = self.lock() else { return };
        // Otherwise the receiver is gone, or this is the drop of a sender after its `send`.
        // `outcome` is a parameter, so it is dropped after the guard: the value may run any code.
        let Slot::Waiting(waker) = &mut *slot else { return };
        let waker = waker.take();
        *slot = outcome;
        // The waker is called without the lock: it may poll the receiver on this thread.
        drop(slot);
        wake(waker);
    }
}

impl<T> Sender<T> {
    /// Sends the value and wakes the receiver. Drops the value if the receiver is gone.
    pub(crate) fn send(self, value: T) {
        self.0.complete(Slot::Sent(value));
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.0.complete(Slot::Closed);
    }
}

impl<T> Future for Receiver<T> {
    type Output = Option<T>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<T>> {
        // Cloned before the lock is taken and, below, dropped after it was released: a waker runs
        // code of the user.
        let waker = context.waker().clone();
        let Some(mut slot) = self.0.lock() else { return Poll::Ready(None) };
        let next = match &*slot {
            Slot::Waiting(_) => Slot::Waiting(Some(waker)),
            Slot::Sent(_) | Slot::Closed => Slot::Closed,
        };
        let before = mem::replace(&mut *slot, next);
        drop(slot);
        match before {
            Slot::Waiting(_) => Poll::Pending,
            Slot::Sent(value) => Poll::Ready(Some(value)),
            Slot::Closed => Poll::Ready(None),
        }
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        let Some(mut slot) = self.0.lock() else { return };
        let before = mem::replace(&mut *slot, Slot::Closed);
        // The value, or the waker, is dropped after the lock was released.
        drop(slot);
        drop(before);
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    /// Polls once, as a task that is then given up.
    fn poll_once<T>(receiver: &mut Receiver<T>) -> Poll<Option<T>> {
        Pin::new(receiver).poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn value_reaches_a_blocked_receiver() {
        let (sender, receiver) = channel();
        let sends = thread::spawn(move || sender.send(7));
        assert_eq!(pollster::block_on(receiver), Some(7));
        sends.join().expect("no panic");
    }

    #[test]
    fn dropped_sender_ends_the_wait() {
        // A job that panics, or a pool that was shut down, must not leave its caller waiting.
        let (sender, mut receiver) = channel::<()>();
        assert_eq!(poll_once(&mut receiver), Poll::Pending);
        drop(sender);
        assert_eq!(poll_once(&mut receiver), Poll::Ready(None));
    }

    #[test]
    fn unread_value_is_dropped() {
        // The value may be a running child: a caller that gave up must not leave it behind,
        // whichever of the two sides comes first.
        let value = Arc::new(());
        let (sender, receiver) = channel();
        sender.send(Arc::clone(&value));
        drop(receiver);
        assert_eq!(Arc::strong_count(&value), 1, "sent before the receiver was dropped");
        let (sender, mut receiver) = channel();
        assert!(poll_once(&mut receiver).is_pending());
        drop(receiver);
        sender.send(Arc::clone(&value));
        assert_eq!(Arc::strong_count(&value), 1, "sent after the receiver was dropped");
    }

    #[test]
    fn dropped_receiver_keeps_no_waker() {
        // A job may hang in an exec for hours. The task that gave up on it must not stay in memory.
        struct Task;
        impl std::task::Wake for Task {
            fn wake(self: Arc<Self>) {}
        }
        let task = Arc::new(Task);
        let waker = Waker::from(Arc::clone(&task));
        let (sender, mut receiver) = channel::<()>();
        let polled = Pin::new(&mut receiver).poll(&mut Context::from_waker(&waker));
        assert!(polled.is_pending());
        drop(waker);
        assert_eq!(Arc::strong_count(&task), 2, "the receiver waits");
        drop(receiver);
        assert_eq!(Arc::strong_count(&task), 1);
        drop(sender);
    }
}
