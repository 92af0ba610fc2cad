//! Floor 4. The options of the CLI, from which both its arguments and `initialize` are made.
//!
//! `table` says which option is which flag, as data; `effective` works out what options mean
//! together; `set_*` are the setters.

mod effective;
mod environment;
mod mcp;
mod set_limits;
mod set_process;
mod set_prompt;
mod set_session;
mod set_tools;
mod settings_file;
mod skills;
mod table;
#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::command::AgentCommand;
use crate::error::{Error, ErrorKind, Result};
use crate::record::Record;

pub(super) use environment::{background_wait, reads_state};
pub use set_limits::Thinking;

use effective::Effective;
use skills::Skills;

/// The stage of every error of this folder: nothing was spawned yet.
const STAGE: &str = "options";

/// The options of Claude Code: [`AgentCommand::claude`] begins them.
///
/// Pass them to [`Builder::start`](super::Builder::start): from one value come the arguments of
/// the CLI, its environment, and what of it `initialize` carries (agents, skills). Or take the
/// command alone, with [`command`](Self::command).
///
/// No setter looks at the machine or fails: what is wrong with an option, or with two of them
/// together, is an error before anything is spawned, and the CLI is looked for when it is spawned.
///
/// Each text is one argument, whatever is in it: a value that begins with `-` is never taken for
/// a flag. A text that is empty is as if it was not set, unless its setter says otherwise.
#[derive(Clone, PartialEq)]
pub struct Options {
    /// Program, arguments that come before the options, environment, limits.
    process: AgentCommand,
    prompt: Prompt,
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
    // What goes into `initialize`.
    agents: Vec<(String, Record)>,
    exclude_dynamic_sections: Option<bool>,
    forward_subagent_text: bool,
    // What goes into neither.
    file_checkpointing: bool,
    pub(super) version_check: bool,
    /// An option that has no JSON.
    broken: Option<Broken>,
}

/// The name of the option and why it has no JSON.
#[derive(Clone, Debug, PartialEq)]
struct Broken(&'static str, String);

#[derive(Clone, Debug, PartialEq)]
enum Prompt {
    Text(String),
    File(PathBuf),
    /// That of Claude Code, and what is appended to it.
    Preset(String),
}

/// Where an installation may be that is not on `PATH`: beneath the home directory, and elsewhere.
const AT_HOME: [&str; 5] =
    [".npm-global/bin", ".local/bin", "node_modules/.bin", ".yarn/bin", ".claude/local"];
const ELSEWHERE: &str = "/usr/local/bin";

impl AgentCommand {
    /// Claude Code, to be started with options.
    ///
    /// The program is `claude`: looked for when it is spawned, on the `PATH` that the agent will
    /// have, then in `~/.npm-global/bin`, `/usr/local/bin`, `~/.local/bin`,
    /// `~/node_modules/.bin`, `~/.yarn/bin` and `~/.claude/local` of this process's own `HOME`.
    /// [`Options::cli_path`](crate::session::claude::Options::cli_path) names another.
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
        let home = std::env::var_os("HOME").map(PathBuf::from).filter(|home| home.is_absolute());
        let mut places: Vec<PathBuf> =
            home.iter().flat_map(|home| AT_HOME.map(|place| home.join(place))).collect();
        places.insert(places.len().min(1), ELSEWHERE.into());
        Options::new(Self::new("claude").search_also(places))
    }
}

/// What of a session its CLI has to be told in its arguments.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Needs<'a> {
    /// Somebody answers `can_use_tool`.
    pub(super) permission: bool,
    /// The MCP servers of this process.
    pub(super) servers: &'a [&'a str],
}

impl Options {
    fn new(process: AgentCommand) -> Self {
        Self {
            process,
            prompt: Prompt::Text(String::new()),
            tools: None,
            allowed_tools: Vec::new(),
            disallowed_tools: Vec::new(),
            skills: None,
            max_turns: 0,
            max_budget_usd: None,
            task_budget: None,
            model: String::new(),
            fallback_model: String::new(),
            betas: Vec::new(),
            prompt_tool: String::new(),
            permission_mode: String::new(),
            continue_conversation: false,
            resume: String::new(),
            session_id: String::new(),
            settings: String::new(),
            sandbox: None,
            add_dirs: Vec::new(),
            mcp_config: OsString::new(),
            mcp_servers: Vec::new(),
            partial_messages: false,
            hook_events: false,
            strict_mcp: false,
            fork_session: false,
            resume_at: String::new(),
            resume_drops_turn: None,
            session_mirror: false,
            setting_sources: None,
            plugin_dirs: Vec::new(),
            extra_args: Vec::new(),
            thinking: None,
            thinking_display: String::new(),
            max_thinking_tokens: None,
            effort: String::new(),
            json_schema: None,
            agents: Vec::new(),
            exclude_dynamic_sections: None,
            forward_subagent_text: false,
            file_checkpointing: false,
            version_check: true,
            broken: None,
        }
    }

    /// The command alone: program, arguments, environment. For an agent without a
    /// [`Session`](super::Session), or a session on [`Builder::attach`](super::Builder::attach);
    /// what belongs into `initialize` is then left to the caller.
    ///
    /// Reads a file in one case: that of [`settings`](Self::settings) if there is a
    /// [`sandbox`](Self::sandbox) to be merged into it.
    ///
    /// # Errors
    /// [`InvalidCommand`](ErrorKind::InvalidCommand), naming the option: a value that has no JSON
    /// or is not what it should be, two options that exclude each other, or an argument above
    /// the 128 KiB that the kernel takes.
    pub fn command(&self) -> Result<AgentCommand> {
        self.command_for(Needs::default())
    }

    pub(super) fn command_for(&self, needs: Needs<'_>) -> Result<AgentCommand> {
        let args = table::argv(&Effective::of(self, needs)?)?;
        Ok(self.launcher().args(args))
    }

    /// What is run to ask the CLI for its version: in the same environment, as the same user.
    pub(super) fn version_command(&self) -> AgentCommand {
        self.launcher().arg("-v")
    }

    /// What `initialize` carries: key and value.
    pub(super) fn initialize(&self) -> Result<Vec<(&'static str, Record)>> {
        let mut keys = Vec::new();
        if !self.agents.is_empty() {
            keys.push(("agents", Record::from_json(&Entries(&self.agents))?));
        }
        if let Some(Skills::Named(names)) = &self.skills {
            keys.push(("skills", Record::from_json(names)?));
        }
        if let Some(exclude) = self.exclude_dynamic_sections {
            keys.push(("excludeDynamicSections", Record::from_json(&exclude)?));
        }
        if self.forward_subagent_text {
            keys.push(("forwardSubagentText", Record::from_json(&true)?));
        }
        Ok(keys)
    }

    fn json(&mut self, option: &'static str, value: &impl Serialize) -> Option<Record> {
        match Record::from_json(value) {
            Ok(record) => Some(record),
            Err(error) => {
                self.broken = Some(Broken(option, error.to_string()));
                None
            }
        }
    }
}

/// A JSON object in the order its entries were given.
struct Entries<'a>(&'a [(String, Record)]);

impl Serialize for Entries<'_> {
    fn serialize<S: serde::Serializer>(&self, to: S) -> std::result::Result<S::Ok, S::Error> {
        to.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}

fn refused(option: &str, what: impl fmt::Display) -> Error {
    Error::new(ErrorKind::InvalidCommand, STAGE, format!("{option}: {what}"))
}

fn strings<I, S>(items: I) -> Vec<String>
where
    I: IntoIterator<Item = S>,
    S: Into<String>,
{
    items.into_iter().map(Into::into).collect()
}

fn path_of(path: impl AsRef<Path>) -> PathBuf {
    path.as_ref().to_owned()
}

/// How it is run; the values of options may be secrets.
impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options").field("process", &self.process).finish_non_exhaustive()
    }
}
