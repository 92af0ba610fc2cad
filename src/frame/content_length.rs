//! Floor 1. `Content-Length: N`, a blank line, N bytes.
//!
//! Decisions that the base protocol leaves open:
//!
//! - Lines end in `\r\n` or `\n`. Header names are compared without case; headers other than
//!   `Content-Length` are ignored. The same length twice is fine, two lengths are not.
//! - A block begins at a `Content-...` header. Other lines before and inside it are noise,
//!   blank ones before it are skipped.
//! - N = 0, or a body of whitespace, is malformed JSON: no record is empty.
//! - A block without one readable length is malformed, once. What follows is noise, line by
//!   line, up to the next `Content-Length` with a good number. It is also found glued to the
//!   end of a line, because a body of this framing ends without a newline.

use crate::config::{JsonCheck, Limits};
use crate::record::{MalformedReason, Preview};

use super::carry::Carry;
use super::classify;
use super::header::{self, HEAD, Line, Unfinished};
use super::ndjson::BYTE_ORDER_MARK;
use super::payload::{Frame, Payload};
use super::scan;

#[derive(Debug)]
pub(crate) struct ContentLength {
    record_max: usize,
    header_max: usize,
    sample: usize,
    check: JsonCheck,
    state: State,
    /// After a malformed header: only a good `Content-Length` begins a block.
    resync: bool,
    /// The header block that was begun and is not complete.
    block: Option<Block>,
    /// The unfinished line, in or before a block.
    line: Unfinished,
    /// The unfinished body.
    body: Carry,
}

#[derive(Debug)]
enum State {
    Lines,
    /// `need` is the length of the whole body, 1 to `record_max`.
    Body {
        need: usize,
    },
    /// A body above the limit: counted exactly, not kept.
    Skip {
        claimed: u64,
        left: u64,
        head: Vec<u8>,
    },
}

/// A header block so far.
#[derive(Debug)]
struct Block {
    /// Bytes of its header lines, line ends included.
    raw_len: u64,
    length: Option<u64>,
    bad: bool,
    head: [u8; HEAD],
    head_len: usize,
}

impl ContentLength {
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            record_max: limits.record_max,
            header_max: limits.header_max,
            sample: limits.sample,
            check: limits.json_check,
            state: State::Lines,
            resync: false,
            block: None,
            line: Unfinished::default(),
            body: Carry::default(),
        }
    }

    pub(super) fn feed(&mut self, input: &[u8], see: &mut dyn FnMut(Frame<'_>)) {
        let mut rest = input;
        while !rest.is_empty() {
            let used = match &self.state {
                State::Lines => self.feed_lines(rest, see),
                State::Body { need } => self.feed_body(*need, rest, see),
                State::Skip { .. } => self.feed_skip(rest, see),
            };
            rest = &rest[used..];
        }
        self.line.settle();
    }

    pub(super) fn finish(&mut self, see: &mut dyn FnMut(Frame<'_>)) {
        let line = std::mem::take(&mut self.line);
        let block = self.block.take();
        match std::mem::replace(&mut self.state, State::Lines) {
            State::Lines => {
                let line = line.line();
                if let Some(mut block) = block {
                    block.push(line.head, line.raw_len);
                    see(Frame::Truncated(block.sample(self.sample)));
                } else if !line.is_blank() {
                    // A cut header is counted raw, as the lines of a cut block are.
                    see(if !self.resync && header::begins_like_header(line.text()) {
                        Frame::Truncated(Preview::new(line.raw_len, line.head, self.sample))
                    } else {
                        Frame::Noise(Preview::new(line.len(), line.text(), self.sample))
                    });
                }
            }
            State::Body { .. } => {
                let body = self.body.bytes();
                see(Frame::Truncated(Preview::new(body.len() as u64, body, self.sample)));
            }
            State::Skip { claimed, left, head } => {
                see(Frame::Truncated(Preview::new(claimed - left, &head, self.sample)));
            }
        }
        self.resync = false;
        self.body.clear();
    }

    pub(super) fn carry(&mut self) -> &mut Carry {
        &mut self.body
    }

    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        let head = if let State::Skip { head, .. } = &self.state { head.len() } else { 0 };
        let block = self.block.as_ref().map_or(0, |block| block.head_len);
        self.body.len() + self.line.held() + head + block
    }

    fn feed_lines(&mut self, rest: &[u8], see: &mut dyn FnMut(Frame<'_>)) -> usize {
        let Some(at) = scan::newline(rest) else {
            self.line.push(rest, self.header_max);
            return rest.len();
        };
        if self.line.is_empty() {
            self.take_line(Line::whole(&rest[..at], self.header_max), see);
        } else {
            let mut line = std::mem::take(&mut self.line);
            line.push(&rest[..at], self.header_max);
            self.take_line(line.line(), see);
            line.clear();
            self.line = line;
        }
        at + 1
    }

    fn take_line(&mut self, line: Line<'_>, see: &mut dyn FnMut(Frame<'_>)) {
        if line.is_blank() {
            if line.is_empty()
                && let Some(block) = self.block.take()
            {
                self.end_block(&block, see);
            }
            return;
        }
        if let Some(header) = line.header() {
            let length = if header.is_length() { Some(header.length()) } else { None };
            let opens = match length {
                Some(value) => !self.resync || (value.is_some() && !line.long),
                None => !self.resync && header.opens_block(),
            };
            if opens || self.block.is_some() {
                return self.add_header(line.head, line.raw_len, length, line.long, see);
            }
        }
        if let Some((own, length)) = line.glued() {
            let before = line.len() - own as u64;
            let noise = &line.text()[..line.text().len().min(clamp(before))];
            if noise != BYTE_ORDER_MARK && !noise.iter().all(|&byte| classify::is_space(byte)) {
                see(Frame::Noise(Preview::new(before, noise, self.sample)));
            }
            let own = &line.tail[line.tail.len() - own - 1..];
            return self.add_header(own, own.len() as u64, Some(Some(length)), false, see);
        }
        see(Frame::Noise(Preview::new(line.len(), line.text(), self.sample)));
    }

    /// `length`: none for another header, `Some(None)` for one that cannot be read.
    fn add_header(
        &mut self,
        text: &[u8],
        raw_len: u64,
        length: Option<Option<u64>>,
        long: bool,
        see: &mut dyn FnMut(Frame<'_>),
    ) {
        let mut block = self.block.take().unwrap_or_else(Block::new);
        block.push(text, raw_len);
        block.push(b"\n", 1);
        if let Some(length) = length {
            block.bad |= length.is_none() || (block.length.is_some() && block.length != length);
            block.length = length;
        }
        if long || block.raw_len > self.header_max as u64 {
            self.refuse(&block, see);
        } else {
            self.block = Some(block);
        }
    }

    fn end_block(&mut self, block: &Block, see: &mut dyn FnMut(Frame<'_>)) {
        let Some(claimed) = block.length.filter(|_| !block.bad) else {
            return self.refuse(block, see);
        };
        self.resync = false;
        let need = clamp(claimed);
        if need == 0 {
            self.show_body(&[], see);
        } else if need <= self.record_max {
            self.state = State::Body { need };
        } else {
            self.state = State::Skip { claimed, left: claimed, head: Vec::new() };
        }
    }

    fn refuse(&mut self, block: &Block, see: &mut dyn FnMut(Frame<'_>)) {
        self.resync = true;
        let sample = block.sample(self.sample);
        see(Frame::Malformed { reason: MalformedReason::Header, sample });
    }

    fn feed_body(&mut self, need: usize, rest: &[u8], see: &mut dyn FnMut(Frame<'_>)) -> usize {
        let used = (need - self.body.len()).min(rest.len());
        if used == need {
            self.state = State::Lines;
            self.show_body(&rest[..need], see);
            return used;
        }
        self.body.append(&rest[..used], need);
        if self.body.len() == need {
            self.state = State::Lines;
            match classify::body(self.body.bytes(), self.check) {
                Ok(outline) => {
                    self.body.hand_over(0..need, |payload| see(Frame::Record(payload, outline)));
                }
                Err(reason) => {
                    let sample = Preview::new(need as u64, self.body.bytes(), self.sample);
                    see(Frame::Malformed { reason, sample });
                    self.body.clear();
                }
            }
        }
        used
    }

    /// A body that lies whole in this read: nothing is copied.
    fn show_body(&self, body: &[u8], see: &mut dyn FnMut(Frame<'_>)) {
        see(match classify::body(body, self.check) {
            Ok(outline) => Frame::Record(Payload::Borrowed(body), outline),
            Err(reason) => {
                let sample = Preview::new(body.len() as u64, body, self.sample);
                Frame::Malformed { reason, sample }
            }
        });
    }

    fn feed_skip(&mut self, rest: &[u8], see: &mut dyn FnMut(Frame<'_>)) -> usize {
        let State::Skip { claimed, left, head } = &mut self.state else { return 0 };
        let used = clamp(*left).min(rest.len());
        let room = self.sample.saturating_sub(head.len());
        head.extend_from_slice(&rest[..used.min(room)]);
        *left -= used as u64;
        if *left == 0 {
            let sample = Preview::new(*claimed, head, self.sample);
            self.state = State::Lines;
            see(Frame::Oversized(sample));
        }
        used
    }

    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        let head = if let State::Skip { head, .. } = &self.state { head.capacity() } else { 0 };
        self.body.capacity() + self.line.capacity() + head
    }
}

impl Block {
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

/// A length as far as memory can go.
fn clamp(length: u64) -> usize {
    usize::try_from(length).unwrap_or(usize::MAX)
}
