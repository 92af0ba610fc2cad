//! Splits stdin into records. Pure; it holds at most one record and one read.
//!
//! A bad record costs only that record: its bytes are skipped and reported, and the next record is
//! searched.

use std::ops::Range;

use agentpipe::Framing;
use memchr::memchr;

/// The longest header line and the longest header block, in bytes.
const HEADER_MAX: usize = 8 << 10;

/// A part of the input.
#[derive(Debug, PartialEq)]
pub(super) enum Found {
    Record(Vec<u8>),
    /// Bytes that were skipped, and why.
    Refused(String),
}

#[derive(Debug)]
pub(super) struct Unframe {
    limit: u64,
    bytes: Vec<u8>,
    /// How many of `bytes` are used up.
    used: usize,
    /// The prefix of `bytes` without a line end.
    searched: usize,
    /// Dropped bytes of a line that is too long.
    dropped: u64,
    ended: bool,
    state: Position,
}

#[derive(Clone, Copy, Debug)]
enum Position {
    Line,
    /// In a header block of `len` bytes; `length` is `None` until a valid one has come.
    Header {
        len: usize,
        length: Option<u64>,
        bad: bool,
    },
    /// Before a body of this many bytes.
    Body(u64),
    /// In a body above the limit, with this many bytes to skip.
    Skip(u64),
}

const BLOCK: Position = Position::Header { len: 0, length: None, bad: false };

enum RawLine {
    Whole(Range<usize>),
    TooLong(u64),
}

impl Unframe {
    pub(super) fn new(framing: Framing, limit: u64) -> Self {
        let state = if framing == Framing::ContentLength { BLOCK } else { Position::Line };
        let (bytes, used, searched, dropped) = (Vec::new(), 0, 0, 0);
        Self { limit, bytes, used, searched, dropped, ended: false, state }
    }

    pub(super) fn feed(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.used);
        self.searched -= self.used;
        self.used = 0;
        self.bytes.extend_from_slice(bytes);
    }

    /// Notes that no further bytes follow.
    pub(super) fn end(&mut self) {
        self.ended = true;
    }

    /// Returns the number of bytes that belong to no part yet.
    pub(super) fn held(&self) -> usize {
        self.bytes.len() - self.used
    }

    /// Drops the bytes that belong to no part yet.
    pub(super) fn forget(&mut self) {
        self.take(self.held());
    }

    /// Returns the next part, or `None` if more bytes are needed or the end is reached.
    pub(super) fn next(&mut self) -> Option<Found> {
        loop {
            let found = match self.state {
                Position::Line => self.line()?,
                Position::Header { len, length, bad } => self.header(len, length, bad)?,
                Position::Body(len) => self.body(len)?,
                Position::Skip(left) => {
                    let len = self.held().min(usize_of(left));
                    self.take(len);
                    let left = left - len as u64;
                    self.state = if left == 0 { BLOCK } else { Position::Skip(left) };
                    if left > 0 {
                        return None;
                    }
                    continue;
                }
            };
            if found.is_some() {
                return found;
            }
        }
    }

    fn line(&mut self) -> Option<Option<Found>> {
        // 2 more bytes for the line end.
        let line = match self.take_line(usize_of(self.limit).saturating_add(2))? {
            RawLine::Whole(line) => self.bytes[line].trim_ascii(),
            RawLine::TooLong(len) => return Some(Some(self.above_the_limit("a line", len))),
        };
        Some(match line.len() as u64 {
            0 => None,
            len if len > self.limit => Some(self.above_the_limit("a line", len)),
            _ => Some(Found::Record(line.to_vec())),
        })
    }

    fn header(&mut self, len: usize, length: Option<u64>, bad: bool) -> Option<Option<Found>> {
        let Some(line) = self.take_line(HEADER_MAX) else {
            let cut = self.ended && length.is_some();
            self.state = if cut { BLOCK } else { self.state };
            return cut.then(|| Some(Found::Refused("stdin ended inside a header".to_owned())));
        };
        let line = match line {
            RawLine::Whole(line) if len + line.len() <= HEADER_MAX => line,
            RawLine::Whole(line) => {
                let len = self.text_len(line);
                return self.bad_header(len);
            }
            RawLine::TooLong(len) => return self.bad_header(len),
        };
        let len = len + line.len();
        let text = self.bytes[line].trim_ascii();
        if text.is_empty() {
            self.state = match length {
                Some(length) if !bad && length > self.limit => Position::Skip(length),
                Some(length) if !bad => Position::Body(length),
                _ => BLOCK,
            };
            let above = matches!(self.state, Position::Skip(_));
            let length = length.unwrap_or(0);
            return Some(above.then(|| self.above_the_limit("a record", length)));
        }
        let (before, value) = match length_in(text) {
            Some((before, value)) => (before, Some(value)),
            None if is_other_header(text) => (0, None),
            None => (text.len(), None),
        };
        let same = |new: u64| length.is_none_or(|known| known == new);
        let (length, wrong) = match value {
            Some(Some(new)) if same(new) => (Some(new), false),
            Some(_) => (length, true),
            None => (length, false),
        };
        self.state = Position::Header { len, length, bad: bad || wrong };
        let passed_over = if wrong { text.len() } else { before };
        Some((passed_over > 0).then(|| no_header(passed_over as u64)))
    }

    fn bad_header(&mut self, len: u64) -> Option<Option<Found>> {
        self.state = BLOCK;
        Some(Some(no_header(len)))
    }

    fn body(&mut self, len: u64) -> Option<Option<Found>> {
        let held = self.held();
        let whole = held as u64 >= len;
        if !whole && !self.ended {
            return None;
        }
        self.state = BLOCK;
        let body = self.take(held.min(usize_of(len)));
        Some(Some(match whole {
            true => Found::Record(self.bytes[body].to_vec()),
            false => Found::Refused(format!(
                "stdin ended inside a record, {held} bytes into the {len} of it"
            )),
        }))
    }

    /// Takes the next line with its line end, which the last line may lack.
    fn take_line(&mut self, most: usize) -> Option<RawLine> {
        let end = memchr(b'\n', &self.bytes[self.searched..]).map(|at| self.searched + at + 1);
        // Each byte is searched once, however many reads a line takes.
        self.searched = self.bytes.len();
        if end.is_none() {
            // The line is dropped as it comes, so that an endless one does not grow the buffer.
            if self.held() > most {
                self.dropped += self.held() as u64;
                self.take(self.held());
            }
            if !self.ended || self.held() as u64 + self.dropped == 0 {
                return None;
            }
        }
        let line = self.take(end.unwrap_or(self.bytes.len()) - self.used);
        let dropped = std::mem::take(&mut self.dropped);
        Some(match dropped {
            0 => RawLine::Whole(line),
            _ => RawLine::TooLong(dropped + self.text_len(line)),
        })
    }

    /// Returns the length of a line without its line end.
    fn text_len(&self, line: Range<usize>) -> u64 {
        let line = &self.bytes[line];
        line.strip_suffix(b"\n").unwrap_or(line).len() as u64
    }

    fn take(&mut self, len: usize) -> Range<usize> {
        let taken = self.used..self.used + len;
        (self.used, self.searched) = (taken.end, taken.end);
        taken
    }

    fn above_the_limit(&self, what: &str, len: u64) -> Found {
        let limit = self.limit;
        Found::Refused(format!("{what} of {len} bytes on stdin is above the limit of {limit}"))
    }
}

fn no_header(len: u64) -> Found {
    Found::Refused(format!("{len} bytes on stdin are no Content-Length header and are passed over"))
}

/// Returns the position of a length in the line and its value, or `None` as the value if it is not a
/// number. Output without a line end may precede the header.
fn length_in(line: &[u8]) -> Option<(usize, Option<u64>)> {
    const NAME: &[u8] = b"content-length";
    let at = line.windows(NAME.len()).rposition(|part| part.eq_ignore_ascii_case(NAME))?;
    let value = line[at + NAME.len()..].trim_ascii_start().strip_prefix(b":")?;
    let value = std::str::from_utf8(value).ok().and_then(|value| value.trim().parse().ok());
    Some((at, value))
}

/// Whether a line is another header, such as `Content-Type: ...`, which is ignored.
fn is_other_header(line: &[u8]) -> bool {
    let name = line.split(|byte| *byte == b':').next().unwrap_or_default();
    let is_token = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'-';
    name.len() < line.len() && !name.is_empty() && name.iter().all(is_token)
}

fn usize_of(len: u64) -> usize {
    usize::try_from(len).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns all parts of an input that is cut into reads of this size. A refusal is its text.
    fn found(framing: Framing, limit: u64, input: &[u8], cut: usize) -> Vec<String> {
        let mut unframe = Unframe::new(framing, limit);
        let mut found = Vec::new();
        let mut take = |unframe: &mut Unframe| {
            while let Some(next) = unframe.next() {
                found.push(match next {
                    Found::Record(record) => String::from_utf8(record).expect("text"),
                    Found::Refused(why) => format!("! {why}"),
                });
            }
        };
        for part in input.chunks(cut) {
            unframe.feed(part);
            take(&mut unframe);
            let bound = usize_of(limit).max(HEADER_MAX).saturating_add(2 + cut);
            assert!(unframe.held() <= bound, "{} bytes are held", unframe.held());
        }
        unframe.end();
        take(&mut unframe);
        assert_eq!(unframe.held(), 0);
        found
    }

    fn check_at_every_cut(framing: Framing, limit: u64, input: &[u8], wanted: &[&str]) {
        for cut in [1, 2, 3, 5, 7, 16, 100, 1 << 20] {
            let found = found(framing, limit, input, cut);
            assert_eq!(found, wanted, "reads of {cut}: {:?}", String::from_utf8_lossy(input));
        }
    }

    #[test]
    fn long_line_costs_only_itself() {
        let limit = 10;
        let long = "! a line of 20 bytes on stdin is above the limit of 10";
        let check = |input: &str, wanted: &[&str]| {
            check_at_every_cut(Framing::Ndjson, limit, input.as_bytes(), wanted);
        };
        check("", &[]);
        check("\n\r\n  \n", &[]);
        check("{}\n {\"a\":1} \r\n[]", &["{}", "{\"a\":1}", "[]"]);
        check("0123456789\r\n0123456789", &["0123456789", "0123456789"]);
        check("01234567890123456789\n{}\n", &[long, "{}"]);
        check("{}\n01234567890123456789", &["{}", long]);
        check(" 01234567890\n", &["! a line of 11 bytes on stdin is above the limit of 10"]);
    }

    #[test]
    fn largest_limit_does_not_overflow() {
        check_at_every_cut(Framing::Ndjson, u64::MAX, b"{}\n[]\n", &["{}", "[]"]);
        let input = b"Content-Length: 18446744073709551615\r\n\r\n{}";
        let cut = "! stdin ended inside a record, 2 bytes into the 18446744073709551615 of it";
        check_at_every_cut(Framing::ContentLength, u64::MAX, input, &[cut]);
    }

    #[test]
    fn next_message_is_found_after_garbage() {
        let over = |len| {
            format!("! {len} bytes on stdin are no Content-Length header and are passed over")
        };
        let check = |input: &str, wanted: &[&str]| {
            check_at_every_cut(Framing::ContentLength, 10, input.as_bytes(), wanted);
        };
        check("", &[]);
        check(
            "Content-Length: 2\r\n\r\n{}content-length : 8\nX-Y: 1\n\n{\"a\":\n1}",
            &["{}", "{\"a\":\n1}"],
        );
        check("{\"a\":1}\n{\"b\":22}\n", &[&over(7), &over(8)]);
        let wrong = "Content-Length: x\r\n\r\n{\"id\":1}Content-Length: 2\r\n\r\n{}";
        check(wrong, &[&over(17), &over(8), "{}"]);
        let two = "Content-Length: 2\nContent-Length: 3\n\n{}\nContent-Length: 2\n\n[]";
        check(two, &[&over(17), &over(2), "[]"]);
        let above = "! a record of 11 bytes on stdin is above the limit of 10";
        check("Content-Length: 11\n\n01234567890Content-Length: 2\n\n{}", &[above, "{}"]);
        check("Content-Length: 11\n\n012", &[above]);
        check(
            "Content-Length: 3\n\n{}",
            &["! stdin ended inside a record, 2 bytes into the 3 of it"],
        );
        check("Content-Length: 3\n", &["! stdin ended inside a header"]);
        check("Content-Length: 3", &["! stdin ended inside a header"]);
        let endless = "x".repeat(100_000);
        check(&format!("{endless}\nContent-Length: 2\n\n{{}}"), &[&over(100_000), "{}"]);
    }
}
