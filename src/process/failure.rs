//! Floor 1. What the kernel said, as an error that tells the user what to do.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};

use super::child_setup::{Plan, Step};
use super::clone::CloneFailure;
use super::refusal;
use super::resolve::seen_from_here;
use crate::command::AgentCommand;
use crate::error::{Error, ErrorKind};

/// The stage of every error of this floor.
pub(super) const SPAWN: &str = "spawn";
/// The kernel reads this much of a file to find `#!` and the interpreter.
const SCRIPT_HEAD: usize = 256;
/// Longest part of a name that an error shows.
const SHOWN: usize = 1024;

pub(super) fn invalid(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidCommand, SPAWN, what)
}

pub(super) fn not_executable(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::ProgramNotExecutable, SPAWN, what)
}

/// A name between backquotes, on one line: control characters are escaped.
pub(super) fn quoted(name: impl AsRef<OsStr>) -> String {
    let name = name.as_ref().to_string_lossy();
    let mut text = String::from("`");
    for (index, char) in name.chars().enumerate() {
        if index == SHOWN {
            text.push_str("...");
            break;
        }
        if char.is_control() {
            text.extend(char.escape_default());
        } else {
            text.push(char);
        }
    }
    text.push('`');
    text
}

/// The pipes could not be made, or a descriptor not be moved.
pub(super) fn of_pipe(errno: Errno) -> Error {
    descriptors(errno).unwrap_or_else(|| {
        Error::new(ErrorKind::Io, SPAWN, "the agent's pipes could not be made").cause(errno.into())
    })
}

/// The working directory is missing, or no directory, or may not be entered: the cause tells.
pub(super) fn of_directory(dir: &Path, cause: io::Error) -> Error {
    let what = format!("working directory {} cannot be entered", quoted(dir));
    Error::new(ErrorKind::BadWorkingDirectory, SPAWN, what).cause(cause)
}

/// What was asked for, for the words of an error.
pub(super) struct Asked<'a> {
    /// The file to execute.
    pub(super) program: &'a Path,
    pub(super) command: &'a AgentCommand,
}

/// There is no child, or it gave up.
pub(super) fn of_clone(cause: CloneFailure, plan: &Plan, asked: &Asked<'_>) -> Error {
    let cwd = asked.command.cwd.as_deref();
    match cause {
        CloneFailure::Stack(errno) => memory(errno),
        CloneFailure::Clone(errno) if asked.command.cgroup.is_some() => refusal::of_birth(errno),
        CloneFailure::Clone(errno) => of_process(errno),
        CloneFailure::NoBirthInCgroup => refusal::of_birth(Errno::NOSYS),
        CloneFailure::NoPidfd => {
            Error::new(ErrorKind::BackendUnsupported, SPAWN, "no pidfd came with the process")
                .remedy("Linux 5.2 or later is needed")
        }
        CloneFailure::Child(Step::Directory, errno) => {
            of_directory(cwd.unwrap_or_else(|| Path::new(".")), errno.into())
        }
        CloneFailure::Child(Step::Exec, errno) => of_exec(errno, plan, asked.program, cwd),
        CloneFailure::Child(step, errno) => refusal::of_step(step, errno, asked.command),
    }
}

/// No descriptor is left. `None` if that is not what `errno` says.
pub(super) fn descriptors(errno: Errno) -> Option<Error> {
    let error = match errno {
        Errno::MFILE => {
            let limit = getrlimit(Resource::Nofile);
            Error::new(
                ErrorKind::ResourceLimit,
                SPAWN,
                format!(
                    "no file descriptor left: RLIMIT_NOFILE of this process is {} (hard limit {})",
                    number(limit.current),
                    number(limit.maximum)
                ),
            )
            .remedy(
                "raise it (`ulimit -n`, or LimitNOFILE= of the service): \
                 4 descriptors per agent, and 3 more while it is spawned",
            )
        }
        Errno::NFILE => Error::new(
            ErrorKind::ResourceLimit,
            SPAWN,
            "the host has no file descriptor left, or the user no memory for pipes",
        )
        .remedy("raise fs.file-max or fs.pipe-user-pages-hard, or run fewer agents"),
        _ => return None,
    };
    Some(error.cause(errno.into()))
}

/// clone refused.
pub(super) fn of_process(errno: Errno) -> Error {
    if let Some(error) = descriptors(errno) {
        return error;
    }
    match errno {
        Errno::AGAIN => refusal::no_process_left().cause(errno.into()),
        Errno::NOMEM => memory(errno),
        Errno::PERM | Errno::NOSYS => {
            Error::new(ErrorKind::Io, SPAWN, "this process may not start others")
                .remedy("a seccomp filter or a security module denies clone(2)")
                .cause(errno.into())
        }
        _ => Error::new(ErrorKind::Io, SPAWN, "no process could be made").cause(errno.into()),
    }
}

fn memory(errno: Errno) -> Error {
    Error::new(ErrorKind::ResourceLimit, SPAWN, "no memory for another process")
        .remedy("free memory, or raise the memory limit of the cgroup, or vm.max_map_count")
        .cause(errno.into())
}

/// The child got as far as its exec.
fn of_exec(errno: Errno, plan: &Plan, program: &Path, cwd: Option<&Path>) -> Error {
    let name = quoted(program);
    let error = match errno {
        Errno::TOOBIG => too_big(plan),
        Errno::NOENT => missing_at_exec(program, cwd),
        Errno::NOTDIR => {
            Error::new(ErrorKind::ProgramNotFound, SPAWN, format!("no program at {name}"))
        }
        Errno::NOEXEC => not_executable(format!(
            "{name} is neither a binary for this machine nor a script with a `#!` line"
        ))
        .remedy("no shell is tried on it: add a `#!` line, or run `sh` with it as argument"),
        Errno::ACCESS | Errno::PERM => not_executable(format!(
            "{name}, or the interpreter it names, may not be executed{}",
            refusal::as_whom(plan)
        ))
        .remedy("check its permissions, those of the directories above it, and noexec mounts"),
        Errno::TXTBSY => not_executable(format!("{name} is being written"))
            .remedy("try again when its installation or update is done"),
        Errno::NOMEM => return memory(errno),
        Errno::AGAIN | Errno::MFILE | Errno::NFILE => return of_process(errno),
        Errno::NAMETOOLONG => invalid(format!("the path {name} is too long")),
        _ => not_executable(format!("{name} cannot be executed")),
    };
    error.cause(errno.into())
}

fn too_big(plan: &Plan) -> Error {
    let lengths = || plan.args.iter().chain(plan.env.iter()).map(|text| text.count_bytes() + 1);
    let sum: usize = lengths().sum();
    let longest = lengths().max().unwrap_or(0);
    invalid(format!(
        "arguments and environment are {sum} bytes, the longest of them {longest}; \
         a single one may be at most 128 KiB, all together a quarter of the stack limit"
    ))
    .remedy("pass long input over stdin or in a file, or raise the stack limit (`ulimit -s`)")
}

/// ENOENT from execve: the file is gone, or what it needs to start is not there.
fn missing_at_exec(program: &Path, cwd: Option<&Path>) -> Error {
    let name = quoted(program);
    let mut head = [0; SCRIPT_HEAD];
    let len = match File::open(seen_from_here(program, cwd))
        .and_then(|mut file| file.read(&mut head))
    {
        Ok(len) => len,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Error::new(ErrorKind::ProgramNotFound, SPAWN, format!("no program at {name}"));
        }
        Err(_) => {
            return not_executable(format!(
                "{name} is there, but the interpreter or loader it asks for is not"
            ));
        }
    };
    match interpreter(&head[..len]) {
        Some(interpreter) => {
            let error = not_executable(format!(
                "the interpreter {} that the script {name} asks for does not exist",
                quoted(OsStr::from_bytes(interpreter))
            ));
            if interpreter.ends_with(b"\r") {
                return error.remedy("the script has CRLF line ends: convert it to LF");
            }
            error.remedy("install it, or correct the script's `#!` line")
        }
        None => not_executable(format!("{name} is there, but its dynamic loader is not"))
            .remedy("it was built for another C library (glibc, musl) or architecture"),
    }
}

/// What a script's first line asks for.
pub(super) fn interpreter(head: &[u8]) -> Option<&[u8]> {
    let line = head.strip_prefix(b"#!")?.split(|byte| *byte == b'\n').next()?;
    line.split(|byte| matches!(byte, b' ' | b'\t')).find(|word| !word.is_empty())
}

pub(super) fn number(limit: Option<u64>) -> String {
    limit.map_or_else(|| "unlimited".to_owned(), |limit| limit.to_string())
}
