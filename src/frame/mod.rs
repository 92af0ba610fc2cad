//! Framing: bytes become records and records become bytes. Pure code, without descriptors or clocks.
//!
//! ```text
//!           input (one read)                          framer.next(&mut input, ..)
//!   .....{"a":1}\n{"b":2}\n{"c                        Record {"a":1}     borrowed from input
//!   ^^^^^                   ^^^  ------------------>  Record {"b":2}     borrowed from input
//!   carried from before     carried on                None
//! ```
//!
//! Guarantees, for any input and any way it is cut into reads:
//!
//! - The frames depend on the bytes alone, not on where one read ends and the next begins.
//! - Every byte is part of exactly one frame or of the framing: a line end, a byte order mark at
//!   the start of a line, a blank line, a header block that was understood.
//! - A byte is searched for a newline once and copied a bounded number of times, including the
//!   growth of the carry. A record inside one read is not copied at all.
//! - `held()` is at most `record_max` + 4 (a byte order mark and a `\r`), or `header_max` and a
//!   few hundred bytes inside a header. The capacity behind it is no larger than that and the
//!   largest read, or one carry buffer. A framer that holds no bytes holds no memory.
//! - A bad record costs that record only. No input ends the stream, panics or recurses.

mod carry;
mod classify;
mod concat;
mod content_length;
mod controls;
mod deframer;
mod encode;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod header;
pub(crate) mod memcpy;
mod ndjson;
mod payload;
mod stderr;
#[cfg(test)]
mod tests;

use crate::config::Limits;
use crate::framing::Framing;

use self::concat::Concat;
use self::content_length::ContentLength;
use self::ndjson::Ndjson;

pub(crate) use self::carry::CarryBuffers;
pub use self::deframer::Deframer;
pub(crate) use self::encode::encode;
pub(crate) use self::payload::{Frame, Payload};
pub(crate) use self::stderr::StderrLines;

/// Splits one agent's stdout into frames, in order.
#[derive(Debug)]
pub(crate) enum Framer {
    /// Also [`Framing::Auto`], until a header comes.
    Ndjson(Ndjson),
    ContentLength(Box<ContentLength>),
    Concat(Box<Concat>),
}

impl Framer {
    pub(crate) fn new(framing: Framing, limits: &Limits) -> Self {
        match framing {
            Framing::Ndjson => Self::Ndjson(Ndjson::new(limits)),
            Framing::Auto => Self::Ndjson(Ndjson::or_headers(limits)),
            Framing::ContentLength => Self::ContentLength(Box::new(ContentLength::new(limits))),
            Framing::Concat => Self::Concat(Box::new(Concat::new(limits))),
        }
    }

    /// Returns the next complete frame of one read and advances `input` past it. Returns `None`
    /// once `input` is used up; the start of a record that is not complete is kept until the next
    /// read.
    ///
    /// Call it until it returns `None`: only then the last record's buffer is free again.
    pub(crate) fn next<'frame, 'read: 'frame>(
        &'frame mut self,
        input: &mut &'read [u8],
        buffers: &mut CarryBuffers,
    ) -> Option<Frame<'frame>> {
        self.follow_headers();
        match self {
            Self::Ndjson(framer) => framer.next(input, buffers),
            Self::ContentLength(framer) => framer.next(input, buffers),
            Self::Concat(framer) => framer.next(input, buffers),
        }
    }

    /// Leaves the start of a record that is not complete in the input, where it fits the limits, for a
    /// caller whose next input begins with it. Otherwise, and with [`Framing::Concat`], it is kept here.
    pub(crate) fn hold_back(&mut self, holds: bool) {
        match self {
            Self::Ndjson(framer) => framer.hold_back(holds),
            Self::ContentLength(framer) => framer.hold_back(holds),
            Self::Concat(_) => {}
        }
    }

    /// Returns what is left at the end of the output, as a record or as what it is. Resets the
    /// framer once it returns `None`.
    pub(crate) fn finish(&mut self, buffers: &mut CarryBuffers) -> Option<Frame<'static>> {
        self.follow_headers();
        match self {
            Self::Ndjson(framer) => framer.finish(buffers),
            Self::ContentLength(framer) => framer.finish(buffers),
            Self::Concat(framer) => framer.finish(buffers),
        }
    }

    /// Goes on with headers where the last frame was [`Frame::Found`].
    #[inline]
    fn follow_headers(&mut self) {
        if let Self::Ndjson(framer) = self
            && let Some(framer) = framer.take_headers()
        {
            *self = Self::ContentLength(framer);
        }
    }

    /// Returns the bytes kept of a record that is not complete.
    pub(crate) fn held(&self) -> usize {
        match self {
            Self::Ndjson(framer) => framer.held(),
            Self::ContentLength(framer) => framer.held(),
            Self::Concat(framer) => framer.held(),
        }
    }

    /// Bytes allocated behind [`held`](Self::held).
    #[cfg(any(test, fuzzing))]
    fn capacity(&self) -> usize {
        match self {
            Self::Ndjson(framer) => framer.capacity(),
            Self::ContentLength(framer) => framer.capacity(),
            Self::Concat(framer) => framer.capacity(),
        }
    }
}
