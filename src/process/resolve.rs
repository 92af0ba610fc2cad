//! Floor 1. Which file a program name means, and whether it and the working directory will do.
//!
//! All checks here are for the sake of a clear error. The exec decides: what changes between the
//! check and the exec is told by `failure`.

use std::ffi::{CString, OsStr};
use std::fs::{self, Metadata};
use std::io::ErrorKind as Io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD, accessat};
use rustix::io::Errno;

use super::failure::{self, invalid, not_executable, quoted};
use crate::command::AgentCommand;
use crate::error::{Error, ErrorKind};

/// Where programs are looked for if the agent has no `PATH`.
pub(super) const DEFAULT_PATH: &str = "/usr/local/bin:/usr/bin:/bin";
/// So many directories are named in an error.
const DIRS_NAMED: usize = 20;

/// The path to exec, and what is there; nothing for a path that only the agent's user can see.
pub(super) type Resolved = (PathBuf, Option<Metadata>);

/// What stands at a path.
enum Found {
    Program(Metadata),
    Nothing,
    /// A directory on the way may not be searched.
    Hidden,
    /// Something that will not run, and why.
    Unfit(&'static str),
}

/// The path to exec, as the agent sees it from its working directory.
///
/// A name with `/` is used as it is, relative to the agent's working directory. A bare name is
/// searched in `path`, the agent's own (as everywhere, an empty entry is the working directory),
/// then where the command says besides.
/// What cannot be executed is passed over, and remembered for the error. With `as_another` user,
/// what is hidden from us may not be from the agent: the exec decides.
pub(super) fn program(
    command: &AgentCommand,
    path: Option<&OsStr>,
    as_another: bool,
) -> Result<Resolved, Error> {
    let (name, cwd) = (&*command.program, command.cwd.as_deref());
    if name.is_empty() {
        return Err(invalid("empty command"));
    }
    if name.as_bytes().contains(&b'/') {
        return named(Path::new(name), cwd, as_another);
    }
    search(name, path, &command.search_also, cwd)
}

fn named(name: &Path, cwd: Option<&Path>, as_another: bool) -> Result<Resolved, Error> {
    match examine(&seen_from_here(name, cwd)) {
        Found::Program(metadata) => Ok((name.to_owned(), Some(metadata))),
        Found::Hidden if as_another => Ok((name.to_owned(), None)),
        Found::Unfit(why) => Err(not_executable(format!("{} {why}", quoted(name)))),
        Found::Hidden => Err(not_executable(format!(
            "{} cannot be reached: a directory on the way may not be searched",
            quoted(name)
        ))),
        Found::Nothing => {
            let mut what = format!("no program at {}", quoted(name));
            if let Some(dir) = cwd.filter(|_| name.is_relative()) {
                what.push_str(&format!(", seen from its working directory {}", quoted(dir)));
            }
            Err(Error::new(ErrorKind::ProgramNotFound, failure::SPAWN, what))
        }
    }
}

fn search(
    name: &OsStr,
    path: Option<&OsStr>,
    also: &[PathBuf],
    cwd: Option<&Path>,
) -> Result<Resolved, Error> {
    let path = path.unwrap_or_else(|| OsStr::new(DEFAULT_PATH));
    let on_path = path.as_bytes().split(|byte| *byte == b':');
    let on_path = on_path.map(|dir| Path::new(OsStr::from_bytes(dir)));
    let mut unfit = None;
    let mut look_in = |dir: &Path, searched: &mut Vec<String>| {
        let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
        let candidate = dir.join(name);
        match examine(&seen_from_here(&candidate, cwd)) {
            Found::Program(metadata) => return Some((candidate, Some(metadata))),
            Found::Nothing => searched.push(quoted(dir)),
            Found::Hidden => searched.push(format!("{} (not readable)", quoted(dir))),
            Found::Unfit(why) => {
                unfit.get_or_insert_with(|| format!("{} {why}", quoted(&candidate)));
                searched.push(quoted(dir));
            }
        }
        None
    };
    let (mut searched, mut besides) = (Vec::new(), Vec::new());
    let found = on_path.into_iter().find_map(|dir| look_in(dir, &mut searched));
    let found = found.or_else(|| also.iter().find_map(|dir| look_in(dir, &mut besides)));
    if let Some(program) = found {
        return Ok(program);
    }
    let nor = if besides.is_empty() { "" } else { " nor where it is looked for besides" };
    if let Some(what) = unfit {
        return Err(not_executable(format!("{what}, and there is no other on PATH{nor}")));
    }
    let mut what =
        format!("no program {} on PATH (dirs searched: {})", quoted(name), list(searched));
    if !besides.is_empty() {
        what.push_str(&format!(", nor in {}", list(besides)));
    }
    Err(Error::new(ErrorKind::ProgramNotFound, failure::SPAWN, what)
        .remedy("install it, set the agent's PATH, or give the program's path"))
}

fn list(mut dirs: Vec<String>) -> String {
    let more = dirs.len().saturating_sub(DIRS_NAMED);
    dirs.truncate(DIRS_NAMED);
    let mut text = dirs.join(", ");
    if more > 0 {
        text.push_str(&format!(" and {more} more"));
    }
    text
}

/// A path of the agent's, seen from our own working directory.
pub(super) fn seen_from_here(path: &Path, cwd: Option<&Path>) -> PathBuf {
    match cwd {
        // An absolute path replaces the directory.
        Some(dir) => dir.join(path),
        None => path.to_owned(),
    }
}

fn examine(path: &Path) -> Found {
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == Io::PermissionDenied => return Found::Hidden,
        Err(error) if error.raw_os_error() == Some(libc::ELOOP) => {
            return Found::Unfit("is a loop of symbolic links");
        }
        Err(_) => return Found::Nothing,
    };
    if metadata.is_dir() {
        return Found::Unfit("is a directory");
    }
    if !metadata.is_file() {
        return Found::Unfit("is not a regular file");
    }
    match accessat(CWD, path, Access::EXEC_OK, AtFlags::EACCESS) {
        Err(Errno::ACCESS) => {
            Found::Unfit("may not be executed (no execute permission, or mounted noexec)")
        }
        // Whatever else is the matter, the exec finds it too, and knows better.
        _ => Found::Program(metadata),
    }
}

/// Checks the directory that the agent is to work in, and gives it as chdir wants it. With
/// `as_another` user, whether that one may enter is for the chdir to say.
pub(super) fn working_directory(dir: &Path, as_another: bool) -> Result<CString, Error> {
    let text = CString::new(dir.as_os_str().as_bytes())
        .map_err(|_| invalid("the working directory holds a NUL byte"))?;
    let metadata = match fs::metadata(dir) {
        Ok(metadata) => metadata,
        Err(error) if as_another && error.kind() == Io::PermissionDenied => return Ok(text),
        Err(error) => return Err(failure::of_directory(dir, error)),
    };
    if !metadata.is_dir() {
        return Err(failure::of_directory(dir, Errno::NOTDIR.into()));
    }
    match accessat(CWD, dir, Access::EXEC_OK, AtFlags::EACCESS) {
        Err(errno @ Errno::ACCESS) if !as_another => Err(failure::of_directory(dir, errno.into())),
        _ => Ok(text),
    }
}
