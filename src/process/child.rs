//! Floor 1. Who may signal and reap a child.

use std::time::Duration;

use rustix::io::Errno;
use rustix::process::Pid;

use super::cgroup::{Cgroup, Removal};
use crate::close::ExitStatus;
use crate::sync::Permit;

/// How long a killed child is waited for where there is no close to wait for it.
pub(crate) const REAP_MAX: Duration = Duration::from_secs(2);

/// The right to signal a child's group and to reap the child. There is one per child.
///
/// A process number means this child only until it is reaped: then the kernel may give it to
/// another. So after the reap its group is signalled through the pidfd alone.
///
/// Dropping it does nothing, because nothing here may block: whoever holds it must reap.
#[derive(Debug)]
pub(crate) struct Child {
    pub(super) pid: Pid,
    /// Set once, by the reap.
    pub(super) status: Option<ExitStatus>,
    /// What waitid(2) said where that left the status unknown.
    pub(super) wait_error: Option<Errno>,
    pub(super) cgroup: Option<Cgroup>,
    /// Its place among the agents of its engine.
    permit: Option<Permit>,
}

impl Child {
    fn new(pid: Pid) -> Self {
        Self { pid, status: None, wait_error: None, cgroup: None, permit: None }
    }

    /// The process number, which is also that of its process group.
    pub(crate) fn pid(&self) -> u32 {
        self.pid.as_raw_pid().unsigned_abs()
    }

    /// Removes its cgroup, once nobody is to be left in it. Never blocks.
    pub(crate) fn remove_cgroup(&mut self) -> Removal {
        self.cgroup.as_mut().map_or(Removal::Done, Cgroup::remove)
    }

    /// Leaves who lives in its cgroup alone. It is removed only if it is empty.
    pub(crate) fn leave_cgroup(&mut self) {
        if let Some(cgroup) = &mut self.cgroup {
            cgroup.leave();
        }
    }

    /// The most processes beside this one that a kill found in its cgroup.
    pub(crate) fn killed_in_cgroup(&self) -> u64 {
        self.cgroup.as_ref().map_or(0, Cgroup::killed)
    }

    /// Another agent may take its place.
    pub(crate) fn give_place_back(&mut self) {
        self.permit = None;
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
    child: Option<Child>,
    pid: Pid,
}

impl Unclaimed {
    pub(super) fn new(pid: Pid) -> Self {
        let child = Child::new(pid);
        Self { child: Some(child), pid }
    }

    pub(super) fn pid(&self) -> u32 {
        self.pid.as_raw_pid().unsigned_abs()
    }

    /// The cgroup it was born in.
    pub(super) fn attach(&mut self, cgroup: Option<Cgroup>) {
        if let Some(child) = &mut self.child {
            child.cgroup = cgroup;
        }
    }

    /// The place it takes.
    pub(super) fn hold(&mut self, permit: Option<Permit>) {
        if let Some(child) = &mut self.child {
            child.permit = permit;
        }
    }

    /// Hands the child on; from here the caller must reap it.
    pub(super) fn claim(mut self) -> Child {
        self.child.take().unwrap_or_else(|| Child::new(self.pid))
    }

    /// Kills the group and reaps the child: how it ended, and whether it was alive until then.
    /// Blocks for as long as a SIGKILL takes.
    pub(super) fn destroy(&mut self) -> Option<(ExitStatus, bool)> {
        let mut child = self.child.take()?;
        let alive = !child.has_exited();
        child.kill(None);
        let exit = child.reap_within(REAP_MAX);
        if exit.is_none() {
            child.reap_in_background();
        }
        Some((exit.unwrap_or(ExitStatus::StillRunning), alive))
    }
}

impl Drop for Unclaimed {
    fn drop(&mut self) {
        self.destroy();
    }
}
