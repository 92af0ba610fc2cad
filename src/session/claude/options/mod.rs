//! The options of the CLI: one value, from which its arguments, its environment and `initialize` are
//! made.
//!
//! `setters` and `handshake` have the setters, `effective` works out what options mean together, and `table` says as
//! data which option is which flag.

mod effective;
mod handshake;
mod setters;
mod table;
#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

use serde::Serialize;

use crate::command::AgentCommand;
use crate::error::{Error, ErrorKind, Result};
use crate::record::Record;

pub(super) use effective::{background_wait, reads_state};

use effective::{EffectiveOptions, launcher};

/// The operation of every error of this module. Nothing is spawned yet.
const OPERATION: &str = "options";

/// The options of Claude Code. [`AgentCommand::claude`] creates them.
///
/// [`Builder::start`](super::Builder::start) makes the arguments of the CLI, its environment and its
/// `initialize` (agents, skills) from one value. [`command`](Self::command) returns the command
/// alone.
///
/// A setter neither looks at the machine nor fails. An invalid option, or two options that exclude each
/// other, are an error before anything is spawned. The CLI is searched when it is spawned.
///
/// Each text is one argument, whatever its characters: a value that begins with `-` is never taken for
/// a flag. An empty text is not sent, unless its setter says otherwise.
#[derive(Clone, Default, PartialEq)]
pub struct Options {
    process: CliProcess,
    prompt: SystemPrompt,
    tools: Option<Vec<String>>,
    allowed_tools: Vec<String>,
    disallowed_tools: Vec<String>,
    skills: Option<Skills>,
    max_turns: u32,
    max_budget_usd: Option<f64>,
    task_budget: Option<u64>,
    model: String,
    fallback_model: String,
    betas: Vec<String>,
    prompt_tool: String,
    permission_mode: String,
    continue_conversation: bool,
    resume: String,
    session_id: String,
    settings: String,
    sandbox: Option<Record>,
    add_dirs: Vec<PathBuf>,
    mcp_config: OsString,
    mcp_servers: Vec<(String, Record)>,
    partial_messages: bool,
    hook_events: bool,
    strict_mcp: bool,
    fork_session: bool,
    resume_at: String,
    resume_drops_turn: Option<String>,
    session_mirror: bool,
    setting_sources: Option<Vec<String>>,
    plugin_dirs: Vec<PathBuf>,
    extra_args: Vec<(String, Option<OsString>)>,
    thinking: Option<Thinking>,
    thinking_display: String,
    max_thinking_tokens: Option<u64>,
    effort: String,
    json_schema: Option<Record>,
    permission_prompts: String,
    skip_permissions: bool,
    managed_settings: Option<Record>,
    project_config_root: PathBuf,
    no_persistence: bool,
    debug: bool,
    debug_file: PathBuf,
    // Sent in `initialize`.
    agents: Vec<(String, Record)>,
    keys: Vec<(&'static str, Record)>,
    mcp_in_initialize: bool,
    plugins_in_initialize: bool,
    // Sent in the environment, or with each message.
    client_app: String,
    question_preview: String,
    file_checkpointing: bool,
    pub(super) verbatim_prompts: bool,
    /// An option without JSON, and why it has none.
    invalid: Option<(&'static str, String)>,
}

/// The program, the arguments before the options, the environment, the limits.
#[derive(Clone, Debug, PartialEq)]
struct CliProcess(AgentCommand);

impl Default for CliProcess {
    fn default() -> Self {
        let home = std::env::var_os("HOME").map(PathBuf::from).filter(|home| home.is_absolute());
        let mut places: Vec<PathBuf> =
            home.iter().flat_map(|home| AT_HOME.map(|place| home.join(place))).collect();
        places.insert(places.len().min(1), ELSEWHERE.into());
        Self(AgentCommand::new("claude").search_also(places))
    }
}

/// How the model thinks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Thinking {
    /// As much as the model finds necessary.
    Adaptive,
    /// Up to a number of tokens.
    Enabled {
        /// The number of tokens.
        budget_tokens: u64,
    },
    /// Not at all.
    Disabled,
}

#[derive(Clone, Debug, PartialEq)]
enum SystemPrompt {
    Text(String),
    File(PathBuf),
    /// Sent in `initialize`, in parts.
    Parts(Vec<String>),
    /// The prompt of Claude Code, and a text that is appended to it.
    Preset(String),
}

impl Default for SystemPrompt {
    fn default() -> Self {
        Self::Text(String::new())
    }
}

/// The skills of the main agent.
#[derive(Clone, Debug, PartialEq)]
enum Skills {
    All,
    Named(Vec<String>),
}

/// Folders of installations that may not be on `PATH`: in the home directory, and elsewhere.
const AT_HOME: [&str; 5] =
    [".npm-global/bin", ".local/bin", "node_modules/.bin", ".yarn/bin", ".claude/local"];
const ELSEWHERE: &str = "/usr/local/bin";

impl AgentCommand {
    /// Returns default options of Claude Code.
    ///
    /// The program is `claude`. It is searched when it is spawned: on the `PATH` of the agent, then in
    /// `~/.npm-global/bin`, `/usr/local/bin`, `~/.local/bin`, `~/node_modules/.bin`, `~/.yarn/bin` and
    /// `~/.claude/local`, with the `HOME` of this process.
    /// [`Options::cli_path`](crate::session::claude::Options::cli_path) sets another program.
    ///
    /// ```no_run
    /// # async fn run(engine: &agentpipe::Engine) -> Result<(), agentpipe::Error> {
    /// use agentpipe::{AgentCommand, session::claude::Session};
    ///
    /// let claude = AgentCommand::claude().model("opus").allowed_tools(["Read", "Glob"]).max_turns(3);
    /// let session = Session::builder().start(engine, claude).await?;
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn claude() -> Options {
        Options::default()
    }
}

/// The parts of a session that the CLI has to know from its arguments.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct HostNeeds<'a> {
    /// There is a handler of `can_use_tool`.
    pub(super) permission: bool,
    /// The MCP servers of this process.
    pub(super) servers: &'a [&'a str],
}

impl Options {
    /// Returns the command alone: the program, the arguments, the environment. For an agent without a
    /// [`Session`](super::Session), or a session on [`Builder::attach`](super::Builder::attach). The
    /// caller then sends `initialize`.
    ///
    /// If there is a [`sandbox`](Self::sandbox), it reads the file of [`settings`](Self::settings),
    /// and no other file.
    ///
    /// # Errors
    /// [`InvalidCommand`](ErrorKind::InvalidCommand), which names the option: a value has no JSON or
    /// is out of its range, two options exclude each other, or an argument is longer than the 128 KiB
    /// that the kernel accepts.
    pub fn command(&self) -> Result<AgentCommand> {
        self.command_for(HostNeeds::default())
    }

    pub(super) fn command_for(&self, needs: HostNeeds<'_>) -> Result<AgentCommand> {
        let args = table::argv(&EffectiveOptions::of(self, needs)?)?;
        Ok(launcher(self).args(args))
    }

    /// Serializes the value of an option. An error is kept for [`command`](Self::command).
    fn json(&mut self, option: &'static str, value: &impl Serialize) -> Option<Record> {
        match Record::from_json(value) {
            Ok(record) => Some(record),
            Err(error) => {
                self.invalid = Some((option, error.to_string()));
                None
            }
        }
    }
}

/// Returns whether the configuration of an MCP server stands for one of this process.
fn is_own_server(config: &Record) -> bool {
    config.envelope().is_ok_and(|found| found.kind.as_deref() == Some("sdk"))
}

/// A JSON object that keeps the order of its entries.
struct OrderedObject<'a>(&'a [(String, Record)]);

impl Serialize for OrderedObject<'_> {
    fn serialize<S: serde::Serializer>(&self, to: S) -> std::result::Result<S::Ok, S::Error> {
        to.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}

fn refused(option: &str, what: impl fmt::Display) -> Error {
    Error::new(ErrorKind::InvalidCommand, OPERATION, format!("{option}: {what}"))
}

fn strings<I, S>(items: I) -> Vec<String>
where
    I: IntoIterator<Item = S>,
    S: Into<String>,
{
    items.into_iter().map(Into::into).collect()
}

/// Shows the process and no option, because an option may hold a secret.
impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options").field("process", &self.process.0).finish_non_exhaustive()
    }
}
