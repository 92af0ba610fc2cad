//! What a transport needs of the process of its agent, and of the other processes of the host.
//!
//! `Child` and `/proc` are the one implementation; a simulation in the tests of the transport is the
//! other.

use std::fmt::Debug;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use super::Family;
use super::cgroup::Removal;
use super::procfs::{self, GroupMember};
use crate::close::{Activity, ContainerEnd, ExitStatus};

/// A child process, as its transport sees it: who may signal its group and reap it, and how it ended.
///
/// `pidfd` is that of the child; without it signals go by number.
pub(crate) trait AgentProcess: Debug {
    /// Sends SIGTERM to the group, then SIGCONT, because a stopped process acts on SIGTERM only once
    /// it continues. Returns whether the signal reached a process.
    fn terminate(&self, pidfd: Option<BorrowedFd<'_>>) -> bool;

    /// Sends SIGTERM and SIGCONT to the leader alone.
    fn terminate_leader(&self) -> bool;

    /// Kills the cgroup, if there is one, and the group. Returns whether the signal reached a process.
    fn kill(&self, pidfd: Option<BorrowedFd<'_>>) -> bool;

    /// Kills the leader alone.
    fn kill_leader(&self) -> bool;

    /// Returns which signals the kernel refused to send to the agent, and why.
    fn refused_signals(&self) -> Option<String>;

    /// Returns whether this kernel can signal the group after the leader was reaped.
    fn can_signal_reaped(&self, pidfd: Option<BorrowedFd<'_>>) -> bool;

    /// Returns whether a process is left in the group. Zombies count, and so does a leader that is
    /// not reaped.
    fn group_has_members(&self, pidfd: Option<BorrowedFd<'_>>) -> bool;

    /// Reaps the child if it has exited, and returns the same status at every later call. `None`: it
    /// runs, or it has exited and a debugger has not let go of it.
    fn try_reap(&mut self) -> Option<ExitStatus>;

    /// Waits at most `limit` for the exit, and reaps. For a child that was sent SIGKILL: that ends
    /// all but a child that runs as another user or is held by a debugger.
    fn reap_within(&mut self, limit: Duration) -> Option<ExitStatus>;

    /// Leaves the reap to a thread that ends with the child. For a child that could not be reaped in
    /// time and whose engine ends.
    fn reap_in_background(&mut self);

    /// Returns why the status is unknown.
    fn why_unknown(&self) -> Option<String>;

    /// Gives the permit back: another agent may be spawned.
    fn give_place_back(&mut self);

    /// Removes the cgroup of the child. Never blocks.
    fn remove_cgroup(&mut self) -> Removal;

    /// Leaves the processes in the cgroup alone. The cgroup is removed only if it is empty.
    fn leave_cgroup(&mut self);

    /// Returns the most processes beside the child that a kill found in the cgroup.
    fn killed_in_cgroup(&self) -> u64;

    /// Begins to remove the container of the child. The descriptor is readable when that has ended.
    fn remove_container(&mut self, limit: Duration) -> Option<OwnedFd>;

    /// Returns what became of the container of the child, if it has one.
    fn container_end(&self) -> Option<ContainerEnd>;

    /// Returns the tag of its processes, if the engine has a guard.
    fn tag(&self) -> Option<u64>;

    /// Returns the processes of the host that it belongs to.
    fn table(&self) -> &dyn ProcessTable;
}

/// The processes of the host.
pub(crate) trait ProcessTable {
    /// Returns what the agent is doing: see [`Family::activity`].
    fn activity(
        &self,
        family: Family<'_>,
        budget: &mut usize,
        strays: &mut Vec<GroupMember>,
    ) -> Activity;

    /// Returns whether a process has an output of the agent as its stdout or stderr, or hides its
    /// descriptors.
    fn may_hold_output(&self, family: Family<'_>, pid: u32) -> bool;

    /// Returns the living members of the groups, without zombies, each with the index of its group. If
    /// `/proc` cannot be read, or hides the processes of other users, some are missing.
    fn members(&self, groups: &[u32]) -> Vec<(usize, GroupMember)>;

    /// Returns the living descendants of a process in its group, which has its number, and those
    /// outside of the group.
    fn descendants(&self, pid: u32) -> (Vec<GroupMember>, Vec<GroupMember>);

    /// Returns the living processes that have one of these tags, each with the index of its tag and its
    /// group, and how long the search took.
    fn tagged(&self, tags: &[u64]) -> (Vec<(usize, GroupMember, u32)>, Duration);

    /// Returns whether a process still runs. A zombie does not.
    fn is_alive(&self, member: &GroupMember) -> bool;

    /// Kills a process, if it is still this process.
    fn kill(&self, member: &GroupMember);
}

/// `/proc`, and the kernel that it shows.
#[derive(Debug)]
pub(super) struct Proc;

impl ProcessTable for Proc {
    fn activity(
        &self,
        family: Family<'_>,
        budget: &mut usize,
        strays: &mut Vec<GroupMember>,
    ) -> Activity {
        family.activity(budget, strays)
    }

    fn may_hold_output(&self, family: Family<'_>, pid: u32) -> bool {
        family.may_hold_output(pid)
    }

    fn members(&self, groups: &[u32]) -> Vec<(usize, GroupMember)> {
        let mut found = Vec::new();
        procfs::find_members(groups, |index, member| found.push((index, member)));
        found
    }

    fn descendants(&self, pid: u32) -> (Vec<GroupMember>, Vec<GroupMember>) {
        procfs::descendants(pid)
    }

    fn tagged(&self, tags: &[u64]) -> (Vec<(usize, GroupMember, u32)>, Duration) {
        let begun = Instant::now();
        let mut found = Vec::new();
        procfs::find_tagged(tags, |index, member, group| found.push((index, member, group)));
        (found, begun.elapsed())
    }

    fn is_alive(&self, member: &GroupMember) -> bool {
        member.is_alive()
    }

    fn kill(&self, member: &GroupMember) {
        member.kill();
    }
}
