//! Close, floor 2: the stage Reap. Kills what is left of the groups, then reaps the leaders.

use std::time::Instant;

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

/// Reaps all agents of a turn: at most two looks at /proc, however many they are.
///
/// A group is signalled only while its leader is a zombie: that keeps the number from being
/// recycled. After the reaping it is only asked about (signal 0).
pub(super) fn reap(agents: &mut [&mut Transport], now: Instant) {
    // Somebody holds an output: count the group before it dies.
    let held = |agent: &Transport| agent.sweeps() && agent.outputs_held();
    let mut extra = count(agents, held);
    let mut statuses = Vec::with_capacity(agents.len());
    for agent in agents.iter_mut() {
        if agent.sweeps() {
            agent.child.kill();
        }
        statuses.push(agent.child.try_reap().unwrap_or(ExitStatus::StillRunning));
    }
    // A group that outlives its leader had others in it, dying now.
    let left = |agent: &Transport| {
        agent.sweeps() && !agent.outputs_held() && !group_is_empty(agent.shared.pid)
    };
    for (slot, dying) in count(agents, left).into_iter().enumerate() {
        extra[slot] = extra[slot].max(dying.map(|n| n.max(1)));
    }
    for ((agent, status), killed) in agents.iter_mut().zip(statuses).zip(extra) {
        if let Some(closing) = &mut agent.close {
            closing.wants_reap = false;
            closing.exit = Some(status);
            // Its group is in its cgroup, but not the other way round.
            closing.killed_extra = killed.unwrap_or(0).max(agent.child.killed_in_cgroup());
        }
        agent.plan_event(CloseEvent::Reaped, now);
    }
}

/// For the agents that `wanted` picks: how many others are in their groups.
fn count(agents: &[&mut Transport], wanted: impl Fn(&Transport) -> bool) -> Vec<Option<u64>> {
    let picked: Vec<bool> = agents.iter().map(|agent| wanted(agent)).collect();
    if !picked.contains(&true) {
        return vec![None; agents.len()];
    }
    let groups: Vec<u32> = agents.iter().map(|agent| agent.shared.pid).collect();
    let members = count_members(&groups);
    picked.iter().zip(members).map(|(picked, n)| picked.then_some(n as u64)).collect()
}
