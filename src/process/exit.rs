//! Floor 1. Has it exited, and how: reaped once, the status kept.

use rustix::io::{Errno, retry_on_intr};
use rustix::process::{WaitId, WaitIdOptions, WaitIdStatus, waitid};

use super::child::Child;
use crate::exit_status::ExitStatus;

impl Child {
    /// Whether it has exited, reaped or not. Leaves the status where it is.
    #[cfg(test)]
    pub(crate) fn has_exited(&self) -> bool {
        self.status.is_some() || !matches!(self.peek(), Ok(None))
    }

    /// Reaps it if it has exited. `None`: it still runs. Asked again, it says the same again.
    ///
    /// What is left of the group must be killed before: afterwards there is no safe number.
    pub(crate) fn try_reap(&mut self) -> Option<ExitStatus> {
        self.reap(WaitIdOptions::EXITED | WaitIdOptions::NOHANG)
    }

    /// Waits until it has exited. For a child that was just sent SIGKILL, or never got to exec.
    pub(crate) fn reap_blocking(&mut self) -> Option<ExitStatus> {
        self.reap(WaitIdOptions::EXITED)
    }

    fn reap(&mut self, options: WaitIdOptions) -> Option<ExitStatus> {
        if self.status.is_none() {
            self.status = match retry_on_intr(|| waitid(WaitId::Pid(self.pid), options)) {
                Ok(None) => None,
                Ok(Some(status)) => Some(how(&status)),
                Err(error) => {
                    // ECHILD: a `waitpid(-1)` elsewhere, or SIGCHLD ignored. It is gone, that
                    // much is sure. Nothing else can go wrong with these arguments.
                    tracing::warn!(pid = self.pid(), %error, "child reaped by somebody else");
                    Some(ExitStatus::Unknown)
                }
            };
        }
        self.status
    }

    /// Somebody else in this process reaped it: its number may belong to a stranger.
    pub(super) fn is_stolen(&self) -> bool {
        self.peek().is_err_and(|error| error == Errno::CHILD)
    }

    fn peek(&self) -> Result<Option<WaitIdStatus>, Errno> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        retry_on_intr(|| waitid(WaitId::Pid(self.pid), options))
    }
}

fn how(status: &WaitIdStatus) -> ExitStatus {
    if let Some(code) = status.exit_status() {
        ExitStatus::Code(code)
    } else if let Some(signal) = status.terminating_signal() {
        ExitStatus::Signal(signal)
    } else {
        ExitStatus::Unknown
    }
}
