//! Floor 1. Signals to an agent's process group.

use rustix::io::Errno;
use rustix::process::{Signal, getpgid, kill_process, kill_process_group};

use super::child::Child;

impl Child {
    /// SIGTERM to the group. True if it reached anybody.
    pub(crate) fn terminate(&self) -> bool {
        self.signal(Signal::TERM)
    }

    /// SIGKILL to the group. True if it reached anybody.
    pub(crate) fn kill(&self) -> bool {
        self.signal(Signal::KILL)
    }

    fn signal(&self, signal: Signal) -> bool {
        // Reaped by us, or by somebody else in this process: the number is no longer ours.
        if self.status.is_some() || self.is_stolen() {
            return false;
        }
        let reached_group = self.sent(signal, kill_process_group(self.pid, signal));
        // A leader can leave its own group for another one of the session. It is still ours.
        let leader_elsewhere = getpgid(Some(self.pid)).is_ok_and(|group| group != self.pid);
        if leader_elsewhere {
            return self.sent(signal, kill_process(self.pid, signal)) || reached_group;
        }
        reached_group
    }

    fn sent(&self, signal: Signal, result: Result<(), Errno>) -> bool {
        if let Err(error) = result
            && error != Errno::SRCH
        {
            // EPERM: it runs as another user now.
            tracing::warn!(pid = self.pid(), ?signal, %error, "signal refused");
        }
        result.is_ok()
    }
}
