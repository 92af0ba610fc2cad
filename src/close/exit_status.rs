//! How a process ended.

use std::fmt;

/// How an agent ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ExitStatus {
    /// It exited with this code, 0 to 255.
    Code(i32),
    /// It was killed by this signal.
    Signal(i32),
    /// It is gone, and how it ended could not be found out.
    /// [`CloseReport::exit_note`](crate::CloseReport::exit_note) says why: another part of this
    /// process reaped it (a `waitpid(-1)`, SIGCHLD set to be ignored), or a debugger holds it.
    Unknown,
    /// It did not end within the kill stage: it is in an uninterruptible sleep, or SIGKILL was
    /// refused. It is reaped when it ends.
    StillRunning,
}

impl ExitStatus {
    /// Exit code 0.
    #[must_use]
    pub fn success(self) -> bool {
        self == Self::Code(0)
    }

    /// The exit code, if it exited.
    #[must_use]
    pub fn code(self) -> Option<i32> {
        match self {
            Self::Code(code) => Some(code),
            _ => None,
        }
    }

    /// The signal, if one killed it.
    #[must_use]
    pub fn signal(self) -> Option<i32> {
        match self {
            Self::Signal(signal) => Some(signal),
            _ => None,
        }
    }

    /// What a shell would report: the code, or 128 + the signal. `None` if not known.
    #[must_use]
    pub fn shell_code(self) -> Option<i32> {
        match self {
            Self::Code(code) => Some(code),
            Self::Signal(signal) => Some(128 + signal),
            _ => None,
        }
    }
}

impl fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal(signal) => write!(f, "signal {signal}"),
            Self::Unknown => f.write_str("exit status unknown"),
            Self::StillRunning => f.write_str("still running"),
        }
    }
}
