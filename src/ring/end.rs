//! Floor 1. Descriptors the ring owns, and what is pending on each.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use slab::Slab;

use super::op::Token;
use crate::io::{EndId, Tag};

/// Where the descriptor is.
#[derive(Debug)]
pub(super) enum Hold {
    /// Ours.
    Open(OwnedFd),
    /// Named by a CLOSE in the kernel. The CLOSE's result, once it came.
    Closing(Option<i32>),
}

/// One descriptor.
#[derive(Debug)]
pub(super) struct End {
    generation: u32,
    pub(super) tag: Tag,
    pub(super) hold: Hold,
    /// The one read, write or watch in flight. With two, one cancel would not be enough.
    pub(super) op: Option<Token>,
    /// Operations without their final completion: `op`, cancels, the CLOSE.
    pub(super) pending: u32,
    pub(super) want_read: bool,
    /// `op` is a read being cancelled to pause it.
    pub(super) cancelling: bool,
    /// In the list of reads that wait for pool buffers.
    pub(super) starved: bool,
    /// EOF or an error came: never read again.
    pub(super) read_over: bool,
    /// To be closed as soon as the submission queue has room.
    pub(super) doomed: bool,
}

impl End {
    /// The descriptor, unless its CLOSE is under way.
    pub(super) fn pipe(&self) -> Option<&OwnedFd> {
        match &self.hold {
            Hold::Open(fd) => Some(fd),
            Hold::Closing(_) => None,
        }
    }

    /// The descriptor, unless the end is closing or is to be closed. Once an entry of the queue names
    /// it, it stays open until that is submitted: an end gives it up to a CLOSE alone, which goes
    /// into the same queue behind the entry, or to the drop of the ring, which submits first.
    pub(super) fn fd(&self) -> Option<BorrowedFd<'_>> {
        match &self.hold {
            Hold::Open(fd) if !self.doomed => Some(fd.as_fd()),
            Hold::Open(_) | Hold::Closing(_) => None,
        }
    }
}

/// All descriptors until they are closed and nothing of them is in the kernel.
#[derive(Debug, Default)]
pub(super) struct Ends {
    slab: Slab<End>,
    generation: u32,
}

impl Ends {
    pub(super) fn insert(&mut self, fd: OwnedFd, tag: Tag) -> EndId {
        self.generation = self.generation.wrapping_add(1);
        let generation = self.generation;
        let slot = self.slab.insert(End {
            generation,
            tag,
            hold: Hold::Open(fd),
            op: None,
            pending: 0,
            want_read: false,
            cancelling: false,
            starved: false,
            read_over: false,
            doomed: false,
        });
        let slot = u32::try_from(slot).expect("fewer than 2^32 descriptors");
        EndId { slot, generation }
    }

    pub(super) fn get(&self, id: EndId) -> Option<&End> {
        self.slab.get(id.slot as usize).filter(|end| end.generation == id.generation)
    }

    pub(super) fn get_mut(&mut self, id: EndId) -> Option<&mut End> {
        self.slab.get_mut(id.slot as usize).filter(|end| end.generation == id.generation)
    }

    pub(super) fn remove(&mut self, id: EndId) -> Option<End> {
        self.get(id)?;
        self.slab.try_remove(id.slot as usize)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.slab.is_empty()
    }

    pub(super) fn ids(&self) -> Vec<EndId> {
        let id = |(slot, end): (usize, &End)| {
            let slot = u32::try_from(slot).expect("fewer than 2^32 descriptors");
            EndId { slot, generation: end.generation }
        };
        self.slab.iter().map(id).collect()
    }
}
