//! Events: what the reader of an agent receives.

use std::borrow::Cow;
use std::fmt;

use crate::close::ExitStatus;
use crate::framing::Framing;
use crate::record::Record;

/// An item of an agent's output. Events arrive in the order of the output.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// One message.
    Record(Record),
    /// A line that is not a record: debug output, or a JSON scalar.
    Noise(Preview),
    /// A record above the limit. Its bytes were counted and dropped; the stream continues.
    Oversized(Preview),
    /// A record that is not valid JSON, is not valid UTF-8, or has a broken header.
    Malformed {
        /// Why the record is malformed.
        reason: MalformedReason,
        /// The length and the first bytes.
        sample: Preview,
    },
    /// The output ended inside a record.
    Truncated(Preview),
    /// The output looks like this framing, and another one is set: no record may ever come. At most
    /// once; the lines or headers are [`Noise`](Self::Noise) besides. See
    /// [`AgentStats::framing_mismatch`](crate::AgentStats::framing_mismatch).
    FramingMismatch(Framing),
    /// A line of stderr, or a piece of one. Only with
    /// [`AgentCommand::stderr_events`](crate::AgentCommand::stderr_events).
    Stderr(StderrLine),
    /// The agent has exited and its output has ended. Always the last event.
    Exit(ExitStatus),
}

impl Event {
    /// Returns the record, or `None` for any other event.
    #[must_use]
    pub fn into_record(self) -> Option<Record> {
        match self {
            Self::Record(record) => Some(record),
            _ => None,
        }
    }

    /// Returns the weight of this event in the inbox, in bytes.
    pub(crate) fn weight(&self) -> usize {
        // The payload, and the cost of the smallest event in a queue.
        const SLOT: usize = 64;
        SLOT + match self {
            Self::Record(record) => record.len(),
            Self::Noise(sample) | Self::Oversized(sample) | Self::Truncated(sample) => {
                sample.head.len()
            }
            Self::Malformed { sample, .. } => sample.head.len(),
            Self::Stderr(line) => line.as_bytes().len(),
            Self::FramingMismatch(_) | Self::Exit(_) => 0,
        }
    }
}

/// A line of an agent's stderr, or a piece of one, byte for byte.
///
/// A whole line has its line end, so all lines of an agent in their order are its stderr. A line comes in
/// pieces if it is longer than 64 KiB, or if 100 ms pass before its end: an agent that waits for an answer
/// to its prompt writes no line end. Only the last piece of a line is [`finished`](Self::is_finished).
/// The last line of stderr may have no last piece.
#[derive(Clone, PartialEq, Eq)]
pub struct StderrLine {
    bytes: Vec<u8>,
}

impl StderrLine {
    pub(crate) fn new(bytes: Vec<u8>) -> Self {
        Self { bytes }
    }

    /// Returns the bytes as the agent wrote them, including the line end if it is there.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Returns the text without its line end (`\n` or `\r\n`). Bytes that are not UTF-8 become U+FFFD.
    #[must_use]
    pub fn text(&self) -> Cow<'_, str> {
        let line = match self.bytes.strip_suffix(b"\n") {
            Some(line) => line.strip_suffix(b"\r").unwrap_or(line),
            None => &self.bytes,
        };
        String::from_utf8_lossy(line)
    }

    /// Returns whether the line ends here. If not, the next `StderrLine` of the agent continues it.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.bytes.ends_with(b"\n")
    }
}

/// Prints the [`text`](StderrLine::text), with whatever control characters the agent wrote.
impl fmt::Display for StderrLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text())
    }
}

impl fmt::Debug for StderrLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StderrLine({:?})", String::from_utf8_lossy(&self.bytes))
    }
}

/// Why a record is malformed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum MalformedReason {
    /// Not a JSON text, for none of the reasons below.
    Json,
    /// `NaN`, `Infinity` or `-Infinity`, which several languages write and JSON does not have.
    NotFinite,
    /// A raw control character inside of a string, where JSON demands an escape.
    ControlCharacter,
    /// A second JSON text behind the first, or other text.
    SecondText,
    /// The text stops before its end.
    Unfinished,
    /// Not UTF-8.
    Utf8,
    /// A `Content-Length` header that cannot be parsed.
    Header,
    /// A `Content-Length` that is not the length of the body: the body holds the next header.
    Length,
}

impl MalformedReason {
    /// Returns a short description, such as `not valid JSON: NaN or Infinity`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Json => "not valid JSON",
            Self::NotFinite => "not valid JSON: NaN or Infinity",
            Self::ControlCharacter => "not valid JSON: a raw control character in a string",
            Self::SecondText => "not valid JSON: text behind its end",
            Self::Unfinished => "not valid JSON: it stops before its end",
            Self::Utf8 => "not valid UTF-8",
            Self::Header => "bad Content-Length header",
            Self::Length => "wrong Content-Length",
        }
    }
}

impl fmt::Display for MalformedReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The length and the first bytes of output that did not become a record.
#[derive(Clone, PartialEq, Eq)]
pub struct Preview {
    pub(crate) len: u64,
    pub(crate) head: Box<[u8]>,
}

impl Preview {
    /// Keeps at most `keep` bytes of `head`.
    pub(crate) fn new(len: u64, head: &[u8], keep: usize) -> Self {
        Self { len, head: head[..head.len().min(keep)].into() }
    }

    /// Returns the length in bytes, without the framing.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Returns true if the length is 0.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns the first bytes, at most 160.
    #[must_use]
    pub fn head(&self) -> &[u8] {
        &self.head
    }
}

/// Prints one bounded line with control characters escaped, for logs. Shows fewer bytes if many need an
/// escape.
impl fmt::Display for Preview {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes: ", self.len)?;
        let mut shown = BoundedText { left: SHOWN_MAX, out: f };
        let whole = shown.bytes(&self.head)?;
        if !whole || self.len > self.head.len() as u64 {
            f.write_str("...")?;
        }
        Ok(())
    }
}

/// The most characters shown of a preview. Escapes count as written.
const SHOWN_MAX: usize = 320;

/// Writes escaped bytes up to a limit.
struct BoundedText<'a, 'b> {
    left: usize,
    out: &'a mut fmt::Formatter<'b>,
}

impl BoundedText<'_, '_> {
    /// Returns false if not all bytes fit.
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
        // An escape is written whole or not at all.
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
