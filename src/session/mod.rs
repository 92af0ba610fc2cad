//! Sessions: requests and responses over an agent, in both directions.
//!
//! [`jsonrpc::Session`] speaks JSON-RPC 2.0, as ACP agents, Codex and language servers do. With the
//! feature `mcp`, `mcp::Client` is a client of MCP servers. With the feature `claude`, `claude::Session` speaks the control protocol of Claude Code. Both
//! stand on [`Session`], which has what they share.
//!
//! - Every request has one outcome: the agent's response, its timeout, or the end of the session.
//!   However the agent ends, every open request fails at once with the reason.
//! - Responses and requests of the agent pass unread data, up to [`Settings::unread_max`]. Above this
//!   limit, requests fail at once and say how much is unread.
//! - Each handler runs as a task. One that fails, panics or never ends costs its response and nothing
//!   else.

// A record from the agent goes through reader.rs (reads and routes it), router.rs (which request it
// belongs to; pure), and then to the slot of a request, to serving.rs or to inbox.rs. state.rs is what
// all of them share. Lowest first: dropped, protocol, router, config, executor, inbox, handlers, state,
// serving, reader, deadlines.

#[cfg(feature = "claude")]
pub mod claude;
pub mod jsonrpc;
#[cfg(feature = "mcp")]
pub mod mcp;

mod config;
mod deadlines;
mod dropped;
mod executor;
mod handler_threads;
mod handlers;
mod inbox;
mod options;
mod protocol;
mod reader;
mod remarks;
mod router;
mod serving;
mod state;
#[cfg(feature = "stream")]
mod stream;
mod wire_id;

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use serde::Serialize;

use crate::agent::{Agent, AgentWriter};
use crate::close::{ClosePolicy, CloseReport};
use crate::error::{Error, ErrorKind, Result};
use crate::origin::foreign;
use crate::record::{Event, Record};

use handlers::Handlers;
use inbox::InboxItem;
use protocol::{Observer, Protocol};
use reader::ReaderTask;
#[cfg(fuzzing)]
pub(crate) use router::fuzz as router_fuzz;
use state::SessionState;

pub use config::{SessionStats, Settings, Task};
pub use handlers::AgentRequest;
pub use options::RequestOptions;
pub use protocol::RpcError;
#[cfg(feature = "stream")]
pub use stream::Events;

/// Requests and responses over one agent, in both directions, whatever the protocol.
///
/// [`jsonrpc::Session`] and `claude::Session` dereference to it. It is cheap to clone, `Send` and
/// `Sync`, and its futures run on any runtime or none. Dropping the last clone without a
/// [`close`](Self::close) drops the running handlers and aborts the agent.
#[derive(Clone, Debug)]
pub struct Session(Arc<SessionHandle>);

/// The share of all clones of a [`Session`].
#[derive(Debug)]
struct SessionHandle(Arc<SessionState>);

impl Drop for SessionHandle {
    fn drop(&mut self) {
        // In a forked child the agent belongs to the parent, and the locks may be held for good.
        if self.0.writer.is_here() {
            self.0.release();
        }
    }
}

/// The part that the builders of both protocols have in common.
#[derive(Clone, Debug, Default)]
struct SessionSetup {
    settings: Settings,
    handlers: Handlers,
}

impl SessionSetup {
    /// Begins a session on an agent that runs, and spawns its reader.
    fn attach(
        self,
        agent: Agent,
        protocol: Box<dyn Protocol>,
        observer: Option<Arc<dyn Observer>>,
    ) -> Result<Session> {
        let Self { settings, handlers } = self;
        settings.check()?;
        let waker = deadlines::deadline_waker;
        let (halves, setup) = (agent.split(), (handlers, settings));
        let state = SessionState::new(halves, protocol, observer, setup, waker)?;
        let reader = ReaderTask::new(Arc::clone(&state));
        let session = Session(Arc::new(SessionHandle(Arc::clone(&state))));
        state.spawn(Box::pin(reader));
        Ok(session)
    }
}

impl Session {
    fn state(&self) -> &Arc<SessionState> {
        &self.0.0
    }

    fn writer(&self) -> &AgentWriter {
        &self.state().writer
    }

    /// Sends a request and waits for its response, up to [`Settings::request_timeout`]. `method` is a
    /// method of JSON-RPC or the subtype of a control request. `body` is its params, or further keys
    /// beside the subtype.
    ///
    /// Every request has exactly one outcome. The timeout counts from the first poll and includes
    /// the wait for room in the outbox. Cancel-safe: dropping the future withdraws the request, and
    /// tells the agent if the protocol can.
    ///
    /// # Errors
    /// - [`AgentError`](ErrorKind::AgentError): the agent answered with an error.
    /// - [`Timeout`](ErrorKind::Timeout): the agent did not answer in time.
    /// - [`Overloaded`](ErrorKind::Overloaded), at once: too many requests are open, or too much data
    ///   is unread.
    /// - [`Closed`](ErrorKind::Closed), [`EngineStopped`](ErrorKind::EngineStopped) or `AgentError`,
    ///   at once: the agent is gone or is about to end. The error has its exit status and the end of
    ///   its stderr.
    /// - [`InputEnded`](ErrorKind::InputEnded): the agent's input was ended.
    /// - [`InvalidRecord`](ErrorKind::InvalidRecord) or
    ///   [`RecordTooLarge`](ErrorKind::RecordTooLarge): the record cannot be sent. No byte of it was.
    pub async fn request(&self, method: &str, body: impl Serialize) -> Result<Record> {
        self.request_with(method, body, RequestOptions::new()).await
    }

    /// Sends a [`request`](Self::request) with another timeout. `None` waits as long as the agent
    /// lives. Cancel-safe.
    ///
    /// # Errors
    /// See [`request`](Self::request).
    pub async fn request_with_timeout(
        &self,
        method: &str,
        body: impl Serialize,
        timeout: impl Into<Option<Duration>>,
    ) -> Result<Record> {
        self.request_with(method, body, RequestOptions::new().timeout(timeout)).await
    }

    /// Sends a [`request`](Self::request) with options of its own. Cancel-safe.
    ///
    /// # Errors
    /// See [`request`](Self::request). With
    /// [`renewed_by_progress`](RequestOptions::renewed_by_progress) also
    /// [`InvalidRecord`](ErrorKind::InvalidRecord), if the protocol or the body has no place for a
    /// progress token.
    pub async fn request_with(
        &self,
        method: &str,
        body: impl Serialize,
        options: RequestOptions,
    ) -> Result<Record> {
        // A body without JSON fails here, before it takes a place among the open requests.
        let body = Record::from_json(&body)?;
        self.request_json(method, body.as_bytes(), options).await
    }

    async fn request_json(
        &self,
        method: &str,
        body: &[u8],
        options: RequestOptions,
    ) -> Result<Record> {
        self.request_tracked(method, body, options, &mut false).await
    }

    /// Sends a request. `sent` becomes true once the agent may read it.
    async fn request_tracked(
        &self,
        method: &str,
        body: &[u8],
        options: RequestOptions,
        sent: &mut bool,
    ) -> Result<Record> {
        let state = self.state();
        let (id, slot) = state.open(method, options)?;
        // From here on the request leaves the table however this future ends.
        let _withdraw = WithdrawOnDrop { state, id };
        let mut response = slot.wait();
        let record = match options.progress_max {
            None => state.protocol.request(id, method, body),
            Some(_) => state.protocol.request(id, method, &state.with_progress(id, body)?),
        };
        let mut sending = Some(Box::pin(state.writer.send(record)));
        poll_fn(|context| {
            if let Some(send) = &mut sending
                && let Poll::Ready(queued) = send.as_mut().poll(context)
            {
                sending = None;
                match queued {
                    Ok(()) => {
                        *sent = true;
                        state.mark_sent(id);
                    }
                    // The agent is gone. The reason of its end says more, and is on its way.
                    Err(error) if error.kind() == ErrorKind::Closed => {}
                    Err(error) => return Poll::Ready(Err(error)),
                }
            }
            // Polled while the record still waits for room, too: the timeout and the end of the
            // session set the slot, and neither may wait for an agent that does not read.
            let response = Pin::new(&mut response).poll(context);
            response.map(|outcome| outcome.unwrap_or_else(|| Err(foreign("request"))))
        })
        .await
    }

    /// Sends a record as it is, and resolves once it is queued.
    ///
    /// There is no timeout: it waits while the outbox is full, and fails at once when the agent is
    /// gone. Cancel-safe: the record is queued whole or not at all.
    ///
    /// # Errors
    /// See [`AgentWriter::send`].
    pub async fn send(&self, record: impl AsRef<[u8]>) -> Result<()> {
        self.writer().send(record).await
    }

    /// Returns the next event that belongs to no request, in the order of arrival. Each event goes
    /// to one caller.
    ///
    /// There is no timeout. However the agent ends, [`Event::Exit`] is the last event, and `None`
    /// follows it. If the runtime of the session ended first ([`Settings::executor`]), `None` comes
    /// without it. Cancel-safe: no event is lost.
    pub async fn next(&self) -> Option<Event> {
        loop {
            match self.state().next().await? {
                InboxItem::Event(event) => return Some(event),
                InboxItem::NoResult => {}
            }
        }
    }

    /// Polls for the [`next`](Self::next) event.
    ///
    /// All waiting tasks are woken by the next event, and one of them gets it. This call cannot
    /// deregister a waker, so wakers are kept until then; the future of `next` deregisters on drop.
    pub fn poll_next(&self, context: &mut Context<'_>) -> Poll<Option<Event>> {
        loop {
            match ready!(self.state().poll_next(None, context)) {
                Some(InboxItem::Event(event)) => return Poll::Ready(Some(event)),
                Some(InboxItem::NoResult) => {}
                None => return Poll::Ready(None),
            }
        }
    }

    /// Returns the next record: a message or a notification. Other events are skipped.
    ///
    /// There is no timeout. `None` is the end, which [`close_reason`](Self::close_reason) explains.
    /// Cancel-safe: no record is lost.
    pub async fn next_record(&self) -> Option<Record> {
        while let Some(event) = self.next().await {
            if let Event::Record(record) = event {
                return Some(record);
            }
        }
        None
    }

    /// Ends the agent's input once the queued records are written. Does not wait. See
    /// [`AgentWriter::end_input`].
    ///
    /// Reading goes on, and so do requests that were sent before. Later requests fail at once with
    /// [`InputEnded`](ErrorKind::InputEnded).
    pub fn end_input(&self) {
        self.writer().end_input();
    }

    /// Closes the agent gracefully.
    ///
    /// Every open request fails at once with [`Closed`](ErrorKind::Closed). Every running handler is
    /// dropped without a response, and not waited for. What the agent still says can be read
    /// afterwards, up to [`Limits::drain_max`](crate::Limits::drain_max).
    ///
    /// A Claude session with an open turn sends its `interrupt` first, which is a stage of the
    /// report. The close takes at most [`max_duration`](ClosePolicy::max_duration). It begins at the
    /// first poll, and dropping the future does not stop it. If the agent is gone, the report is there
    /// at once.
    pub async fn close(&self) -> CloseReport {
        self.fail_requests();
        self.writer().close().await
    }

    /// Closes the pipes at once and kills the agent after a short grace. Hurries a close that is
    /// under way. Otherwise like [`close`](Self::close).
    pub async fn abort(&self) -> CloseReport {
        self.fail_requests();
        self.writer().abort().await
    }

    /// Closes the agent with another policy. Otherwise like [`close`](Self::close).
    ///
    /// A close that is under way keeps its own policy, unless this one is an abort: an abort hurries it,
    /// and the shorter limit of the two policies then holds for the grace and for the kill.
    pub async fn close_with(&self, policy: ClosePolicy) -> CloseReport {
        self.fail_requests();
        self.writer().close_with(policy).await
    }

    /// Calls [`close`](Self::close) and blocks the thread until it is done.
    pub fn close_blocking(&self) -> CloseReport {
        pollster::block_on(self.close())
    }

    /// Fails open requests and refuses further ones.
    fn fail_requests(&self) {
        let state = self.state();
        // The requests fail before the agent is closed, so their callers do not wait for the close.
        if state.writer.is_here() {
            state.end(state.error(ErrorKind::Closed, "the session was closed"));
        }
    }

    /// Waits until the agent is closed or has ended by itself. Does not close it, and has no timeout.
    /// Cancel-safe.
    pub async fn closed(&self) -> CloseReport {
        self.writer().closed().await
    }

    /// Returns the report of the close, once the agent is closed or has ended by itself.
    #[must_use]
    pub fn close_report(&self) -> Option<CloseReport> {
        self.writer().close_report()
    }

    /// Returns why requests are refused: the error that each of them gets. `None` while they are not.
    ///
    /// Once the agent is gone, the error has its exit status and the end of its stderr.
    #[must_use]
    pub fn close_reason(&self) -> Option<Error> {
        self.state().close_reason()
    }

    /// Returns the tables and counters of the session, and the counters of its agent. They stay
    /// after the agent is gone.
    #[must_use]
    pub fn metrics(&self) -> SessionStats {
        self.state().metrics()
    }

    /// Returns the process id of the agent. Once the agent is gone, another process may have it.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.writer().pid()
    }
}

/// Removes a request from the table, if it is still there.
struct WithdrawOnDrop<'a> {
    state: &'a Arc<SessionState>,
    id: u64,
}

impl Drop for WithdrawOnDrop<'_> {
    fn drop(&mut self) {
        self.state.withdraw(self.id);
    }
}
