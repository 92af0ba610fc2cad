//! Floor 1. WRITE: one at a time per pipe, because two complete in reverse order.
#![expect(unsafe_code, reason = "a write names memory")]

use std::io;

use super::Ring;
use super::drive::Deferred;
use super::end::End;
use super::op::{OpKind, Token};
use super::queue::Cqe;
use crate::io::{Completion, EndId, WriteRefused};

/// No SIGPIPE from this write. Linux 6.18; older kernels answer EOPNOTSUPP.
pub(super) const RWF_NOSIGNAL: i32 = 0x100;

impl Ring {
    /// Writes `buf[from..]`, or says why not and gives `buf` back.
    pub(super) fn submit_write(
        &mut self,
        id: EndId,
        buf: Vec<u8>,
        from: usize,
    ) -> Result<(), WriteRefused> {
        let refuse = |errno: i32, buf: Vec<u8>| {
            Err(WriteRefused { error: io::Error::from_raw_os_error(errno), buf })
        };
        let Some(end) = self.ends.get(id).filter(|end| end.fd().is_some()) else {
            return refuse(libc::EBADF, buf);
        };
        if end.op.is_some() {
            return refuse(libc::EBUSY, buf);
        }
        if from >= buf.len() {
            return refuse(libc::EINVAL, buf);
        }
        let token = self.insert_write(id, buf, from);
        self.push_or_defer_write(id, token);
        Ok(())
    }

    /// The operation, not yet known to the kernel. It has the end to itself from now on.
    pub(super) fn insert_write(&mut self, id: EndId, buf: Vec<u8>, from: usize) -> Token {
        let token = self.ops.insert(id, OpKind::Write { buf, from });
        if let Some(end) = self.ends.get_mut(id) {
            end.op = Some(token);
            end.pending += 1;
        }
        token
    }

    /// Queues it, or puts it off while the kernel is too busy: that passes, and is no reason to
    /// break a session. One whose end was closed meanwhile never starts.
    pub(super) fn push_or_defer_write(&mut self, id: EndId, token: Token) {
        if self.ends.get(id).and_then(End::fd).is_none() {
            let cancelled = Cqe { token, result: -libc::ECANCELED, more: false, buffer: None };
            return self.act_on(cancelled);
        }
        if !self.make_room(1) {
            self.deferred.push(Deferred::Write(id, token));
            return;
        }
        let rw_flags = if self.features.nosignal { RWF_NOSIGNAL } else { 0 };
        let Self { ends, ops, queue, .. } = self;
        let Some(fd) = ends.get(id).and_then(End::fd) else { return };
        let Some(OpKind::Write { buf, from }) = ops.get(token).map(|op| &op.kind) else { return };
        // SAFETY: `buf` is owned by the operation in `ops`, which is removed only with the final
        // completion; its heap memory does not move with the slab. The end keeps its descriptor
        // until this is submitted: see `End::fd`.
        unsafe { queue.push_write(fd, token, &buf[*from..], rw_flags) };
    }

    /// Gives the payload back with what became of it.
    pub(super) fn on_write(&mut self, token: Token, id: EndId, cqe: Cqe) {
        let Some(OpKind::Write { buf, .. }) = self.ops.remove(token).map(|op| op.kind) else {
            return;
        };
        let Some(end) = self.ends.get_mut(id) else { return };
        end.op = None;
        end.pending -= 1;
        let result = match usize::try_from(cqe.result) {
            Ok(moved) => Ok(moved),
            Err(_) => Err(io::Error::from_raw_os_error(-cqe.result)),
        };
        self.ready.push_back(Completion::Wrote { tag: end.tag, buf, result });
    }
}
