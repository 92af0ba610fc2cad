//! Close, floor 2: the stage Reap. Kills what is left of the groups, then reaps the leaders.

use std::time::Instant;

use slab::Slab;

use crate::close_report::CloseReport;
use crate::error::{Error, ErrorKind};
use crate::event::Event;
use crate::exit_status::ExitStatus;
use crate::process::{count_members, group_is_empty};

use super::close_plan::CloseEvent;
use super::close_report::write_report;
use super::state::Transport;

impl Transport {
    pub(super) fn wants_reap(&self) -> bool {
        self.close.as_ref().is_some_and(|closing| closing.wants_reap)
    }

    fn outputs_held(&self) -> bool {
        self.close.as_ref().is_some_and(|closing| closing.outputs_held)
    }

    fn sweeps(&self) -> bool {
        self.close.as_ref().is_some_and(|closing| closing.plan.sweep_group())
    }

    /// The engine is going down without a close: reap what was killed, and leave nobody waiting.
    /// One whose close is reported outlived its SIGKILL then, and was waited for.
    pub(super) fn destroy(&mut self, until: Instant) {
        if self.is_reported() {
            let _late = self.child.try_reap();
            return;
        }
        let left = until.saturating_duration_since(Instant::now());
        let status = self.child.reap_within(left).unwrap_or(ExitStatus::StillRunning);
        if status != ExitStatus::StillRunning {
            // Before its closers know: the next spawn, on another thread, may be theirs.
            self.child.give_place_back();
        }
        if let Some(closing) = &mut self.close {
            closing.exit = Some(status);
        }
        let error = Error::new(ErrorKind::EngineStopped, "write", "the engine stopped")
            .on_agent(self.shared.label.as_str());
        self.shared.refuse_writes(error);
        self.shared.lose_writes();
        self.intake.push(Event::Exit(status));
        self.intake.deliver();
        self.shared.end_inbox();
        let report: CloseReport = write_report(self);
        self.shared.outcome.set(report);
    }
}

/// Reaps these agents, all that a turn has: at most two looks at /proc, however many they are.
///
/// A group is signalled only while its leader is a zombie: that keeps the number from being
/// recycled. After the reaping it is only asked about (signal 0).
pub(super) fn reap(agents: &mut Slab<Transport>, slots: &[usize], now: Instant) {
    // Somebody holds an output: count the group before it dies.
    let held = |agent: &Transport| agent.sweeps() && agent.outputs_held();
    let mut extra = count(agents, slots, held);
    for slot in slots {
        let Some(agent) = agents.get_mut(*slot) else { continue };
        if agent.sweeps() {
            agent.child.kill();
        }
        let status = agent.child.try_reap().unwrap_or(ExitStatus::StillRunning);
        if let Some(closing) = &mut agent.close {
            closing.exit = Some(status);
        }
    }
    // A group that outlives its leader had others in it, dying now.
    let left = |agent: &Transport| {
        agent.sweeps() && !agent.outputs_held() && !group_is_empty(agent.shared.pid)
    };
    for (known, dying) in extra.iter_mut().zip(count(agents, slots, left)) {
        *known = (*known).max(dying.map(|n| n.max(1)));
    }
    for (slot, killed) in slots.iter().zip(extra) {
        let Some(agent) = agents.get_mut(*slot) else { continue };
        if let Some(closing) = &mut agent.close {
            closing.wants_reap = false;
            // Its group is in its cgroup, but not the other way round.
            closing.killed_extra = killed.unwrap_or(0).max(agent.child.killed_in_cgroup());
        }
        agent.plan_event(CloseEvent::Reaped, now);
    }
}

/// For the agents that `wanted` picks: how many others are in their groups.
fn count(
    agents: &Slab<Transport>,
    slots: &[usize],
    wanted: impl Fn(&Transport) -> bool,
) -> Vec<Option<u64>> {
    let picked = |slot: &usize| agents.get(*slot).filter(|agent| wanted(agent));
    let groups: Vec<Option<u32>> =
        slots.iter().map(|slot| picked(slot).map(|agent| agent.shared.pid)).collect();
    let asked: Vec<u32> = groups.iter().copied().flatten().collect();
    if asked.is_empty() {
        return vec![None; slots.len()];
    }
    let mut members = count_members(&asked).into_iter();
    groups.iter().map(|group| group.and_then(|_| members.next()).map(|n| n as u64)).collect()
}
