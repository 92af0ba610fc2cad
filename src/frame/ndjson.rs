//! NDJSON framing: one record per line.
//!
//! Lines end with `\n`. One `\r` before it and a byte order mark at the start of a line are
//! framing; the rest of the line is the record, byte for byte. Terminal control sequences around a
//! record are noise, which follows the record.

use std::ops::Range;

use crate::config::{JsonCheck, Limits};
use crate::framing::Framing;
use crate::record::{Outline, Preview};

use super::carry::{Carry, CarryBuffers, newline};
use super::classify::{self, LineKind};
use super::content_length::ContentLength;
use super::controls;
use super::header::{begins_like_header, continues_headers};
use super::payload::{Frame, Payload};

/// U+FEFF in UTF-8.
pub(super) const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

#[derive(Debug)]
pub(crate) struct Ndjson {
    record_max: usize,
    check: JsonCheck,
    /// The unfinished line. Empty while `overlong` is set.
    carry: Carry,
    /// The unfinished line, if it is above the limit.
    overlong: Option<OverlongLine>,
    /// The start of an unfinished line is left in the input.
    holds_back: bool,
    /// How many bytes of the input were searched before, because they were left in it.
    searched: usize,
    others: OtherLines,
}

/// The lines that are not plain records.
#[derive(Debug)]
struct OtherLines {
    sample: usize,
    /// The last lines are a header block, so far.
    in_headers: bool,
    /// The other framing has been seen.
    told: bool,
    /// A frame that follows the one returned last.
    pending: Option<Frame<'static>>,
    /// Before the first record of [`Framing::Auto`]: the limits of a framer for headers.
    auto: Option<Box<Limits>>,
    /// The framer that has taken the first header.
    headers: Option<Box<ContentLength>>,
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
            check: limits.json_check,
            carry: Carry::default(),
            overlong: None,
            holds_back: false,
            searched: 0,
            others: OtherLines {
                sample: limits.preview,
                in_headers: false,
                told: false,
                pending: None,
                auto: None,
                headers: None,
            },
        }
    }

    /// Creates a framer that ends at a `Content-Length` header before the first record.
    pub(super) fn or_headers(limits: &Limits) -> Self {
        let mut framer = Self::new(limits);
        framer.others.auto = Some(Box::new(*limits));
        framer
    }

    /// Returns the framer for the rest of the output after [`Frame::Found`].
    #[inline]
    pub(super) fn take_headers(&mut self) -> Option<Box<ContentLength>> {
        self.others.headers.take()
    }

    pub(super) fn hold_back(&mut self, holds: bool) {
        self.holds_back = holds;
    }

    pub(super) fn next<'frame, 'read: 'frame>(
        &'frame mut self,
        input: &mut &'read [u8],
        buffers: &mut CarryBuffers,
    ) -> Option<Frame<'frame>> {
        self.carry.end_loan(buffers);
        // Looked at first, because a frame is large to move.
        if self.others.pending.is_some() {
            return self.others.pending.take();
        }
        while let Some(at) = self.line_end(input) {
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
                return Some(Frame::Oversized(overlong.sample(self.others.sample)));
            }
            let content = content(self.carry.bytes());
            let line = &self.carry.bytes()[content.clone()];
            match self.others.sort(classify::line(line, self.check), line, self.check) {
                Sorted::Record(text, outline) => {
                    let text = content.start + text.start..content.start + text.end;
                    return Some(Frame::Record(self.carry.lend(text), outline));
                }
                Sorted::Other(frame) => {
                    self.carry.clear(buffers);
                    if frame.is_some() {
                        return frame;
                    }
                }
            }
        }
        // The limit is checked when the line is kept.
        let fits = self.carry.is_empty() && input.len() <= self.record_max;
        if self.holds_back && fits && self.overlong.is_none() {
            self.searched = input.len();
        } else if !input.is_empty() {
            self.keep(std::mem::take(input), false, buffers);
        }
        None
    }

    fn line_end(&mut self, input: &[u8]) -> Option<usize> {
        let searched = std::mem::take(&mut self.searched);
        newline(input.get(searched..)?).map(|at| searched + at)
    }

    /// Call it until it returns `None`.
    pub(super) fn finish(&mut self, buffers: &mut CarryBuffers) -> Option<Frame<'static>> {
        self.carry.end_loan(buffers);
        if let Some(frame) = self.others.pending.take() {
            return Some(frame);
        }
        // The line had exceeded the limit before it was cut, so it is oversized and not truncated.
        if let Some(overlong) = self.overlong.take() {
            return Some(Frame::Oversized(overlong.sample(self.others.sample)));
        }
        // Nothing follows, so a blank line ends no header block.
        (self.others.in_headers, self.others.told) = (false, false);
        let content = content(self.carry.bytes());
        let line = &self.carry.bytes()[content.clone()];
        // Nothing follows that could be framed by a header, and one without its line end is cut.
        let ends_auto = self.others.auto.is_some() && continues_headers(line, false);
        if ends_auto {
            self.others.auto = None;
        }
        let is_header = ends_auto && begins_like_header(line);
        match self.others.sort(classify::tail(line), line, JsonCheck::Syntax) {
            Sorted::Record(text, outline) => {
                let text = content.start + text.start..content.start + text.end;
                Some(Frame::Record(Payload::Owned(self.carry.take(text)), outline))
            }
            Sorted::Other(frame) => {
                self.carry.clear(buffers);
                match frame {
                    Some(Frame::Noise(cut)) if is_header => Some(Frame::Truncated(cut)),
                    frame => frame,
                }
            }
        }
    }

    /// Returns the frame of a line that lies inside one read, without a copy.
    fn whole_line<'read>(&mut self, line: &'read [u8]) -> Option<Frame<'read>> {
        let line = &line[content(line)];
        if line.len() > self.record_max {
            return Some(Frame::Oversized(self.others.sample_of(line)));
        }
        let kind = match classify::line(line, self.check) {
            LineKind::Record(outline) => {
                self.others.on_record();
                return Some(Frame::Record(Payload::Borrowed(line), outline));
            }
            kind => kind,
        };
        match self.others.sort_other(kind, line, self.check) {
            Sorted::Record(text, outline) => {
                Some(Frame::Record(Payload::Borrowed(&line[text]), outline))
            }
            Sorted::Other(frame) => frame,
        }
    }

    /// Keeps a part of an unfinished line, or counts it if the line is above the limit. The limit
    /// is checked first, so that no bytes are copied only to be dropped. With the `last` part the
    /// line has its final length, so the buffer need not grow beyond it.
    fn keep(&mut self, part: &[u8], last: bool, buffers: &mut CarryBuffers) {
        if let Some(overlong) = &mut self.overlong {
            return overlong.push(part, self.others.sample);
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
        overlong.push(&self.carry.bytes()[in_carry..], self.others.sample);
        overlong.push(&part[mark - in_carry..], self.others.sample);
        self.overlong = Some(overlong);
        self.carry.clear(buffers);
    }

    pub(super) fn held(&self) -> usize {
        self.carry.len() + self.overlong.as_ref().map_or(0, |line| line.head.len())
    }

    #[cfg(any(test, fuzzing))]
    pub(super) fn capacity(&self) -> usize {
        self.carry.capacity() + self.overlong.as_ref().map_or(0, |line| line.head.capacity())
    }
}

/// A line, sorted.
enum Sorted {
    /// A record in this range of the line.
    Record(Range<usize>, Outline),
    /// No record. A blank line has no frame either.
    Other(Option<Frame<'static>>),
}

impl OtherLines {
    /// Sorts a line by its kind. A record between terminal controls is a record.
    #[inline]
    fn sort(&mut self, kind: LineKind, line: &[u8], check: JsonCheck) -> Sorted {
        match kind {
            LineKind::Record(outline) => {
                self.on_record();
                Sorted::Record(0..line.len(), outline)
            }
            kind => self.sort_other(kind, line, check),
        }
    }

    #[cold]
    fn sort_other(&mut self, kind: LineKind, line: &[u8], check: JsonCheck) -> Sorted {
        if let LineKind::Blank = kind {
            let ends_block = std::mem::take(&mut self.in_headers);
            let tells = ends_block && !std::mem::replace(&mut self.told, true);
            return Sorted::Other(tells.then_some(Frame::Mismatch(Framing::ContentLength)));
        }
        if let Some(text) = controls::text_between(line)
            && let LineKind::Record(outline) = classify::line(&line[text.clone()], check)
        {
            self.on_record();
            self.pending = Some(Frame::Noise(self.sample_around(line, &text)));
            return Sorted::Record(text, outline);
        }
        self.in_headers = continues_headers(line, self.in_headers);
        if self.in_headers
            && let Some(limits) = self.auto.take()
        {
            self.headers = Some(Box::new(ContentLength::after(line, &limits)));
            return Sorted::Other(Some(Frame::Found(Framing::ContentLength)));
        }
        Sorted::Other(match kind {
            LineKind::Blank | LineKind::Record(_) => None,
            LineKind::Noise => Some(Frame::Noise(self.sample_of(line))),
            LineKind::Malformed(reason) => {
                Some(Frame::Malformed { reason, sample: self.sample_of(line) })
            }
            LineKind::Truncated => Some(Frame::Truncated(self.sample_of(line))),
        })
    }

    #[inline]
    fn on_record(&mut self) {
        self.in_headers = false;
        if self.auto.is_some() {
            self.auto = None;
        }
    }

    fn sample_of(&self, line: &[u8]) -> Preview {
        Preview::new(line.len() as u64, line, self.sample)
    }

    /// Returns a sample of the bytes of the line in front of the text and behind it.
    fn sample_around(&self, line: &[u8], text: &Range<usize>) -> Preview {
        let around = line[..text.start].iter().chain(&line[text.end..]).copied();
        let head: Vec<u8> = around.take(self.sample).collect();
        Preview::new((line.len() - text.len()) as u64, &head, self.sample)
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
pub(super) fn mark_len(first: &[u8], second: &[u8]) -> usize {
    let len = BYTE_ORDER_MARK.len();
    let begins = first.iter().chain(second).take(len).eq(BYTE_ORDER_MARK);
    if begins { len } else { 0 }
}
