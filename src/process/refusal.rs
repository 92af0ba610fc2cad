//! Floor 1. What the kernel refused of the options of a spawn, and which limit is reached.

use std::io;
use std::path::Path;

use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};

use super::child_setup::{Plan, Step};
use super::failure::{self, SPAWN, number, quoted};
use super::host_limits::processes;
use crate::command::AgentCommand;
use crate::error::{Error, ErrorKind};

/// The child could not do a step before its exec.
pub(super) fn of_step(step: Step, errno: Errno, command: &AgentCommand) -> Error {
    let error = match step {
        Step::Limit(which) => of_limit(usize::from(which), errno, command),
        Step::Groups | Step::GroupId | Step::UserId => of_user(step, errno, command),
        Step::Cgroup => return of_birth(errno),
        Step::Descriptors => io_error("the agent's pipes could not be put in place"),
        Step::DeathSignal => io_error("the agent could not be made to die with this process"),
        Step::Orphaned => io_error("this process ended while it spawned"),
        Step::Session | Step::Directory | Step::Exec => {
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

fn of_user(step: Step, errno: Errno, command: &AgentCommand) -> Error {
    let (uid, gid) = command.user.unwrap_or_default();
    let (what, capability) = match step {
        Step::UserId => (format!("the agent could not become user {uid}"), "CAP_SETUID"),
        Step::GroupId => (format!("the agent could not become group {gid}"), "CAP_SETGID"),
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

/// The cgroup could not be `made`, `opened`.
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

/// The agent could not be born in its cgroup, or could not join it.
pub(super) fn of_birth(errno: Errno) -> Error {
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
        _ => failure::of_process(errno),
    }
}

/// ` as user N`, where it is another.
pub(super) fn as_whom(plan: &Plan) -> String {
    plan.user.map(|(uid, gid)| format!(" as {}:{}", uid.as_raw(), gid.as_raw())).unwrap_or_default()
}

/// EAGAIN from clone: names the limit that is reached, if it can be found out.
pub(super) fn no_process_left() -> Error {
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
