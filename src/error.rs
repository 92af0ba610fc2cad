//! Floor 0. Errors by cause, seen from the user's side.

use std::fmt;
use std::io;
use std::sync::Arc;

use crate::close::ExitStatus;

/// The result of most calls.
pub type Result<T> = std::result::Result<T, Error>;

/// What kind of thing went wrong: what a program branches on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The command cannot be run as written: an empty program, a NUL byte in a string, arguments
    /// too long, options of Claude Code that are wrong or exclude each other.
    InvalidCommand,
    /// No such program.
    ProgramNotFound,
    /// The program is there but may not be executed, or is no executable.
    ProgramNotExecutable,
    /// The working directory is missing, or no directory, or may not be entered.
    BadWorkingDirectory,
    /// A privilege is missing: to become another user, or to raise a hard limit.
    NotPermitted,
    /// The agent cannot have a cgroup of its own here: none is mounted, or it is not ours to make.
    CgroupUnavailable,
    /// A limit of this process, user or host was reached: descriptors, processes, memory.
    ResourceLimit,
    /// io_uring is denied here: a seccomp filter or `kernel.io_uring_disabled`.
    BackendDenied,
    /// The kernel is too old for the ring, or lacks what it needs.
    BackendUnsupported,
    /// The record may not be sent: empty, not UTF-8, not one JSON value, a raw newline in it. Or
    /// one that came is not what was asked of it.
    InvalidRecord,
    /// The record is above [`Limits::record_max`](crate::Limits::record_max): one to be sent, or one
    /// that came and was dropped.
    RecordTooLarge,
    /// The agent's input was ended, here or by the agent.
    InputEnded,
    /// The agent is closed or being closed.
    Closed,
    /// The engine was shut down.
    EngineStopped,
    /// A request was not answered within its deadline.
    Timeout,
    /// The agent answered a request with an error of its own, or ended after a result that was
    /// one. [`Error::response`] has its words.
    AgentError,
    /// A turn of the agent is over, and it had no result.
    NoResult,
    /// A limit of the session was reached: requests open, or bytes that nobody reads.
    Overloaded,
    /// Anything the kernel said that has no kind of its own.
    Io,
}

impl ErrorKind {
    /// The nearest [`io::ErrorKind`], for callers that live in `io`.
    #[must_use]
    pub fn io_kind(self) -> io::ErrorKind {
        match self {
            Self::InvalidCommand | Self::InvalidRecord | Self::RecordTooLarge => {
                io::ErrorKind::InvalidInput
            }
            Self::ProgramNotFound | Self::BadWorkingDirectory => io::ErrorKind::NotFound,
            Self::ProgramNotExecutable | Self::BackendDenied | Self::NotPermitted => {
                io::ErrorKind::PermissionDenied
            }
            Self::ResourceLimit => io::ErrorKind::OutOfMemory,
            Self::BackendUnsupported | Self::CgroupUnavailable => io::ErrorKind::Unsupported,
            Self::InputEnded | Self::Closed => io::ErrorKind::BrokenPipe,
            Self::EngineStopped => io::ErrorKind::NotConnected,
            Self::Timeout => io::ErrorKind::TimedOut,
            Self::Overloaded => io::ErrorKind::WouldBlock,
            Self::AgentError | Self::NoResult | Self::Io => io::ErrorKind::Other,
        }
    }
}

/// What failed, on which agent, at which stage, and what to do about it. Cheap to clone.
///
/// `Display` is one line. The last part, after a semicolon, is the remedy where there is one.
#[derive(Clone)]
pub struct Error(Arc<Inner>);

#[derive(Clone, Debug)]
struct Inner {
    kind: ErrorKind,
    stage: &'static str,
    what: String,
    remedy: Option<String>,
    agent: Option<String>,
    stderr_tail: Option<String>,
    source: Option<Arc<io::Error>>,
    exit: Option<ExitStatus>,
    reply: Option<String>,
}

impl Error {
    /// `stage`: where it happened (`spawn`, `write`, `start`, ...). `what`: a fragment.
    pub(crate) fn new(kind: ErrorKind, stage: &'static str, what: impl Into<String>) -> Self {
        Self(Arc::new(Inner {
            kind,
            stage,
            what: what.into(),
            remedy: None,
            agent: None,
            stderr_tail: None,
            source: None,
            exit: None,
            reply: None,
        }))
    }

    /// What the user can do about it.
    pub(crate) fn remedy(mut self, remedy: impl Into<String>) -> Self {
        Arc::make_mut(&mut self.0).remedy = Some(remedy.into());
        self
    }

    /// On which agent: `pid 123 (claude)`.
    pub(crate) fn on_agent(mut self, agent: impl Into<String>) -> Self {
        Arc::make_mut(&mut self.0).agent = Some(agent.into());
        self
    }

    /// The end of what the agent said on stderr.
    pub(crate) fn stderr(mut self, tail: impl Into<String>) -> Self {
        let tail = tail.into();
        if !tail.is_empty() {
            Arc::make_mut(&mut self.0).stderr_tail = Some(tail);
        }
        self
    }

    /// The kernel's own error.
    pub(crate) fn cause(mut self, source: io::Error) -> Self {
        Arc::make_mut(&mut self.0).source = Some(Arc::new(source));
        self
    }

    /// How the agent ended.
    pub(crate) fn exit(mut self, status: ExitStatus) -> Self {
        Arc::make_mut(&mut self.0).exit = Some(status);
        self
    }

    /// What the agent answered, as JSON.
    pub(crate) fn answered(mut self, reply: impl Into<String>) -> Self {
        Arc::make_mut(&mut self.0).reply = Some(reply.into());
        self
    }

    /// What kind of thing went wrong.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Where it went wrong: `start` (of an engine), `spawn`, `write`, `parse`, `encode`; of a
    /// session `options`, `session`, `request`, `version`.
    #[must_use]
    pub fn operation(&self) -> &'static str {
        self.0.stage
    }

    /// The agent it is about: its pid and command, as text.
    #[must_use]
    pub fn agent(&self) -> Option<&str> {
        self.0.agent.as_deref()
    }

    /// The end of the agent's stderr, where it may explain the failure.
    #[must_use]
    pub fn stderr_tail(&self) -> Option<&str> {
        self.0.stderr_tail.as_deref()
    }

    /// How the agent ended, where that is the cause.
    #[must_use]
    pub fn exit_status(&self) -> Option<ExitStatus> {
        self.0.exit
    }

    /// What the agent answered, as JSON, where its answer is the error: the error object of
    /// JSON-RPC, or the last failed result of a Claude session that ended with an error.
    #[must_use]
    pub fn response(&self) -> Option<&str> {
        self.0.reply.as_deref()
    }

    /// The kernel's error number, where there is one.
    #[must_use]
    pub fn raw_os_error(&self) -> Option<i32> {
        self.0.source.as_ref().and_then(|source| source.raw_os_error())
    }

    /// The agent can be written to no more: closed, being closed, or its input ended.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        matches!(self.0.kind, ErrorKind::Closed | ErrorKind::InputEnded | ErrorKind::EngineStopped)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = &*self.0;
        write!(f, "{}: {}", inner.stage, inner.what)?;
        if let Some(source) = &inner.source {
            write!(f, ": {source}")?;
        }
        if let Some(agent) = &inner.agent {
            write!(f, " [{agent}]")?;
        }
        if let Some(remedy) = &inner.remedy {
            write!(f, "; {remedy}")?;
        }
        if let Some(tail) = &inner.stderr_tail {
            let last = tail.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("");
            f.write_str(" (last stderr line: ")?;
            write_bounded(f, last.trim())?;
            f.write_str(")")?;
        }
        Ok(())
    }
}

/// Characters shown of the agent's last words.
const LAST_WORDS_MAX: usize = 300;

/// The agent's own text may be of any length and may steer a terminal: neither gets into a log.
fn write_bounded(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    for (index, char) in text.chars().enumerate() {
        if index == LAST_WORDS_MAX {
            return f.write_str("...");
        }
        if char.is_control() {
            write!(f, "{}", char.escape_default())?;
        } else {
            write!(f, "{char}")?;
        }
    }
    Ok(())
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|source| source as &(dyn std::error::Error + 'static))
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        Self::new(error.kind().io_kind(), error)
    }
}

// A result with this error stays two words: it is returned by value on every hot path.
const _: () = assert!(size_of::<Error>() == size_of::<usize>());
