//! A line of stderr, or a piece of one.

use std::borrow::Cow;
use std::fmt;

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
