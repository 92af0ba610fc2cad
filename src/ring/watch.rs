//! Floor 1. POLL_ADD: reports once that a descriptor is readable (a pidfd: the process exited; the
//! driver's eventfd: another thread wants something).
#![expect(unsafe_code, reason = "a watch names a descriptor")]

use std::io;

use super::Ring;
use super::drive::Deferred;
use super::op::{OpKind, Token};
use super::queue::Cqe;
use crate::io::{Completion, EndId, Role};

impl Ring {
    /// Arms the watch, unless the end has something in flight already.
    pub(super) fn submit_watch(&mut self, id: EndId) {
        let Some(end) = self.ends.get(id) else { return };
        if end.fd().is_none() || end.op.is_some() {
            return;
        }
        // The events file of a cgroup is always readable.
        let events = if end.tag.role == Role::Cgroup { libc::POLLPRI } else { libc::POLLIN };
        // Who wakes the driver does not wait until its coalescing window closes.
        let nudges = end.tag.role == Role::Wake && self.queue.coalesces();
        let entries: u32 = if nudges { 2 } else { 1 };
        if !self.make_room(entries as usize) {
            self.deferred.push(Deferred::Watch(id));
            return;
        }
        let Self { ends, ops, queue, .. } = self;
        let Some(end) = ends.get_mut(id) else { return };
        let Some(fd) = end.fd() else { return };
        let token = ops.insert(id, OpKind::Watch);
        if nudges {
            let nudge = ops.insert(id, OpKind::Nudge);
            // SAFETY: the end keeps its descriptor until this is submitted: see `End::fd`.
            unsafe { queue.push_watch_and_nudge(fd, token, nudge) };
        } else {
            // SAFETY: as above.
            unsafe { queue.push_watch(fd, events, token) };
        }
        end.op = Some(token);
        end.pending += entries;
    }

    /// The wait it was to end has ended.
    pub(super) fn on_nudge(&mut self, token: Token, id: EndId) {
        self.ops.remove(token);
        if let Some(end) = self.ends.get_mut(id) {
            end.pending -= 1;
        }
    }

    /// Reports it. One that our own close cancelled is reported by `Closed` alone.
    pub(super) fn on_watch(&mut self, token: Token, id: EndId, cqe: Cqe) {
        self.ops.remove(token);
        let Some(end) = self.ends.get_mut(id) else { return };
        end.op = None;
        end.pending -= 1;
        let result = match cqe.result {
            0.. => Ok(()),
            result if -result == libc::ECANCELED && end.fd().is_none() => return,
            result => Err(io::Error::from_raw_os_error(-result)),
        };
        self.ready.push_back(Completion::Ready { tag: end.tag, result });
    }
}
