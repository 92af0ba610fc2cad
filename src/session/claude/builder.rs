//! The settings, handlers and options of a session with Claude Code, and its start.

use std::future::Future;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use serde::Serialize;

use crate::agent::Agent;
use crate::command::AgentCommand;
use crate::engine::Engine;
use crate::error::{Error, ErrorKind, Result};
use crate::record::Record;
use crate::session::SessionSetup;
use crate::session::config::Settings;
use crate::session::deadlines::deadline_waker;
use crate::session::executor::{Executor, SessionAlarm};
use crate::session::handlers::{AgentRequest, handler};
use crate::session::protocol::{Observer, RpcError};

use super::dialog::{
    DIALOG_KINDS, DialogAnswer, Elicitation, ElicitationAnswer, USER_DIALOG, UserDialog,
};
use super::hooks::{HookMatcher, HookRequest, Hooks};
use super::initialize::{InitializeKeys, NeededAnswers};
use super::input::SessionInput;
use super::mcp::{McpRequest, McpServers};
use super::options::{HostNeeds, Options, background_wait, reads_state};
use super::permission::{Permission, PermissionRequest};
use super::protocol::{ControlProtocol, control_request};
use super::session::Session;
use super::version::{CliVersion, VersionNeed};

/// The agent that [`Builder::start`] spawns.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Cli {
    /// The CLI with these options, and with what the session needs: the permission prompt over stdio
    /// if there is a handler, and the MCP servers of this process.
    Options(Box<Options>),
    /// A complete command. Nothing is added to its arguments.
    Command(Box<AgentCommand>),
}

impl From<Options> for Cli {
    fn from(options: Options) -> Self {
        Self::Options(Box::new(options))
    }
}

impl From<AgentCommand> for Cli {
    fn from(command: AgentCommand) -> Self {
        Self::Command(Box::new(command))
    }
}

impl Session {
    /// Returns a builder without handlers and with default settings.
    #[must_use]
    pub fn builder() -> Builder {
        Builder::default()
    }
}

/// The settings, handlers and options of a session with Claude Code.
///
/// Each handler runs as a task. The task is dropped, without a response, when the agent cancels the
/// request or the session ends. Handlers have no timeout: one that never ends keeps its place among
/// [`Settings::concurrency`]. One that blocks its thread holds up the handlers of all sessions for a
/// second, after which a warning names it and another thread takes over; see [`Settings::executor`].
///
/// The agent gets an [`RpcError`] as an error, and so it does a panic. A request without a handler is
/// answered with an error that names its subtype.
#[derive(Clone, Debug, Default)]
pub struct Builder {
    setup: SessionSetup,
    hooks: Hooks,
    servers: McpServers,
    /// The keys of `initialize` beside the hooks.
    options: InitializeKeys,
    /// The kinds of dialogs that the handler shows.
    dialog_kinds: Option<Vec<String>>,
    needed_answers: NeededAnswers,
    version_needs: Vec<VersionNeed>,
    verbatim_prompts: bool,
    initialize_timeout: Option<Duration>,
    /// The outer `None` is the wait of the CLI itself; the inner one is no limit.
    background_wait: Option<Option<Duration>>,
    /// Why an option has no JSON.
    invalid_option: Option<Error>,
}

impl Builder {
    /// Sets the limits of the session, the timeout of its requests, and the executor of its tasks.
    /// Default [`Settings::new`].
    #[must_use]
    pub fn settings(mut self, settings: Settings) -> Self {
        self.setup.settings = settings;
        self
    }

    /// Sets the handler of `can_use_tool`, the agent's question whether it may use a tool.
    ///
    /// The agent asks only if it was started with `--permission-prompt-tool stdio`, which
    /// [`Options`] add if there is a handler.
    #[must_use]
    pub fn can_use_tool<F, R>(mut self, decide: F) -> Self
    where
        F: Fn(PermissionRequest) -> R + Send + Sync + 'static,
        R: Future<Output = std::result::Result<Permission, RpcError>> + Send + 'static,
    {
        let decide = Arc::new(decide);
        let handle = handler(move |request: AgentRequest| {
            let decide = Arc::clone(&decide);
            async move {
                let request = PermissionRequest::new(&request)?;
                let permission = (*decide)(request.clone()).await?;
                Ok(permission.to_json(&request)?)
            }
        });
        self.setup.handlers.insert("can_use_tool", handle);
        self
    }

    /// Adds a hook. `on` is a [`HookKind`](super::HookKind) or its name, or a [`HookMatcher`] that selects
    /// calls, limits their time, or blocks if the hook fails.
    ///
    /// The hook returns a [`HookOutput`](super::HookOutput), or any type that serializes to the keys
    /// of one.
    #[must_use]
    pub fn hook<F, R, T>(mut self, on: impl Into<HookMatcher>, hook: F) -> Self
    where
        F: Fn(HookRequest) -> R + Send + Sync + 'static,
        R: Future<Output = std::result::Result<T, RpcError>> + Send + 'static,
        T: Serialize,
    {
        self.hooks.add(on.into(), handler(hook));
        self
    }

    /// Sets the handler of `elicitation`: an MCP server asks the user. Without one, the CLI gets an error
    /// and the server no answer of the user.
    #[must_use]
    pub fn elicitation<F, R>(mut self, answer: F) -> Self
    where
        F: Fn(Elicitation) -> R + Send + Sync + 'static,
        R: Future<Output = std::result::Result<ElicitationAnswer, RpcError>> + Send + 'static,
    {
        let handle =
            handler(move |request: AgentRequest| answer(Elicitation::from(request.body().clone())));
        self.setup.handlers.insert("elicitation", handle);
        self
    }

    /// Sets the handler of `request_user_dialog`: a tool asks for a dialog of one of these kinds. The CLI
    /// asks for no other kind, and one that it asks for all the same stays without a response: another
    /// client of the session may show it. (`initialize`: `supportedDialogKinds`)
    #[must_use]
    pub fn user_dialog<F, R>(
        mut self,
        kinds: impl IntoIterator<Item = impl Into<String>>,
        show: F,
    ) -> Self
    where
        F: Fn(UserDialog) -> R + Send + Sync + 'static,
        R: Future<Output = std::result::Result<DialogAnswer, RpcError>> + Send + 'static,
    {
        self.dialog_kinds = Some(kinds.into_iter().map(Into::into).collect());
        let handle =
            handler(move |request: AgentRequest| show(UserDialog::from(request.body().clone())));
        self.setup.handlers.insert(USER_DIALOG, handle);
        self
    }

    /// Adds an MCP server of this process, in place of an earlier one with the same name.
    ///
    /// `server` gets each message for that name and returns its result. An [`RpcError`] becomes an
    /// error of JSON-RPC, with the code -32603 if it has none.
    #[must_use]
    pub fn mcp_server<F, R, T>(mut self, name: &str, server: F) -> Self
    where
        F: Fn(McpRequest) -> R + Send + Sync + 'static,
        R: Future<Output = std::result::Result<T, RpcError>> + Send + 'static,
        T: Serialize,
    {
        self.servers.add(name, handler(server));
        self
    }

    /// Sets the handler of another subtype of control request, for example a future one. The last
    /// handler of a subtype counts. Hooks and MCP servers keep their subtypes.
    #[must_use]
    pub fn handle<F, R, T>(mut self, subtype: &str, handle: F) -> Self
    where
        F: Fn(AgentRequest) -> R + Send + Sync + 'static,
        R: Future<Output = std::result::Result<T, RpcError>> + Send + 'static,
        T: Serialize,
    {
        self.setup.handlers.insert(subtype, handler(handle));
        self
    }

    /// Sets a key of the `initialize` request, for example a future one. It wins over the same key of
    /// [`Options`] (`agents`, `skills`, `title`, ...). A key that the session has to write itself (`hooks`
    /// beside [`hook`](Self::hook), `supportedDialogKinds` beside [`user_dialog`](Self::user_dialog)) is
    /// an error of the start.
    #[must_use]
    pub fn option(mut self, key: &str, value: impl Serialize) -> Self {
        match Record::from_json(&value) {
            Ok(value) => self.options.set(key, value),
            Err(error) => self.invalid_option = Some(error),
        }
        self
    }

    /// Sets how long `initialize` may take. Default [`Settings::request_timeout`]. A CLI that first
    /// connects to its MCP servers may need longer than for other requests.
    #[must_use]
    pub fn initialize_timeout(mut self, timeout: Duration) -> Self {
        self.initialize_timeout = Some(timeout);
        self
    }

    /// Sets how long the end of the input waits, between turns, for a CLI that reports that it still
    /// runs, for example because of a background agent that it does not name. Zero and `None` are no
    /// limit. See [`Session::end_input_when_done`].
    ///
    /// The default is the wait of the CLI itself for background work:
    /// `CLAUDE_CODE_PRINT_BG_WAIT_CEILING_MS` of its environment, or else 10 min.
    #[must_use]
    pub fn background_wait(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.background_wait = Some(limit.into().filter(|limit| !limit.is_zero()));
        self
    }

    /// Spawns the agent and initializes it, within
    /// [`initialize_timeout`](Self::initialize_timeout). The agent is the CLI with [`Options`]
    /// ([`AgentCommand::claude`]), or any command.
    ///
    /// An agent that ends before its response fails the start at once, with its exit status and the
    /// end of its stderr. Invalid options are found before anything is spawned. Cancel-safe: on an
    /// error, and if the future is dropped, the agent is aborted.
    ///
    /// # Errors
    /// See [`Options::command`], [`Engine::spawn`], [`attach`](Self::attach) and
    /// [`Session::initialize`].
    pub async fn start(mut self, engine: &Engine, cli: impl Into<Cli>) -> Result<Session> {
        let (command, from_options) = match cli.into() {
            Cli::Command(command) => (*command, false),
            Cli::Options(options) => (self.take_options(&options)?, true),
        };
        // Looked at before the spawn, so a mistake in an option leaves no agent to be ended.
        if let Some(error) = self.invalid_option.take() {
            return Err(error);
        }
        let command = reads_state(command);
        // Read from the environment of the command, as the CLI will find it: a shorter wait than
        // that of the CLI would end its input too early.
        self.background_wait.get_or_insert_with(|| background_wait(Some(&command)));
        let spawned = engine.spawn(command).await;
        let session =
            self.attach(if from_options { spawned.map_err(cli_not_found) } else { spawned }?)?;
        session.initialize().await?;
        Ok(session)
    }

    /// Takes over the part of the options that goes into `initialize`, and returns the command.
    fn take_options(&mut self, options: &Options) -> Result<AgentCommand> {
        let permission = self.setup.handlers.has("can_use_tool");
        let needs = HostNeeds { permission, servers: &self.servers.names() };
        let command = options.command_for(needs)?;
        for (key, value) in options.initialize(&self.servers.names())? {
            self.options.set_default(key, value);
        }
        self.needed_answers = options.needed_answers();
        self.version_needs.extend(options.version_needs());
        self.verbatim_prompts = options.verbatim_prompts;
        Ok(command)
    }

    /// Begins the session on an agent that runs. Sends nothing and does not wait:
    /// [`Session::initialize`] is the next step. If the agent is gone, the first request fails with
    /// that.
    ///
    /// # Errors
    /// [`InvalidRecord`](ErrorKind::InvalidRecord) if an option has no JSON,
    /// [`InvalidCommand`](ErrorKind::InvalidCommand) if it is a key that the session writes itself,
    /// [`InvalidSettings`](ErrorKind::InvalidSettings) if a setting is out of its range,
    /// [`ResourceLimit`](ErrorKind::ResourceLimit) if the session thread cannot be started. The agent
    /// is then aborted.
    pub fn attach(mut self, agent: Agent) -> Result<Session> {
        if let Some(error) = self.invalid_option {
            return Err(error);
        }
        let mut keys = std::mem::take(&mut self.options);
        if !self.hooks.is_empty() {
            self.needed_answers.blocking_hooks = self.hooks.must_block();
            keys.set_own("hooks", self.hooks.registration()?, "hook")?;
        }
        if let Some(kinds) = &self.dialog_kinds {
            keys.set_own(DIALOG_KINDS, Record::from_json(kinds)?, "user_dialog")?;
        }
        let initialize = keys.body()?;
        self.add_callbacks();
        // Counted with the callbacks of hooks and MCP servers, which need the input as handlers do.
        let has_handlers = !self.setup.handlers.is_empty();
        let wait = self.background_wait.unwrap_or_else(|| background_wait(None));
        // The session needs its observer to begin, and the interrupt needs an id of the session. So
        // the input exists first, and gets the interrupt below.
        let mut needs = std::mem::take(&mut self.version_needs);
        needs.push(VersionNeed { what: "a session", since: CliVersion::OLDEST });
        let input = SessionInput::new(
            agent.writer().clone(),
            Executor::get()?,
            wait,
            needs,
            self.verbatim_prompts,
        );
        let input = Arc::new(input);
        let observer = Some(Arc::clone(&input) as Arc<dyn Observer>);
        let request_timeout = self.setup.settings.get_request_timeout();
        let timeout = self.initialize_timeout.or(request_timeout);
        let dialogs = match (self.dialog_kinds, self.setup.handlers.has(USER_DIALOG)) {
            // The user's own handler decides.
            (None, true) => None,
            (kinds, _) => Some(kinds.unwrap_or_default()),
        };
        let protocol = Box::new(ControlProtocol { dialogs });
        let base = self.setup.attach(agent, protocol, observer)?;

        let state = base.state();
        let id = state.reserve();
        // A CLI with queued prompts would begin a turn for them although the session is closing. A CLI
        // that does not know the key ignores it.
        let interrupt = control_request(id, "interrupt", br#"{"cancel_queued":true}"#);
        let waker = deadline_waker(&Arc::downgrade(state));
        input.bind((id, interrupt), SessionAlarm::new(Arc::clone(&state.executor), waker));
        Ok(Session {
            base,
            input,
            initialize,
            initialize_timeout: timeout,
            server_info: Arc::new(OnceLock::new()),
            needed_answers: self.needed_answers,
            has_handlers,
        })
    }

    /// Adds the handlers through which hooks and MCP servers are called.
    fn add_callbacks(&mut self) {
        // Added after the handlers of the user, so hooks and MCP servers keep their subtypes.
        let handlers = &mut self.setup.handlers;
        if !self.hooks.is_empty() {
            let hooks = Arc::new(std::mem::take(&mut self.hooks));
            let call = handler(move |request| Arc::clone(&hooks).call(request));
            handlers.insert("hook_callback", call);
        }
        if !self.servers.is_empty() {
            let servers = Arc::new(std::mem::take(&mut self.servers));
            let call = handler(move |request| Arc::clone(&servers).call(request));
            handlers.insert("mcp_message", call);
        }
    }
}

/// Adds to an error of the spawn how to install the CLI.
fn cli_not_found(error: Error) -> Error {
    if error.kind() != ErrorKind::ProgramNotFound {
        return error;
    }
    error.remedy(
        "install Claude Code (npm install -g @anthropic-ai/claude-code), or name it with cli_path",
    )
}
