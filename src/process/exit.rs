//! Has it exited, and how: reaped once, the status kept.

use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, retry_on_intr};
use rustix::process::{PidfdFlags, WaitId, WaitIdOptions, WaitIdStatus, pidfd_open, waitid};

use super::child::Child;
use crate::close::ExitStatus;

impl Child {
    /// Whether it has exited, reaped or not. Leaves the status where it is.
    pub(crate) fn has_exited(&self) -> bool {
        self.status.is_some() || !matches!(self.peek(), Ok(None))
    }

    /// Reaps it if it can be reaped. Asked again, it gives the same answer again. `None`: it still
    /// runs, or it has exited and a debugger has not let go of it.
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
            // Out of descriptors, and without one there is no wait with a limit.
            return self.try_reap();
        };
        let limit = Timespec::try_from(limit).ok();
        // Interrupted or not, the answer is what the next look says.
        let _ready = poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], limit.as_ref());
        self.try_reap()
    }

    /// Leaves the reaping to a thread of its own, which ends with the child. For one that could not
    /// be reaped in time and whose engine goes.
    pub(crate) fn reap_in_background(&mut self) {
        if self.status.is_some() {
            return;
        }
        let pid = self.pid;
        self.status = Some(ExitStatus::StillRunning);
        crate::trace::error!(
            pid = self.pid(),
            "a killed agent has not ended; it is reaped when it does"
        );
        let wait = move || {
            // ECHILD is an end, too.
            let _status = retry_on_intr(|| waitid(WaitId::Pid(pid), WaitIdOptions::EXITED));
        };
        let thread = std::thread::Builder::new().name("agentpipe-reap".into()).spawn(wait);
        if let Err(error) = thread {
            crate::trace::error!(pid = self.pid(), %error, "no thread to reap it: it stays a zombie");
        }
    }

    fn reap(&mut self, options: WaitIdOptions) -> Option<ExitStatus> {
        if self.status.is_none() {
            self.status = match retry_on_intr(|| waitid(WaitId::Pid(self.pid), options)) {
                Ok(None) => None,
                Ok(Some(status)) => Some(how(&status)),
                Err(error) => {
                    crate::trace::warn!(pid = self.pid(), %error, "the exit status cannot be had");
                    self.wait_error = Some(error);
                    Some(ExitStatus::Unknown)
                }
            };
        }
        self.status
    }

    /// Why the status is unknown.
    pub(crate) fn why_unknown(&self) -> Option<String> {
        Some(match self.wait_error? {
            Errno::CHILD => "another part of this process reaped it (waitpid(-1), or SIGCHLD is \
                             ignored)"
                .to_owned(),
            error => format!("waitid was refused: {error}"),
        })
    }

    /// Another part of this process reaped it: its number may belong to another process.
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
