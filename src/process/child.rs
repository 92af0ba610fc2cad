//! A child process: who may signal its group and reap it, and how it ended.
//!
//! A process number means this child only until the child is reaped; then the kernel may give the
//! number to another process. From Linux 6.9 on signals go through the pidfd of the leader, which
//! names its process group for good. On older kernels they go by number, and only while the leader is
//! not reaped, by this crate or by another part of this process. The leader of a session cannot leave
//! its process group, so a signal to the group reaches it.

use std::cell::Cell;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::PollFlags;
use rustix::io::{Errno, retry_on_intr};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, WaitIdStatus, kill_process, kill_process_group,
    pidfd_open, test_kill_process, test_kill_process_group, waitid,
};

use super::agent_process::{AgentProcess, Proc, ProcessTable};
use super::cgroup::{Cgroup, Removal};
use super::container::Container;
use super::guard::GuardEntry;
use super::sys::{self, poll_until};
use crate::close::{ContainerEnd, ExitStatus};
use crate::sync::Permit;

/// How long to wait for a killed child if no close waits for it.
pub(crate) const REAP_MAX: Duration = Duration::from_secs(2);

/// The right to signal the group of a child and to reap the child. There is one per child.
///
/// Dropping it does nothing, because a drop must not block: its owner has to reap the child.
#[derive(Debug)]
pub(crate) struct Child {
    pid: Pid,
    /// Set once, by the reap.
    status: Option<ExitStatus>,
    /// The error of waitid(2) that left the status unknown.
    wait_error: Option<Errno>,
    /// Why the kernel refused SIGTERM, and SIGKILL.
    refusals: Cell<[Option<Errno>; 2]>,
    cgroup: Option<Cgroup>,
    /// What the guard knows of it.
    guarded: Option<GuardEntry>,
    /// The container that the child is the client of. Boxed, because few children have one.
    container: Option<Box<Container>>,
    /// Counts the child for `max_agents`.
    permit: Option<Permit>,
}

impl Child {
    fn new(pid: Pid) -> Self {
        let refusals = Cell::default();
        Self {
            pid,
            status: None,
            wait_error: None,
            refusals,
            cgroup: None,
            guarded: None,
            container: None,
            permit: None,
        }
    }

    /// Returns the process number, which is also that of the process group.
    pub(crate) fn pid(&self) -> u32 {
        self.pid.as_raw_pid().unsigned_abs()
    }

    fn signal_group(&self, pidfd: Option<BorrowedFd<'_>>, signal: Signal) -> bool {
        let result = match pidfd.map(|pidfd| sys::signal_group(pidfd, Some(signal))) {
            Some(Ok(())) => Ok(()),
            // The pidfd names the group for good: no member is left, and the number is not tried.
            Some(Err(Errno::SRCH)) => return false,
            // No pidfd, a kernel before 6.9, or a refusal.
            _ if self.is_ours() => kill_process_group(self.pid, signal),
            Some(Err(Errno::PERM)) => Err(Errno::PERM),
            _ => return false,
        };
        let reached = self.was_sent(signal, result);
        // The kernel reports success if it signalled any member of the group, and the leader may be
        // one that it did not.
        if reached && self.is_ours() && test_kill_process(self.pid) == Err(Errno::PERM) {
            self.note_refusal(signal, Errno::PERM);
        }
        reached
    }

    fn signal_leader(&self, signal: Signal) -> bool {
        self.is_ours() && self.was_sent(signal, kill_process(self.pid, signal))
    }

    /// Whether the leader is not reaped, so that its number still means it.
    fn is_ours(&self) -> bool {
        // ECHILD means that another part of this process has reaped the child. Between this check
        // and a signal this crate cannot reap it: `try_reap` takes `&mut self`.
        self.status.is_none() && !matches!(self.peek(), Err(Errno::CHILD))
    }

    fn was_sent(&self, signal: Signal, result: Result<(), Errno>) -> bool {
        if let Err(error) = result
            && error != Errno::SRCH
        {
            self.note_refusal(signal, error);
        }
        result.is_ok()
    }

    /// Notes that a signal was refused. EPERM: the process runs as another user.
    fn note_refusal(&self, signal: Signal, error: Errno) {
        crate::trace::warn!(pid = self.pid(), ?signal, %error, "signal refused");
        let [mut term, mut kill] = self.refusals.get();
        match signal {
            Signal::TERM => term = Some(error),
            Signal::KILL => kill = Some(error),
            // SIGCONT goes where SIGTERM went.
            _ => {}
        }
        self.refusals.set([term, kill]);
    }

    /// Returns whether the child has exited, reaped or not. Does not reap.
    pub(crate) fn has_exited(&self) -> bool {
        // An error means an exit as well: another part of this process has reaped the child.
        self.status.is_some() || !matches!(self.peek(), Ok(None))
    }

    fn peek(&self) -> Result<Option<WaitIdStatus>, Errno> {
        // WNOWAIT leaves the zombie in place, which keeps the number of the child taken.
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        retry_on_intr(|| waitid(WaitId::Pid(self.pid), options))
    }

    /// Returns the status of a reaped child.
    #[cfg(test)]
    pub(crate) fn status(&self) -> Option<ExitStatus> {
        self.status
    }
}

impl AgentProcess for Child {
    fn terminate(&self, pidfd: Option<BorrowedFd<'_>>) -> bool {
        let reached = self.signal_group(pidfd, Signal::TERM);
        if reached {
            self.signal_group(pidfd, Signal::CONT);
        }
        reached
    }

    fn terminate_leader(&self) -> bool {
        self.signal_leader(Signal::TERM) && self.signal_leader(Signal::CONT)
    }

    fn kill(&self, pidfd: Option<BorrowedFd<'_>>) -> bool {
        // Both are killed: the kernel may refuse the kill of the cgroup, and an agent may have
        // none. Each call is a statement because `||` would skip the second one.
        let in_cgroup = self.cgroup.as_ref().is_some_and(|cgroup| cgroup.kill(self.pid()));
        let reached = self.signal_group(pidfd, Signal::KILL);
        in_cgroup || reached
    }

    fn kill_leader(&self) -> bool {
        self.signal_leader(Signal::KILL)
    }

    fn refused_signals(&self) -> Option<String> {
        let of = |name, error: Option<Errno>| match error? {
            Errno::PERM => Some(format!("{name} was refused: EPERM")),
            error => Some(format!("{name} was refused: {error}")),
        };
        let [term, kill] = self.refusals.get();
        let all: Vec<_> =
            [of("SIGTERM", term), of("SIGKILL", kill)].into_iter().flatten().collect();
        (!all.is_empty()).then(|| all.join("; "))
    }

    fn can_signal_reaped(&self, pidfd: Option<BorrowedFd<'_>>) -> bool {
        // ESRCH and EPERM come from a kernel that knows the flag; an older one answers EINVAL.
        pidfd.is_some_and(|pidfd| {
            matches!(sys::signal_group(pidfd, None), Ok(()) | Err(Errno::SRCH | Errno::PERM))
        })
    }

    fn group_has_members(&self, pidfd: Option<BorrowedFd<'_>>) -> bool {
        // Other errors of the pidfd are no answer (EINVAL before Linux 6.9), so the number is
        // tested. That sends nothing: a number that was given to another group can only show a
        // member too many.
        let tested = match pidfd.map(|pidfd| sys::signal_group(pidfd, None)) {
            Some(result @ (Ok(()) | Err(Errno::SRCH))) => result,
            _ => test_kill_process_group(self.pid),
        };
        // EPERM also means that the group has a member.
        tested != Err(Errno::SRCH)
    }

    fn try_reap(&mut self) -> Option<ExitStatus> {
        if self.status.is_none() {
            let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
            self.status = match retry_on_intr(|| waitid(WaitId::Pid(self.pid), options)) {
                Ok(None) => None,
                Ok(Some(status)) => Some(exit_status(&status)),
                // The status is set although it is unknown: from now on no signal goes by number.
                Err(error) => {
                    crate::trace::warn!(pid = self.pid(), %error, "the exit status is lost");
                    self.wait_error = Some(error);
                    Some(ExitStatus::Unknown)
                }
            };
        }
        self.status
    }

    fn reap_within(&mut self, limit: Duration) -> Option<ExitStatus> {
        if let Some(status) = self.try_reap() {
            return Some(status);
        }
        // The pidfd of the clone belongs to the ring. The child is not reaped, so its number still
        // means it.
        let Ok(pidfd) = pidfd_open(self.pid, PidfdFlags::empty()) else {
            // Out of descriptors, and no other wait has a limit.
            return self.try_reap();
        };
        let until = Instant::now() + limit;
        // A signal handler of the host ends a poll early.
        while let Err(Errno::INTR) = poll_until(&pidfd, PollFlags::IN, until) {}
        self.try_reap()
    }

    fn reap_in_background(&mut self) {
        if self.status.is_some() {
            return;
        }
        let pid = self.pid;
        // The status is set before the thread starts. The thread may reap at any time, and after
        // that the number must not be signalled.
        self.status = Some(ExitStatus::StillRunning);
        crate::trace::error!(
            pid = self.pid(),
            "a killed agent has not ended; it is reaped when it does"
        );
        let wait = move || {
            // ECHILD ends the wait, too.
            let _status = retry_on_intr(|| waitid(WaitId::Pid(pid), WaitIdOptions::EXITED));
        };
        // Nothing joins the thread: the child may never end.
        let thread = std::thread::Builder::new().name("agentpipe-reap".into()).spawn(wait);
        if let Err(error) = thread {
            crate::trace::error!(pid = self.pid(), %error, "no thread to reap it: it stays a zombie");
        }
    }

    fn why_unknown(&self) -> Option<String> {
        Some(match self.wait_error? {
            Errno::CHILD => "another part of this process reaped it (waitpid(-1), or SIGCHLD is \
                             ignored)"
                .to_owned(),
            error => format!("waitid was refused: {error}"),
        })
    }

    fn give_place_back(&mut self) {
        self.permit = None;
    }

    fn remove_cgroup(&mut self) -> Removal {
        self.cgroup.as_mut().map_or(Removal::Done, Cgroup::remove)
    }

    fn leave_cgroup(&mut self) {
        if let Some(cgroup) = &mut self.cgroup {
            cgroup.leave();
        }
    }

    fn killed_in_cgroup(&self) -> u64 {
        self.cgroup.as_ref().map_or(0, Cgroup::killed)
    }

    fn remove_container(&mut self, limit: Duration) -> Option<OwnedFd> {
        self.container.as_mut()?.remove(limit)
    }

    fn container_end(&self) -> Option<ContainerEnd> {
        self.container.as_ref().map(|container| container.end())
    }

    fn tag(&self) -> Option<u64> {
        self.guarded.as_ref()?.tag().current
    }

    fn table(&self) -> &dyn ProcessTable {
        &Proc
    }
}

fn exit_status(status: &WaitIdStatus) -> ExitStatus {
    if let Some(code) = status.exit_status() {
        ExitStatus::Code(code)
    } else if let Some(signal) = status.terminating_signal() {
        ExitStatus::Signal(signal)
    } else {
        ExitStatus::Unknown
    }
}

/// A child without an owner yet. Dropped, it kills the group and reaps the child, so a spawn that
/// fails half-way leaves nothing behind.
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

    /// Attaches the cgroup that the child was born in, and its entry with the guard.
    pub(super) fn attach(&mut self, cgroup: Option<Cgroup>, guarded: Option<GuardEntry>) {
        if let Some(child) = &mut self.child {
            child.cgroup = cgroup;
            child.guarded = guarded;
        }
    }

    /// Attaches the container that the child is the client of.
    pub(super) fn attach_container(&mut self, container: Option<Container>) {
        if let Some(child) = &mut self.child {
            child.container = container.map(Box::new);
        }
    }

    /// Attaches the permit of the child.
    pub(super) fn hold(&mut self, permit: Permit) {
        if let Some(child) = &mut self.child {
            child.permit = Some(permit);
        }
    }

    /// Hands the child to its owner, who must reap it.
    pub(super) fn claim(mut self) -> Child {
        // Only `destroy` takes the child before, and its callers give the value up.
        self.child.take().unwrap_or_else(|| Child::new(self.pid))
    }

    /// Kills the group and reaps the child: how it ended, and whether it was alive until then.
    /// Blocks for as long as a SIGKILL takes.
    pub(super) fn destroy(&mut self) -> Option<(ExitStatus, bool)> {
        let mut child = self.child.take()?;
        // The check comes before the kill: afterwards a dead child may be one that the kill ended.
        let alive = !child.has_exited();
        // The child is not reaped, so the signal may go by number.
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
