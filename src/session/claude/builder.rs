//! Floor 4. Settings and handlers of a Claude session.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use serde::Serialize;

use crate::agent::Agent;
use crate::command::AgentCommand;
use crate::engine::Engine;
use crate::error::{Error, ErrorKind, Result};
use crate::record::Record;
use crate::session::dialect::Observer;
use crate::session::failure::RpcError;
use crate::session::handle::Session as Base;
use crate::session::host::Host;
use crate::session::serve::{AgentRequest, Handlers};
use crate::session::settings::Settings;

use super::cli::Cli;
use super::dialect::{Control, control_request};
use super::hooks::{HookRequest, Hooks};
use super::input::Input;
use super::mcp::{McpRequest, Servers};
use super::options::{Needs, Options, background_wait, reads_state};
use super::permission::{Permission, PermissionRequest};
use super::probe::Probe;
use super::session::Session;

/// Settings and handlers of a Claude session.
///
/// Handlers run in tasks of their own, which are dropped, without an answer, when the agent
/// withdraws the request or the session ends. They have no deadline here: one that never ends
/// keeps its place among [`Settings::concurrency`] until then. A [`RpcError`] is answered as an
/// error, and so is a panic; a request that no handler is for is answered with an error that names
/// its subtype.
#[derive(Clone, Debug, Default)]
pub struct Builder {
    settings: Settings,
    handlers: Handlers,
    hooks: Hooks,
    servers: Servers,
    /// What `initialize` carries beside the hooks.
    options: BTreeMap<String, Record>,
    /// How long `initialize` may take, where that is not the session's deadline.
    handshake: Option<Duration>,
    /// See [`background_wait`](Self::background_wait); `None`: as the CLI itself waits.
    background_wait: Option<Option<Duration>>,
    /// An option that has no JSON.
    broken: Option<Error>,
}

/// What to do about a CLI that is nowhere.
fn not_found(error: Error) -> Error {
    if error.kind() != ErrorKind::ProgramNotFound {
        return error;
    }
    error.remedy(
        "install Claude Code (npm install -g @anthropic-ai/claude-code), or name it with cli_path",
    )
}

impl Builder {
    /// What the session may hold, its deadline, and where its tasks run. Default [`Settings::new`].
    #[must_use]
    pub fn settings(mut self, settings: Settings) -> Self {
        self.settings = settings;
        self
    }

    /// Answers `can_use_tool`. The agent asks only if it was started with
    /// `--permission-prompt-tool stdio`: [`Options`] see to that. Like every handler it must not block
    /// the thread, which all sessions of the process share unless [`Settings::executor`] gives another.
    #[must_use]
    pub fn can_use_tool<F, R>(mut self, decide: F) -> Self
    where
        F: Fn(PermissionRequest) -> R + Send + Sync + 'static,
        R: Future<Output = std::result::Result<Permission, RpcError>> + Send + 'static,
    {
        let decide = Arc::new(decide);
        self.handlers.insert("can_use_tool", move |request: AgentRequest| {
            let decide = Arc::clone(&decide);
            async move {
                let request = PermissionRequest::new(&request)?;
                let permission = (*decide)(request.clone()).await?;
                permission.answer(&request)
            }
        });
        self
    }

    /// Registers a hook: `event` is `PreToolUse`, `Stop`, ...; `matcher` says for which tools;
    /// the CLI gives it up after `timeout`, or after a time of its own where that is `None`. What the
    /// hook returns is sent as it serializes: a
    /// [`HookOutput`](super::HookOutput), or JSON of one's own.
    #[must_use]
    pub fn hook<F, R, T>(
        mut self,
        event: &str,
        matcher: Option<&str>,
        timeout: Option<Duration>,
        hook: F,
    ) -> Self
    where
        F: Fn(HookRequest) -> R + Send + Sync + 'static,
        R: Future<Output = std::result::Result<T, RpcError>> + Send + 'static,
        T: Serialize,
    {
        self.hooks.add(event, matcher, timeout, hook);
        self
    }

    /// An MCP server in this process; the last one of a name counts. It is given each message for
    /// that name and returns the result; a [`RpcError`] becomes an error of JSON-RPC
    /// (-32603 unless it has a code).
    #[must_use]
    pub fn mcp_server<F, R, T>(mut self, name: &str, server: F) -> Self
    where
        F: Fn(McpRequest) -> R + Send + Sync + 'static,
        R: Future<Output = std::result::Result<T, RpcError>> + Send + 'static,
        T: Serialize,
    {
        self.servers.add(name, server);
        self
    }

    /// Answers control requests of another subtype, one to come for instance. The last handler of
    /// a subtype counts; hooks and servers keep theirs.
    #[must_use]
    pub fn handle<F, R, T>(mut self, subtype: &str, handler: F) -> Self
    where
        F: Fn(AgentRequest) -> R + Send + Sync + 'static,
        R: Future<Output = std::result::Result<T, RpcError>> + Send + 'static,
        T: Serialize,
    {
        self.handlers.insert(subtype, handler);
        self
    }

    /// A key of the `initialize` request, as it serializes: one that is to come, say. It wins over
    /// what [`Options`] say of the same key (`agents`, `skills`,
    /// `excludeDynamicSections`, `forwardSubagentText`).
    #[must_use]
    pub fn option(mut self, key: &str, value: impl Serialize) -> Self {
        match Record::from_json(&value) {
            Ok(value) => drop(self.options.insert(key.into(), value)),
            Err(error) => self.broken = Some(error),
        }
        self
    }

    /// How long `initialize` may take. Default: the session's deadline. A CLI that connects to its
    /// MCP servers first may need longer than any other request should.
    #[must_use]
    pub fn initialize_timeout(mut self, limit: Duration) -> Self {
        self.handshake = Some(limit);
        self
    }

    /// How long the end of the input waits, between turns, for a CLI that says that it is still running:
    /// a background agent that it does not name, say. See
    /// [`Session::end_input_when_done`]. Zero or `None`: without a limit.
    ///
    /// Default: what the CLI itself takes for its wait for background work, which is
    /// `CLAUDE_CODE_PRINT_BG_WAIT_CEILING_MS` of its environment, and 10 min where that is not set.
    #[must_use]
    pub fn background_wait(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.background_wait = Some(limit.into().filter(|limit| !limit.is_zero()));
        self
    }

    /// Spawns the agent and initializes it, within the deadline for that. The agent is the CLI
    /// with [`Options`] ([`AgentCommand::claude`]), or any command. One that ends before its answer
    /// fails this at once, with its exit status and the end of its stderr.
    ///
    /// Cancel-safe, and nothing is left of an agent that could not be started: where this fails,
    /// or its future is dropped, the agent is aborted. What is wrong with the options is found
    /// before it is spawned.
    ///
    /// # Errors
    /// As [`Options::command`], [`Engine::spawn`],
    /// [`attach`](Self::attach) and [`Session::initialize`].
    pub async fn start(mut self, engine: &Engine, cli: impl Into<Cli>) -> Result<Session> {
        let (command, options) = match cli.into() {
            Cli::Command(command) => (*command, None),
            Cli::Options(options) => (self.take_options(&options)?, Some(options)),
        };
        if let Some(error) = self.broken.take() {
            return Err(error);
        }
        let command = reads_state(command);
        self.background_wait.get_or_insert_with(|| background_wait(Some(&command)));
        let Some(options) = options else {
            let session = self.attach(engine.spawn(command).await?)?;
            session.initialize().await?;
            return Ok(session);
        };
        let mut session = self.attach(engine.spawn(command).await.map_err(not_found)?)?;
        let core = session.base.core();
        let probe =
            Probe::new(engine, options.version_command(), core.writer.program(), &core.host);
        session.probe = Some(probe.clone());
        let started = session.initialize().await;
        // Not before: the start of the CLI has the processors to itself. An old one may be why
        // it failed.
        if options.version_check {
            probe.check();
        }
        started.map(|_| session)
    }

    /// The command, and the part of the options that goes into `initialize`.
    fn take_options(&mut self, options: &Options) -> Result<AgentCommand> {
        let permission = self.handlers.has("can_use_tool");
        let command = options.command_for(Needs { permission, servers: &self.servers.names() })?;
        for (key, value) in options.initialize()? {
            self.options.entry(key.into()).or_insert(value);
        }
        Ok(command)
    }

    /// Begins on an agent that runs, and sends nothing: [`Session::initialize`] is the next step.
    /// Does not wait. Where the agent is gone, the first request says so.
    ///
    /// # Errors
    /// [`InvalidRecord`](crate::ErrorKind::InvalidRecord) for an option that has no JSON,
    /// [`ResourceLimit`](crate::ErrorKind::ResourceLimit) where the session thread cannot be
    /// started; the agent is then aborted.
    pub fn attach(mut self, agent: Agent) -> Result<Session> {
        #[derive(Serialize)]
        struct Initialize<'a, H> {
            hooks: Option<H>,
            #[serde(flatten)]
            options: &'a BTreeMap<String, Record>,
        }
        if let Some(error) = self.broken {
            return Err(error);
        }
        let (hooks, options) = (self.hooks.registration(), &self.options);
        let initialize = Record::from_json(&Initialize { hooks, options })?;
        self.add_callbacks();
        let needs_input = !self.handlers.is_empty();
        let wait = self.background_wait.unwrap_or_else(|| background_wait(None));
        let input = Arc::new(Input::new(agent.writer().clone(), Host::get()?, wait));
        let observer = Some(Arc::clone(&input) as Arc<dyn Observer>);
        let dialect = Box::new(Control);
        let handshake = self.handshake.or(self.settings.deadline);
        let base = Base::start(agent, dialect, observer, self.handlers, self.settings)?;
        let interrupt = base.core().reserve();
        // The CLI would begin a turn for the prompts that are queued, though none of them is wanted. One
        // that does not know the key passes it over.
        let request = control_request(interrupt, "interrupt", br#"{"cancel_queued":true}"#);
        input.bind((interrupt, request), base.core().another_alarm());
        let reply = Arc::new(OnceLock::new());
        Ok(Session { base, input, initialize, handshake, reply, needs_input, probe: None })
    }

    fn add_callbacks(&mut self) {
        if !self.hooks.is_empty() {
            let hooks = Arc::new(std::mem::take(&mut self.hooks));
            self.handlers.insert("hook_callback", move |request| Arc::clone(&hooks).call(request));
        }
        if !self.servers.is_empty() {
            let servers = Arc::new(std::mem::take(&mut self.servers));
            self.handlers.insert("mcp_message", move |request| Arc::clone(&servers).call(request));
        }
    }
}
