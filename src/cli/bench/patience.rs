//! F5, bench: waiting for the engine, but not for ever.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

/// The longest that anything may take.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

thread_local! {
    /// Made once, so that waiting asks nothing of the allocator.
    static WAKER: Waker = Waker::from(Arc::new(Unpark(thread::current())));
}

/// The future's value, or `None` once [`PATIENCE`] is over.
pub(super) fn within<T>(future: impl Future<Output = T>) -> Option<T> {
    within_for(PATIENCE, future)
}

/// The same with a limit of one's own.
pub(super) fn within_for<T>(limit: Duration, future: impl Future<Output = T>) -> Option<T> {
    let until = Instant::now() + limit;
    let mut future = pin!(future);
    WAKER.with(|waker| {
        let mut context = Context::from_waker(waker);
        loop {
            if let Poll::Ready(value) = future.as_mut().poll(&mut context) {
                return Some(value);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            thread::park_timeout(left);
        }
    })
}

/// All of them, begun in order and carried on together.
pub(super) async fn all<T>(futures: impl IntoIterator<Item = impl Future<Output = T>>) -> Vec<T> {
    let mut open: Vec<Pin<Box<_>>> = futures.into_iter().map(Box::pin).collect();
    let mut done = Vec::with_capacity(open.len());
    std::future::poll_fn(move |context| {
        open.retain_mut(|future| match future.as_mut().poll(context) {
            Poll::Ready(value) => {
                done.push(value);
                false
            }
            Poll::Pending => true,
        });
        if open.is_empty() { Poll::Ready(std::mem::take(&mut done)) } else { Poll::Pending }
    })
    .await
}
