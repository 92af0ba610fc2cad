//! From a command to a running agent, or to an error with nothing left behind.

use std::ffi::{CString, OsStr, OsString};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::{Errno, fcntl_dupfd_cloexec};
use rustix::pipe::{PipeFlags, fcntl_getpipe_size, fcntl_setpipe_size, pipe_with};
use rustix::process::{Gid, Uid};

use super::cgroup::Cgroup;
use super::child::{Child, Unclaimed};
use super::child_setup::{CloneFailure, ExecPlan, ExecStrings};
use super::clone::clone;
use super::container::Container;
use super::credentials::{self, Credentials, KeepsDumpable};
use super::environment::Environment;
use super::error::{self, ErrorContext};
use super::executable::Executable;
use super::guard::Guard;
use super::resolve;
use crate::close::ExitStatus;
use crate::command::AgentCommand;
use crate::error::Error;
use crate::sync::Permit;

/// The lowest descriptor that is used. A host that has closed its 0, 1 or 2 would otherwise get one of
/// the pipes there and print into an agent, and the child could overwrite one before it is in place.
const FIRST_DESCRIPTOR: i32 = 3;

/// A running agent without an owner yet. Dropping it kills the agent's group and reaps the agent.
#[derive(Debug)]
pub(crate) struct Spawned {
    // First, so that a drop kills before it closes the pipes.
    child: Unclaimed,
    pid: u32,
    pidfd: OwnedFd,
    stdin: OwnedFd,
    stdout: OwnedFd,
    stderr: OwnedFd,
    stdin_pipe_size: usize,
    stdout_pipe_size: usize,
    program: PathBuf,
}

/// The parts of a running agent. The owner of `child` must reap it.
#[derive(Debug)]
pub(crate) struct Parts<C = Child> {
    pub(crate) child: C,
    /// Readable once the leader has exited. For polling only: `child` signals and reaps.
    pub(crate) pidfd: OwnedFd,
    /// This process's ends of the pipes: non-blocking, close-on-exec, above 2.
    pub(crate) stdin: OwnedFd,
    pub(crate) stdout: OwnedFd,
    pub(crate) stderr: OwnedFd,
    /// The sizes in bytes that the kernel granted.
    pub(crate) stdin_pipe_size: usize,
    pub(crate) stdout_pipe_size: usize,
    /// The executed file; if relative, then to the working directory of the agent.
    pub(crate) program: PathBuf,
}

impl Spawned {
    /// Returns the process number, which is also that of the process group.
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// Returns the path of the executed file.
    pub(crate) fn program(&self) -> &Path {
        &self.program
    }

    /// Kills the agent's group and reaps the agent: how it ended, and whether it was alive until then.
    /// Blocks for as long as a SIGKILL takes.
    pub(crate) fn destroy(mut self) -> (ExitStatus, bool) {
        self.child.destroy().unwrap_or((ExitStatus::Unknown, false))
    }

    /// Hands the agent to its owner.
    pub(crate) fn into_parts(self) -> Parts {
        Parts {
            child: self.child.claim(),
            pidfd: self.pidfd,
            stdin: self.stdin,
            stdout: self.stdout,
            stderr: self.stderr,
            stdin_pipe_size: self.stdin_pipe_size,
            stdout_pipe_size: self.stdout_pipe_size,
            program: self.program,
        }
    }
}

/// Spawns an agent that holds `permit`. The permit of a failed spawn is free before this returns.
pub(crate) fn spawn_admitted(
    command: &AgentCommand,
    guard: Option<&Arc<Guard>>,
    permit: Permit,
) -> Result<Spawned, Error> {
    let mut spawned = spawn_guarded(command, guard)?;
    spawned.child.hold(permit);
    Ok(spawned)
}

/// Spawns an agent in a new session, with pipes for 0, 1 and 2, the descriptors of its command, default
/// signal dispositions and an empty signal mask. Returns once the exec has succeeded.
///
/// Blocks the calling thread until then: about 0.1 ms, whatever this process has in memory and whatever
/// the command asks for, unless the exec hangs. An agent that dies with its parent dies when the calling
/// thread ends, unless there is a guard, which kills it with its descendants.
pub(super) fn spawn_guarded(
    command: &AgentCommand,
    guard: Option<&Arc<Guard>>,
) -> Result<Spawned, Error> {
    // All that can be refused without a process comes first: a refusal then has nothing to undo.
    command.limits.check()?;
    // Checked here, as all that can be refused. The client of a container gets more of them below.
    let mut args = arguments(&command.program, &command.args)?;
    let env = Environment::of(command)?;
    let credentials = Credentials::of(command)?;
    let passed = passed(command)?;
    let limits = credentials::limits(command)?;
    let cwd = command.cwd.as_deref();
    let cwd = cwd.map(|dir| resolve::working_directory(dir, credentials.user.is_some()));
    let cwd = cwd.transpose()?;
    let (program, executable) = Executable::find(command, env.path(), credentials.user.is_some())?;
    let env = ExecStrings::new(env.into_strings()?);

    // From here on an error drops the entry and the cgroup, and the drop removes them.
    let guarded = guard.map(Guard::enter).transpose()?;
    let cgroup = command.cgroup.as_ref();
    let cgroup = cgroup.map(|place| Cgroup::create(place, guarded.as_ref())).transpose()?;
    let own = rustix::process::getpid();
    let mut container = None;
    if command.container {
        let (made, with_file) = Container::create(command, credentials.user)?;
        args = arguments(&command.program, &with_file)?;
        container = Some(made);
    }
    let stdin = Pipe::to_agent(command.pipe_size).map_err(error::of_pipe)?;
    let stdout = Pipe::from_agent(command.pipe_size).map_err(error::of_pipe)?;
    let stderr = Pipe::from_agent(None).map_err(error::of_pipe)?;
    if let Some(user) = credentials.user {
        give_to(user, [&stdin.theirs, &stdout.theirs, &stderr.theirs]);
    }
    let mut plan = ExecPlan {
        program: c_string(program.as_os_str().as_bytes(), "the program's path")?,
        args: ExecStrings::new(args),
        env,
        cwd,
        stdin: stdin.theirs,
        stdout: stdout.theirs,
        stderr: stderr.theirs,
        passed,
        limits,
        groups: credentials.groups,
        user: credentials.user,
        join: None,
        no_new_privs: command.no_new_privs.unwrap_or(!command.container),
        // Its descendants would lose the agent, by which the guard finds them.
        dies_with: (command.die_with_parent && guard.is_none()).then_some(own),
        guard: guarded.map(|entry| (own, entry)),
    };
    let cloned = clone_into(&mut plan, cgroup.as_ref())?;
    let (mut child, pidfd) = cloned.map_err(|cause| {
        let context = ErrorContext { command, program: &program, seen: executable.path() };
        error::of_clone(cause, &plan, &context)
    })?;
    let guarded = plan.guard.take().map(|(_, entry)| entry);
    // Closes this process's copies of the agent's ends: with one of them open, the agent's exit would
    // not end its output.
    drop(plan);
    // The cgroup is attached before the next error return, so that a dropped child kills it, too.
    child.attach(cgroup, guarded);
    child.attach_container(container);
    let pidfd = above_standard(pidfd).map_err(error::of_pipe)?;
    let pid = child.pid();
    crate::trace::debug!(pid, program = %program.display(), "spawned");
    Ok(Spawned {
        child,
        pid,
        pidfd,
        stdin: stdin.ours,
        stdout: stdout.ours,
        stderr: stderr.ours,
        stdin_pipe_size: stdin.size,
        stdout_pipe_size: stdout.size,
        program,
    })
}

/// Spawns an agent without a guard.
#[cfg(test)]
pub(super) fn spawn(command: &AgentCommand) -> Result<Spawned, Error> {
    spawn_guarded(command, None)
}

/// Returns the descriptors to pass and their numbers in the agent, in ascending order. Each is a copy above
/// all these numbers, so that the child overwrites none of them.
fn passed(command: &AgentCommand) -> Result<Vec<(OwnedFd, i32)>, Error> {
    let Some(most) = command.passed.iter().map(|passed| passed.number).max() else {
        return Ok(Vec::new());
    };
    let mut copies = Vec::with_capacity(command.passed.len());
    for passed in &command.passed {
        let refused = |why: &str| {
            let what = format!("descriptor {} cannot be passed: {why}", passed.number);
            error::invalid(what)
        };
        let number = i32::try_from(passed.number).map_err(|_| refused("no such number"))?;
        if number < FIRST_DESCRIPTOR {
            return Err(refused("0, 1 and 2 are the agent's pipes"));
        }
        let above = i32::try_from(most).unwrap_or(i32::MAX).saturating_add(1);
        let copy = fcntl_dupfd_cloexec(&*passed.fd, above).map_err(|errno| match errno {
            Errno::INVAL => refused("the number is above RLIMIT_NOFILE"),
            errno => error::of_pipe(errno),
        })?;
        copies.push((copy, number));
    }
    copies.sort_by_key(|(_, number)| *number);
    Ok(copies)
}

/// Returns the program as it was named, then its arguments. Errors give the number of an argument,
/// because its text may be a secret.
fn arguments(program: &OsStr, given: &[OsString]) -> Result<Vec<CString>, Error> {
    let mut args = vec![c_string(program.as_bytes(), "the program's name")?];
    for (index, arg) in given.iter().enumerate() {
        args.push(c_string(arg.as_bytes(), &format!("argument {}", index + 1))?);
    }
    Ok(args)
}

fn c_string(bytes: &[u8], what: &str) -> Result<CString, Error> {
    CString::new(bytes).map_err(|_| error::invalid(format!("{what} holds a NUL byte")))
}

type Cloned = Result<(Unclaimed, OwnedFd), CloneFailure>;

/// Clones, into the cgroup if there is one. The outer error is one of the cgroup.
fn clone_into(plan: &mut ExecPlan, cgroup: Option<&Cgroup>) -> Result<Cloned, Error> {
    // This lives until the clone has returned: by then the child has execed or ended, and no longer
    // shares the memory.
    let _dumpable = plan.user.map(|_| KeepsDumpable::new());
    let Some(cgroup) = cgroup else { return Ok(clone(plan, None)) };
    let folder = cgroup.folder()?;
    match clone(plan, Some(folder.as_fd())) {
        Err(CloneFailure::NoBirthInCgroup) => {
            crate::trace::debug!(cgroup = %cgroup.path().display(), "no clone3: the agent joins by itself");
            // The number may be below 3: the child uses the file before the pipes take those.
            plan.join = Some(cgroup.procs()?);
            Ok(clone(plan, None))
        }
        cloned => Ok(cloned),
    }
}

/// One pipe. Both ends are close-on-exec. This process's end does not block, the agent's does: each
/// has its own open file description, and so its own flags.
struct Pipe {
    ours: OwnedFd,
    theirs: OwnedFd,
    /// In bytes, as the kernel granted it.
    size: usize,
}

impl Pipe {
    /// Makes a pipe that the agent reads.
    fn to_agent(size: Option<usize>) -> Result<Self, Errno> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
        Self::new(write, read, size)
    }

    /// Makes a pipe that the agent writes.
    fn from_agent(size: Option<usize>) -> Result<Self, Errno> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
        Self::new(read, write, size)
    }

    fn new(ours: OwnedFd, theirs: OwnedFd, size: Option<usize>) -> Result<Self, Errno> {
        let ours = above_standard(ours)?;
        let theirs = above_standard(theirs)?;
        // The flag is set afterwards because pipe2(2) would set it on both ends.
        fcntl_setfl(&ours, fcntl_getfl(&ours)? | OFlags::NONBLOCK)?;
        if let Some(size) = size {
            request_size(&ours, size)?;
        }
        let size = fcntl_getpipe_size(&ours)?;
        Ok(Self { ours, theirs, size })
    }
}

/// Makes the pipes the agent's own: it can open them by name then, as `/dev/stdout` or
/// `/proc/self/fd/1`. The kernel makes each pipe with the user of this process and the mode 0600.
fn give_to((uid, gid): (Uid, Gid), pipes: [&OwnedFd; 3]) {
    for pipe in pipes {
        // Only those names need it, so a refusal (CAP_CHOWN is missing) does not fail the spawn.
        if let Err(error) = rustix::fs::fchown(pipe, Some(uid), Some(gid)) {
            crate::trace::warn!(%error, "the agent cannot open its pipes by name");
        }
    }
}

/// Asks for a pipe size. The kernel grants all of it or refuses (EPERM above the limit of the user or
/// of `pipe-max-size`), so this asks for half as much until the kernel agrees.
fn request_size(pipe: &OwnedFd, mut size: usize) -> Result<(), Errno> {
    let now = fcntl_getpipe_size(pipe)?;
    if fcntl_setpipe_size(pipe, size).is_ok() {
        return Ok(());
    }
    // A size that is not above the present one is no gain, so the halving ends there.
    while size / 2 > now {
        size /= 2;
        if fcntl_setpipe_size(pipe, size).is_ok() {
            break;
        }
    }
    Ok(())
}

/// Moves a descriptor above 0, 1 and 2.
pub(super) fn above_standard(fd: OwnedFd) -> Result<OwnedFd, Errno> {
    if fd.as_raw_fd() >= FIRST_DESCRIPTOR {
        return Ok(fd);
    }
    fcntl_dupfd_cloexec(fd.as_fd(), FIRST_DESCRIPTOR)
}
