//! The descriptors that the ring owns, and what is pending on each.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use bytes::BytesMut;

use super::op::OpToken;
use crate::io::{EndTable, Tag};

/// The owner of a descriptor.
#[derive(Debug)]
pub(super) enum FdState {
    /// This process.
    Open(OwnedFd),
    /// A CLOSE in the kernel. Holds its result once it has completed.
    Closing(Option<i32>),
}

/// One descriptor.
#[derive(Debug)]
pub(super) struct FdEntry {
    pub(super) tag: Tag,
    pub(super) state: FdState,
    /// The one read, write or poll in flight. With two, one cancel would not be enough.
    pub(super) op: Option<OpToken>,
    /// Operations without their final completion: `op`, cancels, the CLOSE.
    pub(super) pending: u32,
    pub(super) want_read: bool,
    /// The memory and length of the read that follows `op`.
    pub(super) next_into: Option<(BytesMut, usize)>,
    /// `op` is a read that is being cancelled to pause it.
    pub(super) cancelling: bool,
    /// In the list of reads that wait for pool buffers.
    pub(super) starved: bool,
    /// EOF or an error was reported: never read again.
    pub(super) read_over: bool,
    /// Its CLOSE is deferred until the submission queue has room.
    pub(super) doomed: bool,
}

impl FdEntry {
    pub(super) fn new(fd: OwnedFd, tag: Tag) -> Self {
        Self {
            tag,
            state: FdState::Open(fd),
            op: None,
            pending: 0,
            want_read: false,
            next_into: None,
            cancelling: false,
            starved: false,
            read_over: false,
            doomed: false,
        }
    }

    /// Whether a read that is armed is to end.
    pub(super) fn is_read_unwanted(&self) -> bool {
        self.fd().is_none() || !self.want_read || self.next_into.is_some()
    }

    /// The descriptor, unless its CLOSE was submitted.
    pub(super) fn pipe(&self) -> Option<&OwnedFd> {
        match &self.state {
            FdState::Open(fd) => Some(fd),
            FdState::Closing(_) => None,
        }
    }

    /// The descriptor, unless it is closing or about to be closed.
    ///
    /// Once a queue entry names it, it stays open until that entry is submitted: only a CLOSE takes
    /// it from the table, which goes into the same queue behind the entry, or the drop of the ring,
    /// which submits first.
    pub(super) fn fd(&self) -> Option<BorrowedFd<'_>> {
        match &self.state {
            FdState::Open(fd) if !self.doomed => Some(fd.as_fd()),
            FdState::Open(_) | FdState::Closing(_) => None,
        }
    }
}

/// All descriptors until they are closed and the kernel holds no operation of them.
pub(super) type FdTable = EndTable<FdEntry>;
