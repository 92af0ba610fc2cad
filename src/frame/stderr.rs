//! Stderr: lines of bounded length for readers, and the last bytes for reports.

use std::borrow::Cow;
use std::collections::VecDeque;

use crate::config::Limits;
use crate::frame::memcpy;

/// Splits stderr into lines and keeps its last bytes. Both are bounded, and neither allocates
/// before the first byte.
#[derive(Debug)]
pub(crate) struct StderrLines {
    line_max: usize,
    tail_max: usize,
    /// The unfinished line, at most `line_max` bytes and a `\r`.
    line: Vec<u8>,
    tail: VecDeque<u8>,
    /// The tail has lost its beginning.
    cut: bool,
}

impl StderrLines {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            // A piece must have room for one character.
            line_max: limits.stderr_line_max.max(4),
            tail_max: limits.stderr_tail,
            line: Vec::new(),
            tail: VecDeque::new(),
            cut: false,
        }
    }

    /// Adds one read's bytes to the tail.
    pub(crate) fn absorb(&mut self, input: &[u8]) {
        let kept = &input[input.len().saturating_sub(self.tail_max)..];
        let excess = (self.tail.len() + kept.len()).saturating_sub(self.tail_max);
        self.cut |= excess > 0 || kept.len() < input.len();
        // The oldest bytes go before the new ones come, so the tail never grows past its limit.
        self.tail.drain(..excess);
        self.tail.extend(kept);
    }

    /// Returns the next complete line of one read without its line end, and advances `input` past
    /// it. Returns blank lines too. Bytes that are not UTF-8 become U+FFFD. A line above the limit
    /// is returned in pieces of at most the limit, cut between characters.
    ///
    /// Returns `None` once `input` is used up; an unfinished line is kept until the next read.
    pub(crate) fn next_line<'read>(&mut self, input: &mut &'read [u8]) -> Option<Cow<'read, str>> {
        let newline = memchr::memchr(b'\n', input);
        let end = newline.unwrap_or(input.len());
        // A line inside one read is returned without a copy, if it is UTF-8.
        if newline.is_some() && self.line.is_empty() && end <= self.line_max {
            let line = &input[..end];
            *input = &input[end + 1..];
            return Some(String::from_utf8_lossy(line.strip_suffix(b"\r").unwrap_or(line)));
        }
        // One byte more than the limit: it shows where the last character ends, and it may be the
        // '\r' of a line that just fits.
        let taken = end.min(self.line_max + 1 - self.line.len());
        memcpy::append(&mut self.line, &input[..taken]);
        *input = &input[taken..];
        let fits_with_cr = taken == end && self.line.last() == Some(&b'\r');
        if self.line.len() > self.line_max && !fits_with_cr {
            let cut = character_end(&self.line, self.line_max);
            let piece = String::from_utf8_lossy(&self.line[..cut]).into_owned();
            self.line.drain(..cut);
            return Some(piece.into());
        }
        // The limit is not reached, so all bytes up to the newline were taken.
        if newline.is_some() {
            *input = &input[1..];
            return Some(self.take_line().into());
        }
        if self.line.is_empty() {
            self.line = Vec::new();
        }
        None
    }

    /// Returns the last line if stderr ended without a newline.
    pub(crate) fn finish(&mut self) -> Option<String> {
        let last = (!self.line.is_empty()).then(|| self.take_line());
        self.line = Vec::new();
        last
    }

    /// Returns the last bytes as text, without a first character that was cut.
    pub(crate) fn tail(&self) -> String {
        let mut bytes: Vec<u8> = self.tail.iter().copied().collect();
        if self.cut {
            // A character has at most three continuation bytes. What follows them in a longer run is
            // binary data and stays.
            let torn = bytes.iter().take(3).take_while(|&&byte| is_continuation(byte)).count();
            bytes.drain(..torn);
        }
        // Text that is UTF-8 keeps its memory; only other bytes are copied.
        String::from_utf8(bytes)
            .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
    }

    fn take_line(&mut self) -> String {
        let line = self.line.strip_suffix(b"\r").unwrap_or(&self.line);
        let line = String::from_utf8_lossy(line).into_owned();
        self.line.clear();
        line
    }

    /// Bytes kept of the unfinished line.
    #[cfg(test)]
    pub(crate) fn held(&self) -> usize {
        self.line.len()
    }
}

/// Returns the last index at or before `at` where a character ends, or `at` in binary data.
fn character_end(bytes: &[u8], at: usize) -> usize {
    // The caller holds one byte more than `at`, and `at` is at least 4, so each index is valid.
    let torn = (0..4).find(|&back| !is_continuation(bytes[at - back]));
    match torn {
        Some(back) if bytes[at - back] >= 0xC0 => at - back,
        _ => at,
    }
}

fn is_continuation(byte: u8) -> bool {
    byte & 0xC0 == 0x80
}
