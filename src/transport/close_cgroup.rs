//! Close, floor 2: the agent's cgroup, removed at Release. What was killed in it takes a moment to
//! be gone; the kernel tells when it is empty.

use crate::io::{PipeIo, Role, Tag};
use crate::process::Removal;

use super::state::{End, Transport};

impl Transport {
    /// Removes the cgroup, or begins to wait until it is empty. Without a sweep it is left to who
    /// lives in it.
    pub(super) fn close_cgroup(&mut self, io: &mut dyn PipeIo) {
        if !self.close.as_ref().is_none_or(|closing| closing.plan.kills_group()) {
            self.child.leave_cgroup();
            return;
        }
        let Removal::Busy(events) = self.child.remove_cgroup() else { return };
        let agent = u32::try_from(self.channel.slot()).unwrap_or(u32::MAX);
        let end = io.adopt(events, Tag { agent, role: Role::Cgroup });
        self.ends.cgroup = End::Open(end);
        io.watch(end);
    }

    /// Something changed in the cgroup.
    pub(super) fn on_cgroup_event(&mut self, io: &mut dyn PipeIo) {
        let Some(end) = self.ends.cgroup.open() else { return };
        match self.child.remove_cgroup() {
            Removal::Done => self.ends.close(io, &[Role::Cgroup]),
            Removal::Busy(_) => io.watch(end),
        }
    }
}
