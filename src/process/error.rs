//! The errors of a spawn: turns what the kernel refused into an [`Error`] that names the cause, the
//! limit that is reached, and what the user can do about it.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};

use super::child_setup::{CloneFailure, ExecPlan, SetupStep};
use super::host_limits::processes;
use crate::command::AgentCommand;
use crate::error::{Error, ErrorKind};

/// The operation of every error of a spawn.
pub(super) const SPAWN: &str = "spawn";
/// How much of a file the kernel reads to find `#!` and the interpreter.
const SCRIPT_HEAD: usize = 256;
/// How many characters of a name an error shows.
const SHOWN_MAX: usize = 1024;

pub(super) fn invalid(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidCommand, SPAWN, what)
}

pub(super) fn not_executable(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::ProgramNotExecutable, SPAWN, what)
}

/// Returns a name between backquotes, on one line: control characters are escaped.
pub(super) fn quoted(name: impl AsRef<OsStr>) -> String {
    let name = name.as_ref().to_string_lossy();
    let mut text = String::from("`");
    for (index, char) in name.chars().enumerate() {
        if index == SHOWN_MAX {
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

/// The pipes could not be made, or a descriptor could not be moved.
pub(super) fn of_pipe(errno: Errno) -> Error {
    descriptors(errno).unwrap_or_else(|| {
        Error::new(ErrorKind::Io, SPAWN, "the agent's pipes could not be made").cause(errno.into())
    })
}

/// The working directory is missing, is no directory, or may not be entered.
pub(super) fn of_directory(dir: &Path, cause: io::Error) -> Error {
    let what = format!("working directory {} cannot be entered", quoted(dir));
    Error::new(ErrorKind::BadWorkingDirectory, SPAWN, what).cause(cause)
}

/// The subject of an error of a clone: the command and the paths that the message names.
pub(super) struct ErrorContext<'a> {
    pub(super) command: &'a AgentCommand,
    /// The path to exec, as the agent sees it.
    pub(super) program: &'a Path,
    /// The same file, as this process sees it.
    pub(super) seen: &'a Path,
}

/// The child could not be made, or failed before its exec succeeded.
pub(super) fn of_clone(cause: CloneFailure, plan: &ExecPlan, context: &ErrorContext<'_>) -> Error {
    let cwd = context.command.cwd.as_deref();
    match cause {
        CloneFailure::Stack(errno) => memory(errno),
        CloneFailure::Clone(errno) if context.command.cgroup.is_some() => of_birth(errno),
        CloneFailure::Clone(errno) => of_process(errno),
        CloneFailure::NoBirthInCgroup => of_birth(Errno::NOSYS),
        CloneFailure::NoPidfd => {
            Error::new(ErrorKind::BackendUnsupported, SPAWN, "no pidfd came with the process")
                .remedy("Linux 5.2 or later is needed")
        }
        CloneFailure::Child(SetupStep::Directory, errno) => {
            of_directory(cwd.unwrap_or_else(|| Path::new(".")), errno.into())
        }
        CloneFailure::Child(SetupStep::Exec, errno) => of_exec(errno, plan, context),
        CloneFailure::Child(step, errno) => of_step(step, errno, context.command),
    }
}

/// The agent could not be made known to the guard.
pub(super) fn of_guard(errno: Errno) -> Error {
    Error::new(ErrorKind::GuardUnavailable, SPAWN, "the agent cannot be made known to the guard")
        .remedy("is RLIMIT_FSIZE or RLIMIT_LOCKS of this process low, or are there cgroups in over 64 folders?")
        .cause(errno.into())
}

/// No descriptor is left; `None` if `errno` says something else.
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
        // pipe(2) answers ENFILE for the hard limit on the user's pipe pages, too.
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

/// clone(2) was refused.
pub(super) fn of_process(errno: Errno) -> Error {
    if let Some(error) = descriptors(errno) {
        return error;
    }
    match errno {
        Errno::AGAIN => no_process_left().cause(errno.into()),
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

/// The exec was refused.
fn of_exec(errno: Errno, plan: &ExecPlan, context: &ErrorContext<'_>) -> Error {
    let name = quoted(context.program);
    let error = match errno {
        Errno::TOOBIG => too_big(plan),
        Errno::NOENT => missing_at_exec(&name, context.seen),
        Errno::NOTDIR => {
            Error::new(ErrorKind::ProgramNotFound, SPAWN, format!("no program at {name}"))
        }
        // execvp(3) would run the file with a shell, but it is more often a truncated download.
        Errno::NOEXEC => not_executable(format!(
            "{name} is neither a binary for this machine nor a script with a `#!` line"
        ))
        .remedy("no shell is tried on it: add a `#!` line, or run `sh` with it as argument"),
        Errno::ACCESS | Errno::PERM => not_executable(format!(
            "{name}, or the interpreter it names, may not be executed{}",
            as_whom(plan)
        ))
        .remedy("check its permissions, those of the directories above it, and noexec mounts"),
        Errno::TXTBSY => not_executable(format!("{name} is still being written after 100 ms"))
            .remedy("try again when its installation or update is done"),
        Errno::NOMEM => return memory(errno),
        // EAGAIN: the user that the child has become is above its RLIMIT_NPROC (Linux 3.1).
        Errno::AGAIN | Errno::MFILE | Errno::NFILE => return of_process(errno),
        Errno::NAMETOOLONG => invalid(format!("the path {name} is too long")),
        _ => not_executable(format!("{name} cannot be executed")),
    };
    error.cause(errno.into())
}

fn too_big(plan: &ExecPlan) -> Error {
    // The kernel counts the NUL byte at the end of each string.
    let lengths = || plan.args.iter().chain(plan.env.iter()).map(|text| text.count_bytes() + 1);
    let sum: usize = lengths().sum();
    let longest = lengths().max().unwrap_or(0);
    invalid(format!(
        "arguments and environment are {sum} bytes, the longest of them {longest}; \
         a single one may be at most 128 KiB, all together a quarter of the stack limit"
    ))
    .remedy("pass long input over stdin or in a file, or raise the stack limit (`ulimit -s`)")
}

/// ENOENT from execve(2): the file is gone, or its interpreter or loader does not exist.
fn missing_at_exec(name: &str, seen: &Path) -> Error {
    let mut head = [0; SCRIPT_HEAD];
    let len = match File::open(seen).and_then(|mut file| file.read(&mut head)) {
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
            // The kernel takes a carriage return before the line feed as part of the name.
            if interpreter.ends_with(b"\r") {
                return error.remedy("the script has CRLF line ends: convert it to LF");
            }
            error.remedy("install it, or correct the script's `#!` line")
        }
        None => not_executable(format!("{name} is there, but its dynamic loader is not"))
            .remedy("it was built for another C library (glibc, musl) or architecture"),
    }
}

/// Returns the interpreter that the first line of a script names.
pub(super) fn interpreter(head: &[u8]) -> Option<&[u8]> {
    let line = head.strip_prefix(b"#!")?.split(|byte| *byte == b'\n').next()?;
    line.split(|byte| matches!(byte, b' ' | b'\t')).find(|word| !word.is_empty())
}

/// A step of the child before its exec failed.
fn of_step(step: SetupStep, errno: Errno, command: &AgentCommand) -> Error {
    let error = match step {
        SetupStep::Limit(which) => of_limit(usize::from(which), errno, command),
        SetupStep::Groups | SetupStep::GroupId | SetupStep::UserId => of_user(step, errno, command),
        SetupStep::Guard => return of_guard(errno),
        SetupStep::Cgroup => return of_birth(errno),
        SetupStep::Descriptors => io_error("the agent's pipes could not be put in place"),
        SetupStep::DeathSignal => io_error("the agent could not be made to die with this process"),
        SetupStep::NoNewPrivs => io_error("the agent could not be kept from gaining privileges"),
        SetupStep::Orphaned => io_error("this process ended while it spawned"),
        // `of_clone` has errors of their own for the last two.
        SetupStep::Session | SetupStep::Directory | SetupStep::Exec => {
            io_error("the agent could not begin its session")
        }
    };
    error.cause(errno.into())
}

fn io_error(what: &str) -> Error {
    Error::new(ErrorKind::Io, SPAWN, what)
}

fn of_limit(which: usize, errno: Errno, command: &AgentCommand) -> Error {
    let Some((resource, soft, hard)) = command.resources.get(which) else {
        return io_error("a limit of the agent could not be set");
    };
    let limit = |value: u64| number((value != u64::MAX).then_some(value));
    let what =
        format!("{} could not be set to {}:{}", resource.as_str(), limit(*soft), limit(*hard));
    match errno {
        Errno::PERM => Error::new(ErrorKind::NotPermitted, SPAWN, what).remedy(
            "a hard limit can be raised with CAP_SYS_RESOURCE only, and RLIMIT_NOFILE never above \
             fs.nr_open; ask for no more than this process has",
        ),
        Errno::INVAL => Error::new(ErrorKind::InvalidCommand, SPAWN, what),
        _ => Error::new(ErrorKind::Io, SPAWN, what),
    }
}

fn of_user(step: SetupStep, errno: Errno, command: &AgentCommand) -> Error {
    let (uid, gid) = command.user.unwrap_or_default();
    let (what, capability) = match step {
        SetupStep::UserId => (format!("the agent could not become user {uid}"), "CAP_SETUID"),
        SetupStep::GroupId => (format!("the agent could not become group {gid}"), "CAP_SETGID"),
        _ => ("the agent's supplementary groups could not be set".to_owned(), "CAP_SETGID"),
    };
    match errno {
        Errno::PERM => Error::new(ErrorKind::NotPermitted, SPAWN, what)
            .remedy(format!("this process needs {capability}, or leave the user as it is")),
        Errno::INVAL => Error::new(ErrorKind::InvalidCommand, SPAWN, what)
            .remedy("the id is not mapped in this user namespace (/proc/self/uid_map, gid_map)"),
        Errno::AGAIN => Error::new(ErrorKind::ResourceLimit, SPAWN, what)
            .remedy("RLIMIT_NPROC of that user is reached"),
        _ => Error::new(ErrorKind::Io, SPAWN, what),
    }
}

/// The cgroup could not be used: `verb` is `made` or `opened`.
pub(super) fn of_cgroup(verb: &str, path: &Path, cause: io::Error) -> Error {
    let what = format!("the agent's cgroup {} could not be {verb}", quoted(path));
    let (kind, remedy) = match Errno::from_io_error(&cause) {
        Some(Errno::AGAIN) => (
            ErrorKind::ResourceLimit,
            "cgroup.max.descendants or cgroup.max.depth of a cgroup above is reached",
        ),
        Some(Errno::NOENT) => {
            (ErrorKind::CgroupUnavailable, "give a folder that is there, of the cgroup2 mount")
        }
        _ => (
            ErrorKind::CgroupUnavailable,
            "let this process own its cgroup: Delegate=yes of the service, a writable \
             cgroup2 mount in the container; or do without AgentCommand::cgroup",
        ),
    };
    Error::new(kind, SPAWN, what).remedy(remedy).cause(cause)
}

/// The agent could not be put into its cgroup, by clone3(2) or by itself.
fn of_birth(errno: Errno) -> Error {
    let refused = |remedy: &str| {
        let what = "the agent could not be put into its cgroup";
        Error::new(ErrorKind::CgroupUnavailable, SPAWN, what).remedy(remedy).cause(errno.into())
    };
    match errno {
        Errno::ACCESS | Errno::PERM => refused(
            "the user may not write cgroup.procs of the cgroup that both are in: delegate that one",
        ),
        Errno::BUSY | Errno::OPNOTSUPP => refused(
            "controllers are enabled in a way that lets no process in there: use another folder",
        ),
        Errno::NOSYS => refused("clone3 is denied or too old, and so is joining by cgroup.procs"),
        _ => of_process(errno),
    }
}

/// ` as UID:GID` if the agent runs as another user.
fn as_whom(plan: &ExecPlan) -> String {
    plan.user.map(|(uid, gid)| format!(" as {}:{}", uid.as_raw(), gid.as_raw())).unwrap_or_default()
}

/// EAGAIN from clone(2): names the limit that is reached, if it can be found.
fn no_process_left() -> Error {
    // The limits are read after the refusal, and may have room again.
    let reached = processes().into_iter().find(|limit| limit.agents() == 0);
    let what = match reached {
        Some(limit) => {
            format!("no process left: {} is {}, and is reached", limit.name, limit.value)
        }
        None => format!(
            "no process left: RLIMIT_NPROC of the user is {}, \
             or pids.max of the cgroup or the host's kernel.pid_max is reached",
            number(getrlimit(Resource::Nproc).current)
        ),
    };
    Error::new(ErrorKind::ResourceLimit, SPAWN, what).remedy(
        "raise the one that is reached (`ulimit -u`, TasksMax= of the service, \
         --pids-limit of the container), or run fewer agents",
    )
}

fn number(limit: Option<u64>) -> String {
    limit.map_or_else(|| "unlimited".to_owned(), |limit| limit.to_string())
}
