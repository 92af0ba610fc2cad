//! Bytes of own stdin to records. Pure; it holds one record and one read at the most.
//!
//! One bad record costs that record: what is passed over is told, and the next one is looked for.

use std::ops::Range;

use agentpipe::Framing;
use memchr::memchr;

/// A header line, or a block of them, longer than this is none.
const HEADER_MAX: usize = 8 << 10;

/// What was found.
#[derive(Debug, PartialEq)]
pub(super) enum Found {
    Record(Vec<u8>),
    /// Bytes that were passed over, and why.
    Refused(String),
}

#[derive(Debug)]
pub(super) struct Unframe {
    limit: u64,
    bytes: Vec<u8>,
    /// How many of `bytes` are used up.
    used: usize,
    /// Up to here no line end was found.
    searched: usize,
    /// So much of the line was dropped, because it is too long.
    dropped: u64,
    ended: bool,
    state: State,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Line,
    /// In a header block of this many bytes; `None` as a length: no good one has come yet.
    Header {
        len: usize,
        length: Option<u64>,
        bad: bool,
    },
    /// In a body, or before one that is above the limit, with this many bytes to come.
    Body(u64),
    Skip(u64),
}

const BLOCK: State = State::Header { len: 0, length: None, bad: false };

enum Line {
    Whole(Range<usize>),
    TooLong(u64),
}

impl Unframe {
    pub(super) fn new(framing: Framing, limit: u64) -> Self {
        let state = if framing == Framing::ContentLength { BLOCK } else { State::Line };
        let (bytes, used, searched, dropped) = (Vec::new(), 0, 0, 0);
        Self { limit, bytes, used, searched, dropped, ended: false, state }
    }

    pub(super) fn feed(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.used);
        self.searched -= self.used;
        self.used = 0;
        self.bytes.extend_from_slice(bytes);
    }

    /// Nothing follows.
    pub(super) fn end(&mut self) {
        self.ended = true;
    }

    /// Bytes that came and belong to nothing that was found.
    pub(super) fn held(&self) -> usize {
        self.bytes.len() - self.used
    }

    /// Drops what it holds.
    pub(super) fn forget(&mut self) {
        self.take(self.held());
    }

    /// The next record, or what was none. `None`: more bytes are needed, or the end is reached.
    pub(super) fn next(&mut self) -> Option<Found> {
        loop {
            let found = match self.state {
                State::Line => self.line()?,
                State::Header { len, length, bad } => self.header(len, length, bad)?,
                State::Body(len) => self.body(len)?,
                State::Skip(left) => {
                    let len = self.held().min(usize_of(left));
                    self.take(len);
                    let left = left - len as u64;
                    self.state = if left == 0 { BLOCK } else { State::Skip(left) };
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
        // Room for the line end.
        let line = match self.take_line(usize_of(self.limit).saturating_add(2))? {
            Line::Whole(line) => self.bytes[line].trim_ascii(),
            Line::TooLong(len) => return Some(Some(self.above_the_limit("a line", len))),
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
            Line::Whole(line) if len + line.len() <= HEADER_MAX => line,
            Line::Whole(line) => {
                let len = self.text_len(line);
                return self.bad_header(len);
            }
            Line::TooLong(len) => return self.bad_header(len),
        };
        let len = len + line.len();
        let text = self.bytes[line].trim_ascii();
        if text.is_empty() {
            self.state = match length {
                Some(length) if !bad && length > self.limit => State::Skip(length),
                Some(length) if !bad => State::Body(length),
                _ => BLOCK,
            };
            let above = matches!(self.state, State::Skip(_));
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
        self.state = State::Header { len, length, bad: bad || wrong };
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

    /// The next line with its end. At the end of the input it needs none.
    fn take_line(&mut self, most: usize) -> Option<Line> {
        let end = memchr(b'\n', &self.bytes[self.searched..]).map(|at| self.searched + at + 1);
        self.searched = self.bytes.len();
        if end.is_none() {
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
            0 => Line::Whole(line),
            _ => Line::TooLong(dropped + self.text_len(line)),
        })
    }

    /// Without its line end.
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

/// Where a length stands in the line, and its value; `None` as a value: it is no number. What a
/// program printed without a line end stands before it.
fn length_in(line: &[u8]) -> Option<(usize, Option<u64>)> {
    const NAME: &[u8] = b"content-length";
    let at = line.windows(NAME.len()).rposition(|part| part.eq_ignore_ascii_case(NAME))?;
    let value = line[at + NAME.len()..].trim_ascii_start().strip_prefix(b":")?;
    let value = std::str::from_utf8(value).ok().and_then(|value| value.trim().parse().ok());
    Some((at, value))
}

/// `Content-Type: ...` and its like, which mean nothing here.
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

    /// All that is found, cut into reads of this size; a refusal is its text.
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
    fn lines_are_records_and_a_long_one_costs_itself() {
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
    fn a_limit_of_all_there_is_overflows_nothing() {
        check_at_every_cut(Framing::Ndjson, u64::MAX, b"{}\n[]\n", &["{}", "[]"]);
        let input = b"Content-Length: 18446744073709551615\r\n\r\n{}";
        let cut = "! stdin ended inside a record, 2 bytes into the 18446744073709551615 of it";
        check_at_every_cut(Framing::ContentLength, u64::MAX, input, &[cut]);
    }

    #[test]
    fn messages_are_found_again_after_what_is_none() {
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
