//! A read into memory of the caller: tried at once, and again when the descriptor is readable.
#![expect(unsafe_code, reason = "the length of memory that a call has filled")]

use bytes::{BufMut, BytesMut};
use rustix::io::Errno;

use super::Epoll;
use super::end::Op;
use crate::io::{Completion, EndId, ReadEnd};

impl Epoll {
    pub(super) fn start_read_into(&mut self, id: EndId, buf: BytesMut, len: usize) {
        let Some(end) = self.ends.get(id) else { return };
        let tag = end.tag;
        if end.is_read_over {
            return self.report(Completion::Filled { tag, buf });
        }
        if matches!(end.op, Op::Read) {
            self.set(id, Op::None);
        }
        let Some(end) = self.ends.get_mut(id) else { return };
        debug_assert!(!end.is_pending(), "one at a time");
        // Epoll is not asked before the read was tried: an agent in a burst has written already.
        end.op = Op::ReadInto { buf, len };
        self.pending += 1;
        self.queued.push(id);
    }

    pub(super) fn cancel_read_into(&mut self, id: EndId) {
        if let Some((tag, Op::ReadInto { buf, .. })) = self.take_op(id) {
            self.set(id, Op::None);
            self.report(Completion::Filled { tag, buf });
        }
    }

    /// Reads what is there; without anything, waits for it.
    pub(super) fn try_read_into(&mut self, id: EndId) {
        let Some((tag, Op::ReadInto { mut buf, len })) = self.take_op(id) else { return };
        let Some(end) = self.ends.get(id) else { return };
        self.calls += 1;
        let room = buf.spare_capacity_mut();
        let len = room.len().min(len);
        let read = rustix::io::read(&end.fd, &mut room[..len]).map(|(filled, _)| filled.len());
        let ended = match read {
            Ok(0) => Some(ReadEnd::Eof),
            Ok(came) => {
                // SAFETY: the call has written this many bytes into the room behind `buf`.
                unsafe { buf.advance_mut(came) };
                None
            }
            Err(Errno::AGAIN | Errno::INTR) => return self.set(id, Op::ReadInto { buf, len }),
            Err(error) => Some(ReadEnd::Failed(error.raw_os_error())),
        };
        self.report(Completion::Filled { tag, buf });
        if let Some(why) = ended {
            self.end_read(id, tag, why);
        }
    }
}
