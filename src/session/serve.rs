//! Floor 4. Requests of the agent: each is handled in a task of its own, never on the pump.

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

use super::core::Core;
use super::dialect::WireId;
use super::failure::RpcError;
use super::router::Job;
use super::settings::Task;

/// A request of the agent, as its handler sees it.
#[derive(Clone, Debug)]
pub struct AgentRequest {
    method: Box<str>,
    body: Record,
}

impl AgentRequest {
    /// The method of JSON-RPC, or the subtype of a control request.
    #[must_use]
    pub fn method(&self) -> &str {
        &self.method
    }

    /// What came with it, as JSON: the params, or the whole `request` object. `null` if nothing.
    #[must_use]
    pub fn body(&self) -> &Record {
        &self.body
    }

    /// The body as `T`.
    ///
    /// # Errors
    /// [`InvalidRecord`](crate::ErrorKind::InvalidRecord) where it is no `T`; a handler that
    /// passes it on with `?` answers the agent with that.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T> {
        self.body.json()
    }
}

type Outcome = std::result::Result<Record, RpcError>;
type Work = Pin<Box<dyn Future<Output = Outcome> + Send>>;
type Handler = Arc<dyn Fn(AgentRequest) -> Work + Send + Sync>;

/// What is called for which request.
#[derive(Clone, Default)]
pub(super) struct Handlers {
    named: HashMap<Box<str>, Handler>,
    fallback: Option<Handler>,
}

impl Handlers {
    pub(super) fn insert<F, R, T>(&mut self, method: &str, handler: F)
    where
        F: Fn(AgentRequest) -> R + Send + Sync + 'static,
        R: Future<Output = std::result::Result<T, RpcError>> + Send + 'static,
        T: Serialize,
    {
        self.named.insert(method.into(), boxed(handler));
    }

    #[cfg(feature = "claude")]
    pub(super) fn has(&self, method: &str) -> bool {
        self.named.contains_key(method)
    }

    pub(super) fn set_fallback<F, R, T>(&mut self, handler: F)
    where
        F: Fn(AgentRequest) -> R + Send + Sync + 'static,
        R: Future<Output = std::result::Result<T, RpcError>> + Send + 'static,
        T: Serialize,
    {
        self.fallback = Some(boxed(handler));
    }

    pub(super) fn find(&self, method: &str) -> Option<Handler> {
        self.named.get(method).or(self.fallback.as_ref()).cloned()
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

fn boxed<F, R, T>(handler: F) -> Handler
where
    F: Fn(AgentRequest) -> R + Send + Sync + 'static,
    R: Future<Output = std::result::Result<T, RpcError>> + Send + 'static,
    T: Serialize,
{
    let handler = Arc::new(handler);
    Arc::new(move |request| {
        let handler = Arc::clone(&handler);
        // Called inside the task: what the closure does before its first await is the task's, too.
        Box::pin(async move { Ok(Record::from_json(&(*handler)(request).await?)?) })
    })
}

/// Tells a running handler that its answer is not wanted any more.
#[derive(Debug, Default)]
pub(super) struct Token(Mutex<(bool, Sole)>);

impl Token {
    pub(super) fn cancel(&self) {
        let waker = {
            let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            state.0 = true;
            state.1.take()
        };
        wake(waker);
    }

    fn is_cancelled(&self, waker: &Waker) -> bool {
        let mut own = None;
        loop {
            {
                let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
                if state.0 || state.1.register(waker, &mut own) {
                    return state.0;
                }
            }
            own = Some(waker.clone());
        }
    }
}

/// The agent waits for an answer: until this is dropped, with the answer queued, its input is needed.
#[derive(Debug)]
pub(super) struct Owed(Arc<Core>);

impl Owed {
    pub(super) fn new(core: &Arc<Core>) -> Self {
        if let Some(observer) = &core.observer {
            observer.asked();
        }
        Self(Arc::clone(core))
    }
}

impl Drop for Owed {
    fn drop(&mut self) {
        if let Some(observer) = &self.0.observer {
            observer.answered();
        }
    }
}

/// A request of the agent on its way to its handler.
#[derive(Debug)]
pub(super) struct Served {
    pub(super) job: Job<Arc<Token>>,
    pub(super) owed: Owed,
}

/// The task of one request.
pub(super) fn serve(core: Arc<Core>, handler: Handler, served: Served) -> Task {
    let Served { job: Job { key, id, method, body, token }, owed } = served;
    let request = AgentRequest { method, body };
    let work: Work = Box::pin(async move { handler(request).await });
    let mut open = Open { core, key, id, begun: false, _owed: owed };
    Box::pin(async move {
        open.begun = true;
        if let Some(outcome) = (Contained { work: Some(work), token }).await {
            open.answer(outcome).await;
        }
    })
}

/// A request that is neither answered nor withdrawn.
struct Open {
    core: Arc<Core>,
    key: u64,
    id: WireId,
    begun: bool,
    /// Dropped last: an answer that is given up is queued before it.
    _owed: Owed,
}

impl Open {
    async fn answer(&self, outcome: Outcome) {
        if !self.core.finish(self.key) {
            return;
        }
        let outcome = outcome.as_ref().map(Record::as_bytes);
        let answer = self.core.dialect.answer(&self.id, outcome);
        if let Err(error) = self.core.writer.send(answer).await
            && !error.is_closed()
        {
            // It was refused before a byte was sent: too large, or not on one line.
            let failure = RpcError::new(format!("the answer cannot be sent: {error}"));
            let answer = self.core.dialect.answer(&self.id, Err(&failure));
            let _agent_gone = self.core.writer.send(answer).await;
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        // Still in the table: whoever ran the task dropped it.
        self.core.give_up(self.key, &self.id);
        if self.begun {
            self.core.next_job();
        } else {
            self.core.give_up_waiting();
        }
    }
}

/// A handler at work: it can be cancelled, and what it does to itself stays inside.
struct Contained {
    work: Option<Work>,
    token: Arc<Token>,
}

impl Future for Contained {
    /// `None`: cancelled.
    type Output = Option<Outcome>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if self.token.is_cancelled(context.waker()) {
            self.discard();
            return Poll::Ready(None);
        }
        let Some(work) = &mut self.work else { return Poll::Ready(None) };
        match catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(context))) {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(outcome)) => {
                self.discard();
                Poll::Ready(Some(outcome))
            }
            Err(panic) => {
                self.discard();
                let failure = format!("the handler panicked: {}", message(&*panic));
                Poll::Ready(Some(Err(failure.into())))
            }
        }
    }
}

impl Contained {
    /// Drops the handler's future; a destructor of the user's may panic as well.
    fn discard(&mut self) {
        let work = self.work.take();
        contain("the destructor of a handler", || drop(work));
    }
}

impl Drop for Contained {
    fn drop(&mut self) {
        self.discard();
    }
}
