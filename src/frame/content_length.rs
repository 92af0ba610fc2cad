//! Content-Length framing: `Content-Length: N`, a blank line, N bytes.
//!
//! Decisions that the base protocol leaves open:
//!
//! - Lines end with `\r\n` or `\n`. Header names are compared without case; headers other than
//!   `Content-Length` are ignored. The same length twice is accepted, two lengths are not.
//! - A block begins at a `Content-...` header. Other lines before and inside it are noise; blank
//!   lines before it are skipped.
//! - N = 0, or a body of whitespace, is malformed JSON: no record is empty.
//! - A block without one readable length is malformed, once. The lines after it are noise up to the
//!   next `Content-Length` with a good number. That header is also found at the end of a line,
//!   because a body of this framing ends without a newline.

use crate::config::{JsonCheck, Limits};
use crate::record::{MalformedReason, Preview};

use super::carry::{Carry, CarryBuffers, newline};
use super::classify::{self, is_space};
use super::ndjson::BYTE_ORDER_MARK;
use super::payload::{Frame, Payload};

#[derive(Debug)]
pub(crate) struct ContentLength {
    record_max: usize,
    header_max: usize,
    sample: usize,
    check: JsonCheck,
    part: MessagePart,
    /// After a malformed header: only a good `Content-Length` begins a block.
    resync: bool,
    /// The unfinished header block.
    block: Option<HeaderBlock>,
    /// A block that was refused on a line that also held noise: it is returned after the noise.
    refused: Option<Preview>,
    /// The unfinished line, in or before a block.
    line: UnfinishedLine,
    /// The unfinished body.
    body: Carry,
}

/// The part of a message that the next bytes belong to.
#[derive(Debug)]
enum MessagePart {
    Header,
    /// `need` is the length of the whole body, 1 to `record_max`.
    Body {
        need: usize,
    },
    /// A body above the limit: counted exactly, not kept.
    SkippedBody {
        claimed: u64,
        left: u64,
        head: Vec<u8>,
    },
}

impl ContentLength {
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            record_max: limits.record_max,
            header_max: limits.header_max,
            sample: limits.preview,
            check: limits.json_check,
            part: MessagePart::Header,
            resync: false,
            block: None,
            refused: None,
            line: UnfinishedLine::default(),
            body: Carry::default(),
        }
    }

    pub(super) fn next<'frame, 'read: 'frame>(
        &'frame mut self,
        input: &mut &'read [u8],
        buffers: &mut CarryBuffers,
    ) -> Option<Frame<'frame>> {
        self.body.end_loan(buffers);
        if let Some(sample) = self.refused.take() {
            return Some(malformed_header(sample));
        }
        while !input.is_empty() {
            match self.part {
                MessagePart::Header => {
                    if let Some(frame) = self.header_line(input) {
                        return Some(frame);
                    }
                }
                MessagePart::Body { need } => {
                    let used = (need - self.body.len()).min(input.len());
                    let part = advance(input, used);
                    // A body that lies in this read as a whole is lent from it. Nothing of it is
                    // carried then, because `used` is at most what is missing.
                    if used == need {
                        self.part = MessagePart::Header;
                        return Some(self.whole_body(part));
                    }
                    self.body.append(part, need, buffers);
                    if self.body.len() == need {
                        self.part = MessagePart::Header;
                        return Some(self.carried_body(buffers));
                    }
                }
                MessagePart::SkippedBody { .. } => {
                    if let Some(frame) = self.skip_body(input) {
                        return Some(frame);
                    }
                }
            }
        }
        // The memory of a line is kept for the lines of one read. Between records a framer holds
        // none.
        self.line.free_if_empty();
        None
    }

    pub(super) fn finish(&mut self, buffers: &mut CarryBuffers) -> Option<Frame<'static>> {
        let line = std::mem::take(&mut self.line);
        let block = self.block.take();
        let frame = match std::mem::replace(&mut self.part, MessagePart::Header) {
            MessagePart::Header => {
                let line = line.line();
                if let Some(mut block) = block {
                    block.push(line.head, line.raw_len);
                    Some(Frame::Truncated(block.sample(self.sample)))
                } else if line.is_blank() {
                    None
                } else if !self.resync && begins_like_header(line.text()) {
                    // A cut header is counted raw, like the lines of a cut block.
                    Some(Frame::Truncated(Preview::new(line.raw_len, line.head, self.sample)))
                } else {
                    Some(Frame::Noise(Preview::new(line.len(), line.text(), self.sample)))
                }
            }
            MessagePart::Body { .. } => {
                let body = self.body.bytes();
                Some(Frame::Truncated(Preview::new(body.len() as u64, body, self.sample)))
            }
            MessagePart::SkippedBody { claimed, left, head } => {
                Some(Frame::Truncated(Preview::new(claimed - left, &head, self.sample)))
            }
        };
        self.resync = false;
        self.body.clear(buffers);
        frame
    }

    /// Takes a line, or the part of it that is there.
    fn header_line(&mut self, input: &mut &[u8]) -> Option<Frame<'static>> {
        let Some(at) = newline(input) else {
            self.line.push(std::mem::take(input), self.header_max);
            return None;
        };
        let part = &advance(input, at + 1)[..at];
        if self.line.is_empty() {
            return self.take_line(HeaderLine::whole(part, self.header_max));
        }
        let mut line = std::mem::take(&mut self.line);
        line.push(part, self.header_max);
        let frame = self.take_line(line.line());
        // Its memory serves the next line.
        line.clear();
        self.line = line;
        frame
    }

    fn take_line(&mut self, line: HeaderLine<'_>) -> Option<Frame<'static>> {
        if line.is_blank() {
            // Only an empty line ends a block. A line of spaces is skipped.
            let block = if line.is_empty() { self.block.take() } else { None };
            return block.and_then(|block| self.end_block(&block));
        }
        if let Some(header) = line.header() {
            let length = if header.is_length() { Some(header.length()) } else { None };
            // After a malformed header only a good length opens a block: a broken body may hold
            // header lines, and each would be reported as one more malformed message.
            let opens = match length {
                Some(value) => !self.resync || (value.is_some() && !line.long),
                None => !self.resync && header.opens_block(),
            };
            if opens || self.block.is_some() {
                let refused = self.add_header(line.head, line.raw_len, length, line.long)?;
                return Some(malformed_header(refused));
            }
        }
        let Some((own, length)) = line.glued() else {
            return Some(Frame::Noise(Preview::new(line.len(), line.text(), self.sample)));
        };
        let before = line.len() - own as u64;
        // Of a long line only the start is kept, so the text may be shorter than the noise was.
        let noise = &line.text()[..line.text().len().min(clamp(before))];
        // The length from `glued` excludes the `\r`, which a block counts.
        let own = &line.tail[line.tail.len() - own - 1..];
        let refused = self.add_header(own, own.len() as u64, Some(Some(length)), false);
        // A byte order mark or whitespace before a header is framing, as before a line of NDJSON.
        if noise == BYTE_ORDER_MARK || noise.iter().all(|&byte| is_space(byte)) {
            return refused.map(malformed_header);
        }
        self.refused = refused;
        Some(Frame::Noise(Preview::new(before, noise, self.sample)))
    }

    /// Adds a header to the block. Returns a sample of the block if it is refused. `length` is
    /// `None` for another header, `Some(None)` for a length that cannot be read.
    fn add_header(
        &mut self,
        text: &[u8],
        raw_len: u64,
        length: Option<Option<u64>>,
        long: bool,
    ) -> Option<Preview> {
        let mut block = self.block.take().unwrap_or_else(HeaderBlock::new);
        block.push(text, raw_len);
        block.push(b"\n", 1);
        if let Some(length) = length {
            // The block is marked and goes on to its blank line, so it is reported once and its
            // other lines are not taken for noise.
            block.bad |= length.is_none() || (block.length.is_some() && block.length != length);
            block.length = length;
        }
        if long || block.raw_len > self.header_max as u64 {
            self.resync = true;
            return Some(block.sample(self.sample));
        }
        self.block = Some(block);
        None
    }

    fn end_block(&mut self, block: &HeaderBlock) -> Option<Frame<'static>> {
        let Some(claimed) = block.length.filter(|_| !block.bad) else {
            self.resync = true;
            return Some(malformed_header(block.sample(self.sample)));
        };
        self.resync = false;
        let need = clamp(claimed);
        if need == 0 {
            return Some(self.whole_body(&[]));
        }
        self.part = if need <= self.record_max {
            MessagePart::Body { need }
        } else {
            MessagePart::SkippedBody { claimed, left: claimed, head: Vec::new() }
        };
        None
    }

    /// Returns the frame of a body that lies inside one read, without a copy.
    fn whole_body<'read>(&self, body: &'read [u8]) -> Frame<'read> {
        match classify::body(body, self.check) {
            Ok(outline) => Frame::Record(Payload::Borrowed(body), outline),
            Err(reason) => self.malformed_body(reason, body),
        }
    }

    fn carried_body(&mut self, buffers: &mut CarryBuffers) -> Frame<'_> {
        match classify::body(self.body.bytes(), self.check) {
            Ok(outline) => Frame::Record(self.body.lend(0..self.body.len()), outline),
            Err(reason) => {
                let frame = self.malformed_body(reason, self.body.bytes());
                self.body.clear(buffers);
                frame
            }
        }
    }

    fn skip_body(&mut self, input: &mut &[u8]) -> Option<Frame<'static>> {
        let MessagePart::SkippedBody { claimed, left, head } = &mut self.part else { return None };
        let part = advance(input, clamp(*left).min(input.len()));
        let room = self.sample.saturating_sub(head.len());
        head.extend_from_slice(&part[..part.len().min(room)]);
        *left -= part.len() as u64;
        if *left > 0 {
            return None;
        }
        let sample = Preview::new(*claimed, head, self.sample);
        self.part = MessagePart::Header;
        Some(Frame::Oversized(sample))
    }

    fn malformed_body(&self, reason: MalformedReason, body: &[u8]) -> Frame<'static> {
        Frame::Malformed { reason, sample: Preview::new(body.len() as u64, body, self.sample) }
    }

    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        let head = match &self.part {
            MessagePart::SkippedBody { head, .. } => head.len(),
            _ => 0,
        };
        let block = self.block.as_ref().map_or(0, |block| block.head_len);
        self.body.len() + self.line.held() + head + block
    }

    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        let head = match &self.part {
            MessagePart::SkippedBody { head, .. } => head.capacity(),
            _ => 0,
        };
        self.body.capacity() + self.line.capacity() + head
    }
}

fn malformed_header(sample: Preview) -> Frame<'static> {
    Frame::Malformed { reason: MalformedReason::Header, sample }
}

/// Splits `len` bytes off the front of `input`.
fn advance<'read>(input: &mut &'read [u8], len: usize) -> &'read [u8] {
    let (front, rest) = input.split_at(len);
    *input = rest;
    front
}

/// Converts a length to `usize`, saturating.
fn clamp(length: u64) -> usize {
    usize::try_from(length).unwrap_or(usize::MAX)
}

/// An unfinished header block.
#[derive(Debug)]
struct HeaderBlock {
    /// Bytes of its header lines, line ends included.
    raw_len: u64,
    length: Option<u64>,
    bad: bool,
    head: [u8; HEAD],
    head_len: usize,
}

impl HeaderBlock {
    fn new() -> Self {
        Self { raw_len: 0, length: None, bad: false, head: [0; HEAD], head_len: 0 }
    }

    fn push(&mut self, text: &[u8], raw_len: u64) {
        self.raw_len += raw_len;
        let kept = text.len().min(HEAD - self.head_len);
        self.head[self.head_len..self.head_len + kept].copy_from_slice(&text[..kept]);
        self.head_len += kept;
    }

    fn sample(&self, keep: usize) -> Preview {
        Preview::new(self.raw_len, &self.head[..self.head_len], keep)
    }
}

/// Bytes kept of a long line's end: a `Content-Length` header with the largest number has 39.
const TAIL: usize = 64;

/// Bytes kept of a long line's start.
const HEAD: usize = 160;

/// A length above 1 TiB is a broken header and not a record to skip: skipping it would outlast any
/// session, and one bad number would cost the whole stream.
const LENGTH_MAX: u64 = 1 << 40;

const NAME: &[u8] = b"content-length";

/// A complete line without its `\n`.
#[derive(Clone, Copy, Debug)]
struct HeaderLine<'a> {
    /// The length, including a `\r` at the end.
    raw_len: u64,
    /// The whole line, or the first `HEAD` bytes of a long one.
    head: &'a [u8],
    /// The whole line, or the last `TAIL` bytes of a long one.
    tail: &'a [u8],
    /// Longer than a header block may be.
    long: bool,
}

impl<'a> HeaderLine<'a> {
    /// A line that lies inside one read.
    fn whole(line: &'a [u8], header_max: usize) -> Self {
        let long = line.len() > header_max;
        let (head, tail) = if long { (first(line, HEAD), last(line, TAIL)) } else { (line, line) };
        Self { raw_len: line.len() as u64, head, tail, long }
    }

    fn ends_in_cr(&self) -> bool {
        self.tail.last() == Some(&b'\r')
    }

    /// The length without the `\r`.
    fn len(&self) -> u64 {
        self.raw_len - u64::from(self.ends_in_cr())
    }

    /// The text without the `\r`; the start of it for a long line.
    fn text(&self) -> &'a [u8] {
        first(self.head, usize::try_from(self.len()).unwrap_or(usize::MAX))
    }

    /// Whether the line ends a header block.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether the line holds whitespace only.
    fn is_blank(&self) -> bool {
        !self.long && self.text().iter().all(|&byte| is_space(byte))
    }

    /// Splits `name: value`.
    fn header(&self) -> Option<Header<'a>> {
        let text = self.text();
        let colon = text.iter().position(|&byte| !is_token(byte))?;
        if colon == 0 || text[colon] != b':' {
            return None;
        }
        Some(Header { name: &text[..colon], value: &text[colon + 1..] })
    }

    /// Finds a `Content-Length` header at the end of the line, behind other text: the rest of a
    /// body whose length was wrong, or output without a newline. Returns the length of the header
    /// and its value.
    ///
    /// Requires `\r\n`: a log line that ends in those words has a bare `\n`.
    fn glued(&self) -> Option<(usize, u64)> {
        let line = self.tail.strip_suffix(b"\r")?;
        let digits_end = line.iter().rposition(|&byte| !is_padding(byte))? + 1;
        let padding = line[..digits_end].iter().rposition(|byte| !byte.is_ascii_digit())? + 1;
        let colon = line[..padding].iter().rposition(|&byte| !is_padding(byte))?;
        let start = colon.checked_sub(NAME.len())?;
        let named = line[colon] == b':' && line[start..colon].eq_ignore_ascii_case(NAME);
        // `X-Content-Length` is another header.
        let other = start > 0 && matches!(line[start - 1], b'-' | b'_');
        if !named || other {
            return None;
        }
        Some((line.len() - start, length(&line[colon + 1..])?))
    }
}

#[derive(Clone, Copy, Debug)]
struct Header<'a> {
    name: &'a [u8],
    value: &'a [u8],
}

impl Header<'_> {
    fn is_length(&self) -> bool {
        self.name.eq_ignore_ascii_case(NAME)
    }

    /// Whether a block may begin with this header: `Content-Length`, `Content-Type` and the like.
    /// Any `word:` would be too much: `12:30:01 started` and `INFO: started` are log lines.
    fn opens_block(&self) -> bool {
        self.name.get(..8).is_some_and(|name| name.eq_ignore_ascii_case(b"content-"))
    }

    fn length(&self) -> Option<u64> {
        length(self.value)
    }
}

/// A line that spans reads. Kept whole up to `header_max`; above that only its two ends.
#[derive(Debug, Default)]
struct UnfinishedLine {
    len: u64,
    /// The line, or the last bytes of a long one.
    bytes: Vec<u8>,
    /// The first bytes of a long one.
    head: Vec<u8>,
    long: bool,
}

impl UnfinishedLine {
    fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn push(&mut self, part: &[u8], header_max: usize) {
        self.len += part.len() as u64;
        if !self.long && self.len <= header_max as u64 {
            return self.bytes.extend_from_slice(part);
        }
        if !self.long {
            self.long = true;
            self.head.extend_from_slice(first(&self.bytes, HEAD));
        }
        self.head.extend_from_slice(first(part, HEAD - self.head.len()));
        // Bytes further in front cannot be among the last `TAIL` of the line.
        self.bytes.extend_from_slice(last(part, TAIL));
        // Not on every push: dropping the front moves the rest.
        if self.bytes.len() > 4 * TAIL {
            self.bytes.drain(..self.bytes.len() - TAIL);
        }
    }

    fn line(&self) -> HeaderLine<'_> {
        let (head, tail) = if self.long {
            (&*self.head, last(&self.bytes, TAIL))
        } else {
            (&*self.bytes, &*self.bytes)
        };
        HeaderLine { raw_len: self.len, head, tail, long: self.long }
    }

    fn clear(&mut self) {
        self.len = 0;
        self.bytes.clear();
        self.head.clear();
        self.long = false;
    }

    /// Frees the memory after a read that ended between two lines.
    fn free_if_empty(&mut self) {
        if self.is_empty() {
            *self = Self::default();
        }
    }

    #[cfg(test)]
    fn held(&self) -> usize {
        self.bytes.len() + self.head.len()
    }

    #[cfg(test)]
    fn capacity(&self) -> usize {
        self.bytes.capacity() + self.head.capacity()
    }
}

/// Whether the last line, cut off by the end of the output, looks like the start of a header.
fn begins_like_header(text: &[u8]) -> bool {
    let compared = text.len().min(NAME.len());
    let header = HeaderLine::whole(text, usize::MAX).header();
    text[..compared].eq_ignore_ascii_case(&NAME[..compared])
        || header.is_some_and(|header| header.opens_block())
}

/// Parses a length: digits with padding around them, without sign, overflow or a second value.
fn length(value: &[u8]) -> Option<u64> {
    let value = std::str::from_utf8(value).ok()?.trim_matches([' ', '\t']);
    // `parse` alone would accept a sign. It refuses an empty value, which passes here.
    if !value.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    value.parse().ok().filter(|&length| length <= LENGTH_MAX)
}

fn is_padding(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

/// Whether the byte may be part of a header name.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn first(bytes: &[u8], keep: usize) -> &[u8] {
    &bytes[..bytes.len().min(keep)]
}

fn last(bytes: &[u8], keep: usize) -> &[u8] {
    &bytes[bytes.len().saturating_sub(keep)..]
}
