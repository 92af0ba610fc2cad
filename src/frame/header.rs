//! Floor 1. Header lines of the Content-Length framing: kept while unfinished, and read.

use super::classify::is_space;

/// Bytes of a line's end that are kept, however long it is: a `Content-Length` header with the
/// largest number has 39.
const TAIL: usize = 64;

/// Bytes of a line's start that are kept.
pub(super) const HEAD: usize = 160;

/// A length above this is a broken header, not a record to be skipped: 1 TiB would be skipped
/// for longer than any session lives, and the stream would be lost for one bad number.
const LENGTH_MAX: u64 = 1 << 40;

const NAME: &[u8] = b"content-length";

/// A complete line without its `\n`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Line<'a> {
    /// The length, a `\r` at the end included.
    pub(super) raw_len: u64,
    /// The whole line, or the first `HEAD` bytes of a long one.
    pub(super) head: &'a [u8],
    /// The whole line, or the last `TAIL` bytes of a long one.
    pub(super) tail: &'a [u8],
    /// Longer than a header block may be.
    pub(super) long: bool,
}

impl<'a> Line<'a> {
    /// A line that lies whole in one read.
    pub(super) fn whole(line: &'a [u8], header_max: usize) -> Self {
        let long = line.len() > header_max;
        let (head, tail) = if long { (first(line, HEAD), last(line, TAIL)) } else { (line, line) };
        Self { raw_len: line.len() as u64, head, tail, long }
    }

    fn ends_in_cr(&self) -> bool {
        self.tail.last() == Some(&b'\r')
    }

    /// The length without the `\r`.
    pub(super) fn len(&self) -> u64 {
        self.raw_len - u64::from(self.ends_in_cr())
    }

    /// The text without the `\r`; of a long line its start.
    pub(super) fn text(&self) -> &'a [u8] {
        first(self.head, usize::try_from(self.len()).unwrap_or(usize::MAX))
    }

    /// Whether it ends a header block.
    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether it says nothing.
    pub(super) fn is_blank(&self) -> bool {
        !self.long && self.text().iter().all(|&byte| is_space(byte))
    }

    /// `name: value`.
    pub(super) fn header(&self) -> Option<Header<'a>> {
        let text = self.text();
        let colon = text.iter().position(|&byte| !is_token(byte))?;
        if colon == 0 || text[colon] != b':' {
            return None;
        }
        Some(Header { name: &text[..colon], value: &text[colon + 1..] })
    }

    /// A `Content-Length` header that stands at the end of a line and not at its start: the
    /// rest of a body whose length was wrong, or output that wrote no newline, came before it.
    /// Gives the header's own length and its value.
    ///
    /// Only with `\r\n` after it: a log line that ends in those words has a bare `\n`.
    pub(super) fn glued(&self) -> Option<(usize, u64)> {
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
pub(super) struct Header<'a> {
    name: &'a [u8],
    value: &'a [u8],
}

impl Header<'_> {
    pub(super) fn is_length(&self) -> bool {
        self.name.eq_ignore_ascii_case(NAME)
    }

    /// `Content-Length`, `Content-Type` and their like: what a block may begin with. Any
    /// `word:` would be too much: `12:30:01 started` and `INFO: started` are log lines.
    pub(super) fn opens_block(&self) -> bool {
        self.name.get(..8).is_some_and(|name| name.eq_ignore_ascii_case(b"content-"))
    }

    pub(super) fn length(&self) -> Option<u64> {
        length(self.value)
    }
}

/// Whether the last line, cut off by the end of the output, looks like the start of a header.
pub(super) fn begins_like_header(text: &[u8]) -> bool {
    let compared = text.len().min(NAME.len());
    let header = Line::whole(text, usize::MAX).header();
    text[..compared].eq_ignore_ascii_case(&NAME[..compared])
        || header.is_some_and(|header| header.opens_block())
}

/// Digits with padding around them: no sign, no overflow, no second value.
fn length(value: &[u8]) -> Option<u64> {
    let value = std::str::from_utf8(value).ok()?.trim_matches([' ', '\t']);
    if !value.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    value.parse().ok().filter(|&length| length <= LENGTH_MAX)
}

fn is_padding(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

/// What a header name is made of.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn first(bytes: &[u8], keep: usize) -> &[u8] {
    &bytes[..bytes.len().min(keep)]
}

fn last(bytes: &[u8], keep: usize) -> &[u8] {
    &bytes[bytes.len().saturating_sub(keep)..]
}

/// A line that spans reads. Kept whole up to `header_max`, from there on only its two ends.
#[derive(Debug, Default)]
pub(super) struct Unfinished {
    len: u64,
    /// The line, or the last bytes of a long one.
    bytes: Vec<u8>,
    /// The first bytes of a long one.
    head: Vec<u8>,
    long: bool,
}

impl Unfinished {
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
        self.bytes.extend_from_slice(last(part, TAIL));
        // Not on every push: dropping the front moves the rest.
        if self.bytes.len() > 4 * TAIL {
            self.bytes.drain(..self.bytes.len() - TAIL);
        }
    }

    pub(super) fn line(&self) -> Line<'_> {
        let (head, tail) = if self.long {
            (&*self.head, last(&self.bytes, TAIL))
        } else {
            (&*self.bytes, &*self.bytes)
        };
        Line { raw_len: self.len, head, tail, long: self.long }
    }

    pub(super) fn clear(&mut self) {
        self.len = 0;
        self.bytes.clear();
        self.head.clear();
        self.long = false;
    }

    /// Between reads: nothing held, nothing allocated.
    pub(super) fn settle(&mut self) {
        if self.is_empty() {
            *self = Self::default();
        }
    }

    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.bytes.len() + self.head.len()
    }

    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.bytes.capacity() + self.head.capacity()
    }
}
