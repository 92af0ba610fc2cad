//! NDJSON framing: one record per line.
//!
//! Lines end with `\n`. One `\r` before it and a byte order mark at the start of a line are
//! framing; the rest of the line is the record, byte for byte.

use std::ops::Range;

use crate::config::{JsonCheck, Limits};
use crate::record::Preview;

use super::carry::{Carry, CarryBuffers, newline};
use super::classify::{self, LineKind};
use super::payload::{Frame, Payload};

/// U+FEFF in UTF-8.
pub(super) const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

#[derive(Debug)]
pub(crate) struct Ndjson {
    record_max: usize,
    sample: usize,
    check: JsonCheck,
    /// The unfinished line. Empty while `overlong` is set.
    carry: Carry,
    /// The unfinished line, if it is above the limit.
    overlong: Option<OverlongLine>,
}

/// An unfinished line above the limit: counted, and dropped except for its head.
#[derive(Debug)]
struct OverlongLine {
    /// Without the byte order mark.
    len: u64,
    head: Vec<u8>,
    ends_in_cr: bool,
}

impl Ndjson {
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            record_max: limits.record_max,
            sample: limits.preview,
            check: limits.json_check,
            carry: Carry::default(),
            overlong: None,
        }
    }

    pub(super) fn next<'frame, 'read: 'frame>(
        &'frame mut self,
        input: &mut &'read [u8],
        buffers: &mut CarryBuffers,
    ) -> Option<Frame<'frame>> {
        self.carry.end_loan(buffers);
        while let Some(at) = newline(input) {
            let part = &input[..at];
            *input = &input[at + 1..];
            if self.overlong.is_none() && self.carry.is_empty() {
                if let Some(frame) = self.whole_line(part) {
                    return Some(frame);
                }
                continue;
            }
            self.keep(part, true, buffers);
            if let Some(overlong) = self.overlong.take() {
                return Some(Frame::Oversized(overlong.sample(self.sample)));
            }
            let content = content(self.carry.bytes());
            match classify::line(&self.carry.bytes()[content.clone()], self.check) {
                LineKind::Record(outline) => {
                    return Some(Frame::Record(self.carry.lend(content), outline));
                }
                kind => {
                    let frame = self.without_record(kind, &self.carry.bytes()[content]);
                    self.carry.clear(buffers);
                    if frame.is_some() {
                        return frame;
                    }
                }
            }
        }
        if !input.is_empty() {
            self.keep(std::mem::take(input), false, buffers);
        }
        None
    }

    pub(super) fn finish(&mut self, buffers: &mut CarryBuffers) -> Option<Frame<'static>> {
        self.carry.end_loan(buffers);
        // The line had exceeded the limit before it was cut, so it is oversized and not truncated.
        if let Some(overlong) = self.overlong.take() {
            return Some(Frame::Oversized(overlong.sample(self.sample)));
        }
        let content = content(self.carry.bytes());
        match classify::tail(&self.carry.bytes()[content.clone()]) {
            LineKind::Record(outline) => {
                Some(Frame::Record(Payload::Owned(self.carry.take(content)), outline))
            }
            kind => {
                let frame = self.without_record(kind, &self.carry.bytes()[content]);
                self.carry.clear(buffers);
                frame
            }
        }
    }

    /// Returns the frame of a line that lies inside one read, without a copy.
    fn whole_line<'read>(&self, line: &'read [u8]) -> Option<Frame<'read>> {
        let line = &line[content(line)];
        if line.len() > self.record_max {
            return Some(Frame::Oversized(self.sample_of(line)));
        }
        match classify::line(line, self.check) {
            LineKind::Record(outline) => Some(Frame::Record(Payload::Borrowed(line), outline)),
            kind => self.without_record(kind, line),
        }
    }

    /// Returns the frame of a line that is not a record. A blank line is framing and has none.
    fn without_record(&self, kind: LineKind, line: &[u8]) -> Option<Frame<'static>> {
        match kind {
            LineKind::Blank | LineKind::Record(_) => None,
            LineKind::Noise => Some(Frame::Noise(self.sample_of(line))),
            LineKind::Malformed(reason) => {
                Some(Frame::Malformed { reason, sample: self.sample_of(line) })
            }
            LineKind::Truncated => Some(Frame::Truncated(self.sample_of(line))),
        }
    }

    /// Keeps a part of an unfinished line, or counts it if the line is above the limit. The limit
    /// is checked first, so that no bytes are copied only to be dropped. With the `last` part the
    /// line has its final length, so the buffer need not grow beyond it.
    fn keep(&mut self, part: &[u8], last: bool, buffers: &mut CarryBuffers) {
        if let Some(overlong) = &mut self.overlong {
            return overlong.push(part, self.sample);
        }
        // The limit excludes the framing. A `\r` that is not the last byte turns out to be content
        // when the next part is checked.
        let mark = mark_len(self.carry.bytes(), part);
        let cr = usize::from(self.carry.bytes().iter().chain(part).next_back() == Some(&b'\r'));
        let len = self.carry.len() + part.len();
        // The user sets `record_max`, and it may be `usize::MAX`.
        if len <= self.record_max.saturating_add(mark + cr) {
            let longest = self.record_max.saturating_add(BYTE_ORDER_MARK.len() + 1);
            let ceiling = if last { len } else { longest };
            return self.carry.append(part, ceiling, buffers);
        }
        let mut overlong = OverlongLine { len: 0, head: Vec::new(), ends_in_cr: false };
        // The reads may have cut the byte order mark in two.
        let in_carry = mark.min(self.carry.len());
        overlong.push(&self.carry.bytes()[in_carry..], self.sample);
        overlong.push(&part[mark - in_carry..], self.sample);
        self.overlong = Some(overlong);
        self.carry.clear(buffers);
    }

    fn sample_of(&self, line: &[u8]) -> Preview {
        Preview::new(line.len() as u64, line, self.sample)
    }

    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.carry.len() + self.overlong.as_ref().map_or(0, |line| line.head.len())
    }

    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.carry.capacity() + self.overlong.as_ref().map_or(0, |line| line.head.capacity())
    }
}

impl OverlongLine {
    fn push(&mut self, part: &[u8], keep: usize) {
        self.len += part.len() as u64;
        let room = keep.saturating_sub(self.head.len());
        self.head.extend_from_slice(&part[..part.len().min(room)]);
        if let Some(&last) = part.last() {
            self.ends_in_cr = last == b'\r';
        }
    }

    fn sample(mut self, keep: usize) -> Preview {
        let len = self.len - u64::from(self.ends_in_cr);
        // A head that holds the whole line also holds its '\r'.
        self.head.truncate(usize::try_from(len).unwrap_or(usize::MAX));
        Preview::new(len, &self.head, keep)
    }
}

/// Returns the range of the line without its byte order mark and `\r`.
fn content(line: &[u8]) -> Range<usize> {
    let start = mark_len(line, &[]);
    let end = line.len() - usize::from(line.last() == Some(&b'\r'));
    start..end.max(start)
}

/// Returns the length of the byte order mark at the start of a line in two parts, or 0.
fn mark_len(first: &[u8], second: &[u8]) -> usize {
    let len = BYTE_ORDER_MARK.len();
    let begins = first.iter().chain(second).take(len).eq(BYTE_ORDER_MARK);
    if begins { len } else { 0 }
}
