//! Floor 1. ASYNC_CANCEL on its own: pauses a read.

use std::os::fd::AsRawFd;

use super::Ring;
use super::drive::Deferred;
use super::op::{OpKind, Token};
use super::queue::Cqe;
use crate::io::EndId;

impl Ring {
    /// Cancels `of`, which is in flight on this end.
    pub(super) fn submit_cancel(&mut self, id: EndId, of: Token) {
        // The descriptor is for the trace only: a cancel goes by token.
        let fd = self.ends.get(id).and_then(|end| end.fd()).map_or(-1, |fd| fd.as_raw_fd());
        if !self.make_room(1) {
            self.deferred.push(Deferred::Cancel(id, of));
            return;
        }
        let token = self.ops.insert(id, OpKind::Cancel);
        if let Some(end) = self.ends.get_mut(id) {
            end.pending += 1;
            end.cancelling = true;
        }
        self.queue.push_cancel(fd, of, token);
    }

    /// Whether it found something (0) or nothing (-ENOENT) is no news: the operation's own
    /// completion tells. One caught in the act (-EALREADY) is cancelled again.
    pub(super) fn on_cancel(&mut self, token: Token, id: EndId, cqe: Cqe) {
        self.ops.remove(token);
        let Some(end) = self.ends.get_mut(id) else { return };
        end.pending -= 1;
        if -cqe.result != libc::EALREADY {
            return;
        }
        end.cancelling = false;
        let unwanted = end.fd().is_none() || !end.want_read;
        if let Some(of) = end.op.filter(|_| unwanted) {
            self.submit_cancel(id, of);
        }
    }
}
