//! Cancel and close: ASYNC_CANCEL hard-linked to CLOSE is the only way a descriptor leaves the ring.
//!
//! A pending read holds the pipe open after close(2), and the writer never gets EPIPE. So the
//! cancel always goes first, in the same submission.
//!
//! Invariant for the unsafe code: a descriptor number released for a CLOSE has no other owner.
#![expect(unsafe_code, reason = "takes back a descriptor that the kernel did not close")]

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use super::fd_table::FdState;
use super::inflight::{DeferredSubmission, InFlight};
use super::op::{OpKind, OpToken};
use super::queue::Cqe;
use super::read;
use crate::io::{Completion, EndId};

/// Queues a pair of cancel and close per descriptor: all pairs in one submission if the queue holds
/// them, else in as few as possible. A pair is never split.
pub(super) fn submit(inflight: &mut InFlight, ids: &[EndId]) {
    // A descriptor that is closing is left out: by the time of a second CLOSE, its number may
    // belong to other code.
    let open = |id: &EndId| inflight.fds.get(*id).is_some_and(|entry| entry.fd().is_some());
    let ids: Vec<EndId> = ids.iter().copied().filter(open).collect();
    ids.iter().for_each(|id| read::give_room_back(inflight, *id));
    // A larger chunk would never find room, even in an empty queue.
    let pairs = (inflight.queue.capacity() / 2).max(1);
    for chunk in ids.chunks(pairs) {
        // If there is none for all of them, each pair still goes as one.
        inflight.make_room(2 * chunk.len());
        for &id in chunk {
            if inflight.make_room(2) {
                push_pair(inflight, id);
            } else if let Some(entry) = inflight.fds.get_mut(id) {
                // From here the descriptor counts as closed, so that no other operation starts on
                // it before the close is retried.
                entry.doomed = true;
                inflight.deferred.push(DeferredSubmission::Close(id));
            }
        }
    }
}

/// Queues the closes that were deferred.
pub(super) fn submit_doomed(inflight: &mut InFlight, ids: &[EndId]) {
    // `submit` ignores a doomed descriptor, so the mark goes first. A pair without room sets it
    // again.
    for &id in ids {
        if let Some(entry) = inflight.fds.get_mut(id) {
            entry.doomed = false;
        }
    }
    submit(inflight, ids);
}

/// Queues one pair. The caller has made room for two entries.
fn push_pair(inflight: &mut InFlight, id: EndId) {
    let Some(entry) = inflight.fds.get_mut(id) else { return };
    let fd = match mem::replace(&mut entry.state, FdState::Closing(None)) {
        FdState::Open(fd) => fd,
        // Named twice in one call.
        closing @ FdState::Closing(_) => return entry.state = closing,
    };
    entry.want_read = false;
    entry.pending += 2;
    // A cancel of nothing ends with ENOENT, which does not break a hard link, so an idle descriptor
    // needs no path of its own.
    let of = entry.op.unwrap_or(OpToken::NONE);
    let cancel = inflight.ops.insert(id, OpKind::Cancel);
    let close = inflight.ops.insert(id, OpKind::Close { fd: fd.as_raw_fd() });
    inflight.queue.push_cancel_close(fd, of, cancel, close);
}

/// Keeps the result until the other operations of the descriptor are final.
pub(super) fn on_close(inflight: &mut InFlight, id: EndId, cqe: Cqe) {
    let Some(OpKind::Close { fd }) = inflight.ops.remove(cqe.token).map(|op| op.kind) else {
        return;
    };
    let mut result = cqe.result;
    if -result == libc::ECANCELED {
        // Cannot happen, because a hard link does not break. If it did, the writer would hang.
        inflight.closed_by_hand += 1;
        crate::trace::error!(fd, "the kernel cancelled a close");
        // SAFETY: the number was released for this CLOSE, which did not run, so it is still ours.
        drop(unsafe { OwnedFd::from_raw_fd(fd) });
        result = 0;
    }
    // Any other error is kept and the close not repeated: Linux frees the number even if close(2)
    // fails.
    if let Some(entry) = inflight.fds.get_mut(id) {
        entry.pending -= 1;
        entry.state = FdState::Closing(Some(result));
    }
}

/// Reports the descriptor closed once the kernel holds no operation of it. Called after every
/// completion, because the CLOSE may complete before the operation that was cancelled for it.
pub(super) fn report_if_final(inflight: &mut InFlight, id: EndId) {
    // The entry outlives the CLOSE, because later completions of its operations need it.
    let Some(entry) = inflight.fds.get(id) else { return };
    let FdState::Closing(Some(result)) = entry.state else { return };
    if entry.pending > 0 {
        return;
    }
    let tag = entry.tag;
    inflight.fds.remove(id);
    let result = match result {
        0.. => Ok(()),
        errno => Err(io::Error::from_raw_os_error(-errno)),
    };
    inflight.completions.push_back(Completion::Closed { tag, result });
}

/// Cancels the operation `of` and leaves the descriptor open.
pub(super) fn cancel(inflight: &mut InFlight, id: EndId, of: OpToken) {
    // The descriptor is for the trace only: a cancel goes by token.
    let fd = inflight.fds.get(id).and_then(|entry| entry.fd()).map_or(-1, |fd| fd.as_raw_fd());
    if !inflight.make_room(1) {
        inflight.deferred.push(DeferredSubmission::Cancel(id, of));
        return;
    }
    // The operation is registered only once there is room. One that is registered and never queued
    // would never complete, and a drain would wait for it.
    let token = inflight.ops.insert(id, OpKind::Cancel);
    if let Some(entry) = inflight.fds.get_mut(id) {
        entry.pending += 1;
        entry.cancelling = true;
    }
    inflight.queue.push_cancel(fd, of, token);
}

/// Queues a deferred cancel, unless the read is wanted again or has ended meanwhile.
pub(super) fn retry_cancel(inflight: &mut InFlight, id: EndId, of: OpToken) {
    if inflight.fds.get(id).is_some_and(|entry| entry.op == Some(of) && entry.is_read_unwanted()) {
        cancel(inflight, id, of);
    }
}

/// Acts on the completion of a cancel. Whether it found the operation (0) or not (-ENOENT) does not
/// matter: the operation completes by itself. If the operation was running (-EALREADY) and stays
/// armed, it is cancelled again.
pub(super) fn on_cancel(inflight: &mut InFlight, id: EndId, cqe: Cqe) {
    inflight.ops.remove(cqe.token);
    let Some(entry) = inflight.fds.get_mut(id) else { return };
    entry.pending -= 1;
    // `cancelling` stays set: it tells the last completion of the read that its ECANCELED was
    // wanted.
    if -cqe.result != libc::EALREADY {
        return;
    }
    entry.cancelling = false;
    // The reader may have caught up meanwhile. Then the read is wanted again and must not be ended.
    if let Some(of) = entry.op.filter(|_| entry.is_read_unwanted()) {
        cancel(inflight, id, of);
    }
}
