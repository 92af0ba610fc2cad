//! Floor 0. What to spawn, and how to treat it.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::{Path, PathBuf};

use crate::close_policy::ClosePolicy;
use crate::config::{Framing, Limits};

/// What to spawn: program, arguments, environment, and the settings of its transport.
///
/// The agent always gets a process group of its own, pipes for descriptors 0, 1 and 2 and no
/// other descriptor, default signal dispositions and an empty signal mask.
///
/// A program name without `/` is searched in the `PATH` that the agent will have, by this
/// crate and not by `execvp`, so that every configuration spawns at vfork cost.
#[derive(Clone, PartialEq)]
pub struct AgentCommand {
    pub(crate) program: OsString,
    pub(crate) args: Vec<OsString>,
    pub(crate) cwd: Option<PathBuf>,
    pub(crate) env_clear: bool,
    /// In the order they were given; `None` removes the variable.
    pub(crate) env: Vec<(OsString, Option<OsString>)>,
    pub(crate) framing: Framing,
    pub(crate) limits: Limits,
    pub(crate) close: ClosePolicy,
    pub(crate) stderr_events: bool,
    pub(crate) pipe_size: Option<usize>,
}

impl AgentCommand {
    /// A command that runs `program`: a path, or a name to be found on `PATH`.
    #[must_use]
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        Self {
            program: program.as_ref().to_owned(),
            args: Vec::new(),
            cwd: None,
            env_clear: false,
            env: Vec::new(),
            framing: Framing::default(),
            limits: Limits::default(),
            close: ClosePolicy::default(),
            stderr_events: false,
            pipe_size: None,
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

    /// Removes one variable.
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

    /// What the agent may hold in this process.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// The policy of a close that names none, and of an agent that ends by itself.
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

    /// Asks for a pipe of this many bytes each way. The kernel may grant less
    /// (`pipe-user-pages-soft`, `pipe-max-size`); what it granted is in the stats.
    #[must_use]
    pub fn pipe_size(mut self, bytes: usize) -> Self {
        self.pipe_size = Some(bytes);
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
            .finish_non_exhaustive()
    }
}
