//! Floor 2. The record path without its pipe, for benches/frame.rs: what [`Transport`] does with
//! the bytes of a read, and nothing of what it does with the ring and the reader.
//!
//! [`Transport`]: super::state::Transport

use crate::config::{Framing, Limits};
use crate::frame::{Frame, Framer, Payload};
use crate::record::Event;
use crate::record::Record;

use super::arena::Arena;

/// Bytes in, events out.
#[derive(Debug)]
pub struct RecordPath {
    framer: Framer,
    arena: Arena,
}

impl RecordPath {
    /// One agent's, in an arena of its own.
    #[must_use]
    pub fn new(framing: Framing, limits: &Limits) -> Self {
        Self { framer: Framer::new(framing, limits), arena: Arena::default() }
    }

    /// Takes one read's bytes; shows each event that is complete with them.
    pub fn feed(&mut self, read: &[u8], mut see: impl FnMut(Event)) {
        let Self { framer, arena } = self;
        arena.with_spares(|arena, spares| {
            framer.feed(read, spares, &mut |frame| {
                see(match frame {
                    Frame::Record(Payload::Borrowed(bytes), outline) => {
                        Event::Record(Record::new(arena.copy(bytes), outline))
                    }
                    other => other.into_event(),
                });
            });
        });
    }
}
