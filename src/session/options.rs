//! The options of one request.

use std::time::Duration;

/// The options of one request, for [`Session::request_with`](super::Session::request_with).
///
/// ```
/// # use std::time::Duration;
/// use agentpipe::session::RequestOptions;
///
/// // A tool that reports its progress may take ten minutes, and half a minute between two reports.
/// let options = RequestOptions::new()
///     .timeout(Duration::from_secs(30))
///     .renewed_by_progress(Duration::from_secs(600));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequestOptions {
    /// The outer `None` stands for the timeout of the settings.
    timeout: Option<Option<Duration>>,
    pub(super) progress_max: Option<Duration>,
}

impl RequestOptions {
    /// Returns the options of [`Session::request`](super::Session::request).
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets how long the request waits for its response. `None` waits as long as the agent lives.
    /// Default [`Settings::request_timeout`](super::Settings::request_timeout).
    #[must_use]
    pub fn timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.timeout = Some(timeout.into());
        self
    }

    /// Begins the timeout again with each progress notification for this request, up to `max` from
    /// the call. Default off.
    ///
    /// The notifications are those of the protocol: `notifications/progress` with
    /// [`Cancellation::Mcp`](super::jsonrpc::Cancellation::Mcp), `$/progress` with
    /// [`Cancellation::Lsp`](super::jsonrpc::Cancellation::Lsp). Params with a progress token keep
    /// it (`_meta.progressToken` of MCP, `workDoneToken` of LSP); without one, the session adds one,
    /// the id of the request. The notifications stay data for the reader of the session.
    #[must_use]
    pub fn renewed_by_progress(mut self, max: Duration) -> Self {
        self.progress_max = Some(max);
        self
    }

    /// Returns the timeout. `default` is that of the settings.
    pub(super) fn timeout_or(&self, default: Option<Duration>) -> Option<Duration> {
        self.timeout.unwrap_or(default)
    }
}
