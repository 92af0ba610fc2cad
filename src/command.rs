//! Floor 0. What to spawn, and how to treat it.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::{Path, PathBuf};

use crate::close::ClosePolicy;
use crate::config::{Framing, Limits};

/// Where an agent's cgroup is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum CgroupPlace {
    /// Beneath the one that this process is in.
    Own,
    /// Beneath this folder of a cgroup2 file system.
    Beneath(PathBuf),
}

/// What to spawn: program, arguments, environment, and the settings of its transport.
///
/// The agent always gets a session and a process group of its own, without the terminal of this
/// process; pipes for descriptors 0, 1 and 2 and no other descriptor; default signal dispositions
/// and an empty signal mask.
///
/// A program name without `/` is searched in the `PATH` that the agent will have, by this
/// crate and not by `execvp`, so that every configuration spawns at vfork cost.
#[derive(Clone, PartialEq)]
pub struct AgentCommand {
    pub(crate) program: OsString,
    pub(crate) args: Vec<OsString>,
    /// Directories after those of `PATH`.
    pub(crate) search_also: Vec<PathBuf>,
    pub(crate) cwd: Option<PathBuf>,
    pub(crate) env_clear: bool,
    /// In the order they were given; `None` removes the variable.
    pub(crate) env: Vec<(OsString, Option<OsString>)>,
    pub(crate) framing: Framing,
    pub(crate) limits: Limits,
    pub(crate) close: ClosePolicy,
    pub(crate) stderr_events: bool,
    pub(crate) pipe_size: Option<usize>,
    /// User and group.
    pub(crate) user: Option<(u32, u32)>,
    pub(crate) groups: Option<Vec<u32>>,
    /// Soft and hard, in the order they were given; `u64::MAX` is no limit.
    pub(crate) resources: Vec<(ResourceLimit, u64, u64)>,
    pub(crate) cgroup: Option<CgroupPlace>,
    pub(crate) die_with_parent: bool,
}

impl AgentCommand {
    /// A command that runs `program`: a path, or a name to be found on `PATH`.
    #[must_use]
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        Self {
            program: program.as_ref().to_owned(),
            args: Vec::new(),
            search_also: Vec::new(),
            cwd: None,
            env_clear: false,
            env: Vec::new(),
            framing: Framing::default(),
            limits: Limits::default(),
            close: ClosePolicy::default(),
            stderr_events: false,
            pipe_size: None,
            user: None,
            groups: None,
            resources: Vec::new(),
            cgroup: None,
            die_with_parent: false,
        }
    }

    /// Adds one argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Adds arguments in order.
    #[must_use]
    pub fn args<I, S>(mut self, args: I) -> Self
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Directories in which a program name without `/` is looked for where `PATH` has none.
    /// Default: none. The error that finds nothing lists them.
    #[must_use]
    pub fn search_also<I, P>(mut self, dirs: I) -> Self
    where
        I: IntoIterator<Item = P>,
        P: AsRef<Path>,
    {
        self.search_also.extend(dirs.into_iter().map(|dir| dir.as_ref().to_owned()));
        self
    }

    /// The working directory of the agent; `PWD` is set to it. Default: this process's own.
    #[must_use]
    pub fn cwd(mut self, dir: impl AsRef<Path>) -> Self {
        self.cwd = Some(dir.as_ref().to_owned());
        self
    }

    /// Sets one variable. The environment is otherwise this process's own.
    #[must_use]
    pub fn env(mut self, key: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env.push((key.as_ref().to_owned(), Some(value.as_ref().to_owned())));
        self
    }

    /// Removes one variable. The last call for a variable counts.
    #[must_use]
    pub fn env_remove(mut self, key: impl AsRef<OsStr>) -> Self {
        self.env.push((key.as_ref().to_owned(), None));
        self
    }

    /// Starts from an empty environment; earlier [`env`](Self::env) calls are forgotten.
    #[must_use]
    pub fn env_clear(mut self) -> Self {
        self.env_clear = true;
        self.env.clear();
        self
    }

    /// How records are told apart. Default [`Framing::Ndjson`].
    #[must_use]
    pub fn framing(mut self, framing: Framing) -> Self {
        self.framing = framing;
        self
    }

    /// What the agent may hold in this process. Default [`Limits::new`].
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// How long the stages of this agent's closes may take. Default [`ClosePolicy::graceful`].
    ///
    /// `close()`, `abort()` and the drop of the last handle have their own mode and these limits;
    /// `close_with` has its own. Mode and limits hold where nobody asks for the close: an agent that
    /// ends by itself or closes its stdout, [`Engine::shutdown`](crate::Engine::shutdown), and the
    /// spares of [`WarmPool`](crate::WarmPool).
    #[must_use]
    pub fn close_policy(mut self, policy: ClosePolicy) -> Self {
        self.close = policy;
        self
    }

    /// Delivers stderr lines as [`Event::Stderr`](crate::Event::Stderr), too. Default off: only
    /// the bounded tail is kept. Either way stderr is always drained; a line for which the
    /// inbox has no room is dropped and counted, it never blocks the agent.
    #[must_use]
    pub fn stderr_events(mut self, on: bool) -> Self {
        self.stderr_events = on;
        self
    }

    /// Asks for a pipe of this many bytes each way. Default: what the kernel gives, 64 KiB. It may
    /// grant less (`pipe-user-pages-soft`, `pipe-max-size`), which is no error; what it granted is
    /// in [`AgentStats::stdin_pipe_size`](crate::AgentStats::stdin_pipe_size) and beside it.
    #[must_use]
    pub fn pipe_size(mut self, bytes: usize) -> Self {
        self.pipe_size = Some(bytes);
        self
    }

    /// Runs the agent as this user and group: real, effective, saved and file system ids. Default:
    /// those of this process. The supplementary groups are cleared unless [`groups`](Self::groups)
    /// sets them. `HOME` and `USER` are not touched.
    ///
    /// Needs CAP_SETUID and CAP_SETGID, or a user and group that this process has already;
    /// otherwise the spawn fails with [`NotPermitted`](crate::ErrorKind::NotPermitted). This
    /// process can then signal the agent only if it keeps CAP_KILL or is root.
    #[must_use]
    pub fn user(mut self, uid: u32, gid: u32) -> Self {
        self.user = Some((uid, gid));
        self
    }

    /// The supplementary groups of the agent. Default: none if [`user`](Self::user) changes the
    /// user or the group, otherwise those of this process. Needs CAP_SETGID.
    #[must_use]
    pub fn groups(mut self, gids: impl IntoIterator<Item = u32>) -> Self {
        self.groups = Some(gids.into_iter().collect());
        self
    }

    /// Sets a resource limit of the agent, soft and hard; `u64::MAX` means unlimited. Default:
    /// those of this process. The last call for a resource counts.
    ///
    /// A soft limit above the hard one is [`InvalidCommand`](crate::ErrorKind::InvalidCommand), a
    /// hard limit above this process's own without CAP_SYS_RESOURCE
    /// [`NotPermitted`](crate::ErrorKind::NotPermitted).
    #[must_use]
    pub fn limit(mut self, resource: ResourceLimit, soft: u64, hard: u64) -> Self {
        self.resources.retain(|(known, _, _)| *known != resource);
        self.resources.push((resource, soft, hard));
        self
    }

    /// Gives the agent a cgroup (version 2) of its own, beneath the one this process is in. The
    /// agent is born in it, so every process it ever starts is in it, too: those that left the
    /// process group by `setsid` are killed with the rest. It is removed when the agent is closed.
    ///
    /// Where the host does not allow it, the spawn fails with
    /// [`CgroupUnavailable`](crate::ErrorKind::CgroupUnavailable): there is no silent way around.
    #[must_use]
    pub fn cgroup(mut self) -> Self {
        self.cgroup = Some(CgroupPlace::Own);
        self
    }

    /// [`cgroup`](Self::cgroup), beneath a folder of a cgroup2 file system. Limits set on that
    /// folder hold for all agents beneath it together.
    #[must_use]
    pub fn cgroup_beneath(mut self, folder: impl AsRef<Path>) -> Self {
        self.cgroup = Some(CgroupPlace::Beneath(folder.as_ref().to_owned()));
        self
    }

    /// Kills the agent (SIGKILL) when this process ends, however it ends. Default off: it sees the
    /// end of its input.
    ///
    /// The kernel ties this to the thread that spawned; here that is a thread of the engine, which
    /// lives as long as the engine does. Only the agent itself is killed, not its children, and
    /// not an agent whose program is set-user-ID or has file capabilities.
    #[must_use]
    pub fn die_with_parent(mut self, on: bool) -> Self {
        self.die_with_parent = on;
        self
    }

    /// The program as it was given.
    #[must_use]
    pub fn program(&self) -> &OsStr {
        &self.program
    }
}

/// The program and its arguments; never the values of the environment, which may be secrets.
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

/// A resource of one process, for [`AgentCommand::limit`](crate::AgentCommand::limit).
///
/// The numbers count for each process of the agent by itself, but for
/// [`Processes`](Self::Processes), which counts all of the user's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ResourceLimit {
    /// Address space, bytes (RLIMIT_AS). Runtimes that reserve much of it fail early.
    AddressSpace,
    /// Size of a core dump, bytes (RLIMIT_CORE); 0: none.
    Core,
    /// CPU time, seconds (RLIMIT_CPU): SIGXCPU at the soft limit, SIGKILL at the hard one.
    Cpu,
    /// Heap and data, bytes (RLIMIT_DATA).
    Data,
    /// Size of a file that it writes, bytes (RLIMIT_FSIZE): SIGXFSZ.
    FileSize,
    /// Locked memory, bytes (RLIMIT_MEMLOCK).
    LockedMemory,
    /// Open descriptors (RLIMIT_NOFILE).
    OpenFiles,
    /// Processes and threads of the user (RLIMIT_NPROC). Root is exempt.
    Processes,
    /// Stack, bytes (RLIMIT_STACK). A quarter of it is what arguments and environment may take.
    Stack,
}

impl ResourceLimit {
    /// The name of the limit in manuals: `RLIMIT_NOFILE` and so on.
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
