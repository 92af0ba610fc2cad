//! The table of flags: one row per flag, in the order of the arguments.

use std::borrow::Cow;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use crate::error::{Error, ErrorKind, Result};
use crate::record::Record;

use super::effective::EffectiveOptions;
use super::{OPERATION, SystemPrompt, Thinking, refused};

/// The form of a flag and its values.
///
/// A value that would be a separate argument and begins with `-` is joined to its flag, so that it is
/// not taken for a flag.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum FlagForm {
    /// `--flag`
    Bare,
    /// `--flag`, `value`
    Two,
    /// `--flag=value`
    One,
    /// `--flag`, `a,b`
    List,
    /// `--flag=a,b`
    OneList,
    /// `--flag`, `a`, `--flag`, `b`
    Repeated,
    /// The flags of `extra_arg`.
    Extra,
}

use FlagForm::{Bare, Extra, List, One, OneList, Repeated, Two};

/// The values of a flag; `None` if the option is not set.
type FlagValues<'a> = Option<Vec<Cow<'a, OsStr>>>;

#[derive(Debug)]
pub(super) struct FlagRow {
    /// The name of the setter, for errors.
    option: &'static str,
    pub(super) flag: &'static str,
    form: FlagForm,
    values: for<'a> fn(&'a EffectiveOptions<'a>) -> FlagValues<'a>,
    /// The remedy for a value that is too long for an argument.
    remedy: &'static str,
}

const fn row(
    option: &'static str,
    flag: &'static str,
    form: FlagForm,
    values: for<'a> fn(&'a EffectiveOptions<'a>) -> FlagValues<'a>,
) -> FlagRow {
    FlagRow {
        option,
        flag,
        form,
        values,
        remedy: "shorten it: the CLI takes it as an argument only",
    }
}

impl FlagRow {
    const fn if_too_long(mut self, remedy: &'static str) -> Self {
        self.remedy = remedy;
        self
    }
}

pub(super) const TABLE: &[FlagRow] = &[
    row("", "--output-format", Two, |_| text("stream-json")),
    row("", "--verbose", Bare, |_| given(true)),
    row("system_prompt", "--system-prompt", Two, |all| match &all.options.prompt {
        SystemPrompt::Text(prompt) => some(prompt),
        _ => None,
    })
    .if_too_long("write it to a file and use system_prompt_file"),
    row("system_prompt_file", "--system-prompt-file", Two, |all| match &all.options.prompt {
        SystemPrompt::File(path) => some(path),
        _ => None,
    }),
    row("append_system_prompt", "--append-system-prompt", Two, |all| match &all.options.prompt {
        SystemPrompt::Preset(more) => text(more),
        _ => None,
    })
    .if_too_long("write it to a file and use extra_arg(\"append-system-prompt-file\", path)"),
    row("tools", "--tools", List, |all| all.options.tools.as_deref().map(texts)),
    row("allowed_tools", "--allowedTools", List, |all| list(&all.allowed_tools)),
    row("max_turns", "--max-turns", Two, |all| {
        Some(all.options.max_turns).filter(|turns| *turns != 0).map(|turns| vec![owned(turns)])
    }),
    row("max_budget_usd", "--max-budget-usd", Two, |all| {
        all.options.max_budget_usd.map(|budget| vec![owned(budget)])
    }),
    row("disallowed_tools", "--disallowedTools", List, |all| list(&all.options.disallowed_tools)),
    row("task_budget", "--task-budget", Two, |all| {
        all.options.task_budget.map(|tokens| vec![owned(tokens)])
    }),
    row("model", "--model", Two, |all| text(&all.options.model)),
    row("fallback_model", "--fallback-model", Two, |all| text(&all.options.fallback_model)),
    row("betas", "--betas", List, |all| list(&all.options.betas)),
    row("permission_prompt_tool", "--permission-prompt-tool", Two, |all| text(all.prompt_tool)),
    row("permission_prompts", "--permission-prompts", One, |all| {
        text(&all.options.permission_prompts)
    }),
    row("permission_mode", "--permission-mode", Two, |all| text(&all.options.permission_mode)),
    row(
        "allow_dangerously_skip_permissions",
        "--allow-dangerously-skip-permissions",
        Bare,
        |all| given(all.options.skip_permissions),
    ),
    row("continue_conversation", "--continue", Bare, |all| {
        given(all.options.continue_conversation)
    }),
    row("resume", "--resume", One, |all| text(&all.options.resume)),
    row("session_id", "--session-id", One, |all| text(&all.options.session_id)),
    row("settings", "--settings", Two, |all| text(&*all.settings))
        .if_too_long("write the settings, the sandbox included, to a file and pass its path"),
    row("managed_settings", "--managed-settings", Two, |all| {
        all.options.managed_settings.as_ref().map(|settings| vec![json(settings)])
    }),
    row("project_config_root", "--project-config-root", One, |all| {
        text(&all.options.project_config_root)
    }),
    row("add_dir", "--add-dir", Repeated, |all| list(&all.options.add_dirs)),
    row("mcp_server", "--mcp-config", Two, |all| text(&*all.mcp_config))
        .if_too_long("write the configuration to a file and pass its path to mcp_config"),
    row("include_partial_messages", "--include-partial-messages", Bare, |all| {
        given(all.options.partial_messages)
    }),
    row("include_hook_events", "--include-hook-events", Bare, |all| given(all.options.hook_events)),
    row("strict_mcp_config", "--strict-mcp-config", Bare, |all| given(all.options.strict_mcp)),
    row("fork_session", "--fork-session", Bare, |all| given(all.options.fork_session)),
    row("resume_session_at", "--resume-session-at", One, |all| text(&all.options.resume_at)),
    row("resume_drops_turn", "--resume-drops-turn", One, |all| {
        all.options.resume_drops_turn.as_ref().and_then(some)
    }),
    row("session_mirror", "--session-mirror", Bare, |all| given(all.options.session_mirror)),
    row("persist_session", "--no-session-persistence", Bare, |all| {
        given(all.options.no_persistence)
    }),
    row("setting_sources", "--setting-sources", OneList, |all| {
        all.setting_sources.as_deref().map(texts)
    }),
    row("plugin_dir", "--plugin-dir", Repeated, |all| {
        if all.options.plugins_in_initialize { None } else { list(&all.options.plugin_dirs) }
    }),
    row("mcp_servers_in_initialize", "--await-initialize", Bare, |all| {
        given(all.options.awaits_initialize())
    }),
    row("debug", "--debug", Bare, |all| given(all.options.debug)),
    row("debug_file", "--debug-file", One, |all| text(&all.options.debug_file)),
    row("extra_arg", "", Extra, |_| None),
    row("thinking", "--thinking", Two, |all| match all.options.thinking {
        Some(Thinking::Adaptive) => text("adaptive"),
        Some(Thinking::Disabled) => text("disabled"),
        _ => None,
    }),
    row("max_thinking_tokens", "--max-thinking-tokens", Two, |all| match all.options.thinking {
        Some(Thinking::Enabled { budget_tokens }) => Some(vec![owned(budget_tokens)]),
        Some(_) => None,
        None => all.options.max_thinking_tokens.map(|tokens| vec![owned(tokens)]),
    }),
    row("thinking_display", "--thinking-display", Two, |all| match all.options.thinking {
        Some(Thinking::Adaptive | Thinking::Enabled { .. }) => text(&all.options.thinking_display),
        _ => None,
    }),
    row("effort", "--effort", Two, |all| text(&all.options.effort)),
    row("json_schema", "--json-schema", Two, |all| {
        all.options.json_schema.as_ref().map(|schema| vec![json(schema)])
    }),
    row("", "--input-format", Two, |_| text("stream-json")),
];

/// Returns the arguments, without the program.
pub(super) fn argv(all: &EffectiveOptions<'_>) -> Result<Vec<OsString>> {
    let mut args = Vec::new();
    for row in TABLE {
        let begin = args.len();
        if row.form == Extra {
            extra(all, &mut args)?;
        } else if let Some(values) = (row.values)(all) {
            put(row, &values, &mut args);
        }
        for arg in &args[begin..] {
            check_length(row, arg)?;
        }
    }
    Ok(args)
}

fn put(row: &FlagRow, values: &[Cow<'_, OsStr>], args: &mut Vec<OsString>) {
    match row.form {
        Bare | Extra => args.push(row.flag.into()),
        Two => values.iter().take(1).for_each(|value| pair(row.flag, value, args)),
        One => values.iter().take(1).for_each(|value| args.push(joined(row.flag, value))),
        List => pair(row.flag, &commas(values), args),
        OneList => args.push(joined(row.flag, &commas(values))),
        Repeated => values.iter().for_each(|value| pair(row.flag, value, args)),
    }
}

/// Adds two arguments, or one if the second would look like a flag.
fn pair(flag: &str, value: &OsStr, args: &mut Vec<OsString>) {
    if value.as_bytes().starts_with(b"-") {
        args.push(joined(flag, value));
    } else {
        args.extend([flag.into(), value.to_owned()]);
    }
}

fn joined(flag: &str, value: &OsStr) -> OsString {
    let mut arg = OsString::from(flag);
    arg.push("=");
    arg.push(value);
    arg
}

fn commas(values: &[Cow<'_, OsStr>]) -> OsString {
    values.join(OsStr::new(","))
}

fn extra(all: &EffectiveOptions<'_>, args: &mut Vec<OsString>) -> Result<()> {
    for (name, value) in &all.options.extra_args {
        let fits = |char: char| char.is_ascii_alphanumeric() || matches!(char, '-' | '_' | '.');
        if name.is_empty() || name.starts_with('-') || !name.chars().all(fits) {
            let what = format!("`{}` is not the name of a flag", name.escape_debug());
            return Err(refused("extra_arg", what).remedy("give it without dashes and `=`"));
        }
        let flag = format!("--{name}");
        match value {
            None => args.push(flag.into()),
            Some(value) => pair(&flag, value, args),
        }
    }
    Ok(())
}

/// Returns the longest argument that the kernel accepts, including its terminating zero: 32 pages
/// (`MAX_ARG_STRLEN`).
pub(super) fn argument_max() -> usize {
    32 * rustix::param::page_size()
}

fn check_length(row: &FlagRow, arg: &OsStr) -> Result<()> {
    let (len, max) = (arg.len() + 1, argument_max());
    if len <= max {
        return Ok(());
    }
    let name = if row.flag.is_empty() { "one of them" } else { row.flag };
    let what = format!("{}: {name} is {len} bytes; an argument may be at most {max}", row.option);
    Err(Error::new(ErrorKind::InvalidCommand, OPERATION, what).remedy(row.remedy))
}

/// Returns no value, for a flag without one.
fn given(is_set: bool) -> FlagValues<'static> {
    is_set.then(Vec::new)
}

/// Returns one value, unless it is empty.
fn text<T: AsRef<OsStr> + ?Sized>(value: &T) -> FlagValues<'_> {
    some(value).filter(|values| !values[0].is_empty())
}

fn some<T: AsRef<OsStr> + ?Sized>(value: &T) -> FlagValues<'_> {
    Some(vec![Cow::Borrowed(value.as_ref())])
}

fn owned(value: impl ToString) -> Cow<'static, OsStr> {
    Cow::Owned(value.to_string().into())
}

fn texts<T: AsRef<OsStr>>(values: &[T]) -> Vec<Cow<'_, OsStr>> {
    values.iter().map(|value| Cow::Borrowed(value.as_ref())).collect()
}

/// Returns a list, unless it is empty.
fn list<T: AsRef<OsStr>>(values: &[T]) -> FlagValues<'_> {
    (!values.is_empty()).then(|| texts(values))
}

fn json(value: &Record) -> Cow<'_, OsStr> {
    Cow::Borrowed(OsStr::from_bytes(value.as_bytes()))
}
