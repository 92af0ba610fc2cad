//! Floor 1. An agent's stderr: bounded lines for who asks, and the end of it for reports.

use std::collections::VecDeque;

use crate::config::Limits;
use crate::frame::memcpy;

/// Splits stderr into lines and keeps its last bytes. Both are bounded; neither is allocated
/// before the first byte.
#[derive(Debug)]
pub(crate) struct StderrLines {
    line_max: usize,
    tail_max: usize,
    /// The unfinished line, at most `line_max` and a `\r`.
    line: Vec<u8>,
    tail: VecDeque<u8>,
    /// Whether the tail lost its beginning.
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

    /// Takes one read's bytes; shows each complete line, blank ones too, without its line end.
    /// Bytes that are not UTF-8 become U+FFFD. A line above the limit is shown in pieces of at
    /// most the limit, cut between characters.
    pub(crate) fn feed(&mut self, input: &[u8], see: &mut dyn FnMut(&str)) {
        self.absorb(input);
        let mut rest = input;
        while let Some(at) = memchr::memchr(b'\n', rest) {
            self.line(&rest[..at], see);
            rest = &rest[at + 1..];
        }
        self.keep(rest, see);
        if self.line.is_empty() {
            self.line = Vec::new();
        }
    }

    /// Takes one read's bytes where nobody asks for lines: only the tail is kept.
    pub(crate) fn absorb(&mut self, input: &[u8]) {
        let kept = &input[input.len().saturating_sub(self.tail_max)..];
        let excess = (self.tail.len() + kept.len()).saturating_sub(self.tail_max);
        self.cut |= excess > 0 || kept.len() < input.len();
        self.tail.drain(..excess);
        self.tail.extend(kept);
    }

    /// Stderr is at its end: shows the line that has no newline.
    pub(crate) fn finish(&mut self, see: &mut dyn FnMut(&str)) {
        if !self.line.is_empty() {
            self.line(&[], see);
        }
        self.line = Vec::new();
    }

    /// The last bytes as text. Where the first character was cut, it is left out.
    pub(crate) fn tail(&self) -> String {
        let mut bytes: Vec<u8> = self.tail.iter().copied().collect();
        if self.cut {
            let torn = bytes.iter().take(3).take_while(|&&byte| is_continuation(byte)).count();
            bytes.drain(..torn);
        }
        String::from_utf8(bytes)
            .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
    }

    /// Bytes kept of the unfinished line.
    #[cfg(test)]
    pub(crate) fn held(&self) -> usize {
        self.line.len()
    }

    /// A line is complete; `part` is what came of it in this read.
    fn line(&mut self, part: &[u8], see: &mut dyn FnMut(&str)) {
        if self.line.is_empty() && part.len() <= self.line_max {
            return see(&String::from_utf8_lossy(part.strip_suffix(b"\r").unwrap_or(part)));
        }
        self.keep(part, see);
        let line = self.line.strip_suffix(b"\r").unwrap_or(&self.line);
        see(&String::from_utf8_lossy(line));
        self.line.clear();
    }

    /// Keeps a part of an unfinished line; shows pieces while there is more than the limit.
    fn keep(&mut self, mut part: &[u8], see: &mut dyn FnMut(&str)) {
        loop {
            // One byte more than the limit: it says where the last character ends, and it may
            // be the '\r' of a line that just fits.
            let room = self.line_max + 1 - self.line.len();
            let taken = room.min(part.len());
            memcpy::append(&mut self.line, &part[..taken]);
            part = &part[taken..];
            let full = self.line.len() > self.line_max;
            if !full || (part.is_empty() && self.line.last() == Some(&b'\r')) {
                return;
            }
            let cut = character_end(&self.line, self.line_max);
            see(&String::from_utf8_lossy(&self.line[..cut]));
            self.line.drain(..cut);
        }
    }
}

/// The last place at or before `at` where a character ends; `at` itself where that is no text.
fn character_end(bytes: &[u8], at: usize) -> usize {
    let torn = (0..4).find(|&back| !is_continuation(bytes[at - back]));
    match torn {
        Some(back) if bytes[at - back] >= 0xC0 => at - back,
        _ => at,
    }
}

fn is_continuation(byte: u8) -> bool {
    byte & 0xC0 == 0x80
}
