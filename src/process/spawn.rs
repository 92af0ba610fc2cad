//! Floor 1. From a command to a running agent, or to an error and nothing left behind.

use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::cgroup::Cgroup;
use super::child::{Child, Unclaimed};
use super::child_setup::{Plan, Strings};
use super::clone::{CloneFailure, clone};
use super::credentials::{self, Credentials, KeepsDumpable};
use super::environment::Environment;
use super::executable::Executable;
use super::{failure, pipes, resolve};
use crate::close::ExitStatus;
use crate::command::AgentCommand;
use crate::error::Error;
use crate::sync::Permit;

/// A running agent that nobody took over yet. Dropped, it kills the agent's group and reaps it.
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
    executable: Executable,
}

/// A running agent, taken over: who holds `child` must reap it.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) child: Child,
    /// Readable when the leader has exited. To be polled only: signals and the reap are `child`'s.
    pub(crate) pidfd: OwnedFd,
    /// Our ends: not blocking, close-on-exec, above 2.
    pub(crate) stdin: OwnedFd,
    pub(crate) stdout: OwnedFd,
    pub(crate) stderr: OwnedFd,
    /// As the kernel granted them.
    pub(crate) stdin_pipe_size: usize,
    pub(crate) stdout_pipe_size: usize,
    /// The file that was executed; if relative, then to the agent's working directory.
    pub(crate) program: PathBuf,
}

impl Spawned {
    /// The process number, which is also that of its process group.
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// The file that was executed.
    pub(crate) fn program(&self) -> &Path {
        &self.program
    }

    /// The same, to be compared with that of another agent.
    pub(crate) fn executable(&self) -> &Executable {
        &self.executable
    }

    /// Kills the agent's group and reaps the agent: how it ended, and whether it was alive until
    /// then. Blocks for as long as a SIGKILL takes.
    pub(crate) fn destroy(mut self) -> (ExitStatus, bool) {
        self.child.destroy().unwrap_or((ExitStatus::Unknown, false))
    }

    /// Hands the agent on.
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

/// Spawns the agent: in a session of its own, with pipes for 0, 1 and 2 and no other descriptor,
/// default signal dispositions and an empty mask. Returns once its exec succeeded.
///
/// The calling thread stands still until then, about 0.1 ms whatever this process holds in
/// memory and whatever is asked for. Nothing here waits for the agent itself. The calling thread
/// is the one whose end an agent that dies with its parent dies of.
pub(crate) fn spawn(command: &AgentCommand) -> Result<Spawned, Error> {
    command.limits.check()?;
    let args = arguments(command)?;
    let env = Environment::of(command)?;
    let credentials = Credentials::of(command)?;
    let limits = credentials::limits(command)?;
    let cwd = command.cwd.as_deref();
    let cwd_text = cwd.map(|dir| resolve::working_directory(dir, credentials.user.is_some()));
    let cwd_text = cwd_text.transpose()?;
    let (program, executable) = Executable::find(command, env.path(), credentials.user.is_some())?;
    let env = Strings::new(env.into_strings()?);

    let cgroup = command.cgroup.as_ref().map(Cgroup::create).transpose()?;
    let stdin = pipes::to_agent(command.pipe_size).map_err(failure::of_pipe)?;
    let stdout = pipes::from_agent(command.pipe_size).map_err(failure::of_pipe)?;
    let stderr = pipes::from_agent(None).map_err(failure::of_pipe)?;
    let mut plan = Plan {
        program: c_string(program.as_os_str().as_bytes(), "the program's path")?,
        args: Strings::new(args),
        env,
        cwd: cwd_text,
        stdin: stdin.theirs,
        stdout: stdout.theirs,
        stderr: stderr.theirs,
        limits,
        groups: credentials.groups,
        user: credentials.user,
        join: None,
        dies_with: command.die_with_parent.then(rustix::process::getpid),
    };
    let started = start(&mut plan, cgroup.as_ref())?;
    let (mut child, pidfd) = started.map_err(|cause| {
        failure::of_clone(cause, &plan, &failure::Asked { program: &program, command })
    })?;
    // Our copies of the agent's ends: while one is open, its exit is no EOF.
    drop(plan);
    child.attach(cgroup);
    let pidfd = pipes::above_standard(pidfd).map_err(failure::of_pipe)?;
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
        executable,
    })
}

/// The same, with its place among the agents of its engine. Where it fails the place is free before
/// the caller knows: the next may be its own.
pub(crate) fn spawn_admitted(command: &AgentCommand, permit: Permit) -> Result<Spawned, Error> {
    let mut child = spawn(command)?;
    child.child.hold(Some(permit));
    Ok(child)
}

type Started = Result<(Unclaimed, OwnedFd), CloneFailure>;

/// Clones, into the cgroup if there is one. The outer error is one of the cgroup's.
fn start(plan: &mut Plan, cgroup: Option<&Cgroup>) -> Result<Started, Error> {
    let _dumpable = plan.user.map(|_| KeepsDumpable::new());
    let Some(cgroup) = cgroup else { return Ok(clone(plan, None)) };
    let folder = cgroup.folder()?;
    match clone(plan, Some(folder.as_fd())) {
        Err(CloneFailure::NoBirthInCgroup) => {
            crate::trace::debug!(cgroup = %cgroup.path().display(), "no clone3: the agent joins by itself");
            plan.join = Some(cgroup.procs()?);
            Ok(clone(plan, None))
        }
        started => Ok(started),
    }
}

/// The program as it was named, then its arguments. Errors name the argument by its number: its
/// text may be a secret.
fn arguments(command: &AgentCommand) -> Result<Vec<CString>, Error> {
    let mut args = vec![c_string(command.program.as_bytes(), "the program's name")?];
    for (index, arg) in command.args.iter().enumerate() {
        args.push(c_string(arg.as_bytes(), &format!("argument {}", index + 1))?);
    }
    Ok(args)
}

fn c_string(bytes: &[u8], what: &str) -> Result<CString, Error> {
    CString::new(bytes).map_err(|_| failure::invalid(format!("{what} holds a NUL byte")))
}
