//! Floor 1. Who may signal and reap a child.

use rustix::process::Pid;

use crate::exit_status::ExitStatus;

/// The right to signal a child's group and to reap the child. There is one per child.
///
/// A process number means this child only until it is reaped: then the kernel may give it to
/// a stranger. So reaping ends the signalling: `terminate` and `kill` reach nobody afterwards.
///
/// Dropping it does nothing, because nothing here may block: whoever holds it must reap.
#[derive(Debug)]
pub(crate) struct Child {
    pub(super) pid: Pid,
    /// Set once, by the reap.
    pub(super) status: Option<ExitStatus>,
}

impl Child {
    /// The process number, which is also that of its process group.
    pub(crate) fn pid(&self) -> u32 {
        self.pid.as_raw_pid().unsigned_abs()
    }

    /// How it ended, once it was reaped.
    #[cfg(test)]
    pub(crate) fn status(&self) -> Option<ExitStatus> {
        self.status
    }
}

/// A child that nobody took over yet. Dropped, it kills the group and reaps the child, so a
/// spawn that fails half-way leaves nothing.
#[derive(Debug)]
pub(super) struct Unclaimed {
    pid: Pid,
    claimed: bool,
}

impl Unclaimed {
    pub(super) fn new(pid: Pid) -> Self {
        Self { pid, claimed: false }
    }

    pub(super) fn pid(&self) -> u32 {
        self.pid.as_raw_pid().unsigned_abs()
    }

    /// Hands the child on; from here the caller must reap it.
    pub(super) fn claim(mut self) -> Child {
        self.claimed = true;
        Child { pid: self.pid, status: None }
    }
}

impl Drop for Unclaimed {
    fn drop(&mut self) {
        if !self.claimed {
            let mut child = Child { pid: self.pid, status: None };
            child.kill();
            // Blocks for as long as a SIGKILL takes.
            child.reap_blocking();
        }
    }
}
