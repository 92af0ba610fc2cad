//! Stderr: lines of bounded length for readers, and the last bytes for reports.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::config::Limits;
use crate::frame::memcpy;
use crate::record::StderrLine;

/// How long a line may stay unfinished before it is shown: an agent that waits for an answer to its
/// prompt writes no line end.
const UNFINISHED_MAX: Duration = Duration::from_millis(100);

/// Splits stderr into lines and keeps its last bytes. Both are bounded, and neither allocates
/// before the first byte.
#[derive(Debug)]
pub(crate) struct StderrLines {
    line_max: usize,
    tail_max: usize,
    /// The unfinished line, at most `line_max` bytes and a `\r`.
    line: Vec<u8>,
    /// Since when it has been unfinished. `None` if it has no whole character.
    since: Option<Instant>,
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
            since: None,
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

    /// Returns the next complete line of one read, and advances `input` past it. Returns blank lines
    /// too. A line above the limit is returned in pieces of at most the limit, cut between characters.
    ///
    /// Returns `None` once `input` is used up; an unfinished line is kept until the next read, or until
    /// it is [overdue](Self::take_overdue).
    pub(crate) fn next_line(&mut self, input: &mut &[u8], now: Instant) -> Option<StderrLine> {
        let newline = memchr::memchr(b'\n', input);
        let end = newline.unwrap_or(input.len());
        // Room for the line end of a line that just fits.
        if newline.is_some() && self.line.is_empty() && end <= self.line_max {
            let (line, rest) = input.split_at(end + 1);
            *input = rest;
            return Some(StderrLine::new(line.to_vec()));
        }
        // One byte more than the limit: it shows where the last character ends, and it may be the
        // '\r' of a line that just fits.
        let taken = end.min(self.line_max + 1 - self.line.len());
        memcpy::append(&mut self.line, &input[..taken]);
        *input = &input[taken..];
        let fits_with_cr = taken == end && self.line.last() == Some(&b'\r');
        if self.line.len() > self.line_max && !fits_with_cr {
            return Some(self.take_piece(character_end(&self.line, self.line_max)));
        }
        // The limit is not reached, so all bytes up to the newline were taken.
        if newline.is_some() {
            *input = &input[1..];
            self.line.push(b'\n');
            return Some(self.take_piece(self.line.len()));
        }
        if self.line.is_empty() {
            self.line = Vec::new();
        } else {
            self.since.get_or_insert(now);
        }
        None
    }

    /// Returns when the unfinished line is to be taken, if there is one.
    pub(crate) fn overdue_at(&self) -> Option<Instant> {
        self.since.map(|since| since + UNFINISHED_MAX)
    }

    /// Returns the unfinished line if it has waited for its end too long. The rest of it follows as a
    /// piece of its own. A character of which bytes are missing is kept.
    pub(crate) fn take_overdue(&mut self, now: Instant) -> Option<StderrLine> {
        self.overdue_at().filter(|at| now >= *at)?;
        // Without bytes to take there is nothing to wait for until the next read.
        self.since = None;
        let whole = whole_characters(&self.line);
        (whole > 0).then(|| self.take_piece(whole))
    }

    /// Returns the last line if stderr ended without a newline.
    pub(crate) fn finish(&mut self) -> Option<StderrLine> {
        self.since = None;
        (!self.line.is_empty()).then(|| StderrLine::new(std::mem::take(&mut self.line)))
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

    fn take_piece(&mut self, len: usize) -> StderrLine {
        self.since = None;
        let rest = self.line.split_off(len);
        StderrLine::new(std::mem::replace(&mut self.line, rest))
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

/// Returns the length of `bytes` without a last character of which bytes are missing.
fn whole_characters(bytes: &[u8]) -> usize {
    let torn = (1..=bytes.len().min(3)).find(|&back| !is_continuation(bytes[bytes.len() - back]));
    let Some(back) = torn else { return bytes.len() };
    let len = match bytes[bytes.len() - back] {
        0xC2..0xE0 => 2,
        0xE0..0xF0 => 3,
        0xF0..0xF5 => 4,
        _ => 1,
    };
    if len > back { bytes.len() - back } else { bytes.len() }
}

fn is_continuation(byte: u8) -> bool {
    byte & 0xC0 == 0x80
}
