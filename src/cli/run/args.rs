//! The options of `agentpipe run`, and the command and close policy that follow from them.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use agentpipe::{AgentCommand, ClosePolicy, Framing, Limits};
use clap::ValueEnum;

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

    /// Let the agent gain privileges by an exec, as sudo does (no_new_privs is off)
    #[arg(long)]
    allow_new_privs: bool,

    /// Let other processes of the user read the memory of this command, as debuggers do, and the kernel
    /// write its core dumps
    #[arg(long)]
    pub(super) dumpable: bool,

    /// Print no summary line on stderr at the end
    #[arg(long, short)]
    pub(super) quiet: bool,

    /// The agent and its arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<OsString>,
}

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
    pub(super) fn agent(&self) -> AgentCommand {
        let mut words = self.command.iter();
        let program = words.next().map(OsString::as_os_str).unwrap_or_default();
        let command = AgentCommand::new(program)
            .args(words)
            .framing(self.framing.into())
            .limits(self.limits())
            .close_policy(self.policy())
            .no_new_privs(!self.allow_new_privs)
            .stderr_events(true)
            .stderr_backpressure(true);
        match &self.cwd {
            Some(dir) => command.cwd(dir),
            None => command,
        }
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

    pub(super) fn report_is_on_stderr(&self) -> bool {
        self.report.as_deref().is_some_and(|path| path == Path::new("-"))
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
pub(super) enum CloseArg {
    /// Close its stdin, continue to read, and use force only after that
    #[default]
    Graceful,
    /// Close its pipes at once
    Abort,
}
