//! Header blocks and their lines, for Content-Length framing.

use crate::record::Preview;

use super::classify::is_space;
use super::ndjson::BYTE_ORDER_MARK;

/// An unfinished header block.
#[derive(Debug)]
pub(super) struct HeaderBlock {
    /// Bytes of its header lines, line ends included.
    pub(super) raw_len: u64,
    pub(super) length: Option<u64>,
    pub(super) bad: bool,
    /// The line of the length ended in `\r\n`.
    pub(super) crlf: bool,
    head: [u8; HEAD],
    pub(super) head_len: usize,
}

impl HeaderBlock {
    pub(super) fn new() -> Self {
        Self { raw_len: 0, length: None, bad: false, crlf: false, head: [0; HEAD], head_len: 0 }
    }

    /// Adds a header line. `length` is `None` for another header, `Some(None)` for a length that
    /// cannot be read.
    pub(super) fn add(&mut self, line: &HeaderLine<'_>, length: Option<Option<u64>>) {
        self.push(line.head, line.raw_len);
        self.push(b"\n", 1);
        if let Some(length) = length {
            // The block is marked and goes on to its blank line, so it is reported once and its
            // other lines are not taken for noise.
            self.bad |= length.is_none() || (self.length.is_some() && self.length != length);
            self.length = length;
            self.crlf = line.ends_in_cr();
        }
    }

    pub(super) fn push(&mut self, text: &[u8], raw_len: u64) {
        self.raw_len += raw_len;
        let kept = text.len().min(HEAD - self.head_len);
        self.head[self.head_len..self.head_len + kept].copy_from_slice(&text[..kept]);
        self.head_len += kept;
    }

    pub(super) fn sample(&self, keep: usize) -> Preview {
        Preview::new(self.raw_len, &self.head[..self.head_len], keep)
    }
}

/// Bytes kept of a long line's end: a `Content-Length` header with the largest number has 39.
pub(super) const TAIL: usize = 64;

/// Bytes kept of a long line's start.
const HEAD: usize = 160;

/// A length above 1 TiB is a broken header and not a record to skip: skipping it would outlast any
/// session, and one bad number would cost the whole stream.
const LENGTH_MAX: u64 = 1 << 40;

const NAME: &[u8] = b"content-length";

/// A complete line without its `\n`.
#[derive(Clone, Copy, Debug)]
pub(super) struct HeaderLine<'a> {
    /// The length, including each `\r` at the end.
    pub(super) raw_len: u64,
    /// The whole line, or the first `HEAD` bytes of a long one.
    pub(super) head: &'a [u8],
    /// The whole line, or the last `TAIL` bytes of a long one.
    pub(super) tail: &'a [u8],
    /// Longer than a header block may be.
    pub(super) long: bool,
}

impl<'a> HeaderLine<'a> {
    /// A line that lies inside one read.
    pub(super) fn whole(line: &'a [u8], header_max: usize) -> Self {
        let long = line.len() > header_max;
        let (head, tail) = if long { (first(line, HEAD), last(line, TAIL)) } else { (line, line) };
        Self { raw_len: line.len() as u64, head, tail, long }
    }

    /// Returns the line without a byte order mark at its start.
    pub(super) fn without_mark(mut self) -> Self {
        if let Some(head) = self.head.strip_prefix(BYTE_ORDER_MARK) {
            self.head = head;
            self.raw_len -= BYTE_ORDER_MARK.len() as u64;
            if !self.long {
                self.tail = head;
            }
        }
        self
    }

    /// The number of `\r` at the end. A program that writes `\r\n` in text mode makes it `\r\r\n`.
    fn crs(&self) -> usize {
        self.tail.iter().rev().take_while(|&&byte| byte == b'\r').count()
    }

    pub(super) fn ends_in_cr(&self) -> bool {
        self.crs() > 0
    }

    /// The length without each `\r` at the end.
    pub(super) fn len(&self) -> u64 {
        self.raw_len - self.crs() as u64
    }

    /// The text without each `\r` at the end; the start of it for a long line.
    pub(super) fn text(&self) -> &'a [u8] {
        first(self.head, usize::try_from(self.len()).unwrap_or(usize::MAX))
    }

    /// Whether the line ends a header block.
    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether the line holds whitespace only.
    pub(super) fn is_blank(&self) -> bool {
        !self.long && self.text().iter().all(|&byte| is_space(byte))
    }

    /// Splits `name: value`.
    pub(super) fn header(&self) -> Option<Header<'a>> {
        let text = self.text();
        let name_end = text.iter().position(|&byte| !is_token(byte))?;
        let (name, rest) = text.split_at(name_end);
        let padding = rest.iter().position(|&byte| !is_padding(byte))?;
        let value = rest[padding..].strip_prefix(b":")?;
        (!name.is_empty()).then_some(Header { name, value })
    }

    /// Finds a `Content-Length` header at the end of the line, behind other text: the rest of a
    /// body whose length was wrong, or output without a newline. Returns the length of the header,
    /// each `\r` included, and its value.
    pub(super) fn glued(&self) -> Option<(usize, u64)> {
        let line = &self.tail[..self.tail.len() - self.crs()];
        let digits_end = line.iter().rposition(|&byte| !is_padding(byte))? + 1;
        let padding = line[..digits_end].iter().rposition(|byte| !byte.is_ascii_digit())? + 1;
        let colon = line[..padding].iter().rposition(|&byte| !is_padding(byte))?;
        let start = colon.checked_sub(NAME.len())?;
        let named = line[colon] == b':' && line[start..colon].eq_ignore_ascii_case(NAME);
        if !named || has_prefix(&line[..start]) {
            return None;
        }
        Some((self.tail.len() - start, length(&line[colon + 1..])?))
    }
}

/// Whether a header name continues one in front of it: `X-Content-Length` is another header.
fn has_prefix(before: &[u8]) -> bool {
    matches!(before.last(), Some(b'-' | b'_'))
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Header<'a> {
    name: &'a [u8],
    value: &'a [u8],
}

impl Header<'_> {
    pub(super) fn is_length(&self) -> bool {
        self.name.eq_ignore_ascii_case(NAME)
    }

    /// Whether a block may begin with this header: `Content-Length`, `Content-Type` and the like.
    /// Any `word:` would be too much: `12:30:01 started` and `INFO: started` are log lines.
    pub(super) fn opens_block(&self) -> bool {
        self.name.get(..8).is_some_and(|name| name.eq_ignore_ascii_case(b"content-"))
    }

    pub(super) fn length(&self) -> Option<u64> {
        length(self.value)
    }
}

/// A line that spans reads. Kept whole up to `header_max`; above that only its two ends.
#[derive(Debug, Default)]
pub(super) struct UnfinishedLine {
    len: u64,
    /// The line, or the last bytes of a long one.
    bytes: Vec<u8>,
    /// The first bytes of a long one.
    head: Vec<u8>,
    long: bool,
}

impl UnfinishedLine {
    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(super) fn push(&mut self, part: &[u8], header_max: usize) {
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

    pub(super) fn line(&self) -> HeaderLine<'_> {
        let (head, tail) = if self.long {
            (&*self.head, last(&self.bytes, TAIL))
        } else {
            (&*self.bytes, &*self.bytes)
        };
        HeaderLine { raw_len: self.len, head, tail, long: self.long }
    }

    pub(super) fn clear(&mut self) {
        self.len = 0;
        self.bytes.clear();
        self.head.clear();
        self.long = false;
    }

    /// Frees the memory after a read that ended between two lines.
    pub(super) fn free_if_empty(&mut self) {
        if self.is_empty() {
            *self = Self::default();
        }
    }

    /// The first bytes of the line: all of a short one.
    pub(super) fn start(&self) -> &[u8] {
        if self.long { &self.head } else { &self.bytes }
    }

    pub(super) fn held(&self) -> usize {
        self.bytes.len() + self.head.len()
    }

    #[cfg(any(test, fuzzing))]
    pub(super) fn capacity(&self) -> usize {
        self.bytes.capacity() + self.head.capacity()
    }
}

/// Whether the last line, cut off by the end of the output, looks like the start of a header.
pub(super) fn begins_like_header(text: &[u8]) -> bool {
    let compared = text.len().min(NAME.len());
    let header = HeaderLine::whole(text, usize::MAX).header();
    text[..compared].eq_ignore_ascii_case(&NAME[..compared])
        || header.is_some_and(|header| header.opens_block())
}

/// Whether a line belongs to a header block that holds a length. `inside`: the line before did.
pub(super) fn continues_headers(line: &[u8], inside: bool) -> bool {
    let line = HeaderLine::whole(line, usize::MAX);
    line.glued().is_some() || (inside && line.header().is_some())
}

/// Finds a `Content-Length` header line that is complete inside of a body, which is in two parts:
/// JSON holds no such line, so the length of that body is wrong. Returns the index behind the line
/// in the second part, the length of the header without its `\n`, and its value.
pub(super) fn header_inside(carried: &[u8], part: &[u8]) -> Option<(usize, usize, u64)> {
    memchr::memchr_iter(b'\n', part).find_map(|end| {
        // The line may begin in the first part. Only its last bytes matter.
        let near = last(&part[..end], TAIL);
        let mut joined = [0; 2 * TAIL];
        let far = last(carried, TAIL);
        let len = far.len() + near.len();
        let tail = if near.len() < TAIL {
            joined[..far.len()].copy_from_slice(far);
            joined[far.len()..len].copy_from_slice(near);
            last(&joined[..len], TAIL)
        } else {
            near
        };
        let (own, length) = HeaderLine::whole(tail, TAIL).glued()?;
        Some((end + 1, own, length))
    })
}

/// Returns where a body ends in the start of a `Content-Length` header, for each place where it
/// may: the body was cut off too late, inside of the header that follows it.
pub(super) fn header_starts(body: &[u8]) -> impl Iterator<Item = usize> {
    let from = body.len().saturating_sub(TAIL);
    (from..body.len()).filter(|&at| {
        let cut = &body[at..];
        let (name, value) = cut.split_at(cut.len().min(NAME.len()));
        let value = value.trim_ascii_start();
        let value = value.strip_prefix(b":").unwrap_or(value);
        name.eq_ignore_ascii_case(&NAME[..name.len()])
            && value.trim_ascii().iter().all(u8::is_ascii_digit)
    })
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

pub(super) fn first(bytes: &[u8], keep: usize) -> &[u8] {
    &bytes[..bytes.len().min(keep)]
}

pub(super) fn last(bytes: &[u8], keep: usize) -> &[u8] {
    &bytes[bytes.len().saturating_sub(keep)..]
}
