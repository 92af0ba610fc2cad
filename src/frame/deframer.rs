//! Framing for bytes that do not come from an agent.

use std::fmt;

use crate::config::Limits;
use crate::framing::Framing;
use crate::record::Event;

use super::{CarryBuffers, Frame, Framer};

/// Splits bytes into records by the rules for the output of an agent.
///
/// For a host that passes records on from elsewhere: its own stdin, a socket. Of the limits it heeds
/// [`Limits::record_max`] and [`Limits::json_check`].
///
/// ```
/// use agentpipe::{Deframer, Event, Framing, Limits};
///
/// let mut deframer = Deframer::new(Framing::Ndjson, &Limits::new());
/// let mut input = &b"{\"a\":1}\n{\"b\""[..];
/// assert!(matches!(deframer.next(&mut input), Some(Event::Record(_))));
/// assert!(deframer.next(&mut input).is_none());
/// assert_eq!((input.len(), deframer.unfinished_bytes()), (0, 4));
/// assert!(matches!(deframer.finish(), Some(Event::Truncated(_))));
/// ```
pub struct Deframer {
    framer: Framer,
    buffers: CarryBuffers,
    framing: Option<Framing>,
}

impl Deframer {
    /// Creates a deframer.
    #[must_use]
    pub fn new(framing: Framing, limits: &Limits) -> Self {
        Self {
            framer: Framer::new(framing, limits),
            buffers: CarryBuffers::default(),
            framing: (framing != Framing::Auto).then_some(framing),
        }
    }

    /// Returns the next event of the input and advances `input` past it. Returns `None` once `input`
    /// is used up; the start of an unfinished record is kept. Never returns
    /// [`Event::Stderr`] or [`Event::Exit`].
    pub fn next(&mut self, input: &mut &[u8]) -> Option<Event> {
        loop {
            let frame = self.framer.next(input, &mut self.buffers)?;
            note(&mut self.framing, &frame);
            if let Some(event) = frame.into_event() {
                return Some(event);
            }
        }
    }

    /// Returns what is left at the end of the input. Call it until it returns `None`.
    pub fn finish(&mut self) -> Option<Event> {
        loop {
            let frame = self.framer.finish(&mut self.buffers)?;
            note(&mut self.framing, &frame);
            if let Some(event) = frame.into_event() {
                return Some(event);
            }
        }
    }

    /// Returns the framing: the one given, or with [`Framing::Auto`] the one found, which is `None`
    /// before the first header or record.
    #[must_use]
    pub fn framing(&self) -> Option<Framing> {
        self.framing
    }

    /// Returns the number of bytes kept of an unfinished record.
    #[must_use]
    pub fn unfinished_bytes(&self) -> usize {
        self.framer.held()
    }
}

/// Notes the framing that a frame shows.
fn note(framing: &mut Option<Framing>, frame: &Frame<'_>) {
    match frame {
        Frame::Found(found) => *framing = Some(*found),
        Frame::Record(..) => {
            framing.get_or_insert(Framing::Ndjson);
        }
        _ => {}
    }
}

impl fmt::Debug for Deframer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Deframer")
            .field("framing", &self.framing)
            .field("unfinished_bytes", &self.unfinished_bytes())
            .finish()
    }
}
