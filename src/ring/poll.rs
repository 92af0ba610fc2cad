//! Polls (POLL_ADD): report once that a descriptor is readable. A pidfd is when its process exits,
//! the driver's eventfd when another thread wakes the driver.
//!
//! Invariant for the unsafe code: a poll names a descriptor that its `FdEntry` keeps open until the
//! entry is submitted, and no memory.
#![expect(unsafe_code, reason = "a poll names a descriptor")]

use std::io;

use super::inflight::{DeferredSubmission, InFlight};
use super::op::OpKind;
use super::queue::Cqe;
use crate::io::{Completion, EndId, Role};

/// Arms the poll, unless the descriptor has an operation in flight.
pub(super) fn submit(inflight: &mut InFlight, id: EndId) {
    let Some(entry) = inflight.fds.get(id) else { return };
    if entry.fd().is_none() || entry.op.is_some() {
        return;
    }
    // The events file of a cgroup is always readable.
    let events = if entry.tag.role == Role::Cgroup { libc::POLLPRI } else { libc::POLLIN };
    // A thread that wakes the driver must not wait for the end of the batching window.
    let ends_wait = entry.tag.role == Role::Wake && inflight.queue.has_window();
    let entries: u32 = if ends_wait { 2 } else { 1 };
    // A link ends with its submission, so the poll and its timeout need room together.
    if !inflight.make_room(entries as usize) {
        inflight.deferred.push(DeferredSubmission::Poll(id));
        return;
    }
    let InFlight { fds, ops, queue, .. } = inflight;
    // The entry is looked up again because `make_room` borrows the whole state. That acts on no
    // completion, so the entry is unchanged.
    let Some(entry) = fds.get_mut(id) else { return };
    let Some(fd) = entry.fd() else { return };
    let token = ops.insert(id, OpKind::Poll);
    if ends_wait {
        let wait_end = ops.insert(id, OpKind::WaitEnd);
        // SAFETY: the entry keeps its descriptor until this is submitted: see `FdEntry::fd`.
        unsafe { queue.push_poll_and_wait_end(fd, token, wait_end) };
    } else {
        // SAFETY: as in the other branch.
        unsafe { queue.push_poll(fd, events, token) };
    }
    entry.op = Some(token);
    entry.pending += entries;
}

/// Reports the event. A poll that our own close cancelled is reported by `Closed` alone.
pub(super) fn on_completion(inflight: &mut InFlight, id: EndId, cqe: Cqe) {
    inflight.ops.remove(cqe.token);
    let Some(entry) = inflight.fds.get_mut(id) else { return };
    entry.op = None;
    entry.pending -= 1;
    let result = match cqe.result {
        0.. => Ok(()),
        result if -result == libc::ECANCELED && entry.fd().is_none() => return,
        result => Err(io::Error::from_raw_os_error(-result)),
    };
    inflight.completions.push_back(Completion::Ready { tag: entry.tag, result });
}

/// Acts on the timeout that ended a wait: the wait is over, so nothing is left to do.
pub(super) fn on_wait_end(inflight: &mut InFlight, id: EndId, cqe: Cqe) {
    // The result is ETIME after the poll's event, and ECANCELED if the poll was cancelled.
    inflight.ops.remove(cqe.token);
    if let Some(entry) = inflight.fds.get_mut(id) {
        entry.pending -= 1;
    }
}
