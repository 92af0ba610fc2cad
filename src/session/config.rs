//! The settings of a session, and the counters that it reports.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use crate::counters::AgentStats;
use crate::error::{Error, ErrorKind, Result};

use super::router::RouterLimits;

/// A task of a session, for the executor that [`Settings::executor`] names.
pub type Task = Pin<Box<dyn Future<Output = ()> + Send + 'static>>;

/// How long a request waits for its response by default.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// The limits of a session, the timeout of its requests, and the executor of its tasks.
///
/// Sizes are bytes of JSON. A value out of its range is an error of the builder's `start` or
/// `attach`, with the kind [`InvalidSettings`](ErrorKind::InvalidSettings).
#[derive(Clone)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(default))]
pub struct Settings {
    request_timeout: Option<Duration>,
    pending_max: usize,
    requests_max: usize,
    requests_bytes_max: usize,
    pub(super) unread_max: usize,
    pub(super) concurrency: usize,
    pub(super) discard_data: bool,
    #[cfg_attr(feature = "serde", serde(skip))]
    pub(super) executor: Option<Arc<dyn Fn(Task) + Send + Sync>>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            request_timeout: Some(REQUEST_TIMEOUT),
            pending_max: 1024,
            requests_max: 256,
            requests_bytes_max: 16 << 20,
            unread_max: 8 << 20,
            concurrency: 32,
            discard_data: false,
            executor: None,
        }
    }
}

impl Settings {
    /// Returns the default settings.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets how long a request waits for its response, including the wait for room in the outbox.
    /// `None` waits as long as the agent lives. Default 60 s. Handlers have no timeout.
    ///
    /// A thread of this crate keeps the deadlines, even if [`executor`](Self::executor) runs the
    /// tasks elsewhere.
    #[must_use]
    pub fn request_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.request_timeout = timeout.into();
        self
    }

    /// Returns how long a request waits for its response.
    #[must_use]
    pub fn get_request_timeout(&self) -> Option<Duration> {
        self.request_timeout
    }

    /// Sets how many requests of this session may be open at once. A further request fails with
    /// [`Overloaded`](ErrorKind::Overloaded). Default 1024.
    #[must_use]
    pub fn pending_max(mut self, requests: usize) -> Self {
        self.pending_max = requests;
        self
    }

    /// Returns how many requests of this session may be open at once.
    #[must_use]
    pub fn get_pending_max(&self) -> usize {
        self.pending_max
    }

    /// Sets how many requests of the agent may be open at once, including those that wait for a
    /// handler. A further request is answered with an error. Default 256.
    #[must_use]
    pub fn requests_max(mut self, requests: usize) -> Self {
        self.requests_max = requests;
        self
    }

    /// Returns how many requests of the agent may be open at once.
    #[must_use]
    pub fn get_requests_max(&self) -> usize {
        self.requests_max
    }

    /// Sets how many bytes the open requests of the agent may hold together. A single request may
    /// be larger. Default 16 MiB.
    #[must_use]
    pub fn requests_bytes_max(mut self, bytes: usize) -> Self {
        self.requests_bytes_max = bytes;
        self
    }

    /// Returns how many bytes the open requests of the agent may hold together.
    #[must_use]
    pub fn get_requests_bytes_max(&self) -> usize {
        self.requests_bytes_max
    }

    /// Sets how many handlers may run at once. Further requests of the agent wait. Default 32, at
    /// least 1.
    #[must_use]
    pub fn concurrency(mut self, handlers: usize) -> Self {
        self.concurrency = handlers;
        self
    }

    /// Returns how many handlers may run at once.
    #[must_use]
    pub fn get_concurrency(&self) -> usize {
        self.concurrency
    }

    /// Sets how many bytes of unread data the session holds. Default 8 MiB, at least 1 byte.
    ///
    /// Up to this limit, responses and requests of the agent pass unread data. Above it, the session
    /// stops reading, the agent blocks, and requests fail at once with
    /// [`Overloaded`](ErrorKind::Overloaded), until half of the data is read.
    #[must_use]
    pub fn unread_max(mut self, bytes: usize) -> Self {
        self.unread_max = bytes;
        self
    }

    /// Returns how many bytes of unread data the session holds.
    #[must_use]
    pub fn get_unread_max(&self) -> usize {
        self.unread_max
    }

    /// Sets whether data is counted and dropped, for a session that is never read. Default off.
    #[must_use]
    pub fn discard_data(mut self, on: bool) -> Self {
        self.discard_data = on;
        self
    }

    /// Returns whether data is dropped.
    #[must_use]
    pub fn get_discard_data(&self) -> bool {
        self.discard_data
    }

    /// Sets the function that spawns the tasks of the session: one that reads, and one for each
    /// running handler. By default the readers of all sessions of the process share one thread, and
    /// so do their handlers. A handler that blocks its thread holds up other handlers for a second:
    /// then a warning names it, and another thread takes over.
    ///
    /// `spawn` is called on any thread, so a runtime that needs a context has to be captured as a
    /// handle. If the runtime shuts down and drops the tasks, the session ends with it: every request
    /// fails at once with [`Closed`](ErrorKind::Closed) and the agent is aborted. The same happens
    /// if `spawn` panics on the first task or drops it. If it does so with the task of a handler,
    /// that request of the agent is answered with an error.
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
        self.executor = Some(Arc::new(spawn));
        self
    }

    /// Returns whether [`executor`](Self::executor) was called.
    #[must_use]
    pub fn has_executor(&self) -> bool {
        self.executor.is_some()
    }

    pub(super) fn router_limits(&self) -> RouterLimits {
        RouterLimits {
            pending: self.pending_max,
            serving: self.requests_max,
            serving_bytes: self.requests_bytes_max,
        }
    }

    /// Checks the ranges of all values.
    pub(super) fn check(&self) -> Result<()> {
        // Without a handler that may run, requests of the agent would wait without end. Without
        // room for unread data, each event would stall the session.
        for (name, value) in [("concurrency", self.concurrency), ("unread_max", self.unread_max)] {
            if value == 0 {
                let what = format!("Settings::{name} is {value}, and has to be at least 1");
                return Err(Error::new(ErrorKind::InvalidSettings, "session", what));
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("request_timeout", &self.request_timeout)
            .field("pending_max", &self.pending_max)
            .field("requests_max", &self.requests_max)
            .field("requests_bytes_max", &self.requests_bytes_max)
            .field("unread_max", &self.unread_max)
            .field("concurrency", &self.concurrency)
            .field("discard_data", &self.discard_data)
            .field("executor", &self.executor.is_some())
            .finish()
    }
}

/// A snapshot of the tables and counters of a session. See [`Session::metrics`](super::Session::metrics).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct SessionStats {
    /// Requests of this session that wait for their response.
    pub pending: usize,
    /// Requests of the agent that wait for their response, including those whose handler runs.
    pub serving: usize,
    /// Handler tasks that run, or still send their response.
    pub running: usize,
    /// The weight of unread data: the bytes of each event, plus 64 per event.
    pub unread: usize,
    /// Data records that came.
    pub data_records: u64,
    /// Bytes of those records, without framing.
    pub data_bytes: u64,
    /// Requests that this session has opened. Each one is pending, or counted in exactly one of
    /// `settled`, `withdrawn`, `failed` and `timeouts`.
    pub asked: u64,
    /// Requests that the agent answered, with a result or an error.
    pub settled: u64,
    /// Requests that their caller gave up: the future was dropped, or the record could not be sent.
    pub withdrawn: u64,
    /// Requests that failed because the session ended, or because too much data was unread.
    pub failed: u64,
    /// Requests that reached their timeout.
    pub timeouts: u64,
    /// Requests of the agent that were answered, including refused ones of an unknown method.
    pub answered: u64,
    /// Requests of the agent that it cancelled before they were answered.
    pub cancelled: u64,
    /// Times the session stopped reading because too much data was unread.
    pub stalls: u64,
    /// Responses to requests that already had their outcome: repeated, or too late.
    pub late: u64,
    /// Responses to requests that were never sent.
    pub unknown: u64,
    /// Requests of the agent that reused the id of an open one, and were ignored.
    pub duplicate: u64,
    /// Requests of the agent that were refused: malformed, or above a limit.
    pub refused: u64,
    /// The counters of the agent's pipes, at most one turn of the engine old.
    pub agent: AgentStats,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn value_out_of_range_is_an_error() {
        // Zero handlers would leave every request of the agent waiting without a word.
        assert!(Settings::new().check().is_ok());
        for settings in [Settings::new().concurrency(0), Settings::new().unread_max(0)] {
            let error = settings.check().expect_err("out of range");
            assert_eq!(error.kind(), ErrorKind::InvalidSettings);
            assert!(error.to_string().contains("at least 1"), "{error}");
        }
    }

    #[cfg(feature = "serde")]
    #[test]
    fn absent_keys_have_their_default() {
        // A file of settings need not repeat the defaults.
        let text = r#"{"request_timeout":{"secs":7,"nanos":0},"pending_max":3}"#;
        let settings: Settings = serde_json::from_str(text).expect("settings");
        assert_eq!(settings.get_request_timeout(), Some(Duration::from_secs(7)));
        assert_eq!((settings.get_pending_max(), settings.get_requests_max()), (3, 256));
    }
}
