//! The stage Reap: collects the exit status, kills what is left of the group, sees it dead.
//!
//! The leader is reaped first. Only a group that has a member after that is searched for in `/proc`,
//! killed through the pidfd, and waited for until its members are dead: so the report counts what was
//! alive and died, and a close whose agent was alone costs one system call more. A kernel before 6.9
//! cannot signal a group whose leader is reaped; there the kill comes first.

use std::time::{Duration, Instant};

use slab::Slab;

use crate::close::ExitStatus;
use crate::error::{Error, ErrorKind};
use crate::io::{PipeIo, Role};
use crate::process::{Child, GroupMember, descendants, find_members, living_members};
use crate::record::Event;

use super::close_report::write_report;
use super::state::Transport;
use crate::close::CloseEvent;

/// How often an agent that could not be reaped within its close is tried again.
const LATE_REAP_INTERVAL: Duration = Duration::from_millis(250);

/// How far the reaping has come.
#[derive(Debug, Default)]
pub(super) struct Reaping {
    /// To be tried at the end of this turn: one pass over `/proc` serves all agents of a turn.
    wanted: bool,
    /// For the last time.
    gives_up: bool,
    /// What is left of the group was looked for.
    searched: bool,
    /// Others of the group that were alive when they were killed.
    members: Vec<GroupMember>,
    /// When to try again after the close: the leader was not reaped in it.
    late_at: Option<Instant>,
}

impl Reaping {
    fn dead(&self) -> usize {
        self.members.iter().filter(|member| !member.is_alive()).count()
    }
}

impl Transport {
    pub(super) fn close_kill(&mut self, io: &dyn PipeIo) {
        if !self.kills_group() {
            self.child.kill_leader();
            return;
        }
        // As long as the leader lives it has its children; later they would have to be searched for.
        self.note_members(descendants(self.channel.pid, self.channel.pid));
        self.child.kill(self.ends.pidfd(io));
    }

    /// The group that is to be signalled although its leader has left.
    pub(super) fn note_survivors(&mut self) {
        let [members] = living_members([self.channel.pid]);
        self.note_members(members);
        if let Some(closing) = &mut self.close {
            closing.outputs_held = Some(true);
        }
    }

    fn note_members(&mut self, members: Vec<GroupMember>) {
        let Some(closing) = &mut self.close else { return };
        let known = &mut closing.reaping.members;
        for member in members {
            if member.pid() != self.channel.pid && !known.contains(&member) {
                known.push(member);
            }
        }
    }

    pub(super) fn close_reap(&mut self, gives_up: bool) {
        if let Some(closing) = &mut self.close {
            closing.reaping.wanted = true;
            closing.reaping.gives_up = gives_up;
        }
    }

    pub(super) fn wants_reap(&self) -> bool {
        self.close.as_ref().is_some_and(|closing| closing.reaping.wanted)
    }

    pub(super) fn kills_group(&self) -> bool {
        self.close.as_ref().is_some_and(|closing| closing.plan.kills_group())
    }

    fn reap_leader(&mut self, io: &dyn PipeIo) {
        if self.kills_group() && !Child::can_signal_reaped(self.ends.pidfd(io)) {
            self.child.kill(None);
        }
        let status = self.child.try_reap();
        if let Some(closing) = &mut self.close {
            closing.exit = status;
        }
    }

    /// Whether others of the group are to be searched for now.
    fn wants_search(&self, io: &dyn PipeIo) -> bool {
        let Some(closing) = &self.close else { return false };
        self.kills_group()
            && !closing.reaping.searched
            && (closing.exit.is_some() || closing.reaping.gives_up)
            && self.child.group_has_members(self.ends.pidfd(io))
    }

    fn end_reap_attempt(&mut self, io: &dyn PipeIo, now: Instant) {
        let kills_group = self.kills_group();
        let Some(closing) = &mut self.close else { return };
        let reaping = &mut closing.reaping;
        reaping.wanted = false;
        if (closing.exit.is_some() || reaping.gives_up)
            && kills_group
            && !std::mem::replace(&mut reaping.searched, true)
        {
            self.child.kill(self.ends.pidfd(io));
        }
        let dead = reaping.dead();
        let is_done = closing.exit.is_some() && dead == reaping.members.len();
        if is_done || reaping.gives_up {
            closing.killed_extra = (dead as u64).max(self.child.killed_in_cgroup());
            closing.exit_note = self.child.why_unknown();
            if closing.exit.is_none() {
                let exited = self.exited;
                closing.exit =
                    Some(if exited { ExitStatus::Unknown } else { ExitStatus::StillRunning });
                closing.exit_note =
                    exited.then(|| "a debugger holds the exited process".to_owned());
                reaping.late_at = exited.then(|| now + LATE_REAP_INTERVAL);
                closing.unreaped = true;
            }
            self.plan_event(CloseEvent::Reaped, now);
        } else {
            self.plan_event(CloseEvent::NotReaped, now);
        }
    }

    /// When an agent whose close is over wants to be tried again.
    pub(super) fn late_reap_at(&self) -> Option<Instant> {
        self.close.as_ref()?.reaping.late_at
    }

    /// The close is over, and its agent was not reaped in it: it is now, or later.
    pub(super) fn reap_late(&mut self, io: &mut dyn PipeIo, now: Instant) {
        let is_reaped = self.child.try_reap().is_some();
        let Some(closing) = &mut self.close else { return };
        if is_reaped {
            closing.unreaped = false;
            closing.reaping.late_at = None;
            self.ends.close(io, &[Role::Exit]);
            self.close_cgroup(io);
            self.child.give_place_back();
        } else {
            // The exit was seen: a debugger has to let go of it, and the kernel does not tell when.
            closing.reaping.late_at = Some(now + LATE_REAP_INTERVAL);
        }
    }

    /// The engine is going down without a close: reap what was killed, and leave no task waiting.
    pub(super) fn destroy(&mut self, until: Instant) {
        if self.is_reported() {
            // Not reaped in its close, and waited for then.
            if self.child.try_reap().is_none() {
                self.child.reap_in_background();
            }
            return;
        }
        let left = until.saturating_duration_since(Instant::now());
        let status = self.child.reap_within(left);
        self.exit_at_destroy =
            Some((status.unwrap_or(ExitStatus::StillRunning), self.child.why_unknown()));
        match status {
            // Before its closers know: the next spawn, on another thread, may be theirs.
            Some(_) => self.child.give_place_back(),
            None => self.child.reap_in_background(),
        }
        let error = Error::new(ErrorKind::EngineStopped, "write", "the engine stopped")
            .on_agent(self.channel.label.as_str());
        self.channel.refuse_writes(error);
        self.channel.lose_writes();
        self.intake.push(Event::Exit(status.unwrap_or(ExitStatus::StillRunning)));
        self.intake.flush();
        self.channel.end_inbox();
        self.live = None;
        self.channel.outcome.set(write_report(self));
    }
}

/// Reaps these agents, all that a turn has: at most one pass over `/proc`, however many they are.
pub(super) fn reap(io: &dyn PipeIo, agents: &mut Slab<Transport>, slots: &[usize], now: Instant) {
    let mut searched = Vec::new();
    let mut groups = Vec::new();
    for slot in slots {
        let Some(agent) = agents.get_mut(*slot) else { continue };
        agent.reap_leader(io);
        if agent.wants_search(io) {
            searched.push(*slot);
            groups.push(agent.channel.pid);
        }
    }
    find_members(&groups, |index, member| {
        if let Some(agent) = agents.get_mut(searched[index]) {
            agent.note_members(vec![member]);
        }
    });
    for slot in slots {
        if let Some(agent) = agents.get_mut(*slot) {
            agent.end_reap_attempt(io, now);
        }
    }
}
