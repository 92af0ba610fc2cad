//! The environment of an agent.

use std::collections::BTreeMap;
use std::env;
use std::ffi::{CString, OsStr, OsString};
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use super::error::{invalid, quoted};
use crate::command::AgentCommand;
use crate::error::Error;

/// Variables that hold one number, each with those that say more about it.
const SINGLE: &[(&str, &[&str])] = &[
    ("NODE_CHANNEL_FD", &["NODE_CHANNEL_SERIALIZATION_MODE"]),
    ("BASH_XTRACEFD", &[]),
    ("WAYLAND_SOCKET", &[]),
];

/// Socket activation: the number of descriptors from 3 on, and what else is said about them.
const LISTEN: &str = "LISTEN_FDS";
const LISTEN_MORE: &[&str] = &["LISTEN_PID", "LISTEN_PIDFDID", "LISTEN_FDNAMES"];
const LISTEN_FIRST: u32 = 3;

/// Variables with options of make, also as Cargo passes them on.
const MAKE: &[&str] = &["MAKEFLAGS", "MFLAGS", "CARGO_MAKEFLAGS"];
/// Options of make that name the two ends of a pipe. `fifo:PATH` in place of them stays.
const JOBSERVER: &[&[u8]] = &[b"--jobserver-auth=", b"--jobserver-fds="];

/// The name and the value of each variable.
pub(super) struct Environment(BTreeMap<OsString, OsString>);

impl Environment {
    /// Builds the environment: inherited unless cleared, then set and removed in the order of the
    /// command, then `PWD`. What names a descriptor that the agent does not get is not inherited.
    ///
    /// `PWD` is set to the working directory of the agent, because shells and runtimes trust an
    /// inherited one. A command that sets or removes `PWD` itself overrides that.
    pub(super) fn of(command: &AgentCommand) -> Result<Self, Error> {
        let mut vars: BTreeMap<_, _> =
            if command.env_clear { BTreeMap::new() } else { env::vars_os().collect() };
        remove_closed(&mut vars, |number| number < 3 || command.passes_fd(number));
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

/// Removes what names a descriptor that the agent does not have. It would do harm: Node aborts if
/// `NODE_CHANNEL_FD` names a closed descriptor, and make reads tokens from whatever file has the number.
fn remove_closed(vars: &mut BTreeMap<OsString, OsString>, is_open: impl Fn(u32) -> bool) {
    for (name, more) in SINGLE {
        let number = vars.get(OsStr::new(name)).and_then(|value| number(value.as_bytes()));
        if number.is_some_and(|number| !is_open(number)) {
            remove(vars, name, more);
        }
    }
    if let Some(count) = vars.get(OsStr::new(LISTEN)).and_then(|value| number(value.as_bytes()))
        && !(0..count).all(|index| is_open(LISTEN_FIRST.saturating_add(index)))
    {
        remove(vars, LISTEN, LISTEN_MORE);
    }
    for name in MAKE {
        let Some(value) = vars.get_mut(OsStr::new(name)) else { continue };
        let words = value.as_bytes().split(|byte| *byte == b' ');
        let kept: Vec<&[u8]> = words.filter(|word| !is_closed_jobserver(word, &is_open)).collect();
        let kept = kept.join(&b' ');
        if kept.is_empty() {
            vars.remove(OsStr::new(name));
        } else {
            *value = OsString::from_vec(kept);
        }
    }
}

fn remove(vars: &mut BTreeMap<OsString, OsString>, name: &str, more: &[&str]) {
    for name in [&name].into_iter().chain(more) {
        vars.remove(OsStr::new(name));
    }
}

fn is_closed_jobserver(word: &[u8], is_open: impl Fn(u32) -> bool) -> bool {
    let Some(ends) = JOBSERVER.iter().find_map(|option| word.strip_prefix(*option)) else {
        return false;
    };
    let mut ends = ends.splitn(2, |byte| *byte == b',').map(number);
    match (ends.next(), ends.next()) {
        (Some(Some(read)), Some(Some(write))) => !(is_open(read) && is_open(write)),
        // A FIFO by its name.
        _ => false,
    }
}

fn number(text: &[u8]) -> Option<u32> {
    std::str::from_utf8(text).ok()?.parse().ok()
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

#[cfg(test)]
mod tests {
    use super::*;

    fn left(vars: &[(&str, &str)], open: &[u32]) -> Vec<String> {
        let mut map = vars.iter().map(|(name, value)| (name.into(), value.into())).collect();
        remove_closed(&mut map, |number| number < 3 || open.contains(&number));
        let line = |(name, value): (&OsString, &OsString)| {
            format!("{}={}", name.to_string_lossy(), value.to_string_lossy())
        };
        map.iter().map(line).collect()
    }

    // Node aborts at its start: `NODE_CHANNEL_FD` names a descriptor that is not there.
    #[test]
    fn variable_goes_with_its_descriptor() {
        let node = [("NODE_CHANNEL_FD", "3"), ("NODE_CHANNEL_SERIALIZATION_MODE", "json")];
        assert_eq!(left(&node, &[]), [""; 0]);
        assert_eq!(left(&node, &[4]), [""; 0]);
        assert_eq!(left(&node, &[3]).len(), 2);
        assert_eq!(
            left(&[("BASH_XTRACEFD", "7"), ("WAYLAND_SOCKET", "9")], &[9]),
            ["WAYLAND_SOCKET=9"]
        );
        // The agent has its own 0 to 2. A value that is no number names no descriptor.
        let kept = [("BASH_XTRACEFD", "2"), ("NODE_CHANNEL_FD", "x"), ("NOTIFY_SOCKET", "/run/x")];
        assert_eq!(left(&kept, &[]).len(), 3);
        let listen = [("LISTEN_FDS", "2"), ("LISTEN_FDNAMES", "a:b"), ("LISTEN_PID", "1")];
        assert_eq!(left(&listen, &[3]), [""; 0]);
        assert_eq!(left(&listen, &[3, 4]).len(), 3);
        assert_eq!(left(&[("LISTEN_FDS", "4294967295")], &[3]), [""; 0]);
        assert_eq!(left(&[("LISTEN_FDS", "0")], &[]), ["LISTEN_FDS=0"]);
    }

    // A make in the agent took tokens from whatever file had the numbers.
    #[test]
    fn job_server_goes_and_other_flags_stay() {
        let make = |value| left(&[("MAKEFLAGS", value)], &[5, 6]);
        assert_eq!(make(" -j4 --jobserver-auth=3,4 -- CC=gcc"), ["MAKEFLAGS= -j4 -- CC=gcc"]);
        assert_eq!(make("k --jobserver-fds=3,4 --jobserver-auth=3,4"), ["MAKEFLAGS=k"]);
        assert_eq!(make("--jobserver-auth=3,4"), [""; 0]);
        for stays in
            ["-j4 --jobserver-auth=5,6", "-j --jobserver-auth=fifo:/tmp/x,3", "s", "w -- A=--x"]
        {
            assert_eq!(make(stays), [format!("MAKEFLAGS={stays}")]);
        }
        assert_eq!(make("--jobserver-auth=5,4"), [""; 0], "half a pipe is none");
        let cargo = [("CARGO_MAKEFLAGS", "-j --jobserver-fds=8,9 --jobserver-auth=8,9")];
        assert_eq!(left(&cargo, &[]), ["CARGO_MAKEFLAGS=-j"]);
    }
}
