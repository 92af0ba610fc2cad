//! Floor 1. Signals to an agent's process group.

use rustix::io::Errno;
use rustix::process::{Signal, kill_process, kill_process_group};

use super::child::Child;
use super::group::group_of;

impl Child {
    /// SIGTERM to the group. True if it reached anybody.
    pub(crate) fn terminate(&self) -> bool {
        if !self.is_ours() {
            return false;
        }
        let reached = self.sent(Signal::TERM, kill_process_group(self.pid, Signal::TERM));
        // Once only: many take a second SIGTERM for impatience, and leave without a flush.
        let elsewhere = group_of(self.pid()).is_some_and(|group| group != self.pid());
        let alone = elsewhere && self.sent(Signal::TERM, kill_process(self.pid, Signal::TERM));
        reached || alone
    }

    /// SIGKILL to the cgroup, if it has one, and to the group. True if it reached anybody.
    pub(crate) fn kill(&self) -> bool {
        // A cgroup is ours by name, whoever was reaped.
        let swept = self.cgroup.as_ref().is_some_and(|cgroup| cgroup.kill(self.pid()));
        if !self.is_ours() {
            return swept;
        }
        let reached = self.sent(Signal::KILL, kill_process_group(self.pid, Signal::KILL));
        // A leader can leave its own group for another one of the session. It is still ours.
        self.sent(Signal::KILL, kill_process(self.pid, Signal::KILL)) || reached || swept
    }

    /// Not reaped by us, nor by somebody else in this process: the number is still the child's.
    fn is_ours(&self) -> bool {
        self.status.is_none() && !self.is_stolen()
    }

    fn sent(&self, signal: Signal, result: Result<(), Errno>) -> bool {
        if let Err(error) = result
            && error != Errno::SRCH
        {
            // EPERM: it runs as another user now.
            crate::trace::warn!(pid = self.pid(), ?signal, %error, "signal refused");
        }
        result.is_ok()
    }
}
