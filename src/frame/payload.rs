//! Floor 1. What a framer shows.

use bytes::Bytes;

use crate::frame::memcpy;
use crate::record::Outline;
use crate::record::Record;
use crate::record::{Event, MalformedReason, Preview};

/// The bytes of one record.
#[derive(Debug)]
pub(crate) enum Payload<'a> {
    /// They lie in the read's buffer or in a small carry: copy what is to be kept.
    Borrowed(&'a [u8]),
    /// A large record that spanned reads: its buffer is handed over, without a second copy.
    Owned(Vec<u8>),
}

impl Payload<'_> {
    pub(crate) fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Borrowed(bytes) => bytes,
            Self::Owned(bytes) => bytes,
        }
    }

    /// One copy for a borrowed one, none for an owned one.
    pub(crate) fn into_record(self, outline: Outline) -> Record {
        let bytes = match self {
            Self::Borrowed(bytes) => memcpy::owned(bytes),
            Self::Owned(bytes) => Bytes::from(bytes),
        };
        Record::new(bytes, outline)
    }
}

/// One thing found in the output. See [`Event`] for what each one means.
#[derive(Debug)]
pub(crate) enum Frame<'a> {
    /// The outline is that of its bytes, where the check saw it.
    Record(Payload<'a>, Outline),
    Noise(Preview),
    Oversized(Preview),
    Malformed {
        reason: MalformedReason,
        sample: Preview,
    },
    Truncated(Preview),
}

impl Frame<'_> {
    pub(crate) fn into_event(self) -> Event {
        match self {
            Self::Record(payload, outline) => Event::Record(payload.into_record(outline)),
            Self::Noise(sample) => Event::Noise(sample),
            Self::Oversized(sample) => Event::Oversized(sample),
            Self::Malformed { reason, sample } => Event::Malformed { reason, sample },
            Self::Truncated(sample) => Event::Truncated(sample),
        }
    }
}
