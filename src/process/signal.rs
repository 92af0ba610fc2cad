//! Signals to an agent's process group.
//!
//! Signals go through the pidfd of the leader where the kernel can do that (Linux 6.9): the pidfd names
//! the group for good, also once the leader was reaped, by us or by another part of this process.
//! Before, they go by number, and only while the number cannot have been given to another process. The
//! leader of a session cannot leave its group, so a signal to the group reaches it.

use std::os::fd::BorrowedFd;

use rustix::io::Errno;
use rustix::process::{Signal, kill_process, kill_process_group, test_kill_process_group};

use super::child::Child;
use super::sys;

impl Child {
    /// SIGTERM to the group, then SIGCONT: a stopped process acts on SIGTERM only once it goes on.
    /// True if it reached a process.
    pub(crate) fn terminate(&self, pidfd: Option<BorrowedFd<'_>>) -> bool {
        let reached = self.signal_group(pidfd, Signal::TERM);
        if reached {
            self.signal_group(pidfd, Signal::CONT);
        }
        reached
    }

    /// The same to the leader alone.
    pub(crate) fn terminate_leader(&self) -> bool {
        self.signal_leader(Signal::TERM) && self.signal_leader(Signal::CONT)
    }

    /// SIGKILL to the cgroup, if it has one, and to the group. True if it reached a process.
    pub(crate) fn kill(&self, pidfd: Option<BorrowedFd<'_>>) -> bool {
        let swept = self.cgroup.as_ref().is_some_and(|cgroup| cgroup.kill(self.pid()));
        let reached = self.signal_group(pidfd, Signal::KILL);
        swept || reached
    }

    /// The same to the leader alone.
    pub(crate) fn kill_leader(&self) -> bool {
        self.signal_leader(Signal::KILL)
    }

    /// Whether a process is left in the group. A zombie counts, and so does a leader that is not
    /// reaped.
    pub(crate) fn group_has_members(&self, pidfd: Option<BorrowedFd<'_>>) -> bool {
        let by_number = || test_kill_process_group(self.pid);
        let asked = match pidfd.map(|pidfd| sys::signal_group(pidfd, None)) {
            Some(result @ (Ok(()) | Err(Errno::SRCH))) => result,
            _ => by_number(),
        };
        asked != Err(Errno::SRCH)
    }

    /// Whether the group can still be signalled once its leader is reaped.
    pub(crate) fn can_signal_reaped(pidfd: Option<BorrowedFd<'_>>) -> bool {
        pidfd.is_some_and(|pidfd| {
            matches!(sys::signal_group(pidfd, None), Ok(()) | Err(Errno::SRCH | Errno::PERM))
        })
    }

    fn signal_group(&self, pidfd: Option<BorrowedFd<'_>>, signal: Signal) -> bool {
        match pidfd.map(|pidfd| sys::signal_group(pidfd, Some(signal))) {
            Some(Ok(())) => true,
            Some(Err(Errno::SRCH)) => false,
            // Refused, or the kernel cannot do it.
            _ => self.is_ours() && self.was_sent(signal, kill_process_group(self.pid, signal)),
        }
    }

    fn signal_leader(&self, signal: Signal) -> bool {
        self.is_ours() && self.was_sent(signal, kill_process(self.pid, signal))
    }

    /// The leader is not reaped, neither by us nor by another part of this process: its number is
    /// still its own.
    fn is_ours(&self) -> bool {
        self.status.is_none() && !self.is_stolen()
    }

    fn was_sent(&self, signal: Signal, result: Result<(), Errno>) -> bool {
        if let Err(error) = result
            && error != Errno::SRCH
        {
            // EPERM: it runs as another user now.
            crate::trace::warn!(pid = self.pid(), ?signal, %error, "signal refused");
        }
        result.is_ok()
    }
}
