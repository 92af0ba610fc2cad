//! Floor 1. READ_MULTISHOT: one submission brings bytes until it ends; this re-arms it.
#![expect(unsafe_code, reason = "a read names a descriptor")]

use super::Ring;
use super::drive::Deferred;
use super::op::{OpKind, Token};
use super::queue::Cqe;
use crate::io::{Completion, EndId, Lease, ReadEnd};

impl Ring {
    /// From now on the read is armed whenever it can be.
    pub(super) fn want_read(&mut self, id: EndId) {
        match self.ends.get_mut(id) {
            Some(end) if end.fd().is_some() => end.want_read = true,
            _ => return crate::trace::debug!(?id, "read of an end that is gone"),
        }
        self.arm_read(id);
    }

    /// No re-arm from now on, and what is armed is cancelled: an armed read takes bytes out of
    /// the pipe, which is what back-pressure must not do.
    pub(super) fn pause_read(&mut self, id: EndId) {
        let Some(end) = self.ends.get_mut(id) else { return };
        end.want_read = false;
        let Some(of) = end.op.filter(|_| !end.cancelling && !end.read_over) else { return };
        if matches!(self.ops.get(of).map(|op| &op.kind), Some(OpKind::Read)) {
            self.submit_cancel(id, of);
        }
    }

    /// A read that is armed takes bytes out of the pipe: then they are among the completions.
    pub(super) fn is_unread(&mut self, id: EndId) -> bool {
        let collected = !self.ready.is_empty() || !self.reaped.is_empty();
        let pipe = self.ends.get(id).and_then(|end| end.pipe());
        let in_pipe = pipe.map_or(0, |fd| rustix::io::ioctl_fionread(fd).unwrap_or(0));
        collected || in_pipe > 0 || self.queue.has_completions()
    }

    /// Arms the read if it is wanted and nothing stands against it.
    pub(super) fn arm_read(&mut self, id: EndId) {
        let Some(end) = self.ends.get_mut(id) else { return };
        if end.fd().is_none() || !end.want_read || end.read_over || end.starved || end.op.is_some()
        {
            return;
        }
        // On an empty pool it would fail at once, even with an empty pipe, and again, and again.
        if self.pool.free() == 0 {
            end.starved = true;
            self.starved.push_back(id);
            return;
        }
        if !self.make_room(1) {
            self.deferred.push(Deferred::Arm(id));
            return;
        }
        let Self { ends, ops, queue, .. } = self;
        let Some(end) = ends.get_mut(id) else { return };
        let Some(fd) = end.fd() else { return };
        let token = ops.insert(id, OpKind::Read);
        // SAFETY: the end keeps its descriptor until this is submitted: see `End::fd`.
        unsafe { queue.push_read(fd, token) };
        end.op = Some(token);
        end.pending += 1;
        end.cancelling = false;
    }

    /// Arms starved reads, as many as there are buffers: of more, most would only fail again.
    pub(super) fn feed_starved(&mut self) {
        let most = self.starved.len().min(usize::from(self.pool.free()));
        for _ in 0..most {
            let Some(id) = self.starved.pop_front() else { return };
            if let Some(end) = self.ends.get_mut(id) {
                end.starved = false;
                self.arm_read(id);
            }
        }
    }

    /// Some starved read could be armed now.
    pub(super) fn can_feed(&self) -> bool {
        !self.starved.is_empty() && self.pool.free() > 0
    }

    /// Acts on a completion of a read. Without MORE it was the last, whatever the result says:
    /// a full completion queue ends a read with good data.
    pub(super) fn on_read(&mut self, token: Token, id: EndId, cqe: Cqe) {
        let Some(end) = self.ends.get_mut(id) else {
            // Cannot be: an end outlives its operations.
            return self.return_buffer(cqe.buffer);
        };
        let tag = end.tag;
        if !cqe.more {
            self.ops.remove(token);
            end.op = None;
            end.pending -= 1;
        }
        let cancelled = end.cancelling || end.fd().is_none();
        let failed = match (cqe.result, cqe.buffer) {
            (len @ 1.., Some(buffer)) => {
                let lease = Lease { buffer, len: len.cast_unsigned() };
                self.ready.push_back(Completion::Data { tag, lease });
                None
            }
            // Bytes that went nowhere: some kernels do this on files that cannot poll.
            (1.., None) => Some(ReadEnd::Failed(libc::EIO)),
            (result, buffer) => {
                self.return_buffer(buffer);
                match -result {
                    0 if cqe.more => None,
                    0 => Some(ReadEnd::Eof),
                    libc::ENOBUFS => {
                        self.starve(id);
                        None
                    }
                    libc::EINTR => None,
                    libc::ECANCELED if cancelled => None,
                    errno => Some(ReadEnd::Failed(errno)),
                }
            }
        };
        if let Some(why) = failed {
            self.end_read(id, why);
        }
        if !cqe.more {
            self.arm_read(id);
        }
    }

    fn starve(&mut self, id: EndId) {
        self.starved_count += 1;
        let Some(end) = self.ends.get_mut(id) else { return };
        if end.want_read && !end.starved && end.fd().is_some() {
            end.starved = true;
            self.starved.push_back(id);
        }
    }

    fn end_read(&mut self, id: EndId, why: ReadEnd) {
        let Some(end) = self.ends.get_mut(id) else { return };
        if end.read_over {
            return;
        }
        end.read_over = true;
        self.ready.push_back(Completion::ReadEnd { tag: end.tag, why });
        // Ended by us and not by the kernel: what is still armed must not swallow more.
        if let Some(of) = end.op.filter(|_| !end.cancelling) {
            self.submit_cancel(id, of);
        }
    }

    pub(super) fn return_buffer(&mut self, buffer: Option<u16>) {
        if let Some(buffer) = buffer {
            self.pool.give_back(buffer);
        }
    }
}
