//! The options of `agentpipe run`, and the command and close policy that follow from them.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::Duration;

use agentpipe::{AgentCommand, Backend, ClosePolicy, Framing, Limits};
use clap::ValueEnum;
use clap::builder::{OsStringValueParser, TypedValueParser};

use super::{sys, user};
use crate::cli::units;

/// Runs an agent: records from stdin to it, its records to stdout, and a bounded close.
///
/// stdout carries the agent's records only, byte for byte. Lines that are not records, and records that
/// are malformed, oversized or truncated, become one bounded line each on stderr and a count in the
/// report. When stdin ends the agent is closed: raise --drain for an agent that continues to read or
/// answer for long after that.
///
/// The agent's stderr is passed on byte for byte. Only on a terminal control characters are escaped, and a
/// line that could be taken for one of this command is printed with `agent: ` before it.
///
/// While stdin is open, a full stdout holds the agent back, and a slow stderr holds back its stderr. After
/// stdin has ended, or after a signal, the command waits for an stdout that accepts nothing as long as
/// --drain says. For an stderr that accepts nothing it waits 500 ms, then lines are dropped. Whatever it
/// could not pass on is counted in the report and the summary.
///
/// SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2 and SIGALRM close the agent as the end of stdin
/// does. A second signal aborts it, and the command ends within a second. Signals other than SIGTERM that
/// are ignored at the start (nohup) stay ignored. The agent runs in a new session, without the terminal;
/// the processes that it leaves behind are reaped, as by an init.
///
/// Exit code: that of the agent, or 128 + n if signal n killed it; 2 usage; 125 agentpipe itself failed,
/// or the agent exited with 0 and a record of it was lost (above --record-max, discarded, or not
/// accepted by stdout); 126 the program cannot be run; 127 it cannot be found; 141 stdout was closed;
/// 128 + n if signal n came while the exec of the agent hung.
#[derive(Debug, clap::Args)]
pub(crate) struct RunArgs {
    /// The framing of records, in both directions. With `auto` stdin and the output of the agent may
    /// each have lines or headers: the agent gets the framing of the first record on stdin, and
    /// stdout too
    #[arg(long, value_enum, default_value_t)]
    pub(super) framing: FramingArg,

    /// How the agent is closed when stdin ends
    #[arg(long, value_enum, default_value_t)]
    pub(super) close: CloseArg,

    /// How long the agent may take to read the rest of its input, how long it may then pause between two
    /// bytes, and how long to wait after that for an stdout that accepts nothing; at most 1h
    #[arg(long, value_name = "TIME", value_parser = parse_limit, default_value = "2s")]
    drain: Duration,

    /// How long the agent may write after its input has ended, even without a pause; at least --drain, at
    /// most 1h [default: 2.5 times --drain]
    #[arg(long, value_name = "TIME", value_parser = parse_limit)]
    drain_total: Option<Duration>,

    /// How long the agent may take to exit after SIGTERM; at most 1h [default: 1s]
    #[arg(long, value_name = "TIME", value_parser = parse_limit)]
    terminate: Option<Duration>,

    /// For a parent that ends stdin early, or stops reading with stdout open, as agent SDKs do: the end of
    /// stdin only ends the agent's input, and the agent works on for as long as its records are read. If
    /// stdout accepts nothing for TIME, and nothing was read from it since stdin ended, the rest is dropped
    /// and counted and the agent is closed. At most 1h
    #[arg(long, value_name = "TIME", value_parser = parse_limit)]
    pub(super) reader_timeout: Option<Duration>,

    /// Write the close report to FILE as one line of JSON (`-` is stderr). FILE is opened before the
    /// agent starts; a FIFO must have a reader already
    #[arg(long, value_name = "FILE")]
    pub(super) report: Option<PathBuf>,

    /// The largest record in either direction; 64 bytes to 1t
    #[arg(long, value_name = "SIZE", value_parser = parse_record_max, default_value = "16m")]
    pub(super) record_max: u64,

    /// The working directory of the agent
    #[arg(long, value_name = "DIR")]
    cwd: Option<PathBuf>,

    /// Set a variable of the agent's environment; may be repeated
    #[arg(long, value_name = "NAME=VALUE", value_parser = OsStringValueParser::new().try_map(parse_env))]
    env: Vec<(OsString, OsString)>,

    /// Start the agent with an empty environment; --env and --env-keep add to it. Without PATH a program
    /// without `/` is searched in the system's default path
    #[arg(long)]
    env_clear: bool,

    /// With --env-clear: keep this variable of the environment, if it is there; may be repeated
    #[arg(long, value_name = "NAME", requires = "env_clear")]
    env_keep: Vec<OsString>,

    /// Give the agent this inherited descriptor, under the same number (3 or more); may be repeated. An
    /// argument of CMD that is /dev/fd/N or OPTION=/dev/fd/N, as the shell makes it of `<(...)`, does so by
    /// itself. Other descriptors do not reach the agent, nor do variables that name them
    /// (NODE_CHANNEL_FD, LISTEN_FDS, the job server in MAKEFLAGS)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(3..))]
    pass_fd: Vec<u32>,

    /// Run the agent as this user and group, by number or name, without supplementary groups. Needs root.
    /// HOME and USER stay as they are. Without GID the group is that of the user in /etc/passwd
    #[arg(long, value_name = "UID[:GID]", value_parser = user::parse)]
    user: Option<(u32, u32)>,

    /// Run the agent in a new cgroup below this folder of a cgroup2 file system. A close then also
    /// reaches processes that left the agent's group
    #[arg(long, value_name = "FOLDER")]
    cgroup: Option<PathBuf>,

    /// Send this record to the agent as the last one, before its input ends in a graceful close; may be
    /// repeated. Its answer is passed on like any other
    #[arg(long, value_name = "RECORD", value_parser = parse_farewell)]
    farewell: Vec<String>,

    /// Send Claude Code the request that interrupts a turn before its input ends: a turn that is still
    /// running then ends at once with its result, and not at the limit of --drain without one. Comes before
    /// any --farewell
    #[arg(long)]
    interrupt: bool,

    /// Let the agent gain privileges by an exec, as sudo does (no_new_privs is off)
    #[arg(long)]
    allow_new_privs: bool,

    /// CMD is `docker run` or `podman run`: remove its container at the end, which survives its client
    #[arg(long)]
    container: bool,

    /// Let other processes of the user read the memory of this command, as debuggers do, and the kernel
    /// write its core dumps
    #[arg(long)]
    pub(super) dumpable: bool,

    /// What carries the pipes: io_uring, epoll, or with `auto` io_uring where the host allows it
    #[arg(long, value_enum, default_value_t)]
    pub(super) backend: BackendArg,

    /// Start no guard. Without one the agent, or what it has started, may outlive this command if that is
    /// killed; and what the agent leaves in the background lives on after its close
    #[arg(long)]
    pub(super) no_guard: bool,

    /// Print no summary line on stderr at the end
    #[arg(long, short)]
    pub(super) quiet: bool,

    /// The agent and its arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<OsString>,
}

/// The request by which a Claude session of the library interrupts a turn when it is closed.
const CLAUDE_INTERRUPT: &str = concat!(
    r#"{"type":"control_request","request_id":"agentpipe_run_interrupt","#,
    r#""request":{"subtype":"interrupt","cancel_queued":true}}"#
);

/// The least time that an agent has to read the rest of its input.
const FLUSH_MIN: Duration = Duration::from_millis(500);

/// The longest limit of a stage that [`ClosePolicy`] accepts.
const STAGE_MAX: Duration = Duration::from_secs(3600);

/// The smallest limit that [`Limits::record_max`] accepts, and the largest length that a Content-Length
/// header can have.
const RECORD_MAX: std::ops::RangeInclusive<u64> = 64..=1 << 40;

/// Bytes that are kept unread during the close, unless a record may be larger.
const DRAIN_MAX: usize = 64 << 20;

impl RunArgs {
    /// Returns the command, or why an option of it cannot be had.
    pub(super) fn agent(&self) -> Result<AgentCommand, String> {
        let mut words = self.command.iter();
        let program = words.next().map(OsString::as_os_str).unwrap_or_default();
        let mut command = AgentCommand::new(program)
            .args(words)
            .framing(self.framing.into())
            .limits(self.limits())
            .close_policy(self.policy())
            .stderr_events(true)
            .stderr_backpressure(true);
        if self.container {
            command = command.container();
        }
        if self.allow_new_privs {
            command = command.no_new_privs(false);
        }
        if let Some(dir) = &self.cwd {
            command = command.cwd(dir);
        }
        if let Some((uid, gid)) = self.user {
            command = command.user(uid, gid);
        }
        if let Some(folder) = &self.cgroup {
            command = command.cgroup_beneath(folder);
        }
        if self.env_clear {
            command = command.env_clear();
        }
        for name in &self.env_keep {
            if let Some(value) = std::env::var_os(name) {
                command = command.env(name, value);
            }
        }
        for (name, value) in &self.env {
            command = command.env(name, value);
        }
        self.pass_descriptors(command)
    }

    fn pass_descriptors(&self, mut command: AgentCommand) -> Result<AgentCommand, String> {
        let asked: BTreeSet<u32> = self.pass_fd.iter().copied().collect();
        let named = self.command.iter().skip(1).filter_map(|arg| named_descriptor(arg));
        for number in asked.iter().copied().chain(named.filter(|number| *number > 2)) {
            if command.passes_fd(number) {
                continue;
            }
            match sys::take_inherited(number) {
                Ok(fd) => command = command.pass_fd(fd, number),
                Err(error) if asked.contains(&number) => {
                    return Err(format!(
                        "--pass-fd {number}: no such descriptor was inherited: {error}"
                    ));
                }
                // The agent may open the name itself, or say what is wrong with it.
                Err(_) => {}
            }
        }
        Ok(command)
    }

    /// Returns the records that the agent gets before its input ends.
    pub(super) fn farewell(&self) -> impl Iterator<Item = &str> {
        let interrupt = self.interrupt.then_some(CLAUDE_INTERRUPT);
        interrupt.into_iter().chain(self.farewell.iter().map(String::as_str))
    }

    pub(super) fn limits(&self) -> Limits {
        // `parse_record_max` has refused a value that does not fit.
        let record_max = usize::try_from(self.record_max).unwrap_or(usize::MAX);
        // At least one record of the largest size fits, so that none is dropped during the close
        // for its size alone.
        Limits::new().record_max(record_max).drain_max(record_max.max(DRAIN_MAX))
    }

    pub(super) fn policy(&self) -> ClosePolicy {
        let policy = match self.close {
            CloseArg::Graceful => ClosePolicy::graceful(),
            CloseArg::Abort => ClosePolicy::abort(),
        };
        let mut policy = policy.drain(self.drain).flush(self.flush());
        if let Some(limit) = self.drain_total {
            policy = policy.drain_total(limit);
        }
        if let Some(limit) = self.terminate {
            policy = policy.terminate(limit);
        }
        if self.container {
            // Its longest close includes the removal.
            policy = *AgentCommand::new("").container().close_policy(policy).get_close_policy();
        }
        policy
    }

    /// Returns how long the agent may take to read its queue after stdin has ended. The whole of stdin is
    /// queued before its end is noticed, and an agent that may answer for the time of --drain may need as
    /// long to read.
    pub(super) fn flush(&self) -> Duration {
        match self.close {
            CloseArg::Graceful => self.drain.max(FLUSH_MIN),
            CloseArg::Abort => Duration::ZERO,
        }
    }

    pub(super) fn drain(&self) -> Duration {
        self.drain
    }
}

fn parse_limit(text: &str) -> Result<Duration, String> {
    match units::parse_duration(text)? {
        time if time > STAGE_MAX => Err("the longest limit is 1h".to_owned()),
        time => Ok(time),
    }
}

fn parse_record_max(text: &str) -> Result<u64, String> {
    let bytes = units::parse_size(text)?;
    if RECORD_MAX.contains(&bytes) && usize::try_from(bytes).is_ok() {
        return Ok(bytes);
    }
    let (least, most) = RECORD_MAX.into_inner();
    Err(format!("{bytes} bytes is no limit for a record: {least} to {most} bytes is"))
}

fn parse_env(text: OsString) -> Result<(OsString, OsString), String> {
    let bytes = text.as_bytes();
    let name = bytes.iter().position(|byte| *byte == b'=').unwrap_or(0);
    if name == 0 {
        return Err("NAME=VALUE is wanted".to_owned());
    }
    let part = |bytes| OsStr::from_bytes(bytes).to_owned();
    Ok((part(&bytes[..name]), part(&bytes[name + 1..])))
}

fn parse_farewell(text: &str) -> Result<String, String> {
    let text = text.trim();
    match serde_json::from_str::<serde::de::IgnoredAny>(text) {
        Err(error) => Err(format!("not a record: {error}")),
        Ok(_) if !text.starts_with(['{', '[']) => {
            Err("a record is an object or an array".to_owned())
        }
        Ok(_) if text.contains(['\n', '\r']) => Err("a record of several lines".to_owned()),
        Ok(_) => Ok(text.to_owned()),
    }
}

/// Returns the number in an argument that is `/dev/fd/N`, or an option with such a value.
fn named_descriptor(arg: &OsStr) -> Option<u32> {
    let arg = arg.to_str()?;
    let value = if arg.starts_with('/') { arg } else { arg.split_once('=')?.1 };
    let number = value.strip_prefix("/dev/fd/").or_else(|| value.strip_prefix("/proc/self/fd/"))?;
    number.bytes().all(|byte| byte.is_ascii_digit()).then(|| number.parse().ok()).flatten()
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub(super) enum FramingArg {
    /// One JSON text per line
    #[default]
    Ndjson,
    /// Content-Length headers
    ContentLength,
    /// JSON texts with or without white space between them; written as one line each
    Concat,
    /// Lines or headers, found out from the first record
    Auto,
}

impl From<FramingArg> for Framing {
    fn from(arg: FramingArg) -> Self {
        match arg {
            FramingArg::Ndjson => Self::Ndjson,
            FramingArg::ContentLength => Self::ContentLength,
            FramingArg::Concat => Self::Concat,
            FramingArg::Auto => Self::Auto,
        }
    }
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
#[value(rename_all = "snake_case")]
pub(super) enum BackendArg {
    #[default]
    Auto,
    IoUring,
    Epoll,
}

impl From<BackendArg> for Backend {
    fn from(arg: BackendArg) -> Self {
        match arg {
            BackendArg::Auto => Self::Auto,
            BackendArg::IoUring => Self::IoUring,
            BackendArg::Epoll => Self::Epoll,
        }
    }
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub(super) enum CloseArg {
    /// Close its stdin, continue to read, and use force only after that
    #[default]
    Graceful,
    /// Close its pipes at once
    Abort,
}
