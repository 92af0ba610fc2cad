//! Floor 1. Bytes in, records out, and back: pure, without descriptor, clock or ring.
//!
//! ```text
//!           input (one read)                          see(..)
//!   .....{"a":1}\n{"b":2}\n{"c          feed     Record {"a":1}     borrowed from input
//!   ^^^^^                   ^^^  ------------->  Record {"b":2}     borrowed from input
//!   carried from before     carried on
//! ```
//!
//! What holds, whatever the input and however it is cut into reads:
//!
//! - The frames depend on the bytes alone, not on where one read ends and the next begins.
//! - Every byte is in exactly one frame or is framing: a line end, a byte order mark at the
//!   start of a line, a blank line, a header block that was understood.
//! - A byte is searched for a newline once and copied a bounded number of times, the growth of
//!   the carry included. A record that lies inside one read is not copied at all.
//! - `held()` is at most `record_max` + 4 (a byte order mark and a `\r`), or `header_max` and a
//!   few hundred bytes inside a header. The capacity behind it is no larger than that and the
//!   largest read, or one spare buffer. Nothing held, nothing allocated.
//! - A bad record costs that record. No input ends the stream, none panics, none recurses.

mod carry;
mod classify;
mod content_length;
mod encode;
mod header;
pub(crate) mod memcpy;
mod ndjson;
mod payload;
mod scan;
mod spares;
mod stderr;
#[cfg(test)]
mod tests;

use crate::config::{Framing, Limits};

use self::carry::Carry;
use self::content_length::ContentLength;
use self::ndjson::Ndjson;

pub(crate) use self::encode::encode;
pub(crate) use self::payload::{Frame, Payload};
pub(crate) use self::spares::Spares;
pub(crate) use self::stderr::StderrLines;

/// Turns one agent's stdout into frames, in the order they came.
#[derive(Debug)]
pub(crate) enum Framer {
    Ndjson(Ndjson),
    ContentLength(Box<ContentLength>),
}

impl Framer {
    pub(crate) fn new(framing: Framing, limits: &Limits) -> Self {
        match framing {
            Framing::Ndjson => Self::Ndjson(Ndjson::new(limits)),
            Framing::ContentLength => Self::ContentLength(Box::new(ContentLength::new(limits))),
        }
    }

    /// Takes one read's bytes; shows each frame that is complete with them. A record that is not
    /// complete then may keep one of the spare buffers.
    pub(crate) fn feed(
        &mut self,
        input: &[u8],
        spares: &mut Spares,
        see: &mut dyn FnMut(Frame<'_>),
    ) {
        self.carry().borrow(spares);
        match self {
            Self::Ndjson(framer) => framer.feed(input, see),
            Self::ContentLength(framer) => framer.feed(input, see),
        }
        self.carry().give_back(spares);
    }

    /// The output is at its end: shows what is left as a record or as what it is, at most one
    /// frame. The framer is then as new.
    pub(crate) fn finish(&mut self, spares: &mut Spares, see: &mut dyn FnMut(Frame<'_>)) {
        match self {
            Self::Ndjson(framer) => framer.finish(see),
            Self::ContentLength(framer) => framer.finish(see),
        }
        self.carry().give_back(spares);
    }

    fn carry(&mut self) -> &mut Carry {
        match self {
            Self::Ndjson(framer) => framer.carry(),
            Self::ContentLength(framer) => framer.carry(),
        }
    }

    /// Bytes kept of a record that is not complete.
    #[cfg(test)]
    pub(crate) fn held(&self) -> usize {
        match self {
            Self::Ndjson(framer) => framer.held(),
            Self::ContentLength(framer) => framer.held(),
        }
    }

    /// Bytes allocated behind [`held`](Self::held).
    #[cfg(test)]
    fn capacity(&self) -> usize {
        match self {
            Self::Ndjson(framer) => framer.capacity(),
            Self::ContentLength(framer) => framer.capacity(),
        }
    }
}
