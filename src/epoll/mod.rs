//! The readiness backend, for hosts that deny or lack io_uring: epoll says which descriptors are
//! ready, and each is then read, written or closed by a call that does not block.
//!
//! It has no operation in the kernel that holds memory, so a cancel is a change of this process's own
//! state, and a closed descriptor is gone at once. Bytes stay in their pipe until
//! [`next`](crate::io::PipeIo::next) returns them: one buffer serves all agents, and a paused read
//! takes nothing more.
//!
//! Pitfalls: a descriptor that is paused or at its end must leave epoll, which otherwise reports the
//! end of its peer again and again; one that is closed must leave it first, because epoll watches the
//! open file, of which a forked copy of this process may have another descriptor.

mod end;
mod read_into;
#[cfg(test)]
mod tests;
mod wait;

use std::collections::VecDeque;
use std::io;
use std::mem;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use bytes::BytesMut;
use rustix::event::epoll;
use rustix::io::Errno;

use crate::counters::{Backend, IoCounters, KernelFeatures};
use crate::error;
use crate::io::{Completion, EndId, EndTable, Lease, PipeIo, ReadEnd, Role, Tag, WriteRefused};
use crate::ring::setup_error;

use end::{Op, OwnedEnd};
use wait::Waiter;

/// The most bytes of one read: all that a pipe holds by default, so one call empties it.
const READ_MAX: u32 = 64 << 10;

/// The descriptors of one driver. Stays on the thread that made it.
pub(crate) struct Epoll {
    waiter: Waiter,
    /// What the last wait found ready. Empty outside of it.
    ready: Vec<EndId>,
    ends: EndTable<OwnedEnd>,
    /// The eventfd by which other threads end a wait.
    wake: Option<EndId>,
    /// Writes and reads into memory of the caller that were not tried yet.
    queued: Vec<EndId>,
    /// Readable descriptors. They are read by `next`, into the one buffer.
    readable: VecDeque<EndId>,
    completions: VecDeque<Completion>,
    buffer: Box<[u8]>,
    is_lent: bool,
    /// Ends with an operation.
    pending: usize,
    calls: u64,
    completed: u64,
}

impl Epoll {
    /// # Errors
    /// [`ResourceLimit`](crate::ErrorKind::ResourceLimit) if descriptors run out.
    pub(crate) fn new(window: Duration) -> error::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)
            .map_err(|error| setup_error("epoll_create1", error.into()))?;
        Ok(Self {
            waiter: Waiter::new(epoll, window),
            ready: Vec::new(),
            ends: EndTable::default(),
            wake: None,
            queued: Vec::new(),
            readable: VecDeque::new(),
            completions: VecDeque::new(),
            buffer: vec![0; READ_MAX as usize].into_boxed_slice(),
            is_lent: false,
            pending: 0,
            calls: 0,
            completed: 0,
        })
    }

    /// Returns the features of this backend: none depends on the kernel.
    pub(crate) fn features() -> KernelFeatures {
        KernelFeatures {
            backend: Backend::Epoll,
            setup_flags: "none",
            buffers: 1,
            buffer_size: READ_MAX,
            ..KernelFeatures::default()
        }
    }

    /// Sets the operation of a descriptor, and epoll accordingly. A failure ends the operation.
    fn set(&mut self, id: EndId, op: Op) {
        let Some(end) = self.ends.get_mut(id) else { return };
        self.pending -= usize::from(end.is_pending());
        let watched = end.set(op, &mut self.waiter, id);
        self.pending += usize::from(end.is_pending());
        let Err(error) = watched else { return };
        match self.take_op(id) {
            Some((tag, Op::Read)) => self.end_read(id, tag, ReadEnd::Failed(error.raw_os_error())),
            Some((tag, Op::Watch)) => {
                self.report(Completion::Ready { tag, result: Err(error.into()) })
            }
            Some((tag, Op::Write { buf, .. })) => {
                self.report(Completion::Wrote { tag, buf, result: Err(error.into()) });
            }
            Some((tag, Op::ReadInto { buf, .. })) => {
                self.report(Completion::Filled { tag, buf });
                self.end_read(id, tag, ReadEnd::Failed(error.raw_os_error()));
            }
            Some((_, Op::None)) | None => {}
        }
    }

    fn take_op(&mut self, id: EndId) -> Option<(Tag, Op)> {
        let end = self.ends.get_mut(id)?;
        self.pending -= usize::from(end.is_pending());
        Some((end.tag, mem::take(&mut end.op)))
    }

    fn report(&mut self, completion: Completion) {
        self.completed += 1;
        self.completions.push_back(completion);
    }

    /// Tries the queued writes and reads.
    fn submit(&mut self) {
        let mut queued = mem::take(&mut self.queued);
        for id in queued.drain(..) {
            match self.ends.get(id).map(|end| &end.op) {
                Some(Op::ReadInto { .. }) => self.try_read_into(id),
                _ => self.try_write(id),
            }
        }
        // Keeps its room for the next turn.
        self.queued = queued;
    }

    /// Writes what the pipe has room for; without room, waits for it.
    fn try_write(&mut self, id: EndId) {
        let Some(end) = self.ends.get(id) else { return };
        let Op::Write { buf, from } = &end.op else { return };
        self.calls += 1;
        let result = match rustix::io::write(&end.fd, &buf[*from..]) {
            Ok(moved) => Ok(moved),
            Err(Errno::AGAIN | Errno::INTR) => {
                if let Some((_, op)) = self.take_op(id) {
                    self.set(id, op);
                }
                return;
            }
            Err(error) => Err(error.into()),
        };
        if let Some((tag, Op::Write { buf, .. })) = self.take_op(id) {
            self.report(Completion::Wrote { tag, buf, result });
        }
    }

    /// Acts on the readiness of a descriptor.
    fn on_ready(&mut self, id: EndId) {
        let Some(end) = self.ends.get_mut(id) else { return };
        match end.op {
            Op::Read => {
                if !mem::replace(&mut end.is_readable, true) {
                    self.readable.push_back(id);
                }
            }
            Op::ReadInto { .. } => self.try_read_into(id),
            Op::Write { .. } => self.try_write(id),
            Op::Watch => {
                if let Some((tag, _)) = self.take_op(id) {
                    self.report(Completion::Ready { tag, result: Ok(()) });
                }
            }
            // Epoll reports once, or this descriptor has left it.
            Op::None => {}
        }
    }

    /// Reads once. More than one buffer waits for the next turn, so that other agents have theirs.
    fn read_one(&mut self, id: EndId) -> Option<Completion> {
        let end = self.ends.get_mut(id)?;
        end.is_readable = false;
        if !matches!(end.op, Op::Read) {
            return None;
        }
        let tag = end.tag;
        debug_assert!(!self.is_lent, "a lease goes back in its turn");
        self.calls += 1;
        match rustix::io::read(&end.fd, &mut self.buffer[..]) {
            Ok(0) => self.end_read(id, tag, ReadEnd::Eof),
            Ok(len) => {
                self.is_lent = true;
                self.completed += 1;
                let len = u32::try_from(len).unwrap_or(u32::MAX);
                return Some(Completion::Data { tag, lease: Lease { buffer: 0, len } });
            }
            // Another turn reports it again.
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(error) => self.end_read(id, tag, ReadEnd::Failed(error.raw_os_error())),
        }
        None
    }

    fn end_read(&mut self, id: EndId, tag: Tag, why: ReadEnd) {
        if let Some(end) = self.ends.get_mut(id) {
            end.is_read_over = true;
        }
        self.set(id, Op::None);
        self.report(Completion::ReadEnd { tag, why });
    }

    /// Waits for readiness and acts on it.
    fn wait_and_act(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        let mut ready = mem::take(&mut self.ready);
        let wake = self.wake.and_then(|id| self.ends.get(id)).map(|end| &end.fd);
        let waited = self.waiter.wait(timeout, wake, &mut ready);
        ready.drain(..).for_each(|id| self.on_ready(id));
        self.ready = ready;
        waited
    }

    fn has_collected(&self) -> bool {
        !self.completions.is_empty() || !self.readable.is_empty()
    }
}

impl PipeIo for Epoll {
    fn adopt(&mut self, fd: OwnedFd, tag: Tag) -> EndId {
        let id = self.ends.insert(OwnedEnd::new(fd, tag));
        if tag.role == Role::Wake {
            self.wake = Some(id);
        }
        id
    }

    fn read(&mut self, id: EndId) {
        if self.ends.get(id).is_some_and(|end| !end.is_read_over && matches!(end.op, Op::None)) {
            self.set(id, Op::Read);
        }
    }

    fn read_into(&mut self, id: EndId, buf: BytesMut, len: usize) {
        self.start_read_into(id, buf, len);
    }

    fn pause(&mut self, id: EndId) {
        match self.ends.get(id).map(|end| &end.op) {
            Some(Op::Read) => self.set(id, Op::None),
            Some(Op::ReadInto { .. }) => self.cancel_read_into(id),
            _ => {}
        }
    }

    fn has_unread(&mut self, id: EndId) -> bool {
        let end = self.ends.get(id);
        end.is_some_and(|end| rustix::io::ioctl_fionread(&end.fd).is_ok_and(|bytes| bytes > 0))
    }

    fn bytes(&self, lease: &Lease) -> &[u8] {
        // The lease is not trusted.
        self.buffer.get(..lease.len as usize).filter(|_| self.is_lent).unwrap_or_default()
    }

    fn give_back(&mut self, _lease: Lease) {
        self.is_lent = false;
    }

    fn write(&mut self, id: EndId, buf: Vec<u8>, from: usize) -> Result<(), WriteRefused> {
        let refuse = |errno: Errno, buf| Err(WriteRefused { error: errno.into(), buf });
        match self.ends.get_mut(id) {
            None => refuse(Errno::BADF, buf),
            Some(end) if end.is_pending() => refuse(Errno::BUSY, buf),
            Some(_) if from >= buf.len() => refuse(Errno::INVAL, buf),
            Some(end) => {
                // Epoll is not asked before the write was tried.
                end.op = Op::Write { buf, from };
                self.pending += 1;
                self.queued.push(id);
                Ok(())
            }
        }
    }

    fn watch(&mut self, id: EndId) {
        if self.ends.get(id).is_some_and(|end| !end.is_pending()) {
            self.set(id, Op::Watch);
        }
    }

    fn descriptor(&self, id: EndId) -> Option<BorrowedFd<'_>> {
        self.ends.get(id).map(|end| end.fd.as_fd())
    }

    fn close(&mut self, ids: &[EndId]) {
        for &id in ids {
            // A queued write goes before the close, as it would in one submission.
            if self.queued.contains(&id) {
                self.try_write(id);
            }
            match self.take_op(id) {
                Some((tag, Op::Write { buf, .. })) => {
                    let result = Err(Errno::CANCELED.into());
                    self.report(Completion::Wrote { tag, buf, result });
                }
                Some((tag, Op::ReadInto { buf, .. })) => {
                    self.report(Completion::Filled { tag, buf });
                }
                _ => {}
            }
            self.set(id, Op::None);
            if let Some(end) = self.ends.remove(id) {
                let tag = end.tag;
                drop(end);
                self.calls += 1;
                self.report(Completion::Closed { tag, result: Ok(()) });
            }
        }
    }

    fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.submit();
        // The other descriptors have their turn, too, while one has completions all the time.
        let timeout = if self.has_collected() { Some(Duration::ZERO) } else { timeout };
        self.wait_and_act(timeout)
    }

    #[cfg(feature = "local")]
    fn readiness(&mut self) -> io::Result<OwnedFd> {
        self.waiter.descriptor()
    }

    #[cfg(feature = "local")]
    fn turn(&mut self) -> io::Result<()> {
        self.submit();
        self.wait_and_act(Some(Duration::ZERO))
    }

    #[cfg(feature = "local")]
    fn wants_turn(&self) -> bool {
        !self.queued.is_empty() || self.has_collected()
    }

    /// The descriptor of epoll signals each event in any case: this collects those that came before the
    /// caller began to listen.
    #[cfg(feature = "local")]
    fn notify(&mut self) -> bool {
        // An error is left to the next turn.
        self.wait_and_act(Some(Duration::ZERO)).is_ok() && !self.has_collected()
    }

    fn next(&mut self) -> Option<Completion> {
        loop {
            if let Some(completion) = self.completions.pop_front() {
                return Some(completion);
            }
            let id = self.readable.pop_front()?;
            if let Some(data) = self.read_one(id) {
                return Some(data);
            }
        }
    }

    fn in_kernel(&self) -> usize {
        self.pending
    }

    fn counters(&self) -> IoCounters {
        IoCounters {
            queued: self.queued.len() as u64,
            in_kernel: self.pending as u64,
            enters: self.waiter.waits,
            submitted: self.calls + self.waiter.changes,
            completions: self.completed,
            buffers: 1,
            buffers_free: u64::from(!self.is_lent),
            ..IoCounters::default()
        }
    }

    fn drain(&mut self, _limit: Duration) -> bool {
        let ids = self.ends.ids();
        self.close(&ids);
        true
    }
}
