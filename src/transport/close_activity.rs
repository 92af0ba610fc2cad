//! What the plan asks about the agent's processes: what they are doing, and which of them still hold
//! an output once the leader has exited.

use std::os::fd::BorrowedFd;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::close::Activity;
use crate::io::{EndId, PipeIo};
use crate::process::{Family, living_members};

use super::state::{End, Transport};
use crate::close::{CloseEvent, Holders};

/// A group whose leader has exited is looked at as far as this many threads.
const MEMBER_THREADS: usize = 64;

impl Transport {
    /// Left to the end of the turn, which has only some time for looks.
    pub(super) fn close_look(&mut self) {
        if let Some(closing) = &mut self.close {
            closing.wants_look = true;
        }
    }

    /// Whether the plan wants a look; asked once.
    pub(super) fn takes_look(&mut self) -> bool {
        self.close.as_mut().is_some_and(|closing| std::mem::take(&mut closing.wants_look))
    }

    /// Pipes after processes: an agent that sleeps on a full pipe is not done, and a pipe that is
    /// empty now was empty when the agent slept, since nothing is read in between.
    pub(super) fn look(&mut self, io: &mut dyn PipeIo, budget: &mut usize, now: Instant) {
        if *budget == 0 {
            return self.plan_event(CloseEvent::CheckDeferred, now);
        }
        let activity = self.activity(budget);
        let unread = self.open_outputs().any(|end| io.has_unread(end));
        let seen = if unread { CloseEvent::Unread } else { CloseEvent::Activity(activity) };
        self.plan_event(seen, now);
    }

    fn activity(&self, budget: &mut usize) -> Activity {
        let leader = [self.channel.pid];
        let members = self.close.as_ref().map_or(&[][..], |closing| &closing.members);
        let roots = if self.exited { members } else { &leader };
        Family { roots, group: self.channel.pid, outputs: self.outputs }.activity(budget)
    }

    /// Which processes hold an output although the leader has exited.
    pub(super) fn find_holders(&mut self, io: &dyn PipeIo, now: Instant) {
        let holders = self.holders(io);
        self.plan_event(CloseEvent::Holders(holders), now);
    }

    fn holders(&mut self, io: &dyn PipeIo) -> Holders {
        if !self.is_output_held(io) {
            return Holders::None;
        }
        let mut activity = self.activity(&mut { MEMBER_THREADS });
        if activity == Activity::Gone {
            let group = self.channel.pid;
            let family = Family { roots: &[], group, outputs: self.outputs };
            let [found] = living_members([group]);
            let members = found.iter().map(crate::process::GroupMember::pid);
            let members =
                members.filter(|pid| *pid != group && family.may_hold_output(*pid)).collect();
            if let Some(closing) = &mut self.close {
                closing.members = members;
            }
            activity = self.activity(&mut { MEMBER_THREADS });
        }
        match activity {
            Activity::Gone => Holders::Strays,
            Activity::Busy => Holders::BusyMembers,
            _ => Holders::Members,
        }
    }

    fn open_outputs(&self) -> impl Iterator<Item = EndId> + use<> {
        [self.ends.stdout, self.ends.stderr].into_iter().filter_map(End::open)
    }

    /// Whether a process still has the other end of an output.
    pub(super) fn is_output_held(&self, io: &dyn PipeIo) -> bool {
        self.open_outputs().any(|end| io.descriptor(end).is_some_and(has_writer))
    }

    /// Whether bytes would be lost if the outputs were closed now.
    pub(super) fn is_output_unread(&self, io: &mut dyn PipeIo) -> bool {
        self.open_outputs().any(|end| io.has_unread(end))
    }
}

/// A pipe without a writer reports POLLHUP, whatever is left in it.
fn has_writer(pipe: BorrowedFd<'_>) -> bool {
    let mut polled = [PollFd::new(&pipe, PollFlags::IN)];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    match poll(&mut polled, Some(&at_once)) {
        Ok(_) => !polled[0].revents().contains(PollFlags::HUP),
        // What cannot be known is taken for the worse.
        Err(_) => true,
    }
}
