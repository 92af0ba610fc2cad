//! Floor 4. A JSON-RPC session and its settings.

use std::future::Future;
use std::time::Duration;

use serde::Serialize;

use crate::agent::Agent;
use crate::command::AgentCommand;
use crate::engine::Engine;
use crate::error::Result;
use crate::record::Record;
use crate::session::failure::RpcError;
use crate::session::handle::{Session as Base, delegate};
use crate::session::serve::{AgentRequest, Handlers};
use crate::session::settings::Settings;

use super::dialect::{Cancellation, JsonRpc, call};

/// JSON-RPC 2.0 with one agent. Cheap to clone. See [`session::Session`](Base) for what all
/// sessions share.
///
/// ```
/// use agentpipe::session::jsonrpc;
/// use agentpipe::{AgentCommand, Engine};
///
/// # pollster::block_on(async {
/// let engine = Engine::new()?;
/// // An agent that says the same to everybody; ids count from 1.
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
    base: Base,
}

impl Session {
    /// Settings and handlers first.
    #[must_use]
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Asks the agent. `()` sends no params. Deadline, errors, cancel-safety and what happens
    /// when the agent dies: [`session::Session::request`](Base::request).
    ///
    /// # Errors
    /// As there. [`Error::response`](crate::Error::reply) of an
    /// [`AgentError`](crate::ErrorKind::AgentError) is the error object.
    pub async fn request(&self, method: &str, params: impl Serialize) -> Result<Record> {
        self.base.request(method, params).await
    }

    /// [`request`](Self::request) with a deadline of its own; `None` waits as long as the agent
    /// lives. Otherwise as that.
    ///
    /// # Errors
    /// As `request`.
    pub async fn request_with_timeout(
        &self,
        method: &str,
        params: impl Serialize,
        deadline: impl Into<Option<Duration>>,
    ) -> Result<Record> {
        self.base.request_with_timeout(method, params, deadline).await
    }

    /// Tells the agent. Resolves once the record is queued. It has no deadline: it waits while the
    /// outbox is full, and fails at once when the agent goes. Cancel-safe: queued whole or not at
    /// all.
    ///
    /// # Errors
    /// As [`AgentWriter::send`](crate::AgentWriter::send).
    pub async fn notify(&self, method: &str, params: impl Serialize) -> Result<()> {
        let params = Record::from_json(&params)?;
        self.base.send(call(None, method, params.as_bytes())).await
    }
}

delegate!(Session);

/// Settings and handlers of a JSON-RPC session.
#[derive(Clone, Debug, Default)]
pub struct Builder {
    settings: Settings,
    handlers: Handlers,
    cancellation: Cancellation,
}

impl Builder {
    /// What the session may hold, its deadline, and where its tasks run. Default [`Settings::new`].
    #[must_use]
    pub fn settings(mut self, settings: Settings) -> Self {
        self.settings = settings;
        self
    }

    /// How requests are withdrawn, both ways. Default: not at all.
    #[must_use]
    pub fn cancellation(mut self, how: Cancellation) -> Self {
        self.cancellation = how;
        self
    }

    /// Answers the agent's requests of one method. The handler runs in a task of its own, which
    /// is dropped, without an answer, when the agent withdraws the request or the session ends; it
    /// has no deadline here. It must not block the thread, which all sessions of the process share
    /// unless [`Settings::executor`] gives another.
    /// A [`RpcError`] is answered as an error, and so is a panic. The last handler of a method counts.
    #[must_use]
    pub fn handle<F, R, T>(mut self, method: &str, handler: F) -> Self
    where
        F: Fn(AgentRequest) -> R + Send + Sync + 'static,
        R: Future<Output = std::result::Result<T, RpcError>> + Send + 'static,
        T: Serialize,
    {
        self.handlers.insert(method, handler);
        self
    }

    /// Answers the requests that no [`handle`](Self::handle) is for. Without one they are
    /// answered with -32601, "no such method".
    #[must_use]
    pub fn handle_others<F, R, T>(mut self, handler: F) -> Self
    where
        F: Fn(AgentRequest) -> R + Send + Sync + 'static,
        R: Future<Output = std::result::Result<T, RpcError>> + Send + 'static,
        T: Serialize,
    {
        self.handlers.set_fallback(handler);
        self
    }

    /// Spawns the agent and begins. Nothing is sent: the handshake is the protocol's. It has no
    /// deadline: it waits for the exec and no longer. An agent that dies later fails the requests.
    ///
    /// Cancel-safe, and nothing is left of an agent that could not be started: where this fails, or
    /// its future is dropped, the agent is aborted.
    ///
    /// # Errors
    /// As [`Engine::spawn`], and [`ResourceLimit`](crate::ErrorKind::ResourceLimit) where the
    /// session thread cannot be started.
    pub async fn start(self, engine: &Engine, command: AgentCommand) -> Result<Session> {
        self.attach(engine.spawn(command).await?)
    }

    /// Begins on an agent that runs, and sends nothing. What was read from it before is not seen here.
    /// Does not wait. Where the agent is gone, the first request says so.
    ///
    /// # Errors
    /// [`ResourceLimit`](crate::ErrorKind::ResourceLimit) where the session thread cannot be
    /// started; the agent is then aborted.
    pub fn attach(self, agent: Agent) -> Result<Session> {
        let dialect = Box::new(JsonRpc { cancellation: self.cancellation });
        let base = Base::start(agent, dialect, None, self.handlers, self.settings)?;
        Ok(Session { base })
    }
}
