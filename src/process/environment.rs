//! Floor 1. The environment that the agent will have.

use std::collections::BTreeMap;
use std::env;
use std::ffi::{CString, OsStr, OsString};
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use super::failure::{invalid, quoted};
use crate::command::AgentCommand;
use crate::error::Error;

/// Name and value of each variable.
pub(super) struct Environment(BTreeMap<OsString, OsString>);

impl Environment {
    /// Inherited unless cleared, then set and removed in the order given, then `PWD`.
    ///
    /// `PWD` follows the working directory that was asked for, so that a shell or a runtime does
    /// not believe an inherited one. A command that sets or removes `PWD` itself has its way.
    pub(super) fn of(command: &AgentCommand) -> Result<Self, Error> {
        let mut vars: BTreeMap<_, _> =
            if command.env_clear { BTreeMap::new() } else { env::vars_os().collect() };
        for (key, value) in &command.env {
            check(key, value.as_deref())?;
            match value {
                Some(value) => vars.insert(key.clone(), value.clone()),
                None => vars.remove(key),
            };
        }
        if let Some(dir) = &command.cwd
            && !command.env.iter().any(|(key, _)| key == "PWD")
            && let Some(dir) = as_pwd(dir)
        {
            vars.insert("PWD".into(), dir.into());
        }
        Ok(Self(vars))
    }

    /// The search path of the agent.
    pub(super) fn path(&self) -> Option<&OsStr> {
        self.0.get(OsStr::new("PATH")).map(OsString::as_os_str)
    }

    /// As execve wants it.
    pub(super) fn into_strings(self) -> Result<Vec<CString>, Error> {
        self.0
            .into_iter()
            .map(|(key, value)| {
                let mut line = key.into_vec();
                line.push(b'=');
                line.extend_from_slice(value.as_bytes());
                // Checked above for what the command sets; what is inherited is NUL-terminated.
                CString::new(line).map_err(|_| invalid("an environment variable holds a NUL byte"))
            })
            .collect()
    }
}

/// Says which variable, and never its value, which may be a secret.
fn check(key: &OsStr, value: Option<&OsStr>) -> Result<(), Error> {
    let has_nul = |text: &OsStr| text.as_bytes().contains(&0);
    if has_nul(key) {
        return Err(invalid(format!(
            "the name of environment variable {} holds a NUL byte",
            quoted(key)
        )));
    }
    let Some(value) = value else { return Ok(()) };
    if key.is_empty() {
        return Err(invalid("an environment variable without a name"));
    }
    if key.as_bytes().contains(&b'=') {
        return Err(invalid(format!("the name of environment variable {} holds `=`", quoted(key))));
    }
    if has_nul(value) {
        return Err(invalid(format!("environment variable {} holds a NUL byte", quoted(key))));
    }
    Ok(())
}

/// The directory as `PWD` may hold it: absolute, symbolic links kept, no `.` and no `..`. Where
/// that cannot be found out there is no such directory, and the spawn says so later.
fn as_pwd(dir: &Path) -> Option<PathBuf> {
    let absolute = std::path::absolute(dir).ok()?;
    if absolute.components().any(|part| part == Component::ParentDir) {
        // `a/..` is not the parent of where `a` was named, if `a` is a link.
        return fs::canonicalize(absolute).ok();
    }
    Some(absolute.components().collect())
}
