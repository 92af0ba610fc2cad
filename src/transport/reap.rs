//! The stage Reap: collects the exit status, kills what is left of the group and waits for its end.
//!
//! The leader is reaped first. Only if its group has a member after that, the members are searched for
//! in `/proc`, killed through the pidfd, and waited for: so the report counts the processes that were
//! alive and died, and the close of an agent without others costs one system call more. A kernel
//! before 6.9 cannot signal a group whose leader is reaped; there the kill comes first.
//!
//! With a guard the processes that have left the group are searched for by their tag, and killed. That
//! needs a pass over `/proc` in any case, so the agents that end soon after one another share it.

use std::time::{Duration, Instant};

use slab::Slab;

use crate::close::{CloseEvent, CloseReason, CloseStage, ExitStatus};
use crate::error::{Error, ErrorKind};
use crate::io::{PipeIo, Role};
use crate::process::GroupMember;
use crate::record::Event;

use super::Transport;
use super::close::{CloseTurn, write_report};

/// How often an agent that could not be reaped in its close is tried again.
const LATE_REAP_INTERVAL: Duration = Duration::from_millis(250);

/// After a search by tag no other begins for this many times its duration.
const SEARCH_PAUSE: u32 = 4;

/// When the next search by tag may begin.
#[derive(Debug, Default)]
pub(super) struct TagSearches {
    not_before: Option<Instant>,
}

impl TagSearches {
    /// Searches for the processes of the agents in these slots, unless the last search was a short time
    /// ago. The agents that have to wait try again.
    fn run(&mut self, agents: &mut Slab<Transport>, slots: &[usize], now: Instant) {
        let gives_up = |slot: &usize| agents.get(*slot).is_some_and(|agent| agent.gives_up_reap());
        let is_early = self.not_before.is_some_and(|at| now < at);
        if is_early && !slots.iter().any(gives_up) {
            return;
        }
        let Some(first) = slots.first().and_then(|slot| agents.get(*slot)) else { return };
        let tags: Vec<u64> = slots
            .iter()
            .map(|slot| agents.get(*slot).and_then(|agent| agent.child.tag()).unwrap_or(0))
            .collect();
        let (tagged, took) = first.child.table().tagged(&tags);
        let mut found: Vec<Vec<(GroupMember, u32)>> = vec![Vec::new(); slots.len()];
        tagged.into_iter().for_each(|(index, member, group)| found[index].push((member, group)));
        for (slot, found) in slots.iter().zip(found) {
            if let Some(agent) = agents.get_mut(*slot) {
                agent.note_tagged(found);
            }
        }
        self.not_before = Some(now + took * (1 + SEARCH_PAUSE));
    }
}

/// Reaps these agents, all of one turn: at most two passes over `/proc` for any number of them.
pub(super) fn reap(
    io: &mut dyn PipeIo,
    agents: &mut Slab<Transport>,
    slots: &[usize],
    searches: &mut TagSearches,
    now: Instant,
) {
    let mut tagged = Vec::new();
    let mut searched = Vec::new();
    let mut groups = Vec::new();
    for slot in slots {
        let Some(agent) = agents.get_mut(*slot) else { continue };
        let group = agent.channel.pid;
        let mut turn = CloseTurn { agent, io, now };
        turn.reap_leader();
        // The searches of all agents are collected: one pass over `/proc` serves them together.
        if turn.wants_search() {
            searched.push(*slot);
            groups.push(group);
        }
        if agent.wants_tagged() {
            tagged.push(*slot);
        }
    }
    let first = searched.first().and_then(|slot| agents.get(*slot));
    for (index, member) in first.map_or_else(Vec::new, |agent| agent.child.table().members(&groups))
    {
        // `groups` and `searched` have the same order.
        if let Some(agent) = agents.get_mut(searched[index]) {
            CloseTurn { agent, io, now }.note_members(vec![member]);
        }
    }
    searches.run(agents, &tagged, now);
    for slot in slots {
        if let Some(agent) = agents.get_mut(*slot) {
            CloseTurn { agent, io, now }.end_attempt();
        }
    }
}

impl CloseTurn<'_> {
    pub(super) fn kill(&mut self) {
        if !self.agent.kills_group() {
            self.agent.child.kill_leader();
            return;
        }
        // The leader has its children as long as it lives; later they would have to be searched for.
        self.note_descendants();
        self.agent.child.kill(self.agent.ends.pidfd(self.io));
    }

    /// Notes the members of a group that is signalled although its leader has exited.
    pub(super) fn note_survivors(&mut self) {
        let members = self.agent.child.table().members(&[self.agent.channel.pid]);
        self.note_members(members.into_iter().map(|(_, member)| member).collect());
        if let Some(close) = &mut self.agent.close {
            close.outputs_held = Some(true);
        }
    }

    /// Notes the living descendants of the leader, in its group and outside of it.
    fn note_descendants(&mut self) {
        let (members, strays) = self.agent.child.table().descendants(self.agent.channel.pid);
        self.note_members(members);
        if let Some(close) = &mut self.agent.close {
            close.reaping.note_strays(self.agent.child.table(), strays);
        }
    }

    /// Notes the living descendants of the leader outside of its group.
    pub(super) fn note_strays(&mut self) {
        let (_, strays) = self.agent.child.table().descendants(self.agent.channel.pid);
        if let Some(close) = &mut self.agent.close {
            close.reaping.note_strays(self.agent.child.table(), strays);
        }
    }

    fn note_members(&mut self, members: Vec<GroupMember>) {
        let leader = self.agent.channel.pid;
        let Some(close) = &mut self.agent.close else { return };
        let known = &mut close.reaping.members;
        for member in members {
            // The report counts the leader apart. A member may be found more than once: when the
            // group is signalled, and in the search.
            if member.pid() != leader && !known.contains(&member) {
                known.push(member);
            }
        }
    }

    /// Makes the next attempt the last one.
    pub(super) fn give_up_reap(&mut self) {
        if let Some(close) = &mut self.agent.close {
            close.reaping.gives_up = true;
        }
    }

    fn reap_leader(&mut self) {
        let agent = &mut *self.agent;
        if agent.kills_group() && !agent.child.can_signal_reaped(agent.ends.pidfd(self.io)) {
            // A kernel before 6.9 signals a group by its number, which may mean another group as
            // soon as the leader is reaped.
            agent.child.kill(None);
        }
        let status = agent.child.try_reap();
        if let Some(close) = &mut agent.close {
            close.exit = status;
        }
    }

    /// Returns whether others of the group are to be searched for now.
    fn wants_search(&self) -> bool {
        let agent = &*self.agent;
        let Some(close) = &agent.close else { return false };
        // A leader that is not reaped counts as a member of its group, so the test of the group
        // means nothing before its reap, except in the last attempt. It comes last, as a system
        // call.
        close.plan.kills_group()
            && !close.reaping.searched
            && (close.exit.is_some() || close.reaping.gives_up)
            && agent.child.group_has_members(agent.ends.pidfd(self.io))
    }

    fn end_attempt(&mut self) {
        let Self { agent, io, now } = self;
        let Some(close) = &mut agent.close else { return };
        let reaping = &mut close.reaping;
        if (close.exit.is_some() || reaping.gives_up)
            && close.plan.kills_group()
            && !std::mem::replace(&mut reaping.searched, true)
        {
            // After the search, so that the members were seen alive. An empty group is killed as
            // well: the kill includes the cgroup, and a process there may have left the group.
            agent.child.kill(agent.ends.pidfd(*io));
        }
        let table = agent.child.table();
        let strays_alive = || reaping.strays.iter().filter(|stray| table.is_alive(stray));
        let kills_strays = agent.child.tag().is_some() && close.plan.kills_group();
        if kills_strays {
            strays_alive().for_each(|stray| table.kill(stray));
        }
        let dead = reaping.dead(table);
        let strays_left = strays_alive().count();
        let is_done = close.exit.is_some()
            && dead == reaping.members.len()
            && !(kills_strays && (strays_left > 0 || !reaping.is_swept));
        if !is_done && !reaping.gives_up {
            agent.plan_event(CloseEvent::NotReaped, *now);
            return;
        }
        // A member of the group is usually in the cgroup, too, so the two are not added.
        close.killed_extra = (dead as u64).max(agent.child.killed_in_cgroup());
        if kills_strays {
            close.strays_killed = (reaping.strays.len() - strays_left) as u64;
        }
        // Without a tag only descendants that a look at the agent has met are known.
        let is_known = strays_left > 0 || (kills_strays && reaping.is_swept);
        close.left_running = is_known.then_some(strays_left as u64);
        close.exit_note = agent.child.why_unknown();
        if close.exit.is_none() {
            let exited = agent.exited;
            close.exit = Some(if exited { ExitStatus::Unknown } else { ExitStatus::StillRunning });
            close.exit_note = exited.then(|| "a debugger holds the exited process".to_owned());
            // A leader that still runs needs no timer: its pidfd reports the exit.
            reaping.late_at = exited.then(|| *now + LATE_REAP_INTERVAL);
            close.unreaped = true;
        }
        agent.plan_event(CloseEvent::Reaped, *now);
    }

    /// Tries again to reap an agent that was not reaped in the stage for that.
    pub(super) fn reap_late(&mut self) {
        let status = self.agent.child.try_reap();
        let Some(close) = &mut self.agent.close else { return };
        if status.is_some() {
            close.unreaped = false;
            close.reaping.late_at = None;
            if !close.finished {
                close.exit = status;
                close.exit_note = self.agent.child.why_unknown();
            }
            // The stage that follows releases the rest.
            if close.plan.stage() < CloseStage::Release {
                return;
            }
            self.agent.ends.close(self.io, &[Role::Exit]);
            self.release_cgroup();
            self.agent.child.give_place_back();
        } else {
            // The exit was seen, so a debugger holds the process. The kernel does not report when the
            // debugger lets go of it.
            close.reaping.late_at = Some(self.now + LATE_REAP_INTERVAL);
        }
    }
}

impl Transport {
    fn gives_up_reap(&self) -> bool {
        self.close.as_ref().is_some_and(|close| close.reaping.gives_up)
    }

    /// Returns whether its processes are to be searched for by their tag now.
    fn wants_tagged(&self) -> bool {
        self.close.as_ref().is_some_and(|close| {
            let is_ready = close.exit.is_some() || close.reaping.gives_up;
            is_ready && !close.reaping.is_swept && self.kills_group() && self.child.tag().is_some()
        })
    }

    /// Notes what a search by tag has found. One that has found nothing outside the group is the last:
    /// a process may start another one before it is killed.
    fn note_tagged(&mut self, found: Vec<(GroupMember, u32)>) {
        let leader = self.channel.pid;
        let Some(close) = &mut self.close else { return };
        let found =
            found.into_iter().filter(|(member, group)| *group != leader && member.pid() != leader);
        let strays: Vec<_> = found.map(|(member, _)| member).collect();
        close.reaping.is_swept = strays.is_empty();
        close.reaping.note_strays(self.child.table(), strays);
    }
}

/// Reaps a killed agent whose driver is dropped without closing it, and ends the waits of its tasks.
pub(super) fn destroy(agent: &mut Transport, until: Instant) {
    if agent.is_reported() {
        // It was not reaped in its close, which has waited for it.
        if agent.child.try_reap().is_none() {
            agent.child.reap_in_background();
        }
        return;
    }
    let left = until.saturating_duration_since(Instant::now());
    let status = agent.child.reap_within(left);
    let exit = status.unwrap_or(ExitStatus::StillRunning);
    agent.exit_at_destroy = Some((exit, agent.child.why_unknown()));
    match status {
        // Before its closers have the report: the next spawn, on another thread, may be theirs.
        Some(_) => agent.child.give_place_back(),
        None => agent.child.reap_in_background(),
    }
    let error = Error::new(ErrorKind::EngineStopped, "write", "the engine stopped")
        .on_agent(agent.channel.label.as_str());
    agent.channel.outbox.refuse(error);
    // After the refusal: a frame that was accepted before it counts as unsent in the report.
    agent.stdin.accept();
    agent.channel.outbox.lose();
    // Set already if a close had begun; the first value stays.
    agent.channel.closing.set(CloseReason::Shutdown);
    // Before the report, as in every close: its closers find the agent not counted any more.
    agent.live = None;
    agent.channel.outcome.set(write_report(agent));
    // After the report: a task that drops the handle when it sees the exit drops that of an agent whose
    // report is there.
    agent.intake.push(Event::Exit(exit));
    agent.intake.flush();
    agent.channel.inbox.end();
}
