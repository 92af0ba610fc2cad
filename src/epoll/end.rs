//! One descriptor of the readiness backend, and what epoll watches it for.

use std::os::fd::OwnedFd;

use bytes::BytesMut;
use rustix::event::epoll::EventFlags;
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;

use crate::io::{EndId, Role, Tag};

use super::wait::Waiter;

/// The operation of a descriptor: at most one at a time.
#[derive(Debug, Default)]
pub(super) enum Op {
    #[default]
    None,
    /// Goes on until it is paused or over.
    Read,
    /// Ends with its first bytes.
    ReadInto {
        buf: BytesMut,
        len: usize,
    },
    Write {
        buf: Vec<u8>,
        from: usize,
    },
    /// Ends with its first event.
    Watch,
}

#[derive(Debug)]
pub(super) struct OwnedEnd {
    pub(super) fd: OwnedFd,
    pub(super) tag: Tag,
    pub(super) op: Op,
    /// In the list of descriptors to read.
    pub(super) is_readable: bool,
    /// The end, or an error, was reported: never read again.
    pub(super) is_read_over: bool,
    /// Epoll knows the descriptor, perhaps with all events disabled.
    is_known: bool,
}

impl OwnedEnd {
    pub(super) fn new(fd: OwnedFd, tag: Tag) -> Self {
        if matches!(tag.role, Role::Stdin | Role::Stdout | Role::Stderr) {
            // The flag belongs to this end of the pipe: that of the agent stays as it is.
            let set = fcntl_getfl(&fd).and_then(|flags| fcntl_setfl(&fd, flags | OFlags::NONBLOCK));
            if let Err(error) = set {
                crate::trace::error!(?tag, %error, "a pipe stays blocking");
            }
        }
        Self { fd, tag, op: Op::None, is_readable: false, is_read_over: false, is_known: false }
    }

    pub(super) fn is_pending(&self) -> bool {
        !matches!(self.op, Op::None)
    }

    /// Sets the operation and what epoll watches for. After an error it is not watched.
    pub(super) fn set(&mut self, op: Op, waiter: &mut Waiter, id: EndId) -> Result<(), Errno> {
        // An event is reported once, except for reads: they go on, and a pipe that still has bytes
        // is reported again.
        let events = match &op {
            Op::None => None,
            Op::Read => Some(EventFlags::IN),
            Op::ReadInto { .. } => Some(EventFlags::IN | EventFlags::ONESHOT),
            Op::Write { .. } => Some(EventFlags::OUT | EventFlags::ONESHOT),
            // The events file of a cgroup is always readable.
            Op::Watch if self.tag.role == Role::Cgroup => {
                Some(EventFlags::PRI | EventFlags::ONESHOT)
            }
            Op::Watch => Some(EventFlags::IN | EventFlags::ONESHOT),
        };
        self.op = op;
        let was_known = std::mem::replace(&mut self.is_known, false);
        if let Some(events) = events {
            waiter.watch(&self.fd, id, events, was_known)?;
            self.is_known = true;
        } else if was_known {
            waiter.forget(&self.fd);
        }
        Ok(())
    }
}
