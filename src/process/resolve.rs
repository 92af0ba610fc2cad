//! The search for the program's file, and checks of it and of the working directory.
//!
//! The checks give clear errors. The exec decides: `error` reports what has changed between the check and
//! the exec.

use std::ffi::{CString, OsStr};
use std::fs::{self, Metadata};
use std::io::ErrorKind as Io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD, accessat};
use rustix::io::Errno;

use super::error::{self, SPAWN, invalid, not_executable, quoted};
use crate::command::AgentCommand;
use crate::error::{Error, ErrorKind};

/// The search path of an agent without `PATH`.
const DEFAULT_PATH: &str = "/usr/local/bin:/usr/bin:/bin";
/// How many directories an error names.
const DIRS_NAMED_MAX: usize = 20;

/// The path to exec and the metadata of the file; `None` if only the agent's user can see it.
type Resolved = (PathBuf, Option<Metadata>);

/// The kind of file at a path.
enum Candidate {
    Program(Metadata),
    Nothing,
    /// A directory of the path may not be searched.
    Hidden,
    /// Something that cannot be executed, and why.
    Unusable(&'static str),
}

/// Returns the path to exec, as the agent sees it from its working directory.
///
/// A name with `/` is used as it is, relative to the agent's working directory. A bare name is searched
/// in `path`, the agent's `PATH` (an empty entry is the working directory), then in the further
/// directories of the command. Files that cannot be executed are skipped and kept for the error. With
/// `as_other_user`, a file that is hidden from this process may be visible to the agent: the exec decides.
pub(super) fn program(
    command: &AgentCommand,
    path: Option<&OsStr>,
    as_other_user: bool,
) -> Result<Resolved, Error> {
    let (name, cwd) = (&*command.program, command.cwd.as_deref());
    if name.is_empty() {
        return Err(invalid("empty command"));
    }
    if name.as_bytes().contains(&b'/') {
        return named(Path::new(name), cwd, as_other_user);
    }
    search(name, path, &command.search_also, cwd)
}

fn named(name: &Path, cwd: Option<&Path>, as_other_user: bool) -> Result<Resolved, Error> {
    match examine(&seen_from_here(name, cwd)) {
        Candidate::Program(metadata) => Ok((name.to_owned(), Some(metadata))),
        Candidate::Hidden if as_other_user => Ok((name.to_owned(), None)),
        Candidate::Unusable(why) => Err(not_executable(format!("{} {why}", quoted(name)))),
        Candidate::Hidden => Err(not_executable(format!(
            "{} cannot be reached: a directory on the way may not be searched",
            quoted(name)
        ))),
        Candidate::Nothing => {
            let mut what = format!("no program at {}", quoted(name));
            if let Some(dir) = cwd.filter(|_| name.is_relative()) {
                what.push_str(&format!(", seen from its working directory {}", quoted(dir)));
            }
            Err(Error::new(ErrorKind::ProgramNotFound, SPAWN, what))
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
    let mut unusable = None;
    let mut look_in = |dir: &Path, searched: &mut Vec<String>| {
        let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
        let candidate = dir.join(name);
        match examine(&seen_from_here(&candidate, cwd)) {
            Candidate::Program(metadata) => return Some((candidate, Some(metadata))),
            Candidate::Nothing => searched.push(quoted(dir)),
            Candidate::Hidden => searched.push(format!("{} (not readable)", quoted(dir))),
            Candidate::Unusable(why) => {
                unusable.get_or_insert_with(|| format!("{} {why}", quoted(&candidate)));
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
    let nor = if besides.is_empty() { "" } else { " nor in the further directories" };
    if let Some(what) = unusable {
        return Err(not_executable(format!("{what}, and there is no other on PATH{nor}")));
    }
    let mut what =
        format!("no program {} on PATH (dirs searched: {})", quoted(name), list(searched));
    if !besides.is_empty() {
        what.push_str(&format!(", nor in {}", list(besides)));
    }
    Err(Error::new(ErrorKind::ProgramNotFound, SPAWN, what)
        .remedy("install it, set the agent's PATH, or give the program's path"))
}

fn list(mut dirs: Vec<String>) -> String {
    let more = dirs.len().saturating_sub(DIRS_NAMED_MAX);
    dirs.truncate(DIRS_NAMED_MAX);
    let mut text = dirs.join(", ");
    if more > 0 {
        text.push_str(&format!(" and {more} more"));
    }
    text
}

/// Converts a path of the agent into one of this process, whose working directory may differ.
pub(super) fn seen_from_here(path: &Path, cwd: Option<&Path>) -> PathBuf {
    match cwd {
        // A join with an absolute path gives that path.
        Some(dir) => dir.join(path),
        None => path.to_owned(),
    }
}

fn examine(path: &Path) -> Candidate {
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == Io::PermissionDenied => return Candidate::Hidden,
        Err(error) if error.raw_os_error() == Some(libc::ELOOP) => {
            return Candidate::Unusable("is a loop of symbolic links");
        }
        Err(_) => return Candidate::Nothing,
    };
    if metadata.is_dir() {
        return Candidate::Unusable("is a directory");
    }
    if !metadata.is_file() {
        return Candidate::Unusable("is not a regular file");
    }
    // The exec is checked with the effective ids; access(2) without the flag uses the real ones.
    match accessat(CWD, path, Access::EXEC_OK, AtFlags::EACCESS) {
        Err(Errno::ACCESS) => {
            Candidate::Unusable("may not be executed (no execute permission, or mounted noexec)")
        }
        // Any other error is left to the exec.
        _ => Candidate::Program(metadata),
    }
}

/// Checks the working directory of the agent and converts it for chdir(2). With `as_other_user`, the
/// chdir decides whether that user may enter it.
pub(super) fn working_directory(dir: &Path, as_other_user: bool) -> Result<CString, Error> {
    let text = CString::new(dir.as_os_str().as_bytes())
        .map_err(|_| invalid("the working directory holds a NUL byte"))?;
    let metadata = match fs::metadata(dir) {
        Ok(metadata) => metadata,
        Err(error) if as_other_user && error.kind() == Io::PermissionDenied => return Ok(text),
        Err(error) => return Err(error::of_directory(dir, error)),
    };
    if !metadata.is_dir() {
        return Err(error::of_directory(dir, Errno::NOTDIR.into()));
    }
    match accessat(CWD, dir, Access::EXEC_OK, AtFlags::EACCESS) {
        Err(errno @ Errno::ACCESS) if !as_other_user => Err(error::of_directory(dir, errno.into())),
        _ => Ok(text),
    }
}
