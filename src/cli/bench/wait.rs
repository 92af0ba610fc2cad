//! Waiting for the engine with a limit, and the time that something took.

use std::error::Error;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use super::stopwatch::{Stopwatch, Took};

/// What a step of the bench returns. The error is one line for the user.
pub(super) type BenchResult<T> = Result<T, Box<dyn Error>>;

/// The longest that one step of a scenario may take.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

thread_local! {
    /// Made once, so that a wait inside a counted section allocates nothing.
    static WAKER: Waker = Waker::from(Arc::new(Unpark(thread::current())));
}

/// Polls the future until it is ready. Returns `None` once `limit` is over.
pub(super) fn within<T>(limit: Duration, future: impl Future<Output = T>) -> Option<T> {
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

/// Starts the futures in order, then drives them all to their end. The results come in the order of
/// completion.
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

/// Runs `act` and measures what it takes.
pub(super) fn timed<T>(act: impl FnOnce() -> BenchResult<T>) -> BenchResult<(Took, T)> {
    let watch = Stopwatch::start();
    let value = act()?;
    Ok((watch.stop(), value))
}
