//! Floor 4. A session as its users hold it, whatever its protocol.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use serde::Serialize;

use crate::agent::{Agent, AgentWriter};
use crate::counters::AgentStats;
use crate::error::{Error, ErrorKind, Result};
use crate::origin::foreign;
use crate::record::Event;
use crate::record::Record;

use super::core::Core;
use super::dialect::{Dialect, Observer};
use super::pump::Pump;
use super::serve::Handlers;
use super::settings::Settings;
use super::stats::SessionStats;
use super::unread::Item;

/// Requests and responses over one agent, both ways. What [`claude::Session`] and
/// [`jsonrpc::Session`] stand on. Cheap to clone, `Send`, `Sync`; its futures run on any runtime
/// and on none.
///
/// Dropping the last clone without a [`close`](Self::close) drops the handlers that run and aborts
/// the agent.
///
/// [`claude::Session`]: super::claude::Session
/// [`jsonrpc::Session`]: super::jsonrpc::Session
#[derive(Clone, Debug)]
pub struct Session(Arc<Handle>);

#[derive(Debug)]
struct Handle(Arc<Core>);

impl Drop for Handle {
    fn drop(&mut self) {
        if self.0.writer.is_here() {
            self.0.release();
        }
    }
}

impl Session {
    pub(super) fn start(
        agent: Agent,
        dialect: Box<dyn Dialect>,
        observer: Option<Arc<dyn Observer>>,
        handlers: Handlers,
        settings: Settings,
    ) -> Result<Self> {
        let core = Core::new(agent.split(), dialect, observer, handlers, settings)?;
        let pump = Pump::new(Arc::clone(&core));
        let session = Self(Arc::new(Handle(Arc::clone(&core))));
        core.spawn(Box::pin(pump));
        Ok(session)
    }

    pub(super) fn core(&self) -> &Arc<Core> {
        &self.0.0
    }

    pub(super) fn writer(&self) -> &AgentWriter {
        &self.core().writer
    }

    /// Asks the agent and waits for its answer, with the session's deadline
    /// ([`Settings::request_timeout`], 60 s by default). `method` is a method of JSON-RPC or the subtype
    /// of a control request; `body` its params, or further keys beside the subtype.
    ///
    /// Every request has exactly one outcome. The deadline counts from the first poll, the wait for
    /// room in the outbox included. Cancel-safe: dropping the future withdraws the request, and
    /// tells the agent where the protocol can.
    ///
    /// # Errors
    /// [`AgentError`](ErrorKind::AgentError) with the agent's own words;
    /// [`Timeout`](ErrorKind::Timeout); [`Overloaded`](ErrorKind::Overloaded) at once where too
    /// many requests are open or too much data is unread; [`Closed`](ErrorKind::Closed),
    /// [`EngineStopped`](ErrorKind::EngineStopped) or `AgentError` at once where the agent is
    /// gone or its end is seen, with its exit status and the end of its stderr;
    /// [`InputEnded`](ErrorKind::InputEnded); [`InvalidRecord`](ErrorKind::InvalidRecord) and
    /// [`RecordTooLarge`](ErrorKind::RecordTooLarge) before a byte is sent.
    pub async fn request(&self, method: &str, body: impl Serialize) -> Result<Record> {
        let body = Record::from_json(&body)?;
        self.ask(method, body.as_bytes(), self.core().settings.deadline).await
    }

    /// [`request`](Self::request) with a deadline of its own; `None` waits as long as the agent
    /// lives. Cancel-safe as that.
    ///
    /// # Errors
    /// As `request`.
    pub async fn request_with_timeout(
        &self,
        method: &str,
        body: impl Serialize,
        deadline: impl Into<Option<Duration>>,
    ) -> Result<Record> {
        let body = Record::from_json(&body)?;
        self.ask(method, body.as_bytes(), deadline.into()).await
    }

    pub(super) async fn ask(
        &self,
        method: &str,
        body: &[u8],
        deadline: Option<Duration>,
    ) -> Result<Record> {
        let core = self.core();
        let (id, slot) = core.open(method, deadline)?;
        let _given_up = Withdraw { core, id };
        let mut reply = slot.wait();
        let mut sending = Some(Box::pin(core.writer.send(core.dialect.request(id, method, body))));
        poll_fn(|context| {
            if let Some(send) = &mut sending
                && let Poll::Ready(sent) = send.as_mut().poll(context)
            {
                sending = None;
                match sent {
                    Ok(()) => core.sent(id),
                    // The agent is gone. Its end says more, and is on its way.
                    Err(error) if error.kind() == ErrorKind::Closed => {}
                    Err(error) => return Poll::Ready(Err(error)),
                }
            }
            let reply = Pin::new(&mut reply).poll(context);
            reply.map(|outcome| outcome.unwrap_or_else(|| Err(foreign("request"))))
        })
        .await
    }

    /// Sends a record as it is, and resolves once it is queued. It has no deadline: it waits while
    /// the outbox is full, and fails at once when the agent goes. Cancel-safe: queued whole or not
    /// at all. See [`AgentWriter::send`].
    ///
    /// # Errors
    /// As there.
    pub async fn send(&self, record: impl AsRef<[u8]>) -> Result<()> {
        self.writer().send(record).await
    }

    /// The next event that is no part of a request or its answer, in the order they came. Each goes
    /// to one caller. It has no deadline; however the agent ends, [`Event::Exit`] comes last, and
    /// `None` after it. `None` alone where the runtime of the session ended first
    /// ([`Settings::executor`]).
    ///
    /// Cancel-safe: an event is either returned or still there.
    pub async fn next(&self) -> Option<Event> {
        loop {
            match self.core().next().await? {
                Item::Event(event) => return Some(event),
                Item::NoResult => {}
            }
        }
    }

    /// [`next`](Self::next) as a poll function, for hand-written futures and streams.
    /// All that wait are woken by the next event, and one of them gets it. Their wakers are kept until
    /// then; those of [`next`](Self::next) go with its future.
    pub fn poll_next(&self, context: &mut Context<'_>) -> Poll<Option<Event>> {
        loop {
            match ready!(self.core().poll_next(None, context)) {
                Some(Item::Event(event)) => return Poll::Ready(Some(event)),
                Some(Item::NoResult) => {}
                None => return Poll::Ready(None),
            }
        }
    }

    /// The next record: a message or a notification; other events are passed over. It has no
    /// deadline; `None` at the end, which [`close_reason`](Self::close_reason) explains. Cancel-safe as
    /// [`next`](Self::next).
    pub async fn next_record(&self) -> Option<Record> {
        while let Some(event) = self.next().await {
            if let Event::Record(record) = event {
                return Some(record);
            }
        }
        None
    }

    /// Ends the agent's input. See [`AgentWriter::end_input`]. Does not wait; of an agent that is
    /// gone, nothing is ended. Reading goes on, and so do requests that were sent before; later
    /// ones fail at once with [`InputEnded`](ErrorKind::InputEnded).
    pub fn end_input(&self) {
        self.writer().end_input();
    }

    /// Why no request is taken any more: what each of them fails with. `None` while they are.
    ///
    /// Once the agent is gone it has the exit status and the end of stderr.
    #[must_use]
    pub fn close_reason(&self) -> Option<Error> {
        self.core().why_over()
    }

    /// The tables and counters of the session, exact. They stay after the agent is gone.
    #[must_use]
    pub fn session_stats(&self) -> SessionStats {
        self.core().stats()
    }

    /// The counters of the agent's pipes, at most one engine turn old.
    #[must_use]
    pub fn stats(&self) -> AgentStats {
        self.writer().stats()
    }

    /// The agent's process id. After its end it may be another process's.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.writer().pid()
    }
}

/// Takes a request out of the table, if it is still in it.
struct Withdraw<'a> {
    core: &'a Arc<Core>,
    id: u64,
}

impl Drop for Withdraw<'_> {
    fn drop(&mut self) {
        self.core.withdraw(self.id);
    }
}

/// What both kinds of sessions share with [`Session`], by name.
macro_rules! delegate {
    ($session:ident) => {
        impl $session {
            /// The session without its protocol: its `request` takes any method or subtype.
            #[must_use]
            pub fn as_session(&self) -> &$crate::session::Session {
                &self.base
            }

            /// See [`Session::next`](crate::session::Session::next).
            pub async fn next(&self) -> Option<$crate::record::Event> {
                self.base.next().await
            }

            /// See [`Session::next_record`](crate::session::Session::next_record).
            pub async fn next_record(&self) -> Option<$crate::record::Record> {
                self.base.next_record().await
            }

            /// See [`Session::end_input`](crate::session::Session::end_input).
            pub fn end_input(&self) {
                self.base.end_input();
            }

            /// See [`Session::close`](crate::session::Session::close).
            pub async fn close(&self) -> $crate::close::CloseReport {
                self.base.close().await
            }

            /// See [`Session::abort`](crate::session::Session::abort).
            pub async fn abort(&self) -> $crate::close::CloseReport {
                self.base.abort().await
            }

            /// See [`Session::close_with`](crate::session::Session::close_with).
            pub async fn close_with(
                &self,
                policy: $crate::close::ClosePolicy,
            ) -> $crate::close::CloseReport {
                self.base.close_with(policy).await
            }
        }
    };
}
pub(super) use delegate;
