//! The output of a framer: one frame, and the bytes of a record.

use bytes::Bytes;

use crate::frame::memcpy;
use crate::framing::Framing;
use crate::record::{Event, MalformedReason, Outline, Preview, Record};

/// The bytes of one record.
#[derive(Debug)]
pub(crate) enum Payload<'a> {
    /// In the read buffer or in a small carry. The caller copies what it keeps.
    Borrowed(&'a [u8]),
    /// A large record that spanned reads, with its memory: no second copy is needed.
    Owned(Vec<u8>),
    /// A slice of a chunk that a bulk read filled.
    Shared(Bytes),
}

impl Payload<'_> {
    pub(crate) fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Borrowed(bytes) => bytes,
            Self::Owned(bytes) => bytes,
            Self::Shared(bytes) => bytes,
        }
    }

    /// Converts to a record: with one copy if borrowed, else without.
    pub(crate) fn into_record(self, outline: Outline) -> Record {
        let bytes = match self {
            Self::Borrowed(bytes) => memcpy::owned(bytes),
            Self::Owned(bytes) => Bytes::from(bytes),
            Self::Shared(bytes) => bytes,
        };
        Record::new(bytes, outline)
    }
}

/// One item found in the output. [`Event`] documents the variants.
#[derive(Debug)]
pub(crate) enum Frame<'a> {
    /// A record and the outline that its check found.
    Record(Payload<'a>, Outline),
    Noise(Preview),
    Oversized(Preview),
    Malformed {
        reason: MalformedReason,
        sample: Preview,
    },
    Truncated(Preview),
    /// The output looks like another framing than the one that is set. Of no bytes.
    Mismatch(Framing),
    /// [`Framing::Auto`] found this framing. Of no bytes, and no event.
    Found(Framing),
}

impl Frame<'_> {
    pub(crate) fn into_event(self) -> Option<Event> {
        Some(match self {
            Self::Record(payload, outline) => Event::Record(payload.into_record(outline)),
            Self::Noise(sample) => Event::Noise(sample),
            Self::Oversized(sample) => Event::Oversized(sample),
            Self::Malformed { reason, sample } => Event::Malformed { reason, sample },
            Self::Truncated(sample) => Event::Truncated(sample),
            Self::Mismatch(framing) => Event::FramingMismatch(framing),
            Self::Found(_) => return None,
        })
    }
}
