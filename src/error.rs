//! Errors, sorted by cause as the user sees it.

use std::fmt;
use std::io;
use std::sync::Arc;

use crate::close::ExitStatus;

/// The result type of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// The cause of an error, for programs to branch on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The command cannot be run as written: its program is empty, a string contains a NUL byte, the
    /// arguments are too long, or options of Claude Code are wrong or exclude each other.
    InvalidCommand,
    /// A setting is out of its range. The message names the setting, its value and the range.
    InvalidSettings,
    /// The program does not exist.
    ProgramNotFound,
    /// The program exists but cannot be executed: permission is missing, or the file is not an executable.
    ProgramNotExecutable,
    /// The working directory does not exist, is not a directory, or may not be entered.
    BadWorkingDirectory,
    /// The process lacks a privilege: to change the user, or to raise a hard limit.
    NotPermitted,
    /// No cgroup can be created for the agent: no cgroup2 file system is mounted, or this process may
    /// not create a group there.
    CgroupUnavailable,
    /// The guard of the engine cannot be started, or has ended: an agent could outlive this process.
    GuardUnavailable,
    /// A limit of the process, the user or the host is reached: descriptors, processes or memory.
    ResourceLimit,
    /// io_uring is denied by a seccomp filter or by `kernel.io_uring_disabled`.
    BackendDenied,
    /// The kernel is too old for the ring, or lacks a feature that it needs.
    BackendUnsupported,
    /// A record cannot be sent: it is empty, not UTF-8, not one JSON value, or contains a raw newline.
    /// Also returned for a received record that does not have the requested shape.
    InvalidRecord,
    /// A record is larger than [`Limits::record_max`](crate::Limits::record_max). If it was received,
    /// it was dropped.
    RecordTooLarge,
    /// The agent's input has ended: this process or the agent closed it.
    InputEnded,
    /// The agent is closed, or a close is under way.
    Closed,
    /// The engine has shut down.
    EngineStopped,
    /// A request was not answered within its timeout.
    Timeout,
    /// The agent answered a request with an error, or ended after a result that was an error.
    /// [`Error::response`] returns the answer.
    AgentError,
    /// The agent lacks a feature that the session asks for.
    Unsupported,
    /// A turn ended without a result.
    NoResult,
    /// An MCP server needs input to complete a request, and no handler gives it, or the server asks
    /// for it too often.
    InputRequired,
    /// A queue or a limit of the session is full: the outbox of the agent, the requests in flight, or the
    /// bytes that the reader has not taken.
    Overloaded,
    /// The kernel reported an error that has no kind here.
    Io,
}

impl ErrorKind {
    /// Returns the nearest [`io::ErrorKind`].
    ///
    /// It is never `WouldBlock` or `Interrupted`, which I/O loops take as a request to try again.
    #[must_use]
    pub fn io_kind(self) -> io::ErrorKind {
        match self {
            Self::InvalidCommand
            | Self::InvalidSettings
            | Self::InvalidRecord
            | Self::RecordTooLarge => io::ErrorKind::InvalidInput,
            Self::ProgramNotFound | Self::BadWorkingDirectory => io::ErrorKind::NotFound,
            Self::ProgramNotExecutable | Self::BackendDenied | Self::NotPermitted => {
                io::ErrorKind::PermissionDenied
            }
            Self::ResourceLimit => io::ErrorKind::QuotaExceeded,
            Self::BackendUnsupported
            | Self::CgroupUnavailable
            | Self::GuardUnavailable
            | Self::Unsupported => io::ErrorKind::Unsupported,
            Self::InputEnded | Self::Closed => io::ErrorKind::BrokenPipe,
            Self::EngineStopped => io::ErrorKind::NotConnected,
            Self::Timeout => io::ErrorKind::TimedOut,
            Self::Overloaded => io::ErrorKind::ResourceBusy,
            Self::AgentError | Self::NoResult | Self::InputRequired | Self::Io => {
                io::ErrorKind::Other
            }
        }
    }
}

/// An error: which operation failed, why, on which agent, and what to do about it.
///
/// An error is one word in size and cheap to clone. `Display` writes one line: the operation, the
/// cause with the kernel's message, the agent, the remedy where one is known, and the last line that
/// the agent wrote to stderr. The line contains the whole chain, so there is no
/// [`source`](std::error::Error::source). `Debug` writes the same line, because that is what a
/// program prints when `main` returns the error; `{:#?}` lists the fields.
#[derive(Clone)]
pub struct Error(Arc<ErrorFields>);

#[derive(Clone, Debug)]
struct ErrorFields {
    kind: ErrorKind,
    operation: &'static str,
    what: String,
    remedy: Option<String>,
    agent: Option<String>,
    stderr_tail: Option<String>,
    // An `io::Error` cannot be cloned.
    cause: Option<Arc<io::Error>>,
    exit: Option<ExitStatus>,
    response: Option<String>,
}

impl Error {
    /// Creates an error of `operation` (`spawn`, `write`, `start`, ...). `what` is a fragment that
    /// follows the operation in the message.
    pub(crate) fn new(kind: ErrorKind, operation: &'static str, what: impl Into<String>) -> Self {
        Self(Arc::new(ErrorFields {
            kind,
            operation,
            what: what.into(),
            remedy: None,
            agent: None,
            stderr_tail: None,
            cause: None,
            exit: None,
            response: None,
        }))
    }

    /// Returns the error with another operation and message, and without its remedy.
    #[cfg(feature = "mcp")]
    pub(crate) fn with_what(&self, operation: &'static str, what: impl Into<String>) -> Self {
        let mut error = self.clone();
        let fields = Arc::make_mut(&mut error.0);
        (fields.operation, fields.what, fields.remedy) = (operation, what.into(), None);
        error
    }

    /// Adds what the user can do about the error.
    pub(crate) fn remedy(mut self, remedy: impl Into<String>) -> Self {
        Arc::make_mut(&mut self.0).remedy = Some(remedy.into());
        self
    }

    /// Names the agent, as `pid 123 (claude)`.
    pub(crate) fn on_agent(mut self, agent: impl Into<String>) -> Self {
        Arc::make_mut(&mut self.0).agent = Some(agent.into());
        self
    }

    /// Adds the end of the agent's stderr, unless it is empty.
    pub(crate) fn stderr(mut self, tail: impl Into<String>) -> Self {
        let tail = tail.into();
        if !tail.is_empty() {
            Arc::make_mut(&mut self.0).stderr_tail = Some(tail);
        }
        self
    }

    /// Adds the error of the kernel.
    pub(crate) fn cause(mut self, cause: io::Error) -> Self {
        Arc::make_mut(&mut self.0).cause = Some(Arc::new(cause));
        self
    }

    /// Adds the exit status of the agent.
    pub(crate) fn exit(mut self, status: ExitStatus) -> Self {
        Arc::make_mut(&mut self.0).exit = Some(status);
        self
    }

    /// Adds the agent's answer, as JSON.
    pub(crate) fn answered(mut self, response: impl Into<String>) -> Self {
        Arc::make_mut(&mut self.0).response = Some(response.into());
        self
    }

    /// Returns the cause of the error.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Returns the operation that failed: `start` (of an engine), `spawn`, `write`, `parse`, `encode`,
    /// or, of a session, `options`, `session`, `request`, `version`.
    #[must_use]
    pub fn operation(&self) -> &'static str {
        self.0.operation
    }

    /// Returns the pid and the command of the agent that the error is about, as text.
    #[must_use]
    pub fn agent(&self) -> Option<&str> {
        self.0.agent.as_deref()
    }

    /// Returns the end of the agent's stderr, where it may explain the failure.
    #[must_use]
    pub fn stderr_tail(&self) -> Option<&str> {
        self.0.stderr_tail.as_deref()
    }

    /// Returns the exit status of the agent, where its exit caused the error.
    #[must_use]
    pub fn exit_status(&self) -> Option<ExitStatus> {
        self.0.exit
    }

    /// Returns the agent's answer as JSON, where the answer is the error: the error object of
    /// JSON-RPC, or the last failed result of a Claude session that ended with an error.
    #[must_use]
    pub fn response(&self) -> Option<&str> {
        self.0.response.as_deref()
    }

    /// Returns the error number of the kernel, if the kernel reported one.
    #[must_use]
    pub fn raw_os_error(&self) -> Option<i32> {
        self.0.cause.as_ref().and_then(|cause| cause.raw_os_error())
    }

    /// Returns whether the agent accepts no more writes: it is closed, being closed, or its input ended.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        matches!(self.0.kind, ErrorKind::Closed | ErrorKind::InputEnded | ErrorKind::EngineStopped)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fields = &*self.0;
        write!(f, "{}: {}", fields.operation, fields.what)?;
        if let Some(cause) = &fields.cause {
            write!(f, ": {cause}")?;
        }
        if let Some(agent) = &fields.agent {
            write!(f, " [{agent}]")?;
        }
        if let Some(remedy) = &fields.remedy {
            write!(f, "; {remedy}")?;
        }
        if let Some(tail) = &fields.stderr_tail {
            let last = tail.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("");
            f.write_str(" (last stderr line: ")?;
            write_bounded(f, last.trim())?;
            f.write_str(")")?;
        }
        Ok(())
    }
}

/// Characters shown of the agent's last stderr line.
const LAST_LINE_MAX: usize = 300;

/// Writes text of the agent. It may have any length and contain escape sequences for a terminal;
/// neither may reach a log.
fn write_bounded(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    for (index, char) in text.chars().enumerate() {
        if index == LAST_LINE_MAX {
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
        if f.alternate() { fmt::Debug::fmt(&*self.0, f) } else { fmt::Display::fmt(self, f) }
    }
}

impl std::error::Error for Error {}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        Self::new(error.kind().io_kind(), error)
    }
}

// Every hot path returns a result with this error by value: it must stay one word.
const _: () = assert!(size_of::<Error>() == size_of::<usize>());

#[cfg(test)]
mod tests {
    use super::*;

    fn refused() -> Error {
        Error::new(ErrorKind::ResourceLimit, "spawn", "no descriptor is left")
            .cause(io::Error::from_raw_os_error(24))
            .on_agent("pid 7 (cat)")
            .remedy("raise RLIMIT_NOFILE")
            .stderr("first\nlast\x1b[2J\n")
    }

    #[test]
    fn main_that_returns_an_error_prints_a_sentence() {
        let line = "spawn: no descriptor is left: Too many open files (os error 24) [pid 7 (cat)]; \
                    raise RLIMIT_NOFILE (last stderr line: last\\u{1b}[2J)";
        assert_eq!(format!("{:?}", refused()), line);
        assert_eq!(refused().to_string(), line);
        assert!(format!("{:#?}", refused()).contains("kind: ResourceLimit"));
    }

    #[test]
    fn error_chain_names_the_cause_once() {
        let source = std::error::Error::source(&refused()).map(ToString::to_string);
        assert_eq!((source, refused().raw_os_error()), (None, Some(24)));
    }

    #[test]
    fn overload_is_not_a_request_to_retry() {
        let overloaded = io::Error::from(Error::new(ErrorKind::Overloaded, "request", "full"));
        assert_eq!(overloaded.kind(), io::ErrorKind::ResourceBusy);
    }
}
