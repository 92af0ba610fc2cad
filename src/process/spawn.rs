//! Floor 1. From a command to a running agent, or to an error and nothing left behind.

use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::child::{Child, Unclaimed};
use super::clone::{Plan, Strings, clone};
use super::environment::Environment;
use super::{failure, pipes, resolve};
use crate::command::AgentCommand;
use crate::error::Error;

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

/// Spawns the agent: in a process group of its own, with pipes for 0, 1 and 2 and no other
/// descriptor, default signal dispositions and an empty mask. Returns once its exec succeeded.
///
/// The calling thread stands still until then, about 0.1 ms whatever this process holds in
/// memory. Nothing here waits for the agent itself.
pub(crate) fn spawn(command: &AgentCommand) -> Result<Spawned, Error> {
    let args = arguments(command)?;
    let env = Environment::of(command)?;
    let cwd = command.cwd.as_deref();
    let cwd_text = cwd.map(resolve::working_directory).transpose()?;
    let program = resolve::program(&command.program, env.path(), cwd)?;
    let env = Strings::new(env.into_strings()?);

    let stdin = pipes::to_agent(command.pipe_size).map_err(failure::of_pipe)?;
    let stdout = pipes::from_agent(command.pipe_size).map_err(failure::of_pipe)?;
    let stderr = pipes::from_agent(None).map_err(failure::of_pipe)?;
    let plan = Plan {
        program: c_string(program.as_os_str().as_bytes(), "the program's path")?,
        args: Strings::new(args),
        env,
        cwd: cwd_text,
        stdin: stdin.theirs,
        stdout: stdout.theirs,
        stderr: stderr.theirs,
    };
    let (child, pidfd) =
        clone(&plan).map_err(|cause| failure::of_clone(cause, &plan, &program, cwd))?;
    // Our copies of the agent's ends: while one is open, its exit is no EOF.
    drop(plan);
    let pidfd = pipes::above_standard(pidfd).map_err(failure::of_pipe)?;
    let pid = child.pid();
    tracing::debug!(pid, program = %program.display(), "spawned");
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
