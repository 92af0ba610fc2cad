//! JSON-RPC 2.0 over an agent: MCP servers, ACP agents, Codex, language servers.
//!
//! The framing is that of the agent ([`AgentCommand::framing`]). Notifications are data, which
//! [`Session::next_record`](super::Session::next_record) returns as they came. The records of a batch
//! are treated like records of their own, and each request in it gets a response of its own. A batch
//! holds at most 4096 records; a longer one is refused.

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod protocol;
#[cfg(test)]
mod tests;

use std::future::Future;
use std::ops::Deref;

use serde::Serialize;

use crate::agent::Agent;
use crate::command::AgentCommand;
use crate::engine::Engine;
use crate::error::Result;
use crate::record::Record;
use crate::session::config::Settings;
use crate::session::handlers::{AgentRequest, handler};
use crate::session::protocol::RpcError;
use crate::session::{self, SessionSetup};

pub use protocol::Cancellation;
pub(super) use protocol::{JsonRpcProtocol, call};

/// JSON-RPC 2.0 with one agent. Cheap to clone.
///
/// It dereferences to [`session::Session`], which has the calls that all sessions share:
/// [`request`](session::Session::request), [`next_record`](session::Session::next_record),
/// [`close`](session::Session::close). A request with `()` as its body has no params. The
/// [`response`](crate::Error::response) of an [`AgentError`](crate::ErrorKind::AgentError) is the
/// error object of JSON-RPC.
///
/// ```
/// use agentpipe::session::jsonrpc;
/// use agentpipe::{AgentCommand, Engine};
///
/// # pollster::block_on(async {
/// let engine = Engine::new()?;
/// // An agent that gives the same answer to each request. Ids count from 1.
/// let command = AgentCommand::new("sh")
///     .args(["-c", r#"read -r _; echo '{"jsonrpc":"2.0","id":1,"result":[4,2]}'; cat"#]);
/// let session = jsonrpc::Session::builder().start(&engine, command).await?;
/// let answer = session.request("numbers/list", ()).await?;
/// assert_eq!(answer.json::<Vec<u8>>()?, [4, 2]);
/// session.close().await;
/// # Ok::<(), agentpipe::Error>(())
/// # }).unwrap();
/// ```
#[derive(Clone, Debug)]
pub struct Session {
    base: session::Session,
}

impl Session {
    /// Returns a builder without handlers and with default settings.
    #[must_use]
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Returns the session without its protocol.
    #[must_use]
    pub fn as_session(&self) -> &session::Session {
        &self.base
    }

    /// Sends a notification, and resolves once it is queued.
    ///
    /// There is no timeout: it waits while the outbox is full, and fails at once when the agent is
    /// gone. Cancel-safe: the record is queued whole or not at all.
    ///
    /// # Errors
    /// See [`AgentWriter::send`](crate::AgentWriter::send).
    pub async fn notify(&self, method: &str, params: impl Serialize) -> Result<()> {
        let params = Record::from_json(&params)?;
        self.base.send(call(None, method, params.as_bytes())).await
    }
}

impl Deref for Session {
    type Target = session::Session;

    fn deref(&self) -> &session::Session {
        &self.base
    }
}

/// The settings and handlers of a JSON-RPC session.
#[derive(Clone, Debug, Default)]
pub struct Builder {
    setup: SessionSetup,
    cancellation: Cancellation,
    farewell: Option<(String, Vec<Vec<u8>>)>,
}

impl Builder {
    /// Sets the limits of the session, the timeout of its requests, and the executor of its tasks.
    /// Default [`Settings::new`].
    #[must_use]
    pub fn settings(mut self, settings: Settings) -> Self {
        self.setup.settings = settings;
        self
    }

    /// Sets how requests are cancelled, in both directions. Default [`Cancellation::None`].
    #[must_use]
    pub fn cancellation(mut self, how: Cancellation) -> Self {
        self.cancellation = how;
        self
    }

    /// Sets how a graceful close takes leave before it ends the agent's input: it sends a request
    /// without params, and once the agent has answered it, these notifications. Default none.
    ///
    /// A language server takes `farewell("shutdown", &["exit"])`. The agent has
    /// [`ClosePolicy::interrupt`](crate::ClosePolicy::interrupt) for the answer, 1 s by default, and
    /// an error counts as one.
    /// [`CloseReport::interrupt_answered`](crate::CloseReport::interrupt_answered) says whether it
    /// came. An abort takes no leave.
    #[must_use]
    pub fn farewell(mut self, request: &str, notifications: &[&str]) -> Self {
        let records = notifications.iter().map(|method| call(None, method, b"null"));
        self.farewell = Some((request.into(), records.collect()));
        self
    }

    /// Sets the handler of one method, in place of the one before.
    ///
    /// The handler runs as a task. The task is dropped, without a response, when the agent cancels
    /// the request or the session ends. A handler has no timeout. One that blocks its thread holds up
    /// the handlers of all sessions for a second, after which a warning names it and another thread
    /// takes over; see [`Settings::executor`] for handlers elsewhere. The agent gets an [`RpcError`]
    /// as an error, and so it does a panic.
    #[must_use]
    pub fn handle<F, R, T>(mut self, method: &str, handle: F) -> Self
    where
        F: Fn(AgentRequest) -> R + Send + Sync + 'static,
        R: Future<Output = std::result::Result<T, RpcError>> + Send + 'static,
        T: Serialize,
    {
        self.setup.handlers.insert(method, handler(handle));
        self
    }

    /// Sets the handler of all methods without a [`handle`](Self::handle). By default they are
    /// answered with -32601, "method not found".
    #[must_use]
    pub fn handle_others<F, R, T>(mut self, handle: F) -> Self
    where
        F: Fn(AgentRequest) -> R + Send + Sync + 'static,
        R: Future<Output = std::result::Result<T, RpcError>> + Send + 'static,
        T: Serialize,
    {
        self.setup.handlers.set_fallback(handler(handle));
        self
    }

    /// Spawns the agent and begins the session. Sends nothing: the handshake is up to the protocol
    /// above.
    ///
    /// It waits for the exec and no longer. An agent that ends later fails the requests.
    /// Cancel-safe: on an error, and if the future is dropped, the agent is aborted.
    ///
    /// # Errors
    /// See [`Engine::spawn`] and [`attach`](Self::attach).
    pub async fn start(self, engine: &Engine, command: AgentCommand) -> Result<Session> {
        self.attach(engine.spawn(command).await?)
    }

    /// Begins the session on an agent that runs. Sends nothing and does not wait.
    ///
    /// The session does not see what was read from the agent before. If the agent is gone, the first
    /// request fails with that.
    ///
    /// # Errors
    /// [`InvalidSettings`](crate::ErrorKind::InvalidSettings) if a setting is out of its range,
    /// [`ResourceLimit`](crate::ErrorKind::ResourceLimit) if the session thread cannot be started.
    /// The agent is then aborted.
    pub fn attach(self, agent: Agent) -> Result<Session> {
        let protocol = Box::new(JsonRpcProtocol::new(self.cancellation));
        let base = self.setup.attach(agent, protocol, None)?;
        if let Some((request, then)) = &self.farewell {
            base.state().set_farewell(request, then)?;
        }
        Ok(Session { base })
    }
}
