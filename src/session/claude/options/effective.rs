//! Floor 4. What options mean together, and with what the session has. The options stay as they are.

use std::borrow::Cow;
use std::ffi::OsStr;

use crate::error::Result;

use super::skills::{self, Skills};
use super::{Needs, Options, mcp, refused, settings_file};

/// The options with all that follows from others worked out.
#[derive(Debug)]
pub(super) struct Effective<'a> {
    pub(super) options: &'a Options,
    pub(super) allowed_tools: Vec<String>,
    pub(super) setting_sources: Option<Vec<String>>,
    pub(super) prompt_tool: &'a str,
    pub(super) settings: Cow<'a, str>,
    pub(super) mcp_config: Cow<'a, OsStr>,
}

impl<'a> Effective<'a> {
    pub(super) fn of(options: &'a Options, needs: Needs<'_>) -> Result<Self> {
        if let Some(broken) = &options.broken {
            return Err(refused(broken.0, &broken.1));
        }
        check_numbers(options)?;
        let mut allowed_tools = options.allowed_tools.clone();
        let mut setting_sources = options.setting_sources.clone();
        if let Some(skills) = &options.skills {
            skills::check(skills)?;
            for rule in skills::rules(skills) {
                if !allowed_tools.contains(&rule) {
                    allowed_tools.push(rule);
                }
            }
            // Skills are found by these sources; without one the list would name nothing.
            setting_sources.get_or_insert_with(|| vec!["user".into(), "project".into()]);
        }
        Ok(Self {
            options,
            allowed_tools,
            setting_sources,
            prompt_tool: prompt_tool(options, needs)?,
            settings: settings_file::merged(options)?,
            mcp_config: mcp::config(options, needs.servers)?,
        })
    }
}

/// Whoever answers permissions in this process is asked over stdio, and nobody else is.
fn prompt_tool<'a>(options: &'a Options, needs: Needs<'_>) -> Result<&'a str> {
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

fn check_numbers(options: &Options) -> Result<()> {
    match options.max_budget_usd {
        Some(budget) if !budget.is_finite() || budget < 0.0 => {
            Err(refused("max_budget_usd", format!("{budget} is no amount of money")))
        }
        _ => Ok(()),
    }
}

impl Skills {
    pub(super) fn names(&self) -> &[String] {
        match self {
            Self::All => &[],
            Self::Named(names) => names,
        }
    }
}
