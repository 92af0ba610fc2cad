//! F5. The flags of `agentpipe run`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use agentpipe::{ClosePolicy, Framing};
use clap::ValueEnum;

use crate::cli::units;

/// Runs an agent: records from stdin to it, its records to stdout, and a bounded close.
///
/// stdout carries the agent's records only, byte for byte. Lines that are no records, and
/// records that are malformed, oversized or truncated, become one bounded line each on stderr
/// and a count in the report. When stdin ends the agent is closed: raise --drain for an agent
/// that goes on reading or answering for long after that.
///
/// Exit code: the agent's own (128 + n for signal n); 2 usage; 125 agentpipe itself failed;
/// 126, 127 the program cannot be run or found; 141 stdout was closed.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How records are told apart, on both sides
    #[arg(long, value_enum, default_value_t)]
    pub(super) framing: FramingArg,

    /// How the agent is closed when stdin ends
    #[arg(long, value_enum, default_value_t)]
    pub(super) close: CloseArg,

    /// How long the agent may take to read what is left of its input, and then as long again to
    /// finish what it says [default: 2s]
    #[arg(long, value_name = "TIME", value_parser = units::parse_duration)]
    drain: Option<Duration>,

    /// How long it may take after SIGTERM [default: 1s]
    #[arg(long, value_name = "TIME", value_parser = units::parse_duration)]
    terminate: Option<Duration>,

    /// Write the close report to FILE as one line of JSON (`-` is stderr)
    #[arg(long, value_name = "FILE")]
    pub(super) report: Option<PathBuf>,

    /// Largest record, either way [default: 16m]
    #[arg(long, value_name = "SIZE", value_parser = units::parse_size)]
    pub(super) record_max: Option<u64>,

    /// Working directory of the agent
    #[arg(long, value_name = "DIR")]
    pub(super) cwd: Option<PathBuf>,

    /// No summary line on stderr at the end
    #[arg(long, short)]
    pub(super) quiet: bool,

    /// The agent and its arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    pub(super) command: Vec<OsString>,
}

const DRAIN: Duration = Duration::from_secs(2);

/// What an agent always has to read the rest of its input.
const FLUSH_MIN: Duration = Duration::from_millis(500);

impl Args {
    pub(super) fn policy(&self) -> ClosePolicy {
        let mut policy = match self.close {
            CloseArg::Graceful => ClosePolicy::graceful(),
            CloseArg::Abort => ClosePolicy::abort(),
        };
        // All that came on stdin is accepted before its end is seen, and an agent that may take so
        // long to answer may take so long to read the questions.
        let drain = self.drain.unwrap_or(DRAIN);
        policy = policy.drain(drain).flush(drain.max(FLUSH_MIN));
        if let Some(limit) = self.terminate {
            policy = policy.terminate(limit);
        }
        policy
    }
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub(super) enum FramingArg {
    /// One JSON text a line
    #[default]
    Ndjson,
    /// Content-Length headers
    ContentLength,
}

impl From<FramingArg> for Framing {
    fn from(arg: FramingArg) -> Self {
        match arg {
            FramingArg::Ndjson => Self::Ndjson,
            FramingArg::ContentLength => Self::ContentLength,
        }
    }
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub(super) enum CloseArg {
    /// End its input, keep reading, and only then use force
    #[default]
    Graceful,
    /// Cut its pipes at once
    Abort,
}
