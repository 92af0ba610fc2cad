//! The environment of an agent.

use std::collections::BTreeMap;
use std::env;
use std::ffi::{CString, OsStr, OsString};
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use super::error::{invalid, quoted};
use super::guard::MARKER;
use crate::command::AgentCommand;
use crate::error::Error;

/// The name and the value of each variable.
pub(super) struct Environment(BTreeMap<OsString, OsString>);

impl Environment {
    /// Builds the environment: inherited unless cleared, then set and removed in the order of the
    /// command, then `PWD`, then the marker of a guard.
    ///
    /// `PWD` is set to the working directory of the agent, because shells and runtimes trust an
    /// inherited one. A command that sets or removes `PWD` itself overrides that.
    pub(super) fn of(command: &AgentCommand, marker: Option<&OsStr>) -> Result<Self, Error> {
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
        // Last: a command cannot take it away.
        if let Some(marker) = marker {
            vars.insert(MARKER.into(), marker.to_owned());
        }
        Ok(Self(vars))
    }

    /// Returns the search path of the agent.
    pub(super) fn path(&self) -> Option<&OsStr> {
        self.0.get(OsStr::new("PATH")).map(OsString::as_os_str)
    }

    /// Converts it for execve(2).
    pub(super) fn into_strings(self) -> Result<Vec<CString>, Error> {
        self.0
            .into_iter()
            .map(|(key, value)| {
                let mut line = key.into_vec();
                line.push(b'=');
                line.extend_from_slice(value.as_bytes());
                // `check` has checked the variables of the command; inherited ones are NUL-terminated.
                CString::new(line).map_err(|_| invalid("an environment variable holds a NUL byte"))
            })
            .collect()
    }
}

/// Errors name the variable and never its value, which may be a secret.
fn check(key: &OsStr, value: Option<&OsStr>) -> Result<(), Error> {
    let has_nul = |text: &OsStr| text.as_bytes().contains(&0);
    if has_nul(key) {
        return Err(invalid(format!(
            "the name of environment variable {} holds a NUL byte",
            quoted(key)
        )));
    }
    // The removal of a name that no variable can have is harmless.
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

/// Returns the directory as `PWD` may hold it: absolute, with symbolic links, without `.` and `..`.
/// `None` if there is no such directory, which a later step of the spawn reports.
fn as_pwd(dir: &Path) -> Option<PathBuf> {
    let absolute = std::path::absolute(dir).ok()?;
    if absolute.components().any(|part| part == Component::ParentDir) {
        // If `a` is a symbolic link, `a/..` is the parent of its target.
        return fs::canonicalize(absolute).ok();
    }
    // The components leave out `.` and a slash at the end. Symbolic links stay.
    Some(absolute.components().collect())
}
