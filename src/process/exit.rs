//! Floor 1. Has it exited, and how: reaped once, the status kept.

use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, retry_on_intr};
use rustix::process::{PidfdFlags, WaitId, WaitIdOptions, WaitIdStatus, pidfd_open, waitid};

use super::child::Child;
use crate::exit_status::ExitStatus;

impl Child {
    /// Whether it has exited, reaped or not. Leaves the status where it is.
    pub(crate) fn has_exited(&self) -> bool {
        self.status.is_some() || !matches!(self.peek(), Ok(None))
    }

    /// Reaps it if it has exited. `None`: it still runs. Asked again, it says the same again.
    ///
    /// What is left of the group must be killed before: afterwards there is no safe number.
    pub(crate) fn try_reap(&mut self) -> Option<ExitStatus> {
        self.reap(WaitIdOptions::EXITED | WaitIdOptions::NOHANG)
    }

    /// Waits until it has exited, at most `limit`. For a child that was just sent SIGKILL: that
    /// ends almost all, and not one that runs as another user by now, nor one that a debugger
    /// holds.
    pub(crate) fn reap_within(&mut self, limit: Duration) -> Option<ExitStatus> {
        if let Some(status) = self.try_reap() {
            return Some(status);
        }
        let Ok(pidfd) = pidfd_open(self.pid, PidfdFlags::empty()) else {
            // Out of descriptors. SIGKILL takes microseconds, a zombie stays for ever.
            return self.reap(WaitIdOptions::EXITED);
        };
        let limit = Timespec::try_from(limit).ok();
        // Interrupted or not, the answer is what the next look says.
        let _ready = poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], limit.as_ref());
        let status = self.try_reap();
        if status.is_none() {
            crate::trace::error!(
                pid = self.pid(),
                "a killed child does not end; it is left behind"
            );
        }
        status
    }

    fn reap(&mut self, options: WaitIdOptions) -> Option<ExitStatus> {
        if self.status.is_none() {
            self.status = match retry_on_intr(|| waitid(WaitId::Pid(self.pid), options)) {
                Ok(None) => None,
                Ok(Some(status)) => Some(how(&status)),
                Err(error) => {
                    // ECHILD: a `waitpid(-1)` elsewhere, or SIGCHLD ignored. It is gone, that
                    // much is sure. Nothing else can go wrong with these arguments.
                    crate::trace::warn!(pid = self.pid(), %error, "child reaped by somebody else");
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
