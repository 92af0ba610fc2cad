//! What options mean together: the values of the flags that follow from several options, and the
//! environment of the CLI. The options themselves stay as they are.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::time::Duration;

use serde::Serialize;
use serde_json::{Map, Value};

use crate::command::AgentCommand;
use crate::error::Result;
use crate::record::Record;

use super::{HostNeeds, Options, OrderedObject, Skills, is_own_server, refused};

/// Options whose consequences for each other are worked out.
#[derive(Debug)]
pub(super) struct EffectiveOptions<'a> {
    pub(super) options: &'a Options,
    pub(super) allowed_tools: Vec<String>,
    pub(super) setting_sources: Option<Vec<String>>,
    pub(super) prompt_tool: &'a str,
    pub(super) settings: Cow<'a, str>,
    pub(super) mcp_config: Cow<'a, OsStr>,
}

impl<'a> EffectiveOptions<'a> {
    pub(super) fn of(options: &'a Options, needs: HostNeeds<'_>) -> Result<Self> {
        if let Some((option, why)) = &options.invalid {
            return Err(refused(option, why));
        }
        if let Some(budget) = options.max_budget_usd
            && (!budget.is_finite() || budget < 0.0)
        {
            return Err(refused("max_budget_usd", format!("{budget} is not an amount of money")));
        }
        let mut allowed_tools = options.allowed_tools.clone();
        let mut setting_sources = options.setting_sources.clone();
        if let Some(skills) = &options.skills {
            check_skills(skills)?;
            for rule in skill_rules(skills) {
                if !allowed_tools.contains(&rule) {
                    allowed_tools.push(rule);
                }
            }
            // The CLI finds skills through these sources. Without one, the names would be unknown.
            setting_sources.get_or_insert_with(|| vec!["user".into(), "project".into()]);
        }
        Ok(Self {
            options,
            allowed_tools,
            setting_sources,
            prompt_tool: prompt_tool(options, needs)?,
            settings: settings(options)?,
            mcp_config: mcp_config(options, needs.servers)?,
        })
    }
}

/// Returns the rules that allow the skills as tools.
fn skill_rules(skills: &Skills) -> Vec<String> {
    match skills {
        Skills::All => vec!["Skill".into()],
        Skills::Named(names) => names.iter().map(|name| format!("Skill({name})")).collect(),
    }
}

/// Checks the names of skills. A name stands inside of `Skill(...)` in a comma-separated list. It must
/// not end the rule, begin another, or match more than itself.
fn check_skills(skills: &Skills) -> Result<()> {
    let Skills::Named(names) = skills else { return Ok(()) };
    for name in names {
        if let Some(what) = defect_of(name) {
            let what = format!("the name `{}` {what}", name.escape_debug());
            return Err(refused("skills", what)
                .remedy("name skills as they are listed; all_skills() is for all of them"));
        }
    }
    Ok(())
}

fn defect_of(name: &str) -> Option<&'static str> {
    const BOM: char = '\u{feff}';
    if name.trim().is_empty() {
        return Some("is blank");
    }
    if name.trim() != name {
        return Some("has white space around it");
    }
    if name.starts_with('/') {
        return Some("begins with a slash, as a command does");
    }
    name.chars().find_map(|char| match char {
        '(' | ')' | ',' => Some("holds `(`, `)` or `,`, which delimit rules"),
        '*' => Some("holds `*`, which is a wildcard in rules"),
        '\\' => Some("holds a backslash, which escapes in rules"),
        BOM => Some("holds a byte order mark"),
        _ if char.is_control() => Some("holds a control character"),
        _ => None,
    })
}

/// Returns the value of `--permission-prompt-tool`. The CLI asks a handler of this
/// process over stdio, which excludes a tool.
fn prompt_tool<'a>(options: &'a Options, needs: HostNeeds<'_>) -> Result<&'a str> {
    match (needs.permission, options.prompt_tool.as_str()) {
        (false, tool) => Ok(tool),
        (true, "") => Ok("stdio"),
        (true, tool) => Err(refused(
            "permission_prompt_tool",
            format!("`{}` and a can_use_tool handler exclude each other", tool.escape_debug()),
        )
        .remedy("leave one of them out; the handler needs no prompt tool")),
    }
}

/// Returns the value of `--settings`, with the sandbox merged into it. Empty without settings.
fn settings(options: &Options) -> Result<Cow<'_, str>> {
    let Some(sandbox) = &options.sandbox else {
        return Ok(Cow::Borrowed(&options.settings));
    };
    let text = options.settings.trim();
    let mut settings: Map<String, Value> = if text.is_empty() {
        Map::new()
    } else if text.starts_with('{') {
        parse_settings(text, "is not a JSON object")?
    } else {
        let path = &options.settings;
        let what = format!("the file `{}` has to get the sandbox", path.escape_debug());
        let text = fs::read_to_string(path).map_err(|error| {
            refused("settings", format!("{what} and cannot be read")).cause(error)
        })?;
        parse_settings(&text, &format!("{what} and is not a JSON object"))?
    };
    let sandbox: Value = sandbox.json()?;
    if !sandbox.is_object() {
        return Err(refused("sandbox", "is not a JSON object"));
    }
    settings.insert("sandbox".into(), sandbox);
    Ok(Cow::Owned(Value::Object(settings).to_string()))
}

fn parse_settings(text: &str, what: &str) -> Result<Map<String, Value>> {
    serde_json::from_str(text).map_err(|error| refused("settings", format!("{what}: {error}")))
}

/// Returns the value of `--mcp-config`: the configured servers, and `own`, those of this process.
/// Empty without any server.
fn mcp_config<'a>(options: &'a Options, own: &[&str]) -> Result<Cow<'a, OsStr>> {
    #[derive(Serialize)]
    struct McpConfig<'a> {
        #[serde(rename = "mcpServers")]
        servers: OrderedObject<'a>,
    }
    #[derive(Serialize)]
    struct OwnServer<'a> {
        #[serde(rename = "type")]
        kind: &'static str,
        name: &'a str,
    }
    if !options.mcp_config.is_empty() {
        if !options.mcp_servers.is_empty() || !own.is_empty() {
            let what = "excludes mcp_server and the MCP servers of this process";
            return Err(refused("mcp_config", what).remedy("set each server with mcp_server"));
        }
        return Ok(Cow::Borrowed(&options.mcp_config));
    }
    let mut servers = Vec::new();
    for (name, config) in &options.mcp_servers {
        let is_sdk = is_own_server(config);
        if own.contains(&name.as_str()) && !is_sdk {
            let what = format!("`{}` is the name of a server of this process", name.escape_debug());
            return Err(refused("mcp_server", what).remedy("give one of them another name"));
        }
        if options.mcp_in_initialize && !is_sdk {
            continue;
        }
        let config = if is_sdk { without_instance(config)? } else { config.clone() };
        servers.push((name.clone(), config));
    }
    let named: BTreeSet<String> = servers.iter().map(|(name, _)| name.clone()).collect();
    for name in own.iter().filter(|name| !named.contains(**name)) {
        let config = Record::from_json(&OwnServer { kind: "sdk", name })?;
        servers.push(((*name).to_owned(), config));
    }
    if servers.is_empty() {
        return Ok(Cow::Borrowed(OsStr::new("")));
    }
    let all = Record::from_json(&McpConfig { servers: OrderedObject(&servers) })?;
    Ok(Cow::Owned(all.as_str()?.into()))
}

/// Removes the key that is of use in this process only.
fn without_instance(config: &Record) -> Result<Record> {
    let mut config: Map<String, Value> = config.json()?;
    config.remove("instance");
    Record::from_json(&config)
}

// The environment of the CLI tells it which program started it. The CLI knows hosts by
// CLAUDE_CODE_ENTRYPOINT: `sdk-cli` is its name for a program that uses none of its SDKs. That program
// names itself in CLAUDE_AGENT_SDK_CLIENT_APP. CLAUDE_AGENT_SDK_VERSION is the version of the vendor's
// SDK, which is not in use, so the variable is removed.

const ENTRYPOINT: (&str, &str) = ("CLAUDE_CODE_ENTRYPOINT", "sdk-cli");
const CLIENT_APP: (&str, &str) =
    ("CLAUDE_AGENT_SDK_CLIENT_APP", concat!("agentpipe/", env!("CARGO_PKG_VERSION")));
const VERSION: (&str, &str) = ("AGENTPIPE_VERSION", env!("CARGO_PKG_VERSION"));
/// Set by a CLI for the programs that it runs. A CLI that such a program starts is not part of it.
const NESTED: &str = "CLAUDECODE";
const SDK_VERSION: &str = "CLAUDE_AGENT_SDK_VERSION";
const QUESTION_PREVIEW: &str = "CLAUDE_CODE_QUESTION_PREVIEW_FORMAT";
const CHECKPOINTING: &str = "CLAUDE_CODE_ENABLE_SDK_FILE_CHECKPOINTING";
/// Asks the CLI to report its state: when it is at work, and when it owes no turn.
const READS_STATE: &str = "CLAUDE_CODE_SDK_READS_SESSION_STATE";
/// How long the CLI waits for background work once its input has ended, in milliseconds.
const BACKGROUND_WAIT: &str = "CLAUDE_CODE_PRINT_BG_WAIT_CEILING_MS";
/// The wait of the CLI if the variable is not set.
const BACKGROUND_WAIT_DEFAULT: Duration = Duration::from_secs(600);

/// Returns the command that runs the CLI, with its whole environment and without options.
pub(super) fn launcher(options: &Options) -> AgentCommand {
    let mut command = options.process.0.clone();
    let has_client_app = inherited(&command, CLIENT_APP.0).is_some();
    let mut env = vec![unset(NESTED), set(ENTRYPOINT)];
    if !options.client_app.is_empty() {
        env.push(set((CLIENT_APP.0, &options.client_app)));
    } else if !has_client_app {
        // A host that has named itself keeps its name.
        env.push(set(CLIENT_APP));
    }
    if !options.question_preview.is_empty() {
        env.push(set((QUESTION_PREVIEW, &options.question_preview)));
    }
    env.append(&mut command.env);
    env.extend([unset(SDK_VERSION), set(VERSION)]);
    if options.file_checkpointing {
        env.push(set((CHECKPOINTING, "true")));
    }
    command.env = env;
    command
}

/// Lets the CLI of a session report its state, whatever its command is. A value that is set stays.
pub(in super::super) fn reads_state(mut command: AgentCommand) -> AgentCommand {
    let chosen = command.env.iter().any(|(key, _)| key == READS_STATE);
    if !chosen && inherited(&command, READS_STATE).is_none() {
        command.env.push(set((READS_STATE, "1")));
    }
    command
}

/// Returns how long the CLI of a command waits for background work. `None` is no limit.
pub(in super::super) fn background_wait(command: Option<&AgentCommand>) -> Option<Duration> {
    let value_in = |command: &AgentCommand| {
        let last = command.env.iter().rev().find(|(key, _)| key == BACKGROUND_WAIT);
        last.map_or_else(|| inherited(command, BACKGROUND_WAIT), |(_, value)| value.clone())
    };
    let value = command.map_or_else(|| std::env::var_os(BACKGROUND_WAIT), value_in);
    let millis = value.as_deref().and_then(OsStr::to_str).and_then(|text| text.trim().parse().ok());
    let wait = millis.map_or(BACKGROUND_WAIT_DEFAULT, Duration::from_millis);
    (!wait.is_zero()).then_some(wait)
}

fn inherited(command: &AgentCommand, key: &str) -> Option<OsString> {
    if command.env_clear { None } else { std::env::var_os(key) }
}

fn set((key, value): (&str, &str)) -> (OsString, Option<OsString>) {
    (key.into(), Some(value.into()))
}

fn unset(key: &str) -> (OsString, Option<OsString>) {
    (key.into(), None)
}
