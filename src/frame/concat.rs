//! Concatenated JSON: texts one after another, with or without white space between them.
//!
//! The bytes are scanned once, for brackets and quotes alone, so a text is complete with its last
//! bracket: no line end is awaited. That covers pretty-printed JSON, several texts on a line, and
//! JSON text sequences (RFC 7464), whose separator RS counts as white space. Sends are lines.
//!
//! A text that cannot be completed ends as soon as that is known: at a bracket that may not stand
//! there, which begins the next text, or at a line end or RS inside of a string. So a text that was
//! cut off costs itself and at most the text behind it. Other bytes are noise up to the next line
//! end, RS or brace.

use crate::config::{JsonCheck, Limits};
use crate::json::Nesting;
use crate::record::{Outline, Preview};

use super::carry::{Carry, CarryBuffers};
use super::classify::{self, LineKind, is_space, why_not_json};
use super::ndjson::BYTE_ORDER_MARK;
use super::payload::{Frame, Payload};

/// Record separator: begins each text of a JSON text sequence.
const RS: u8 = 0x1E;

#[derive(Debug)]
pub(crate) struct Concat {
    record_max: usize,
    sample: usize,
    check: JsonCheck,
    part: Part,
    scan: Scan,
    /// The unfinished text. Empty while `dropped` is in use.
    carry: Carry,
    /// An unfinished text above the limit, or unfinished noise: counted, and dropped but its head.
    dropped: Dropped,
}

/// What the next bytes belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// White space.
    Between,
    Text,
    /// A text above the limit.
    LongText,
    Noise,
}

/// Where a text ends.
#[derive(Clone, Copy, Debug)]
enum TextEnd {
    /// Behind its last bracket.
    Complete(usize),
    /// It is not JSON, and the next bytes do not belong to it.
    Broken(usize),
}

/// What a text turned out to be.
enum Ended {
    /// A record inside of one read.
    Here(Outline),
    /// A record that is in the carry.
    Carried(Outline),
    /// No record. The start of a log line has no frame yet.
    Other(Option<Frame<'static>>),
}

impl Concat {
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            record_max: limits.record_max,
            sample: limits.preview,
            check: limits.json_check,
            part: Part::Between,
            scan: Scan::default(),
            carry: Carry::default(),
            dropped: Dropped::default(),
        }
    }

    pub(super) fn next<'frame, 'read: 'frame>(
        &'frame mut self,
        input: &mut &'read [u8],
        buffers: &mut CarryBuffers,
    ) -> Option<Frame<'frame>> {
        self.carry.end_loan(buffers);
        while let Some(&first) = input.first() {
            match self.part {
                Part::Between => {
                    let blank = |byte: &&u8| is_space(**byte) || **byte == RS;
                    let blanks = input.iter().take_while(blank).count();
                    *input = &input[blanks..];
                    if blanks == 0 {
                        let is_text = matches!(first, b'{' | b'[');
                        self.part = if is_text { Part::Text } else { Part::Noise };
                    }
                }
                Part::Noise => {
                    let ends = |byte: &u8| matches!(*byte, b'\n' | b'{' | RS);
                    let end = input.iter().position(ends);
                    let (noise, rest) = input.split_at(end.unwrap_or(input.len()));
                    *input = rest;
                    self.dropped.push(noise, self.sample);
                    if end.is_some()
                        && let Some(noise) = self.end_noise()
                    {
                        return Some(noise);
                    }
                }
                Part::Text | Part::LongText => {
                    let Some(end) = self.scan.text(input, self.record_max) else {
                        self.keep(std::mem::take(input), buffers);
                        break;
                    };
                    self.scan = Scan::default();
                    let (TextEnd::Complete(at) | TextEnd::Broken(at)) = end;
                    let (text, rest) = input.split_at(at);
                    *input = rest;
                    match self.end_text(text, end, buffers) {
                        Ended::Here(outline) => {
                            return Some(Frame::Record(Payload::Borrowed(text), outline));
                        }
                        Ended::Carried(outline) => {
                            let all = 0..self.carry.len();
                            return Some(Frame::Record(self.carry.lend(all), outline));
                        }
                        Ended::Other(frame) => {
                            self.carry.clear(buffers);
                            if frame.is_some() {
                                return frame;
                            }
                        }
                    }
                }
            }
        }
        None
    }

    /// Ends a text with its last part and judges it.
    fn end_text(&mut self, part: &[u8], end: TextEnd, buffers: &mut CarryBuffers) -> Ended {
        // A text that lies inside of one read is lent from it.
        let here =
            self.part == Part::Text && self.carry.is_empty() && part.len() <= self.record_max;
        if !here {
            self.keep(part, buffers);
        }
        if std::mem::replace(&mut self.part, Part::Between) == Part::LongText {
            return Ended::Other(Some(Frame::Oversized(self.dropped.take(self.sample))));
        }
        let text = if here { part } else { self.carry.bytes() };
        let sample = sample_of(text, self.sample);
        match (classify::line(text, self.check), end) {
            (LineKind::Record(outline), TextEnd::Complete(_)) => match here {
                true => Ended::Here(outline),
                false => Ended::Carried(outline),
            },
            (LineKind::Malformed(reason), _) => {
                Ended::Other(Some(Frame::Malformed { reason, sample }))
            }
            // The check of the shape alone does not see that the brackets do not match.
            (LineKind::Record(_), TextEnd::Broken(_)) => {
                let reason = why_not_json(text);
                Ended::Other(Some(Frame::Malformed { reason, sample }))
            }
            _ => {
                // `[debug] ...`: the rest of the line belongs to it.
                self.part = Part::Noise;
                self.dropped.push(text, self.sample);
                Ended::Other(None)
            }
        }
    }

    /// Call it until it returns `None`.
    pub(super) fn finish(&mut self, buffers: &mut CarryBuffers) -> Option<Frame<'static>> {
        self.carry.end_loan(buffers);
        self.scan = Scan::default();
        let frame = match std::mem::replace(&mut self.part, Part::Between) {
            Part::Between => None,
            Part::Noise => self.end_noise(),
            Part::LongText => Some(Frame::Oversized(self.dropped.take(self.sample))),
            Part::Text => {
                let text = self.carry.bytes();
                let sample = sample_of(text, self.sample);
                Some(match classify::tail(text) {
                    LineKind::Noise => Frame::Noise(sample),
                    _ => Frame::Truncated(sample),
                })
            }
        };
        self.carry.clear(buffers);
        frame
    }

    /// Keeps a part of an unfinished text, or counts it if the text is above the limit.
    fn keep(&mut self, part: &[u8], buffers: &mut CarryBuffers) {
        if self.part == Part::Text && self.carry.len() + part.len() <= self.record_max {
            return self.carry.append(part, self.record_max, buffers);
        }
        self.part = Part::LongText;
        self.dropped.push(self.carry.bytes(), self.sample);
        self.carry.clear(buffers);
        self.dropped.push(part, self.sample);
    }

    fn end_noise(&mut self) -> Option<Frame<'static>> {
        self.part = Part::Between;
        let sample = self.dropped.take(self.sample);
        (sample.head() != BYTE_ORDER_MARK).then_some(Frame::Noise(sample))
    }

    pub(super) fn held(&self) -> usize {
        self.carry.len() + self.dropped.head.len()
    }

    #[cfg(any(test, fuzzing))]
    pub(super) fn capacity(&self) -> usize {
        self.carry.capacity() + self.dropped.head.capacity()
    }
}

/// Returns a sample without the white space at the end.
fn sample_of(text: &[u8], keep: usize) -> Preview {
    let text = text.trim_ascii_end();
    Preview::new(text.len() as u64, text, keep)
}

/// The state of the scan inside of a text.
#[derive(Debug, Default)]
struct Scan {
    /// The open brackets. `None` before the first.
    nesting: Option<Nesting>,
    in_string: bool,
    /// The last byte was a backslash.
    escaped: bool,
    /// The last byte outside of strings that is not white space.
    last: u8,
}

impl Scan {
    /// Scans the next bytes of a text up to its end, if that is among them. A text with more open
    /// brackets than a record may have bytes ends there: each takes a bit of memory.
    fn text(&mut self, bytes: &[u8], brackets_max: usize) -> Option<TextEnd> {
        let nesting = self.nesting.get_or_insert_with(Nesting::new);
        for (at, &byte) in bytes.iter().enumerate() {
            if byte == RS || (self.in_string && byte == b'\n') {
                return Some(TextEnd::Broken(at));
            }
            if self.in_string {
                self.in_string = self.escaped || byte != b'"';
                self.escaped = !self.escaped && byte == b'\\';
                continue;
            }
            if is_space(byte) {
                continue;
            }
            let last = std::mem::replace(&mut self.last, byte);
            match byte {
                b'"' => self.in_string = true,
                b'{' | b'[' => {
                    let fits = match last {
                        b',' => !nesting.in_object(),
                        b'[' | b':' => true,
                        _ => nesting.depth() == 0,
                    };
                    if !fits {
                        return Some(TextEnd::Broken(at));
                    }
                    nesting.open(byte == b'{');
                    if nesting.depth() > brackets_max {
                        return Some(TextEnd::Broken(at + 1));
                    }
                }
                b'}' | b']' if nesting.in_object() != (byte == b'}') => {
                    return Some(TextEnd::Broken(at + 1));
                }
                b'}' | b']' => {
                    nesting.close();
                    if nesting.depth() == 0 {
                        return Some(TextEnd::Complete(at + 1));
                    }
                }
                _ => {}
            }
        }
        None
    }
}

/// Bytes that were counted and dropped, except for the first ones.
#[derive(Debug, Default)]
struct Dropped {
    len: u64,
    /// The length without white space at the end.
    trimmed: u64,
    head: Vec<u8>,
}

impl Dropped {
    fn push(&mut self, part: &[u8], keep: usize) {
        let trimmed = part.trim_ascii_end().len();
        if trimmed > 0 {
            self.trimmed = self.len + trimmed as u64;
        }
        self.len += part.len() as u64;
        let room = keep.saturating_sub(self.head.len()).min(part.len());
        self.head.extend_from_slice(&part[..room]);
    }

    fn take(&mut self, keep: usize) -> Preview {
        let Self { trimmed, mut head, .. } = std::mem::take(self);
        head.truncate(usize::try_from(trimmed).unwrap_or(usize::MAX));
        Preview::new(trimmed, &head, keep)
    }
}
