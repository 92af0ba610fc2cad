//! The settings and handlers of an MCP client, and its start.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde_json::value::RawValue;

use crate::command::AgentCommand;
use crate::engine::Engine;
use crate::error::Result;
use crate::record::Record;
use crate::session::SessionSetup;
use crate::session::config::Settings;
use crate::session::handlers::{AgentRequest, handler};
use crate::session::protocol::RpcError;

use super::bus::Notify;
use super::client::Client;
use super::connection::Launch;
use super::era::{Era, Identity, Object, raw};
use super::restart::{Link, RestartLimit};

/// How long a server may leave `server/discover` unanswered before `initialize` is tried, too.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a server may take to start and to answer for the first time.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(60);

/// How often a server may ask for input before it completes a request.
const INPUT_ROUNDS_MAX: u32 = 8;

/// How often a server that ends is started again.
const RESTARTS: RestartLimit = RestartLimit { max: 3, within: Duration::from_secs(60) };

/// The methods that a server may ask for, and the capability that says so.
const ASKED: [(&str, &str); 3] = [
    ("elicitation/create", "elicitation"),
    ("roots/list", "roots"),
    ("sampling/createMessage", "sampling"),
];

/// The settings and handlers of an MCP client.
#[derive(Clone, Debug)]
pub struct Builder {
    setup: SessionSetup,
    info: Result<Box<RawValue>>,
    capabilities: Result<Object>,
    era: Option<Era>,
    probe_timeout: Duration,
    connect_timeout: Duration,
    input_rounds_max: u32,
    restarts: RestartLimit,
    on_notification: Option<Notify>,
}

impl Default for Builder {
    fn default() -> Self {
        let builder = Self {
            setup: SessionSetup::default(),
            info: raw(&()),
            capabilities: Ok(Object::new()),
            era: None,
            probe_timeout: PROBE_TIMEOUT,
            connect_timeout: CONNECT_TIMEOUT,
            input_rounds_max: INPUT_ROUNDS_MAX,
            restarts: RESTARTS,
            on_notification: None,
        };
        builder
            .settings(Settings::new())
            .client_info(env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"))
    }
}

impl Builder {
    /// Sets the limits of the session, the timeout of its requests, and the executor of its tasks.
    /// Default [`Settings::new`]. [`Settings::discard_data`] has no effect: see
    /// [`on_notification`](Self::on_notification).
    #[must_use]
    pub fn settings(mut self, settings: Settings) -> Self {
        self.setup.settings = settings.discard_data(true);
        self
    }

    /// Sets the name and the version by which the server knows this client. Default: those of this
    /// crate.
    #[must_use]
    pub fn client_info(mut self, name: &str, version: &str) -> Self {
        #[derive(Serialize)]
        struct Implementation<'a> {
            name: &'a str,
            version: &'a str,
        }
        self.info = raw(&Implementation { name, version });
        self
    }

    /// Sets the handler of a method that the server may ask for: `elicitation/create`,
    /// `sampling/createMessage` or `roots/list`, whose capability is announced with it, or another.
    ///
    /// In the legacy era the handler answers requests of the server, as
    /// [`jsonrpc::Builder::handle`](crate::session::jsonrpc::Builder::handle) describes. In the modern
    /// era it answers what a result asks for, as part of the call.
    #[must_use]
    pub fn handle<F, R, T>(mut self, method: &str, handle: F) -> Self
    where
        F: Fn(AgentRequest) -> R + Send + Sync + 'static,
        R: Future<Output = std::result::Result<T, RpcError>> + Send + 'static,
        T: Serialize,
    {
        self.setup.handlers.insert(method, handler(handle));
        let is_set = |name| self.capabilities.as_ref().is_ok_and(|known| known.contains_key(name));
        match ASKED.iter().find(|(asked, _)| *asked == method) {
            Some((_, name)) if !is_set(*name) => self.capability(name, Object::new()),
            _ => self,
        }
    }

    /// Announces a capability of this client, in place of what [`handle`](Self::handle) announces for
    /// it: `elicitation` with `{"url": {}}`, `extensions`, ...
    #[must_use]
    pub fn capability(mut self, name: &str, value: impl Serialize) -> Self {
        self.capabilities = self.capabilities.and_then(|mut capabilities| {
            capabilities.insert(name.into(), raw(&value)?);
            Ok(capabilities)
        });
        self
    }

    /// Sets the era of the server, where it is known. By default the client finds it out.
    #[must_use]
    pub fn era(mut self, era: Era) -> Self {
        self.era = Some(era);
        self
    }

    /// Sets how long the server may leave `server/discover` unanswered before `initialize` is tried
    /// beside it. Default 5 s. A server that is slow to start may still answer either.
    #[must_use]
    pub fn probe_timeout(mut self, timeout: Duration) -> Self {
        self.probe_timeout = timeout;
        self
    }

    /// Sets how long the server may take to start and to answer for the first time. Default 60 s.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Sets the function that gets the notifications of the server that belong to no
    /// [`Subscription`](super::Subscription): progress, log messages, changes of the legacy era, and
    /// any other record that no call waits for. Without it they are counted and dropped.
    ///
    /// It is called in the order of arrival, and must not block: the session reads nothing meanwhile.
    #[must_use]
    pub fn on_notification(mut self, notify: impl Fn(Record) + Send + Sync + 'static) -> Self {
        self.on_notification = Some(Notify(Arc::new(notify)));
        self
    }

    /// Sets how often a server of the modern era may ask for input before it completes a request.
    /// Default 8.
    #[must_use]
    pub fn input_rounds_max(mut self, rounds: u32) -> Self {
        self.input_rounds_max = rounds;
        self
    }

    /// Sets how often a server that has ended is started again, within a time. Default 3 times within
    /// 60 s; 0 is never.
    ///
    /// The call that finds the server gone starts it. The first restart comes at once, the next after
    /// 100 ms, and each further one after twice the time, up to 10 s. Beyond the limit calls fail with
    /// [`Closed`](crate::ErrorKind::Closed).
    #[must_use]
    pub fn restarts(mut self, max: u32, within: Duration) -> Self {
        self.restarts = RestartLimit { max, within };
        self
    }

    /// Starts the server and finds out its era.
    ///
    /// Sends `server/discover` first. Unless the answer is one of the modern era, the handshake
    /// with `initialize` follows; a server that ends over the first request is started a second time
    /// for it. Cancel-safe: on an error, and if the future is dropped, the server is aborted.
    ///
    /// # Errors
    /// - [`AgentError`](crate::ErrorKind::AgentError): the server refuses the handshake, or has no version in
    ///   common with this client.
    /// - [`Timeout`](crate::ErrorKind::Timeout): there was no answer within
    ///   [`connect_timeout`](Self::connect_timeout).
    /// - [`Closed`](crate::ErrorKind::Closed): the server ended. The error has its exit status and the end of
    ///   its stderr.
    /// - [`InvalidRecord`](crate::ErrorKind::InvalidRecord): a capability has no JSON form.
    /// - [`InvalidSettings`](crate::ErrorKind::InvalidSettings): a setting is out of its range.
    /// - The errors of [`Engine::spawn`].
    pub async fn connect(self, engine: &Engine, command: AgentCommand) -> Result<Client> {
        let launch = Launch {
            engine: engine.clone(),
            command,
            setup: self.setup,
            identity: Identity { info: self.info?, capabilities: self.capabilities? },
            probe_timeout: self.probe_timeout,
            connect_timeout: self.connect_timeout,
            input_rounds_max: self.input_rounds_max,
            on_notification: self.on_notification,
        };
        let first = launch.connect(self.era).await?;
        Ok(Client(Link::new(launch, first, self.restarts)?))
    }
}
