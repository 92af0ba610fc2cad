//! Reads: armed again whenever one has ended, so that an end is read until its EOF or a pause.
//!
//! READ_MULTISHOT delivers bytes until it ends. READ (kernels before 6.7) ends with its first bytes, and
//! costs a submission per chunk. Both take pool buffers, the kernel selects one only when bytes are
//! there, and both end in the same ways.
//!
//! A read into memory of the caller (`start_into`) is a READ that ends an armed read first.
//!
//! Invariant for the unsafe code: a read names a descriptor that its `FdEntry` keeps open until the
//! entry is submitted, and memory of the registered pool or that its operation owns until the final
//! completion.
#![expect(unsafe_code, reason = "a read names a descriptor")]

use std::mem;

use bytes::{BufMut, BytesMut};

use super::close;
use super::inflight::{DeferredSubmission, InFlight};
use super::op::OpKind;
use super::queue::Cqe;
use crate::io::{Completion, EndId, Lease, ReadEnd};

/// Keeps the read armed from now on.
pub(super) fn start(inflight: &mut InFlight, id: EndId) {
    let Some(entry) = inflight.fds.get_mut(id) else { return };
    // The mark is enough if a cancel is under way: the last completion of that read arms it again.
    entry.want_read = true;
    arm(inflight, id);
}

/// Reads once into the room behind `buf`, after the read that is armed.
pub(super) fn start_into(inflight: &mut InFlight, id: EndId, buf: BytesMut, len: usize) {
    let Some(entry) = inflight.fds.get_mut(id) else { return };
    debug_assert!(entry.next_into.is_none(), "one at a time");
    entry.next_into = Some((buf, len));
    if entry.fd().is_none() || entry.read_over {
        return give_room_back(inflight, id);
    }
    entry.want_read = true;
    match entry.op {
        None => arm(inflight, id),
        // The last completion of that read arms this one.
        Some(of) if !entry.cancelling => close::cancel(inflight, id, of),
        Some(_) => {}
    }
}

/// Gives the memory of a read back that is not submitted yet, and does not submit it.
pub(super) fn give_room_back(inflight: &mut InFlight, id: EndId) {
    let Some(entry) = inflight.fds.get_mut(id) else { return };
    if let Some((buf, _)) = entry.next_into.take() {
        inflight.completions.push_back(Completion::Filled { tag: entry.tag, buf });
    }
}

/// Cancels the read and does not arm it again. An armed read would take bytes out of the pipe, and
/// the agent would feel no back-pressure.
pub(super) fn pause(inflight: &mut InFlight, id: EndId) {
    let Some(entry) = inflight.fds.get_mut(id) else { return };
    // The mark goes before the cancel: the last completion of the read must not arm it again.
    entry.want_read = false;
    let of = entry.op.filter(|_| !entry.cancelling && !entry.read_over);
    give_room_back(inflight, id);
    let Some(of) = of else { return };
    let kind = inflight.ops.get(of).map(|op| &op.kind);
    if matches!(kind, Some(OpKind::Read { .. } | OpKind::ReadInto { .. })) {
        close::cancel(inflight, id, of);
    }
}

/// Whether bytes are in the pipe or among the completions. An armed read takes bytes out of the
/// pipe, so both places count.
pub(super) fn has_unread(inflight: &mut InFlight, id: EndId) -> bool {
    let collected = !inflight.completions.is_empty() || !inflight.cqes.is_empty();
    let pipe = inflight.fds.get(id).and_then(|entry| entry.pipe());
    let in_pipe = pipe.map_or(0, |fd| rustix::io::ioctl_fionread(fd).unwrap_or(0));
    collected || in_pipe > 0 || inflight.queue.has_completions()
}

/// Arms the read if it is wanted and nothing prevents it.
pub(super) fn arm(inflight: &mut InFlight, id: EndId) {
    let Some(entry) = inflight.fds.get_mut(id) else { return };
    if entry.fd().is_none() || !entry.want_read || entry.read_over || entry.op.is_some() {
        return;
    }
    if entry.next_into.is_some() {
        return arm_into(inflight, id);
    }
    if entry.starved {
        return;
    }
    // On an empty pool the read would fail at once, even if the pipe is empty, again and again.
    if inflight.pool.free() == 0 {
        entry.starved = true;
        inflight.starved.push_back(id);
        return;
    }
    if !inflight.make_room(1) {
        inflight.deferred.push(DeferredSubmission::Arm(id));
        return;
    }
    let InFlight { fds, ops, queue, pool, multishot, .. } = inflight;
    let multishot = *multishot;
    // The entry is looked up again because `make_room` borrows the whole state. That acts on no
    // completion, so the entry is unchanged.
    let Some(entry) = fds.get_mut(id) else { return };
    let Some(fd) = entry.fd() else { return };
    let token = ops.insert(id, OpKind::Read { multishot });
    if multishot {
        // SAFETY: the entry keeps its descriptor until this is submitted: see `FdEntry::fd`.
        unsafe { queue.push_read_multishot(fd, token) };
    } else {
        // SAFETY: as in the other branch.
        unsafe { queue.push_read(fd, pool.buffer_size(), token) };
    }
    entry.op = Some(token);
    entry.pending += 1;
    entry.cancelling = false;
}

/// Queues the read into memory of the caller, or defers it while the kernel is too busy.
fn arm_into(inflight: &mut InFlight, id: EndId) {
    if !inflight.make_room(1) {
        inflight.deferred.push(DeferredSubmission::Arm(id));
        return;
    }
    let InFlight { fds, ops, queue, .. } = inflight;
    // `make_room` acts on no completion, so none of the lookups can fail.
    let Some(entry) = fds.get_mut(id) else { return };
    let Some((buf, len)) = entry.next_into.take() else { return };
    let token = ops.insert(id, OpKind::ReadInto { buf, len });
    entry.op = Some(token);
    entry.pending += 1;
    entry.cancelling = false;
    let Some(fd) = entry.fd() else { return };
    let Some(OpKind::ReadInto { buf, len }) = ops.get_mut(token).map(|op| &mut op.kind) else {
        return;
    };
    let room = buf.spare_capacity_mut();
    let len = room.len().min(*len);
    // SAFETY: `buf` is owned by the operation in `ops`, which is removed only with the final
    // completion; its heap memory does not move with the slab. The entry keeps its descriptor until
    // this is submitted: see `FdEntry::fd`.
    unsafe { queue.push_read_into(fd, &mut room[..len], token) };
}

/// Acts on the completion of a read into memory of the caller: gives that back with what was read.
pub(super) fn on_filled(inflight: &mut InFlight, id: EndId, cqe: Cqe) {
    let Some(OpKind::ReadInto { mut buf, .. }) = inflight.ops.remove(cqe.token).map(|op| op.kind)
    else {
        return;
    };
    let Some(entry) = inflight.fds.get_mut(id) else { return };
    entry.op = None;
    entry.pending -= 1;
    // It reads once.
    entry.want_read = false;
    let cancelled = mem::take(&mut entry.cancelling) || entry.fd().is_none();
    let ended = match usize::try_from(cqe.result) {
        Ok(0) => Some(ReadEnd::Eof),
        Ok(came) => {
            // SAFETY: the kernel wrote this many bytes into the room behind `buf`.
            unsafe { buf.advance_mut(came) };
            None
        }
        Err(_) => failure(-cqe.result, cancelled),
    };
    inflight.completions.push_back(Completion::Filled { tag: entry.tag, buf });
    if let Some(why) = ended {
        end(inflight, id, why);
    }
}

/// Returns the end that an errno means, unless the read may go on.
fn failure(errno: i32, cancelled: bool) -> Option<ReadEnd> {
    match errno {
        libc::EINTR => None,
        libc::ECANCELED if cancelled => None,
        errno => Some(ReadEnd::Failed(errno)),
    }
}

/// Arms starved reads, at most one per free buffer: more would only fail again.
pub(super) fn arm_starved(inflight: &mut InFlight) {
    let most = inflight.starved.len().min(usize::from(inflight.pool.free()));
    for _ in 0..most {
        let Some(id) = inflight.starved.pop_front() else { return };
        if let Some(entry) = inflight.fds.get_mut(id) {
            // `arm` refuses a read that is marked, and marks it again if it finds no free buffer.
            entry.starved = false;
            arm(inflight, id);
        }
    }
}

/// Acts on a completion of a read. Without MORE it is the last one, whatever the result says: a
/// single read ends with good data, and so does a multishot read if the completion queue is full.
pub(super) fn on_completion(inflight: &mut InFlight, id: EndId, cqe: Cqe) {
    let Some(entry) = inflight.fds.get_mut(id) else {
        // Cannot happen: an entry outlives its operations.
        return inflight.return_buffer(cqe.buffer);
    };
    let tag = entry.tag;
    if !cqe.more {
        inflight.ops.remove(cqe.token);
        entry.op = None;
        entry.pending -= 1;
    }
    // Only a cancel of this ring, for a pause or a close, makes ECANCELED a normal end.
    let cancelled = entry.cancelling || entry.fd().is_none();
    let ended = match (cqe.result, cqe.buffer) {
        (len @ 1.., Some(buffer)) => {
            let lease = Lease { buffer, len: len.cast_unsigned() };
            inflight.completions.push_back(Completion::Data { tag, lease });
            None
        }
        // Some kernels read files that cannot be polled without a pool buffer.
        (1.., None) => Some(ReadEnd::Failed(libc::EIO)),
        // A completion without bytes may have taken a buffer all the same.
        (result, buffer) => {
            inflight.return_buffer(buffer);
            match -result {
                0 if cqe.more => None,
                0 => Some(ReadEnd::Eof),
                // The pool was empty, which says nothing about the pipe: the read goes on once a
                // buffer is free.
                libc::ENOBUFS => {
                    starve(inflight, id);
                    None
                }
                errno => failure(errno, cancelled),
            }
        }
    };
    if let Some(why) = ended {
        end(inflight, id, why);
    }
    if !cqe.more {
        arm(inflight, id);
    }
}

fn starve(inflight: &mut InFlight, id: EndId) {
    inflight.starved_count += 1;
    let Some(entry) = inflight.fds.get_mut(id) else { return };
    if entry.want_read && !entry.starved && entry.fd().is_some() {
        entry.starved = true;
        inflight.starved.push_back(id);
    }
}

fn end(inflight: &mut InFlight, id: EndId, why: ReadEnd) {
    let Some(entry) = inflight.fds.get_mut(id) else { return };
    // The end is reported once, even if the caller starts the read again.
    if entry.read_over {
        return;
    }
    entry.read_over = true;
    // A cancel that has to wait for room is carried out only if the read is unwanted.
    entry.want_read = false;
    give_room_back(inflight, id);
    let Some(entry) = inflight.fds.get_mut(id) else { return };
    inflight.completions.push_back(Completion::ReadEnd { tag: entry.tag, why });
    // If the read is still armed, it must not swallow more bytes.
    if let Some(of) = entry.op.filter(|_| !entry.cancelling) {
        close::cancel(inflight, id, of);
    }
}
