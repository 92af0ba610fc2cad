//! Writes (WRITE): one at a time per pipe, because two would complete in reverse order.
//!
//! Invariant for the unsafe code: the bytes belong to the operation in `Ops` until its final
//! completion. The signal mask calls pass memory of this stack frame only.
#![expect(unsafe_code, reason = "a write names memory; signal masks have no safe interface")]

use std::io;
use std::mem::MaybeUninit;
use std::ptr;

use super::close;
use super::fd_table::FdEntry;
use super::inflight::{DeferredSubmission, InFlight};
use super::op::{OpKind, OpToken};
use super::queue::Cqe;
use crate::io::{Completion, EndId, WriteRefused};

/// No SIGPIPE from this write. Linux 6.18; older kernels answer EOPNOTSUPP.
const RWF_NOSIGNAL: i32 = 0x100;

/// Writes `buf[from..]`, or returns `buf` with the reason.
pub(super) fn submit(
    inflight: &mut InFlight,
    id: EndId,
    buf: Vec<u8>,
    from: usize,
) -> Result<(), WriteRefused> {
    let refuse = |errno: i32, buf: Vec<u8>| {
        Err(WriteRefused { error: io::Error::from_raw_os_error(errno), buf })
    };
    let Some(entry) = inflight.fds.get(id).filter(|entry| entry.fd().is_some()) else {
        return refuse(libc::EBADF, buf);
    };
    if entry.op.is_some() {
        return refuse(libc::EBUSY, buf);
    }
    if from >= buf.len() {
        return refuse(libc::EINVAL, buf);
    }
    let token = insert(inflight, id, buf, from);
    push_or_defer(inflight, id, token);
    Ok(())
}

/// Registers the operation before the kernel knows it, so that no other can use the descriptor.
pub(super) fn insert(inflight: &mut InFlight, id: EndId, buf: Vec<u8>, from: usize) -> OpToken {
    let token = inflight.ops.insert(id, OpKind::Write { buf, from });
    if let Some(entry) = inflight.fds.get_mut(id) {
        entry.op = Some(token);
        entry.pending += 1;
    }
    token
}

/// Queues the write, or defers it while the kernel is too busy. A busy kernel is temporary and must
/// not cost the agent its session. A write whose descriptor was closed meanwhile never starts.
pub(super) fn push_or_defer(inflight: &mut InFlight, id: EndId, token: OpToken) {
    if inflight.fds.get(id).and_then(FdEntry::fd).is_none() {
        // The kernel never saw the write. Its completion is made here, so that the payload goes
        // back and the descriptor can be reported closed.
        let cancelled = Cqe { token, result: -libc::ECANCELED, more: false, buffer: None };
        on_completion(inflight, id, cancelled);
        return close::report_if_final(inflight, id);
    }
    if !inflight.make_room(1) {
        inflight.deferred.push(DeferredSubmission::Write(id, token));
        return;
    }
    let rw_flags = if inflight.nosignal { RWF_NOSIGNAL } else { 0 };
    let InFlight { fds, ops, queue, .. } = inflight;
    // `make_room` acts on no completion, so neither lookup can fail.
    let Some(fd) = fds.get(id).and_then(FdEntry::fd) else { return };
    let Some(OpKind::Write { buf, from }) = ops.get(token).map(|op| &op.kind) else { return };
    // SAFETY: `buf` is owned by the operation in `ops`, which is removed only with the final
    // completion; its heap memory does not move with the slab. The entry keeps its descriptor
    // until this is submitted: see `FdEntry::fd`.
    unsafe { queue.push_write(fd, token, &buf[*from..], rw_flags) };
}

/// Returns the payload with the result.
pub(super) fn on_completion(inflight: &mut InFlight, id: EndId, cqe: Cqe) {
    let Some(OpKind::Write { buf, .. }) = inflight.ops.remove(cqe.token).map(|op| op.kind) else {
        return;
    };
    let Some(entry) = inflight.fds.get_mut(id) else { return };
    entry.op = None;
    entry.pending -= 1;
    let result = match usize::try_from(cqe.result) {
        Ok(moved) => Ok(moved),
        Err(_) => Err(io::Error::from_raw_os_error(-cqe.result)),
    };
    inflight.completions.push_back(Completion::Wrote { tag: entry.tag, buf, result });
}

/// Blocks SIGPIPE in the calling thread, so that a write to a closed pipe is an EPIPE completion
/// even if the host program leaves the signal at its default.
///
/// Children inherit the mask: spawning must reset it.
pub(crate) fn block_sigpipe() -> io::Result<()> {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // Neither call fails for a valid set and signal, so the results are ignored.
    // SAFETY: writes the whole set.
    unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    // SAFETY: the set was initialised above.
    unsafe { libc::sigaddset(set.as_mut_ptr(), libc::SIGPIPE) };
    // SAFETY: reads the set and changes the mask of this thread only.
    match unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, set.as_ptr(), ptr::null_mut()) } {
        0 => Ok(()),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}
