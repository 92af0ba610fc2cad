//! Floor 4. Setters: how the CLI is run.

use std::ffi::OsStr;
use std::path::Path;

use crate::command::AgentCommand;

use super::Options;

impl Options {
    /// The CLI, used as it is: a path, or a name to be found on the agent's `PATH`. A relative path
    /// is one from the agent's working directory. Default: `claude`, looked for as
    /// [`AgentCommand::claude`] says.
    #[must_use]
    pub fn cli_path(mut self, path: impl AsRef<Path>) -> Self {
        self.process.program = path.as_ref().as_os_str().to_owned();
        self
    }

    /// The working directory; `PWD` is set to it. Default: this process's own.
    #[must_use]
    pub fn cwd(self, dir: impl AsRef<Path>) -> Self {
        self.process(|command| command.cwd(dir))
    }

    /// Sets a variable of the environment, which is otherwise this process's own without
    /// `CLAUDECODE`. It wins over the inherited one and over the defaults:
    /// `CLAUDE_CODE_ENTRYPOINT=sdk-cli`, and `CLAUDE_AGENT_SDK_CLIENT_APP=agentpipe/VERSION` where
    /// this process has none.
    ///
    /// Two variables are as they are whatever is set: `AGENTPIPE_VERSION` is this crate's version,
    /// and `CLAUDE_AGENT_SDK_VERSION`, the version of an SDK that is not here, is not passed on.
    #[must_use]
    pub fn env(self, key: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.process(|command| command.env(key, value))
    }

    /// Anything else about the process: user, limits, cgroup, close policy, an empty environment.
    /// Arguments that are added here come before the options, for a CLI that another program runs.
    ///
    /// ```
    /// use agentpipe::{AgentCommand, Limits};
    ///
    /// let options = AgentCommand::claude()
    ///     .cli_path("node")
    ///     .process(|command| command.arg("cli.js").limits(Limits::new().record_max(64 << 20)));
    /// let command = options.command()?;
    /// assert_eq!(command.get_program(), "node");
    /// # Ok::<(), agentpipe::Error>(())
    /// ```
    #[must_use]
    pub fn process(mut self, change: impl FnOnce(AgentCommand) -> AgentCommand) -> Self {
        self.process = change(self.process);
        self
    }

    /// Keeps copies of the files that tools change, so that
    /// [`rewind_files`](crate::session::claude::Session::rewind_files) can restore them. Default
    /// off. (`CLAUDE_CODE_ENABLE_SDK_FILE_CHECKPOINTING=true`)
    #[must_use]
    pub fn file_checkpointing(mut self, on: bool) -> Self {
        self.file_checkpointing = on;
        self
    }

    /// Whether a session warns (`tracing`, once for each CLI) of a CLI older than
    /// [`CliVersion::OLDEST`](crate::session::claude::CliVersion::OLDEST). Default on.
    ///
    /// The CLI is asked once its first session has started, in the background, and not again as
    /// long as its file stays the same. That it cannot be asked is no error.
    #[must_use]
    pub fn version_check(mut self, on: bool) -> Self {
        self.version_check = on;
        self
    }

    /// A flag that has no setter: its name without dashes, and its value if it takes one. In the
    /// order they are given. A value that begins with `-` becomes `--name=value`.
    #[must_use]
    pub fn extra_arg<'a>(
        mut self,
        name: impl Into<String>,
        value: impl Into<Option<&'a str>>,
    ) -> Self {
        self.extra_args.push((name.into(), value.into().map(Into::into)));
        self
    }
}
