//! The exit status of an agent.

use std::fmt;

/// How an agent ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum ExitStatus {
    /// The agent exited with this code, 0 to 255.
    Code(i32),
    /// A signal killed the agent.
    Signal(i32),
    /// The agent has ended, but its status is unknown.
    /// [`CloseReport::exit_note`](crate::CloseReport::exit_note) says why: another part of this
    /// process reaped it (with `waitpid(-1)`, or by ignoring SIGCHLD), or a debugger holds it.
    Unknown,
    /// The agent did not end within the kill stage: it is in an uninterruptible sleep, or SIGKILL
    /// was refused. It is reaped when it ends.
    StillRunning,
}

impl ExitStatus {
    /// Returns whether the agent exited with code 0.
    #[must_use]
    pub fn success(self) -> bool {
        self == Self::Code(0)
    }

    /// Returns the exit code, if the agent exited.
    #[must_use]
    pub fn code(self) -> Option<i32> {
        match self {
            Self::Code(code) => Some(code),
            _ => None,
        }
    }

    /// Returns the signal, if one killed the agent.
    #[must_use]
    pub fn signal(self) -> Option<i32> {
        match self {
            Self::Signal(signal) => Some(signal),
            _ => None,
        }
    }

    /// Returns what a shell would report: the code, or 128 plus the signal. `None` if unknown.
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
