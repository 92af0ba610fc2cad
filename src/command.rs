//! The command of an agent: what to spawn, and how its pipes and its close are treated.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::close::ClosePolicy;
use crate::config::Limits;
use crate::framing::Framing;

/// Where the cgroup of an agent is created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum CgroupPlace {
    /// Below the cgroup of this process.
    Own,
    /// Below this folder of a cgroup2 file system.
    Beneath(PathBuf),
}

/// A descriptor that the agent gets beside its pipes.
#[derive(Clone, Debug)]
pub(crate) struct PassedDescriptor {
    pub(crate) fd: Arc<OwnedFd>,
    /// The number that it has in the agent.
    pub(crate) number: u32,
}

impl PartialEq for PassedDescriptor {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number && Arc::ptr_eq(&self.fd, &other.fd)
    }
}

/// A command to spawn: program, arguments, environment, and the settings of its pipes.
///
/// The agent always starts in a new session and process group, without the terminal of this
/// process. It has pipes on descriptors 0, 1 and 2, no other descriptor but those that
/// [`pass_fd`](Self::pass_fd) gives it, default signal
/// dispositions, and an empty signal mask.
///
/// A program name without `/` is searched in the `PATH` that the agent will have. This crate searches
/// before it clones, so that every configuration spawns at the cost of a vfork.
#[derive(Clone, PartialEq)]
pub struct AgentCommand {
    pub(crate) program: OsString,
    pub(crate) args: Vec<OsString>,
    /// Directories to search after those of `PATH`.
    pub(crate) search_also: Vec<PathBuf>,
    pub(crate) cwd: Option<PathBuf>,
    pub(crate) env_clear: bool,
    /// In the order of the calls; `None` removes the variable.
    pub(crate) env: Vec<(OsString, Option<OsString>)>,
    pub(crate) passed: Vec<PassedDescriptor>,
    pub(crate) framing: Framing,
    pub(crate) limits: Limits,
    pub(crate) close: ClosePolicy,
    pub(crate) stderr_events: bool,
    pub(crate) stderr_backpressure: bool,
    pub(crate) pipe_size: Option<usize>,
    /// User and group.
    pub(crate) user: Option<(u32, u32)>,
    pub(crate) groups: Option<Vec<u32>>,
    /// Soft and hard limits, in the order of the calls; `u64::MAX` means unlimited.
    pub(crate) resources: Vec<(ResourceLimit, u64, u64)>,
    pub(crate) cgroup: Option<CgroupPlace>,
    pub(crate) die_with_parent: bool,
    /// `None`: on, except for a container.
    pub(crate) no_new_privs: Option<bool>,
    /// The program is the client of a container.
    pub(crate) container: bool,
}

impl AgentCommand {
    /// Creates a command that runs `program`: a path, or a name that is searched on `PATH`.
    #[must_use]
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        Self {
            program: program.as_ref().to_owned(),
            args: Vec::new(),
            search_also: Vec::new(),
            cwd: None,
            env_clear: false,
            env: Vec::new(),
            passed: Vec::new(),
            framing: Framing::default(),
            limits: Limits::default(),
            close: ClosePolicy::default(),
            stderr_events: false,
            stderr_backpressure: false,
            pipe_size: None,
            user: None,
            groups: None,
            resources: Vec::new(),
            cgroup: None,
            die_with_parent: false,
            no_new_privs: None,
            container: false,
        }
    }

    /// Adds one argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Adds arguments, in order.
    #[must_use]
    pub fn args<I, S>(mut self, args: I) -> Self
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Adds directories that are searched for a program name without `/` after those of `PATH`.
    /// Default: none. The error of a failed search lists them.
    #[must_use]
    pub fn search_also<I, P>(mut self, dirs: I) -> Self
    where
        I: IntoIterator<Item = P>,
        P: AsRef<Path>,
    {
        self.search_also.extend(dirs.into_iter().map(|dir| dir.as_ref().to_owned()));
        self
    }

    /// Sets the working directory of the agent, and `PWD` to it. Default: that of this process.
    #[must_use]
    pub fn cwd(mut self, dir: impl AsRef<Path>) -> Self {
        self.cwd = Some(dir.as_ref().to_owned());
        self
    }

    /// Sets one environment variable. The agent inherits all others from this process, except those that
    /// name a descriptor which it does not get: `NODE_CHANNEL_FD`, `LISTEN_FDS`, `BASH_XTRACEFD`,
    /// `WAYLAND_SOCKET` with what belongs to them, and the pipe of a job server in `MAKEFLAGS`.
    #[must_use]
    pub fn env(mut self, key: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env.push((key.as_ref().to_owned(), Some(value.as_ref().to_owned())));
        self
    }

    /// Removes one environment variable. The last call for a variable takes effect.
    #[must_use]
    pub fn env_remove(mut self, key: impl AsRef<OsStr>) -> Self {
        self.env.push((key.as_ref().to_owned(), None));
        self
    }

    /// Starts from an empty environment. Earlier calls of [`env`](Self::env) have no effect.
    #[must_use]
    pub fn env_clear(mut self) -> Self {
        self.env_clear = true;
        self.env.clear();
        self
    }

    /// Gives the agent a descriptor, under the number that it will have there: 3 or more. The last call for
    /// a number takes effect.
    ///
    /// The command and its clones keep the descriptor open in this process. While a pipe is open here, its
    /// other end sees neither its end nor a broken pipe: drop the command after the spawn. The number
    /// must be below RLIMIT_NOFILE; another one, or one below 3, is an
    /// [`InvalidCommand`](crate::ErrorKind::InvalidCommand) error of the spawn.
    #[must_use]
    pub fn pass_fd(mut self, fd: impl Into<OwnedFd>, number: u32) -> Self {
        self.passed.retain(|passed| passed.number != number);
        self.passed.push(PassedDescriptor { fd: Arc::new(fd.into()), number });
        self
    }

    /// Returns whether [`pass_fd`](Self::pass_fd) was called for this number.
    #[must_use]
    pub fn passes_fd(&self, number: u32) -> bool {
        self.passed.iter().any(|passed| passed.number == number)
    }

    /// Sets how records are separated. Default [`Framing::Ndjson`].
    #[must_use]
    pub fn framing(mut self, framing: Framing) -> Self {
        self.framing = framing;
        self
    }

    /// Sets how much the agent may hold in this process. Default [`Limits::new`].
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Sets how long the stages of a close of this agent may take. Default [`ClosePolicy::graceful`].
    ///
    /// `close()`, `abort()` and the drop of the last handle use these limits with a mode of their own;
    /// `close_with` uses the policy that it is given. Both mode and limits apply to a close that no
    /// caller requested: when the agent exits or closes its stdout, in
    /// [`Engine::shutdown`](crate::Engine::shutdown), and to idle agents of a
    /// [`WarmPool`](crate::WarmPool).
    #[must_use]
    pub fn close_policy(mut self, policy: ClosePolicy) -> Self {
        self.close = ClosePolicy { container: self.container, ..policy };
        self
    }

    /// Sets whether stderr lines are delivered as [`Event::Stderr`](crate::Event::Stderr). Default
    /// off: only the end of stderr is kept.
    ///
    /// By default stderr is always drained and never blocks the agent: a line that finds the inbox full is
    /// dropped and counted. [`stderr_backpressure`](Self::stderr_backpressure) changes that.
    #[must_use]
    pub fn stderr_events(mut self, on: bool) -> Self {
        self.stderr_events = on;
        self
    }

    /// Sets whether a full inbox stops the reading of stderr as it stops that of stdout. Default off.
    ///
    /// With it no line is dropped while the agent is open, and an agent that logs faster than its events are
    /// taken is held back. A close reads stderr in any case; a line beyond
    /// [`drain_max`](crate::Limits::drain_max) is then dropped and counted. Has an effect only with
    /// [`stderr_events`](Self::stderr_events).
    #[must_use]
    pub fn stderr_backpressure(mut self, on: bool) -> Self {
        self.stderr_backpressure = on;
        self
    }

    /// Requests stdin and stdout pipes of this many bytes. Default: the kernel's, 64 KiB.
    ///
    /// The kernel may grant less (`pipe-user-pages-soft`, `pipe-max-size`); the spawn still succeeds.
    /// [`AgentStats::stdin_pipe_size`](crate::AgentStats::stdin_pipe_size) and `stdout_pipe_size`
    /// hold what it granted.
    #[must_use]
    pub fn pipe_size(mut self, bytes: usize) -> Self {
        self.pipe_size = Some(bytes);
        self
    }

    /// Sets the user and group of the agent: real, effective, saved and file system ids. Default:
    /// those of this process.
    ///
    /// The supplementary groups are cleared unless [`groups`](Self::groups) sets them. `HOME` and
    /// `USER` stay as they are. The pipes belong to that user (CAP_CHOWN), so the agent can open
    /// `/dev/stdout`. The spawn needs CAP_SETUID and CAP_SETGID unless this process already
    /// has that user and group; otherwise it fails with
    /// [`NotPermitted`](crate::ErrorKind::NotPermitted). This process can signal an agent of another
    /// user only if it has CAP_KILL or is root.
    #[must_use]
    pub fn user(mut self, uid: u32, gid: u32) -> Self {
        self.user = Some((uid, gid));
        self
    }

    /// Sets the supplementary groups of the agent. Default: none if [`user`](Self::user) is set,
    /// otherwise those of this process. Needs CAP_SETGID.
    #[must_use]
    pub fn groups(mut self, gids: impl IntoIterator<Item = u32>) -> Self {
        self.groups = Some(gids.into_iter().collect());
        self
    }

    /// Sets a resource limit of the agent, soft and hard. `u64::MAX` means unlimited. Default: the
    /// limits of this process. The last call for a resource takes effect.
    ///
    /// The spawn fails with [`InvalidCommand`](crate::ErrorKind::InvalidCommand) if the soft limit
    /// exceeds the hard one, and with [`NotPermitted`](crate::ErrorKind::NotPermitted) if the hard limit
    /// exceeds that of this process and CAP_SYS_RESOURCE is missing.
    #[must_use]
    pub fn limit(mut self, resource: ResourceLimit, soft: u64, hard: u64) -> Self {
        self.resources.retain(|(known, _, _)| *known != resource);
        self.resources.push((resource, soft, hard));
        self
    }

    /// Spawns the agent in a new cgroup (version 2) below the cgroup of this process.
    ///
    /// The agent starts in it, and so does every process that it ever starts: a close also kills
    /// processes that left the process group with `setsid`. The cgroup is removed when the agent is
    /// closed. Where the host does not allow it, the spawn fails with
    /// [`CgroupUnavailable`](crate::ErrorKind::CgroupUnavailable).
    #[must_use]
    pub fn cgroup(mut self) -> Self {
        self.cgroup = Some(CgroupPlace::Own);
        self
    }

    /// Spawns the agent in a new cgroup below a folder of a cgroup2 file system, as
    /// [`cgroup`](Self::cgroup) does below that of this process. Limits of that folder apply to all
    /// agents below it together.
    #[must_use]
    pub fn cgroup_beneath(mut self, folder: impl AsRef<Path>) -> Self {
        self.cgroup = Some(CgroupPlace::Beneath(folder.as_ref().to_owned()));
        self
    }

    /// Sets whether the kernel kills the agent with SIGKILL when this process ends, however it ends.
    /// Default off: the agent sees the end of its input.
    ///
    /// The kernel sends the signal when the spawning thread ends (`PR_SET_PDEATHSIG`), so a thread that
    /// lives as long as the engine spawns the agent. Only the agent itself is killed, not its children.
    /// With [`no_new_privs(false)`](Self::no_new_privs) the kernel does not kill an agent whose program
    /// is set-user-ID or has file capabilities.
    ///
    /// An engine with a [`guard`](crate::EngineBuilder::guard) ignores this setting: its guard kills the
    /// agent and its children.
    #[must_use]
    pub fn die_with_parent(mut self, on: bool) -> Self {
        self.die_with_parent = on;
        self
    }

    /// Sets whether the agent, and everything that it starts, is kept from gaining privileges by an exec
    /// (`PR_SET_NO_NEW_PRIVS`, Linux 3.5). Default on: set-user-ID and set-group-ID bits and file
    /// capabilities have no effect.
    ///
    /// Turn it off for a command that needs them: `sudo`, `su`, `pkexec`, `fusermount`, rootless Podman
    /// (`newuidmap`), programs from snap packages, a set-user-ID `bwrap` or `chrome-sandbox`. The guide
    /// to security (docs/guide/security.md) lists what breaks.
    #[must_use]
    pub fn no_new_privs(mut self, on: bool) -> Self {
        self.no_new_privs = Some(on);
        self
    }

    /// Treats the command as the client of a container: `docker run` or `podman run`, with its options.
    ///
    /// A container survives the end of its client's input, and every signal to the client. With this
    /// setting the spawn adds `--cidfile FILE` after the argument `run`, with a file in a private folder
    /// below the temporary one, and the last stage of every close runs `docker rm -f ID`, within
    /// [`ClosePolicy::remove`]: also if the client has exited by itself, and in an abort.
    /// [`CloseReport::container_removed`](crate::CloseReport::container_removed) tells the outcome.
    ///
    /// The command needs `-i` (docker, podman) to have an input, and should have `--rm`. The default of
    /// [`no_new_privs`](Self::no_new_privs) is off then: rootless Podman needs `newuidmap`. What runs in
    /// the container is limited by the options of the command (`--security-opt no-new-privileges`).
    ///
    /// The spawn fails with [`InvalidCommand`](crate::ErrorKind::InvalidCommand) without an argument
    /// `run`, and if there is a `--cidfile` already.
    ///
    /// ```
    /// use agentpipe::AgentCommand;
    ///
    /// let server = AgentCommand::new("docker").args(["run", "-i", "--rm", "mcp/time"]).container();
    /// ```
    #[must_use]
    pub fn container(mut self) -> Self {
        self.container = true;
        self.close.container = true;
        self
    }

    /// Returns the program as it was given.
    #[must_use]
    pub fn get_program(&self) -> &OsStr {
        &self.program
    }

    /// Returns the arguments.
    pub fn get_args(&self) -> impl ExactSizeIterator<Item = &OsStr> {
        self.args.iter().map(OsString::as_os_str)
    }

    /// Returns the framing.
    #[must_use]
    pub fn get_framing(&self) -> Framing {
        self.framing
    }

    /// Returns the limits.
    #[must_use]
    pub fn get_limits(&self) -> &Limits {
        &self.limits
    }

    /// Returns the close policy.
    #[must_use]
    pub fn get_close_policy(&self) -> &ClosePolicy {
        &self.close
    }
}

/// Shows the program and its arguments, but no values of environment variables: they may be secrets.
impl fmt::Debug for AgentCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys: Vec<_> = self.env.iter().map(|(key, _)| key).collect();
        f.debug_struct("AgentCommand")
            .field("program", &self.program)
            .field("args", &self.args)
            .field("cwd", &self.cwd)
            .field("env_clear", &self.env_clear)
            .field("env_keys", &keys)
            .field("framing", &self.framing)
            .field("user", &self.user)
            .field("cgroup", &self.cgroup)
            .finish_non_exhaustive()
    }
}

/// A resource that the kernel can limit, for [`AgentCommand::limit`].
///
/// Each process of the agent has the limit for itself, except [`Processes`](Self::Processes), which
/// counts all processes of the user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ResourceLimit {
    /// Address space in bytes (RLIMIT_AS). Runtimes that reserve much address space fail early.
    AddressSpace,
    /// Size of a core dump in bytes (RLIMIT_CORE). 0 disables core dumps.
    Core,
    /// CPU time in seconds (RLIMIT_CPU): SIGXCPU at the soft limit, SIGKILL at the hard limit.
    Cpu,
    /// Heap and data in bytes (RLIMIT_DATA).
    Data,
    /// Size of a written file in bytes (RLIMIT_FSIZE): SIGXFSZ.
    FileSize,
    /// Locked memory in bytes (RLIMIT_MEMLOCK).
    LockedMemory,
    /// Open descriptors (RLIMIT_NOFILE).
    OpenFiles,
    /// Processes and threads of the user (RLIMIT_NPROC). Root is exempt.
    Processes,
    /// Stack in bytes (RLIMIT_STACK). Arguments and environment may take a quarter of it.
    Stack,
}

impl ResourceLimit {
    /// Returns the name of the limit in manuals, such as `RLIMIT_NOFILE`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AddressSpace => "RLIMIT_AS",
            Self::Core => "RLIMIT_CORE",
            Self::Cpu => "RLIMIT_CPU",
            Self::Data => "RLIMIT_DATA",
            Self::FileSize => "RLIMIT_FSIZE",
            Self::LockedMemory => "RLIMIT_MEMLOCK",
            Self::OpenFiles => "RLIMIT_NOFILE",
            Self::Processes => "RLIMIT_NPROC",
            Self::Stack => "RLIMIT_STACK",
        }
    }
}

impl fmt::Display for ResourceLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
