//! Floor 0. What an agent's reader is given.

use std::fmt;

use crate::close::ExitStatus;
use crate::record::Record;

/// Something that came from an agent, in the order it came.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// One message.
    Record(Record),
    /// A line that is no record: debug output, a blank word, a JSON scalar.
    Noise(Preview),
    /// A record above the limit. Its bytes were counted and dropped; the stream goes on.
    Oversized(Preview),
    /// A record that is not valid JSON, not valid UTF-8, or has a broken header.
    Malformed {
        /// What is wrong with it.
        reason: MalformedReason,
        /// What is known of it.
        sample: Preview,
    },
    /// The output ended inside a record.
    Truncated(Preview),
    /// A line of stderr, without its newline, if asked for with
    /// [`AgentCommand::stderr_events`](crate::AgentCommand::stderr_events).
    Stderr(String),
    /// The agent is gone and its output is at its end. Always the last event.
    Exit(ExitStatus),
}

impl Event {
    /// The record, if it is one.
    #[must_use]
    pub fn into_record(self) -> Option<Record> {
        match self {
            Self::Record(record) => Some(record),
            _ => None,
        }
    }

    /// What this event counts for in the inbox.
    pub(crate) fn weight(&self) -> usize {
        // Terms: the payload, and what an event costs in a queue even when it is empty.
        const SLOT: usize = 64;
        SLOT + match self {
            Self::Record(record) => record.len(),
            Self::Noise(sample) | Self::Oversized(sample) | Self::Truncated(sample) => {
                sample.head.len()
            }
            Self::Malformed { sample, .. } => sample.head.len(),
            Self::Stderr(line) => line.len(),
            Self::Exit(_) => 0,
        }
    }
}

/// Why a record is malformed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum MalformedReason {
    /// Not one JSON text.
    Json,
    /// Not UTF-8.
    Utf8,
    /// A Content-Length header that cannot be read.
    Header,
}

impl MalformedReason {
    /// `json`, `utf8` or `header`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Json => "not valid JSON",
            Self::Utf8 => "not valid UTF-8",
            Self::Header => "bad Content-Length header",
        }
    }
}

/// What is known of bytes that did not become a record: how many, and the first of them.
#[derive(Clone, PartialEq, Eq)]
pub struct Preview {
    pub(crate) len: u64,
    pub(crate) head: Box<[u8]>,
}

impl Preview {
    /// Keeps at most `keep` of the first bytes.
    pub(crate) fn new(len: u64, head: &[u8], keep: usize) -> Self {
        Self { len, head: head[..head.len().min(keep)].into() }
    }

    /// The length in bytes, framing excluded.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there were no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The first bytes, at most 160.
    #[must_use]
    pub fn head(&self) -> &[u8] {
        &self.head
    }
}

/// One bounded line, control characters escaped: fit for a log. Of bytes that need escapes fewer
/// are shown.
impl fmt::Display for Preview {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes: ", self.len)?;
        let mut shown = Shown { left: SHOWN_MAX, out: f };
        let whole = shown.bytes(&self.head)?;
        if !whole || self.len > self.head.len() as u64 {
            f.write_str("...")?;
        }
        Ok(())
    }
}

/// Characters of a sample that are shown, escapes counted as written.
const SHOWN_MAX: usize = 320;

/// Writes escaped bytes until there is no room.
struct Shown<'a, 'b> {
    left: usize,
    out: &'a mut fmt::Formatter<'b>,
}

impl Shown<'_, '_> {
    /// False where not all of them found room.
    fn bytes(&mut self, bytes: &[u8]) -> Result<bool, fmt::Error> {
        for chunk in bytes.utf8_chunks() {
            for char in chunk.valid().chars() {
                if !self.escaped(char.escape_debug())? {
                    return Ok(false);
                }
            }
            for byte in chunk.invalid() {
                if !self.escaped(format_args!("\\x{byte:02x}"))? {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    fn escaped(&mut self, text: impl fmt::Display) -> Result<bool, fmt::Error> {
        // The longest escape, `\u{10ffff}`.
        const LONGEST: usize = 10;
        if self.left < LONGEST {
            return Ok(false);
        }
        let text = text.to_string();
        self.left -= text.len();
        self.out.write_str(&text)?;
        Ok(true)
    }
}

impl fmt::Debug for Preview {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Preview({self})")
    }
}
