//! Close, floor 1: ASYNC_CANCEL hard-linked to CLOSE: the only way a descriptor leaves the ring.
//!
//! A pending read holds the pipe open after close(2), and the writer never sees EPIPE: so the
//! cancel goes first, always, in the same submission.
#![expect(unsafe_code, reason = "takes a descriptor back that the kernel did not close")]

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use super::Ring;
use super::drive::Deferred;
use super::end::Hold;
use super::op::{OpKind, Token};
use super::queue::Cqe;
use crate::io::{Completion, EndId};

impl Ring {
    /// Queues a pair per end, all in one submission if the queue holds them, else in as few as
    /// possible. No pair is split.
    pub(super) fn close_all(&mut self, ids: &[EndId]) {
        let open = |id: &EndId| self.ends.get(*id).is_some_and(|end| end.fd().is_some());
        let ids: Vec<EndId> = ids.iter().copied().filter(open).collect();
        let pairs = (self.queue.capacity() / 2).max(1);
        for chunk in ids.chunks(pairs) {
            let roomy = self.make_room(2 * chunk.len());
            for &id in chunk {
                // Without room for all of them, each pair still goes as one.
                if roomy || self.make_room(2) {
                    self.submit_close(id);
                } else if let Some(end) = self.ends.get_mut(id) {
                    end.doomed = true;
                    self.deferred.push(Deferred::Close(id));
                }
            }
        }
    }

    /// Queues the pair. The caller has made room for two.
    fn submit_close(&mut self, id: EndId) {
        let Some(end) = self.ends.get_mut(id) else { return };
        let fd = match mem::replace(&mut end.hold, Hold::Closing(None)) {
            Hold::Open(fd) => fd,
            // Named twice in one call.
            closing @ Hold::Closing(_) => return end.hold = closing,
        };
        end.want_read = false;
        end.pending += 2;
        let of = end.op.unwrap_or(Token::NOTHING);
        let cancel = self.ops.insert(id, OpKind::Cancel);
        let close = self.ops.insert(id, OpKind::Close { fd: fd.as_raw_fd() });
        self.queue.push_cancel_close(fd, of, cancel, close);
    }

    /// Queues the closes that found no room when they were asked for.
    pub(super) fn close_doomed(&mut self, ids: &[EndId]) {
        for &id in ids {
            if let Some(end) = self.ends.get_mut(id) {
                end.doomed = false;
            }
        }
        self.close_all(ids);
    }

    /// Keeps the result until the other operations of the end are final.
    pub(super) fn on_close(&mut self, token: Token, id: EndId, cqe: Cqe) {
        let Some(OpKind::Close { fd }) = self.ops.remove(token).map(|op| op.kind) else { return };
        let mut result = cqe.result;
        if -result == libc::ECANCELED {
            // A hard link does not break, so this cannot be; if it were, the writer would hang.
            self.closed_by_hand += 1;
            crate::trace::error!(fd, "the kernel cancelled a close");
            // SAFETY: the number was released for this CLOSE, which did not run: still ours.
            drop(unsafe { OwnedFd::from_raw_fd(fd) });
            result = 0;
        }
        if let Some(end) = self.ends.get_mut(id) {
            end.pending -= 1;
            end.hold = Hold::Closing(Some(result));
        }
    }

    /// Reports the end closed once nothing of it is in the kernel.
    pub(super) fn settle(&mut self, id: EndId) {
        let Some(end) = self.ends.get(id) else { return };
        let Hold::Closing(Some(result)) = end.hold else { return };
        if end.pending > 0 {
            return;
        }
        let tag = end.tag;
        self.ends.remove(id);
        let result = match result {
            0.. => Ok(()),
            errno => Err(io::Error::from_raw_os_error(-errno)),
        };
        self.ready.push_back(Completion::Closed { tag, result });
    }
}
