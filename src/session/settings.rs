//! Floor 4. What a session may hold, how long its requests wait, and where its tasks run.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use super::router::RouterLimits;

/// A task of a session, for the runtime it is spawned on.
pub type Task = Pin<Box<dyn Future<Output = ()> + Send + 'static>>;

/// What a session may hold and how long its requests wait. Sizes are bytes of JSON.
#[derive(Clone)]
pub struct Settings {
    pub(super) deadline: Option<Duration>,
    pub(super) router: RouterLimits,
    pub(super) unread_max: usize,
    pub(super) concurrency: usize,
    pub(super) discard_data: bool,
    pub(super) spawn: Option<Arc<dyn Fn(Task) + Send + Sync>>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            deadline: Some(Duration::from_secs(60)),
            router: RouterLimits { pending: 1024, serving: 256, serving_bytes: 16 << 20 },
            unread_max: 8 << 20,
            concurrency: 32,
            discard_data: false,
            spawn: None,
        }
    }
}

impl Settings {
    /// The defaults: 60 s for a request, 1024 of ours and 256 of the agent's open, 32 handlers at once,
    /// 8 MiB unread.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// How long a request waits for its answer, the wait for room in the outbox included.
    /// `None`: as long as the agent lives. Default 60 s. Handlers have no deadline of ours.
    ///
    /// Deadlines are kept on a thread of the sessions' own, also where
    /// [`executor`](Self::executor) gives the tasks another place.
    #[must_use]
    pub fn request_timeout(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.deadline = limit.into();
        self
    }

    /// Requests of ours that may be open at once; one more fails with
    /// [`Overloaded`](crate::ErrorKind::Overloaded). Default 1024.
    #[must_use]
    pub fn pending_max(mut self, count: usize) -> Self {
        self.router.pending = count;
        self
    }

    /// Requests of the agent that may be open at once, waiting ones included; one more is
    /// answered with an error. Default 256.
    #[must_use]
    pub fn requests_max(mut self, count: usize) -> Self {
        self.router.serving = count;
        self
    }

    /// What the open requests of the agent may hold together. Default 16 MiB; one request is
    /// taken whatever its size.
    #[must_use]
    pub fn requests_bytes_max(mut self, bytes: usize) -> Self {
        self.router.serving_bytes = bytes;
        self
    }

    /// Handlers that may run at once; further requests of the agent wait. Default 32; 0 is set to 1.
    #[must_use]
    pub fn concurrency(mut self, handlers: usize) -> Self {
        self.concurrency = handlers.max(1);
        self
    }

    /// How much unread data the session holds. Default 8 MiB; 0 is set to 1.
    ///
    /// Within it, answers and requests of the agent pass by unread data. Beyond it, the session
    /// stops reading, the agent blocks, and requests fail at once with
    /// [`Overloaded`](crate::ErrorKind::Overloaded) until half of it is read.
    #[must_use]
    pub fn unread_max(mut self, bytes: usize) -> Self {
        self.unread_max = bytes.max(1);
        self
    }

    /// For a session whose data nobody will read: it is counted and dropped. Default off.
    #[must_use]
    pub fn discard_data(mut self, on: bool) -> Self {
        self.discard_data = on;
        self
    }

    /// Where the tasks of the session run: one that reads, and one for each running handler.
    /// Default: a thread that all sessions of the process share, which a handler must not block.
    ///
    /// A runtime that drops its tasks, because it ends, ends the session with them: every request
    /// fails at once with [`Closed`](crate::ErrorKind::Closed) and the agent is aborted. So does a
    /// `spawn` that panics or drops the first task; where it does so later, that request of the
    /// agent is answered with an error. It is called on whatever thread has the task: one that
    /// needs a runtime around it has to bring its handle.
    ///
    /// ```
    /// # let runtime = tokio::runtime::Runtime::new()?;
    /// # let _inside = runtime.enter();
    /// use agentpipe::session::Settings;
    ///
    /// let runtime = tokio::runtime::Handle::current();
    /// let settings = Settings::new().executor(move |task| drop(runtime.spawn(task)));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[must_use]
    pub fn executor(mut self, spawn: impl Fn(Task) + Send + Sync + 'static) -> Self {
        self.spawn = Some(Arc::new(spawn));
        self
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("deadline", &self.deadline)
            .field("router", &self.router)
            .field("unread_max", &self.unread_max)
            .field("concurrency", &self.concurrency)
            .field("discard_data", &self.discard_data)
            .field("executor", &self.spawn.is_some())
            .finish()
    }
}
