//! Operations in the kernel: each owns its buffer until its final completion.

use std::os::fd::RawFd;

use bytes::BytesMut;
use slab::Slab;

use crate::io::EndId;

/// The `user_data` of a submission: `generation << 32 | slot`.
///
/// The generation never repeats within 2^32 operations, so the completion of a dead operation
/// cannot be taken for that of a live one in the same slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct OpToken(u64);

impl OpToken {
    /// Matches no operation: the target of a cancel if nothing is pending.
    pub(super) const NONE: Self = Self(u64::MAX);

    fn new(slot: u32, generation: u32) -> Self {
        Self(u64::from(generation) << 32 | u64::from(slot))
    }

    pub(super) fn from_raw(raw: u64) -> Self {
        Self(raw)
    }

    pub(super) fn raw(self) -> u64 {
        self.0
    }

    #[expect(clippy::cast_possible_truncation, reason = "the lower half")]
    fn slot(self) -> usize {
        self.0 as u32 as usize
    }

    fn generation(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

/// One operation, from its push to its final completion.
#[derive(Debug)]
pub(super) struct Op {
    generation: u32,
    pub(super) end: EndId,
    pub(super) kind: OpKind,
}

/// The kind of an operation, with the memory that it names.
#[derive(Debug)]
pub(super) enum OpKind {
    /// READ_MULTISHOT or READ. Its memory belongs to the pool.
    Read { multishot: bool },
    /// READ of at most `len` bytes into the room behind `buf`.
    ReadInto { buf: BytesMut, len: usize },
    /// WRITE of `buf[from..]`.
    Write { buf: Vec<u8>, from: usize },
    /// POLL_ADD.
    Poll,
    /// TIMEOUT of zero length, linked behind a poll: ends a wait for many completions.
    WaitEnd,
    /// ASYNC_CANCEL, alone or before a close.
    Cancel,
    /// CLOSE. The number has no owner in this process.
    Close { fd: RawFd },
}

impl OpKind {
    /// The kernel's name of the operation.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Read { multishot: true } => "READ_MULTISHOT",
            Self::Read { multishot: false } | Self::ReadInto { .. } => "READ",
            Self::Write { .. } => "WRITE",
            Self::Poll => "POLL_ADD",
            Self::WaitEnd => "TIMEOUT",
            Self::Cancel => "ASYNC_CANCEL",
            Self::Close { .. } => "CLOSE",
        }
    }
}

/// All operations without their final completion.
#[derive(Debug, Default)]
pub(super) struct Ops {
    slab: Slab<Op>,
    generation: u32,
}

impl Ops {
    pub(super) fn insert(&mut self, end: EndId, kind: OpKind) -> OpToken {
        self.generation = self.generation.wrapping_add(1);
        let generation = self.generation;
        let slot = self.slab.insert(Op { generation, end, kind });
        OpToken::new(u32::try_from(slot).expect("fewer than 2^32 operations"), generation)
    }

    pub(super) fn get(&self, token: OpToken) -> Option<&Op> {
        self.slab.get(token.slot()).filter(|op| op.generation == token.generation())
    }

    pub(super) fn get_mut(&mut self, token: OpToken) -> Option<&mut Op> {
        self.slab.get_mut(token.slot()).filter(|op| op.generation == token.generation())
    }

    pub(super) fn remove(&mut self, token: OpToken) -> Option<Op> {
        // A stale token must not remove the operation that has its slot now.
        self.get(token)?;
        self.slab.try_remove(token.slot())
    }

    pub(super) fn len(&self) -> usize {
        self.slab.len()
    }
}
