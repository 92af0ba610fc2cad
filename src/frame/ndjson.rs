//! Floor 1. One record a line.
//!
//! Split on `\n`; one `\r` before it and a byte order mark at the start of a line are framing.
//! What is left of the line is the record, byte for byte.

use std::ops::Range;

use crate::config::{JsonCheck, Limits};
use crate::record::Preview;

use super::carry::Carry;
use super::classify::{self, Verdict};
use super::payload::{Frame, Payload};
use super::scan;

/// U+FEFF in UTF-8.
pub(super) const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

#[derive(Debug)]
pub(crate) struct Ndjson {
    record_max: usize,
    sample: usize,
    check: JsonCheck,
    /// The unfinished line. Empty while `flood` is there.
    carry: Carry,
    /// The unfinished line, where it is above the limit.
    flood: Option<Flood>,
}

/// A line above the limit: counted, not kept.
#[derive(Debug)]
struct Flood {
    /// Without the byte order mark.
    len: u64,
    head: Vec<u8>,
    ends_in_cr: bool,
}

impl Ndjson {
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            record_max: limits.record_max,
            sample: limits.sample,
            check: limits.json_check,
            carry: Carry::default(),
            flood: None,
        }
    }

    pub(super) fn feed(&mut self, input: &[u8], see: &mut dyn FnMut(Frame<'_>)) {
        let mut rest = input;
        while let Some(at) = scan::newline(rest) {
            self.line(&rest[..at], see);
            rest = &rest[at + 1..];
        }
        if !rest.is_empty() {
            self.keep(rest, false);
        }
    }

    pub(super) fn finish(&mut self, see: &mut dyn FnMut(Frame<'_>)) {
        if let Some(flood) = self.flood.take() {
            see(Frame::Oversized(flood.sample(self.sample)));
        } else {
            let content = content(self.carry.bytes());
            let verdict = classify::tail(&self.carry.bytes()[content.clone()]);
            self.show_carry(verdict, content, see);
        }
    }

    pub(super) fn carry(&mut self) -> &mut Carry {
        &mut self.carry
    }

    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.carry.len() + self.flood.as_ref().map_or(0, |flood| flood.head.len())
    }

    /// A line is complete; `part` is what came of it in this read.
    fn line(&mut self, part: &[u8], see: &mut dyn FnMut(Frame<'_>)) {
        if self.flood.is_none() && self.carry.is_empty() {
            return self.show_whole(part, see);
        }
        self.keep(part, true);
        if let Some(flood) = self.flood.take() {
            return see(Frame::Oversized(flood.sample(self.sample)));
        }
        let content = content(self.carry.bytes());
        let verdict = classify::line(&self.carry.bytes()[content.clone()], self.check);
        self.show_carry(verdict, content, see);
    }

    /// Keeps a part of an unfinished line, or counts it if the line is above the limit. The
    /// limit is checked first, so nothing is copied that would have to be dropped. With its last
    /// part the line becomes no longer than it is.
    fn keep(&mut self, part: &[u8], last: bool) {
        if let Some(flood) = &mut self.flood {
            return flood.push(part, self.sample);
        }
        let mark = mark_len(self.carry.bytes(), part);
        let cr = usize::from(self.carry.bytes().iter().chain(part).next_back() == Some(&b'\r'));
        let len = self.carry.len() + part.len();
        // The limit is the user's, and may be all there is.
        if len <= self.record_max.saturating_add(mark + cr) {
            let longest = self.record_max.saturating_add(BYTE_ORDER_MARK.len() + 1);
            let ceiling = if last { len } else { longest };
            return self.carry.append(part, ceiling);
        }
        let mut flood = Flood { len: 0, head: Vec::new(), ends_in_cr: false };
        let in_carry = mark.min(self.carry.len());
        flood.push(&self.carry.bytes()[in_carry..], self.sample);
        flood.push(&part[mark - in_carry..], self.sample);
        self.flood = Some(flood);
        self.carry.clear();
    }

    /// A line that lies whole in this read: nothing is copied.
    fn show_whole(&self, line: &[u8], see: &mut dyn FnMut(Frame<'_>)) {
        let line = &line[content(line)];
        if line.len() > self.record_max {
            return see(Frame::Oversized(self.sample_of(line)));
        }
        match classify::line(line, self.check) {
            Verdict::Record(outline) => see(Frame::Record(Payload::Borrowed(line), outline)),
            verdict => self.show_other(verdict, line, see),
        }
    }

    /// The line in the carry.
    fn show_carry(
        &mut self,
        verdict: Verdict,
        content: Range<usize>,
        see: &mut dyn FnMut(Frame<'_>),
    ) {
        if let Verdict::Record(outline) = verdict {
            self.carry.hand_over(content, |payload| see(Frame::Record(payload, outline)));
        } else {
            self.show_other(verdict, &self.carry.bytes()[content], see);
            self.carry.clear();
        }
    }

    fn show_other(&self, verdict: Verdict, line: &[u8], see: &mut dyn FnMut(Frame<'_>)) {
        match verdict {
            Verdict::Blank | Verdict::Record(_) => {}
            Verdict::Noise => see(Frame::Noise(self.sample_of(line))),
            Verdict::Malformed(reason) => {
                see(Frame::Malformed { reason, sample: self.sample_of(line) });
            }
            Verdict::Truncated => see(Frame::Truncated(self.sample_of(line))),
        }
    }

    fn sample_of(&self, line: &[u8]) -> Preview {
        Preview::new(line.len() as u64, line, self.sample)
    }

    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.carry.capacity() + self.flood.as_ref().map_or(0, |flood| flood.head.capacity())
    }
}

impl Flood {
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
        // A head that holds the whole line holds its '\r' too.
        self.head.truncate(usize::try_from(len).unwrap_or(usize::MAX));
        Preview::new(len, &self.head, keep)
    }
}

/// The line without byte order mark and `\r`.
fn content(line: &[u8]) -> Range<usize> {
    let start = mark_len(line, &[]);
    let end = line.len() - usize::from(line.last() == Some(&b'\r'));
    start..end.max(start)
}

/// The length of the byte order mark that a line in two parts begins with, or 0.
fn mark_len(first: &[u8], second: &[u8]) -> usize {
    let len = BYTE_ORDER_MARK.len();
    let begins = first.iter().chain(second).take(len).eq(BYTE_ORDER_MARK);
    if begins { len } else { 0 }
}
