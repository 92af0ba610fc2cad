//! A simulated child, and the simulated `/proc`, as the transport sees them.

use std::cell::RefCell;
use std::fmt;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use super::process::State;
use super::world::{Happening, MS, Object, US, World};
use crate::close::{Activity, ContainerEnd, ExitStatus};
use crate::process::{AgentProcess, Family, GroupMember, ProcessTable, Removal};

/// Makes a descriptor that stands for an object of the simulation.
pub(super) fn descriptor(world: &mut World, object: Object) -> OwnedFd {
    let fd = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).expect("a descriptor");
    world.objects.insert(fd.as_raw_fd(), object);
    fd
}

pub(super) struct SimChild {
    pub(super) world: Rc<RefCell<World>>,
    pub(super) agent: usize,
    pub(super) status: Option<ExitStatus>,
    pub(super) table: SimTable,
}

impl fmt::Debug for SimChild {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimChild({})", self.agent)
    }
}

impl SimChild {
    pub(super) fn new(world: &Rc<RefCell<World>>, agent: usize) -> Self {
        let table = SimTable(Rc::clone(world));
        Self { world: Rc::clone(world), agent, status: None, table }
    }

    /// Signals the group as the kernel would: by the pidfd, or by its number while that is taken.
    fn signal_group(&self, pidfd: Option<BorrowedFd<'_>>, signals: &[i32]) -> bool {
        let mut world = self.world.borrow_mut();
        let leader = world.agents[self.agent].leader;
        if let Some(pidfd) = pidfd
            && world.objects.get(&pidfd.as_raw_fd()) != Some(&Object::Exit(leader))
        {
            world.violate(|| "a signal through a descriptor that is not the pidfd".to_owned());
        }
        if self.status.is_some() && (world.knobs.old_kernel || pidfd.is_none()) {
            return false;
        }
        let group = world.agents[self.agent].pid;
        let mut reached = false;
        for index in 0..world.processes.len() {
            if world.processes[index].group == group {
                for signal in signals {
                    reached |= world.signal(index, *signal);
                }
            }
        }
        reached
    }

    fn signal_leader(&self, signals: &[i32]) -> bool {
        if self.status.is_some() {
            return false;
        }
        let mut world = self.world.borrow_mut();
        let leader = world.agents[self.agent].leader;
        signals.iter().fold(false, |reached, signal| world.signal(leader, *signal) | reached)
    }
}

impl AgentProcess for SimChild {
    fn terminate(&self, pidfd: Option<BorrowedFd<'_>>) -> bool {
        self.signal_group(pidfd, &[15, 18])
    }

    fn terminate_leader(&self) -> bool {
        self.signal_leader(&[15, 18])
    }

    fn kill(&self, pidfd: Option<BorrowedFd<'_>>) -> bool {
        let reached = self.signal_group(pidfd, &[9]);
        let mut world = self.world.borrow_mut();
        if !world.agents[self.agent].has_cgroup {
            return reached;
        }
        for index in 0..world.processes.len() {
            if world.processes[index].agent == self.agent {
                world.signal(index, 9);
            }
        }
        true
    }

    fn kill_leader(&self) -> bool {
        self.signal_leader(&[9])
    }

    fn refused_signals(&self) -> Option<String> {
        None
    }

    fn can_signal_reaped(&self, pidfd: Option<BorrowedFd<'_>>) -> bool {
        pidfd.is_some() && !self.world.borrow().knobs.old_kernel
    }

    fn group_has_members(&self, _pidfd: Option<BorrowedFd<'_>>) -> bool {
        let world = self.world.borrow();
        let group = world.agents[self.agent].pid;
        let is_member = |state: State| state != State::Gone;
        world.processes.iter().any(|it| it.group == group && is_member(it.state))
    }

    fn try_reap(&mut self) -> Option<ExitStatus> {
        if self.status.is_none() {
            let mut world = self.world.borrow_mut();
            self.status = world.reap(self.agent);
        }
        self.status
    }

    fn reap_within(&mut self, limit: Duration) -> Option<ExitStatus> {
        let until = self.world.borrow().now + limit.as_nanos() as u64;
        while self.try_reap().is_none() {
            let mut world = self.world.borrow_mut();
            if world.next_at().is_none_or(|at| at > until) {
                break;
            }
            world.happen();
        }
        self.status
    }

    fn reap_in_background(&mut self) {
        self.status.get_or_insert(ExitStatus::StillRunning);
    }

    fn why_unknown(&self) -> Option<String> {
        None
    }

    fn give_place_back(&mut self) {}

    fn remove_cgroup(&mut self) -> Removal {
        let mut world = self.world.borrow_mut();
        let is_left = |it: &super::process::SimProcess| it.agent == self.agent && it.is_running();
        if world.agents[self.agent].has_cgroup && world.processes.iter().any(is_left) {
            return Removal::Busy(descriptor(&mut world, Object::Cgroup(self.agent)));
        }
        Removal::Done
    }

    fn leave_cgroup(&mut self) {
        self.world.borrow_mut().agents[self.agent].has_cgroup = false;
    }

    fn killed_in_cgroup(&self) -> u64 {
        0
    }

    fn remove_container(&mut self, limit: Duration) -> Option<OwnedFd> {
        let mut world = self.world.borrow_mut();
        let most = limit.as_nanos() as u64;
        let takes = if world.rng.one_in(4) { most } else { world.rng.below(most) };
        world.after(takes, Happening::ContainerGone(self.agent));
        Some(descriptor(&mut world, Object::Container(self.agent)))
    }

    fn container_end(&self) -> Option<ContainerEnd> {
        None
    }

    fn tag(&self) -> Option<u64> {
        self.world.borrow().agents[self.agent].tag
    }

    fn table(&self) -> &dyn ProcessTable {
        &self.table
    }
}

impl World {
    /// Collects the exit status of a leader, as waitid(2) does.
    fn reap(&mut self, agent: usize) -> Option<ExitStatus> {
        let facts = &self.agents[agent];
        let (leader, kills) = (facts.leader, facts.policy.kill_group);
        let group = facts.pid;
        if self.processes[leader].state != State::Zombie || facts.traced_until > self.now {
            return None;
        }
        let unswept =
            |it: &&super::process::SimProcess| it.group == group && it.is_running() && !it.killed;
        if kills
            && self.knobs.old_kernel
            && let Some(left) = self.processes.iter().find(unswept).map(|it| it.pid)
        {
            self.violate(|| {
                format!("{group} is reaped before its group is swept: {left} cannot be signalled")
            });
        }
        self.log(|| format!("{group}: is reaped"));
        self.processes[leader].state = State::Gone;
        self.agents[agent].reaps += 1;
        Some(self.processes[leader].status)
    }
}

/// The processes of the simulated host.
pub(super) struct SimTable(Rc<RefCell<World>>);

impl SimTable {
    fn member(world: &World, index: usize) -> GroupMember {
        GroupMember::simulated(world.processes[index].pid)
    }

    fn find(world: &World, pid: u32) -> Option<usize> {
        world.processes.iter().position(|it| it.pid == pid && it.is_running())
    }

    /// The roots that run, and their descendants.
    fn family(world: &World, roots: Vec<usize>) -> Vec<usize> {
        let mut found = roots;
        let mut next = 0;
        while let Some(parent) = found.get(next).copied() {
            let is_child = |at: &usize| {
                world.processes[*at].parent == Some(parent) && world.processes[*at].is_running()
            };
            found.extend((0..world.processes.len()).filter(is_child));
            next += 1;
        }
        found
    }
}

impl ProcessTable for SimTable {
    fn activity(
        &self,
        family: Family<'_>,
        budget: &mut usize,
        strays: &mut Vec<GroupMember>,
    ) -> Activity {
        let mut world = self.0.borrow_mut();
        if world.knobs.hidden {
            return Activity::Unknown;
        }
        let roots = family.roots.iter().filter_map(|pid| Self::find(&world, *pid)).collect();
        let mut threads = 0;
        let mut answer = None;
        for index in Self::family(&world, roots) {
            let process = &world.processes[index];
            let is_root = family.roots.contains(&process.pid);
            if !is_root && process.group != family.group && !process.has_outputs {
                strays.push(Self::member(&world, index));
                continue;
            }
            threads += 1;
            if process.stopped {
                answer.get_or_insert(Activity::Stopped);
            } else if world.is_busy(index) {
                answer.get_or_insert(Activity::Busy);
            }
        }
        *budget = budget.saturating_sub(threads);
        // A look at a real process may find it busy at any time.
        let is_seen_busy = threads > 0 && world.rng.one_in(8);
        match (answer, threads) {
            (Some(answer), _) => answer,
            (None, 0) => Activity::Gone,
            _ if is_seen_busy => Activity::Busy,
            (None, 1) => Activity::Asleep,
            _ => Activity::AllAsleep,
        }
    }

    fn may_hold_output(&self, _family: Family<'_>, pid: u32) -> bool {
        let world = self.0.borrow();
        Self::find(&world, pid).is_none_or(|index| world.processes[index].has_outputs)
    }

    fn members(&self, groups: &[u32]) -> Vec<(usize, GroupMember)> {
        let world = self.0.borrow();
        if world.knobs.hidden {
            return Vec::new();
        }
        let running = (0..world.processes.len()).filter(|at| world.processes[*at].is_running());
        let group = |at: usize| groups.iter().position(|it| *it == world.processes[at].group);
        running.filter_map(|at| Some((group(at)?, Self::member(&world, at)))).collect()
    }

    fn descendants(&self, pid: u32) -> (Vec<GroupMember>, Vec<GroupMember>) {
        let world = self.0.borrow();
        let roots: Vec<_> = Self::find(&world, pid).into_iter().collect();
        if world.knobs.hidden {
            return (Vec::new(), Vec::new());
        }
        let found = Self::family(&world, roots).into_iter().skip(1);
        let (members, strays): (Vec<_>, Vec<_>) =
            found.partition(|at| world.processes[*at].group == pid);
        let named =
            |found: Vec<usize>| found.into_iter().map(|at| Self::member(&world, at)).collect();
        (named(members), named(strays))
    }

    fn tagged(&self, tags: &[u64]) -> (Vec<(usize, GroupMember, u32)>, Duration) {
        let mut world = self.0.borrow_mut();
        let mut found = Vec::new();
        for at in 0..world.processes.len() {
            let process = &world.processes[at];
            let tag = world.agents[process.agent].tag;
            let index = tags.iter().position(|it| Some(*it) == tag);
            if let Some(index) = index.filter(|_| process.is_running() && !world.knobs.hidden) {
                found.push((index, Self::member(&world, at), process.group));
            }
        }
        let took = world.rng.between(50 * US, 2 * MS);
        (found, Duration::from_nanos(took))
    }

    fn is_alive(&self, member: &GroupMember) -> bool {
        Self::find(&self.0.borrow(), member.pid()).is_some()
    }

    fn kill(&self, member: &GroupMember) {
        let mut world = self.0.borrow_mut();
        if let Some(index) = Self::find(&world, member.pid()) {
            world.signal(index, 9);
        }
    }
}
