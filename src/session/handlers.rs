//! Handlers of the agent's requests: the table by method, and the future that contains a running one.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::contain::{contain, message};
use crate::error::Result;
use crate::record::Record;
use crate::sync::{Sole, wake};

use super::executor::Executor;
use super::handler_threads::HandlerLabel;
use super::protocol::RpcError;

/// A request of the agent, as its handler sees it.
#[derive(Clone, Debug)]
pub struct AgentRequest {
    method: Box<str>,
    body: Record,
}

impl AgentRequest {
    pub(super) fn new(method: Box<str>, body: Record) -> Self {
        Self { method, body }
    }

    /// Returns the method of JSON-RPC, or the subtype of a control request.
    #[must_use]
    pub fn method(&self) -> &str {
        &self.method
    }

    /// Returns the body as JSON: the params of JSON-RPC, or the whole `request` object of a control
    /// request. `null` if the request has none.
    #[must_use]
    pub fn body(&self) -> &Record {
        &self.body
    }

    /// Parses the body as `T`.
    ///
    /// # Errors
    /// [`InvalidRecord`](crate::ErrorKind::InvalidRecord) if the body is not a `T`. A handler that
    /// passes the error on with `?` answers the agent with it.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T> {
        self.body.json()
    }
}

/// The answer of a handler: a result as JSON, or an error.
pub(super) type HandlerResult = std::result::Result<Record, RpcError>;
/// A running handler.
pub(super) type HandlerFuture = Pin<Box<dyn Future<Output = HandlerResult> + Send>>;
/// A handler of requests of the type `Q`, with its result as JSON.
pub(super) type Handler<Q> = Arc<dyn Fn(Q) -> HandlerFuture + Send + Sync>;

/// Boxes a handler of the user.
pub(super) fn handler<Q, F, R, T>(handler: F) -> Handler<Q>
where
    Q: Send + 'static,
    F: Fn(Q) -> R + Send + Sync + 'static,
    R: Future<Output = std::result::Result<T, RpcError>> + Send + 'static,
    T: Serialize,
{
    let handler = Arc::new(handler);
    Arc::new(move |request| {
        let handler = Arc::clone(&handler);
        // The closure is called inside of the future, so that a panic before its first `await` is
        // contained like any other.
        Box::pin(async move { Ok(Record::from_json(&(*handler)(request).await?)?) })
    })
}

/// The handlers of a session, by method.
#[derive(Clone, Default)]
pub(super) struct Handlers {
    named: HashMap<Box<str>, Handler<AgentRequest>>,
    fallback: Option<Handler<AgentRequest>>,
}

impl Handlers {
    /// Sets the handler of a method, in place of the one before.
    pub(super) fn insert(&mut self, method: &str, handler: Handler<AgentRequest>) {
        self.named.insert(method.into(), handler);
    }

    /// Sets the handler of all methods that have none.
    pub(super) fn set_fallback(&mut self, handler: Handler<AgentRequest>) {
        self.fallback = Some(handler);
    }

    pub(super) fn find(&self, method: &str) -> Option<Handler<AgentRequest>> {
        self.named.get(method).or(self.fallback.as_ref()).cloned()
    }

    /// Returns whether a method has a handler of its own.
    pub(super) fn has(&self, method: &str) -> bool {
        self.named.contains_key(method)
    }

    #[cfg(feature = "claude")]
    pub(super) fn is_empty(&self) -> bool {
        self.named.is_empty() && self.fallback.is_none()
    }
}

impl fmt::Debug for Handlers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fallback = self.fallback.as_ref().map(|_| "(any other)");
        f.debug_set().entries(self.named.keys().map(|name| &**name).chain(fallback)).finish()
    }
}

/// Cancels a running handler.
#[derive(Debug, Default)]
pub(super) struct CancelToken(Mutex<(bool, Sole)>);

impl CancelToken {
    pub(super) fn cancel(&self) {
        // The waker is code of the user, so it is woken without the lock.
        let waker = {
            let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            state.0 = true;
            state.1.take()
        };
        wake(waker);
    }

    /// Returns whether the token is cancelled, and otherwise registers the task.
    fn is_cancelled(&self, waker: &Waker) -> bool {
        let mut own = None;
        loop {
            {
                let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
                // The flag is read under the lock under which the waker is registered, so a
                // cancellation after this look wakes the task.
                if state.0 || state.1.register(waker, &mut own) {
                    return state.0;
                }
            }
            // Cloned without the lock, because a clone runs code of the user.
            own = Some(waker.clone());
        }
    }
}

/// A running handler that can be cancelled and whose panics stay inside.
pub(super) struct ContainedHandler {
    work: Option<HandlerFuture>,
    token: Arc<CancelToken>,
    watch: Option<(Arc<Executor>, Arc<HandlerLabel>)>,
}

impl ContainedHandler {
    pub(super) fn new(work: HandlerFuture, token: Arc<CancelToken>) -> Self {
        Self { work: Some(work), token, watch: None }
    }

    /// Has the handler named in a warning if it blocks its thread.
    pub(super) fn watched(mut self, executor: Arc<Executor>, label: HandlerLabel) -> Self {
        self.watch = Some((executor, Arc::new(label)));
        self
    }

    /// Drops the future of the handler, whose destructor may panic as well.
    fn discard(&mut self) {
        // Taken first, so the destructor of this type finds nothing to drop a second time.
        let work = self.work.take();
        contain("the destructor of a handler", || drop(work));
    }
}

impl Future for ContainedHandler {
    /// `None` if the handler was cancelled.
    type Output = Option<HandlerResult>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        // A cancelled handler is not polled again: its result could not be sent. One that was
        // cancelled before its first poll does not even begin.
        if self.token.is_cancelled(context.waker()) {
            self.discard();
            return Poll::Ready(None);
        }
        let Self { work, watch, .. } = &mut *self;
        let Some(work) = work else { return Poll::Ready(None) };
        let watched = watch.as_ref().map(|(executor, label)| executor.watch(Arc::clone(label)));
        // After a panic the future is dropped and never polled again, so its state may be broken.
        let polled = catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(context)));
        drop(watched);
        match polled {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(outcome)) => {
                // Dropped here, where a panic in the destructor is contained and does not cost the
                // response.
                self.discard();
                Poll::Ready(Some(outcome))
            }
            Err(panic) => {
                self.discard();
                let error = format!("the handler panicked: {}", message(&*panic));
                Poll::Ready(Some(Err(error.into())))
            }
        }
    }
}

impl Drop for ContainedHandler {
    fn drop(&mut self) {
        self.discard();
    }
}
