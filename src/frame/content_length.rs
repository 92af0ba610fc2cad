//! Content-Length framing: `Content-Length: N`, a blank line, N bytes.
//!
//! Decisions that the base protocol leaves open:
//!
//! - Lines end with `\r\n` or `\n`, and further `\r` do no harm. Header names are compared without
//!   case; headers other than `Content-Length` are ignored. The same length twice is accepted, two
//!   lengths are not.
//! - A block begins at a `Content-...` header. Other lines before and inside it are noise; blank
//!   lines before it are skipped. A byte order mark before a line or a body is framing.
//! - N = 0, or a body of whitespace, is malformed JSON: no record is empty.
//! - A block without one readable length is malformed, once. The lines after it are noise up to the
//!   next `Content-Length` with a good number. That header is also found at the end of a line,
//!   because a body of this framing ends without a newline. With a bare `\n` it may be a log line,
//!   so the next line decides: a header is followed by a blank line or by another header.
//! - A body that holds a whole header line is not JSON: its length is wrong, and that header begins
//!   the next message. The same goes for a record that is followed by the start of a header.

use std::collections::VecDeque;

use crate::config::{JsonCheck, Limits};
use crate::framing::Framing;
use crate::record::{MalformedReason, Outline, Preview};

use super::carry::{Carry, CarryBuffers, newline};
use super::classify::{self, is_space};
use super::header::{
    HeaderBlock, HeaderLine, TAIL, UnfinishedLine, begins_like_header, first, header_inside,
    header_starts, last,
};
use super::ndjson::mark_len;
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
    /// A line that ended in a header and a bare `\n`.
    doubtful: Option<DoubtfulLine>,
    /// The stream ends its header lines in `\r\n`: a header with a bare `\n` is a log line.
    crlf: bool,
    /// A header has come, or the other framing was seen: the latter is not looked for any more.
    settled: bool,
    /// Frames that follow the one returned last.
    pending: VecDeque<Frame<'static>>,
    /// The unfinished line, in or before a block.
    line: UnfinishedLine,
    /// The unfinished body.
    body: Carry,
    /// The start of a body is left in the input until the rest is there.
    holds_back: bool,
    /// How many bytes of the input were searched before, because they were left in it.
    searched: usize,
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
        /// Its last bytes so far.
        tail: Vec<u8>,
    },
}

/// Text that ends in a header: the header begins a block if the next line says so.
#[derive(Debug)]
struct DoubtfulLine {
    block: HeaderBlock,
    /// The text before the header.
    before: Option<Preview>,
    whole: Preview,
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
            doubtful: None,
            crlf: false,
            settled: false,
            pending: VecDeque::new(),
            line: UnfinishedLine::default(),
            body: Carry::default(),
            holds_back: false,
            searched: 0,
        }
    }

    /// Creates a framer that has taken one line, given without its line end.
    pub(super) fn after(line: &[u8], limits: &Limits) -> Self {
        let mut framer = Self::new(limits);
        framer.take_line(HeaderLine::whole(line, limits.header_max).without_mark());
        framer
    }

    pub(super) fn hold_back(&mut self, holds: bool) {
        self.holds_back = holds;
    }

    pub(super) fn next<'frame, 'read: 'frame>(
        &'frame mut self,
        input: &mut &'read [u8],
        buffers: &mut CarryBuffers,
    ) -> Option<Frame<'frame>> {
        self.body.end_loan(buffers);
        loop {
            if let Some(frame) = self.pending.pop_front() {
                return Some(frame);
            }
            if input.is_empty() {
                break;
            }
            match self.part {
                MessagePart::Header => self.header_line(input),
                MessagePart::Body { need } => {
                    let used = (need - self.body.len()).min(input.len());
                    let part = first(input, used);
                    let searched = std::mem::take(&mut self.searched).min(used);
                    let (before, new) = match searched {
                        0 => (self.body.bytes(), part),
                        _ => part.split_at(searched),
                    };
                    if let Some((end, own, length)) = header_inside(before, new) {
                        let end = searched + end;
                        advance(input, end);
                        return Some(self.cut_body(&part[..end - 1], own, length, buffers));
                    }
                    if self.holds_back && used < need && self.body.is_empty() {
                        self.searched = used;
                        break;
                    }
                    advance(input, used);
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
                MessagePart::SkippedBody { .. } => self.skip_body(input),
            }
        }
        // The memory of a line is kept for the lines of one read. Between records a framer holds
        // none.
        self.line.free_if_empty();
        if self.pending.is_empty() {
            self.pending = VecDeque::new();
        }
        None
    }

    /// Call it until it returns `None`.
    pub(super) fn finish(&mut self, buffers: &mut CarryBuffers) -> Option<Frame<'static>> {
        self.body.end_loan(buffers);
        if let Some(doubtful) = self.doubtful.take() {
            self.pending.push_back(Frame::Noise(doubtful.whole));
        }
        let line = std::mem::take(&mut self.line);
        let block = self.block.take();
        let frame = match std::mem::replace(&mut self.part, MessagePart::Header) {
            MessagePart::Header => {
                let line = line.line().without_mark();
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
                let body = without_mark(self.body.bytes());
                Some(Frame::Truncated(Preview::new(body.len() as u64, body, self.sample)))
            }
            MessagePart::SkippedBody { claimed, left, head, .. } => {
                Some(Frame::Truncated(Preview::new(claimed - left, &head, self.sample)))
            }
        };
        (self.resync, self.crlf, self.settled) = (false, false, false);
        self.body.clear(buffers);
        self.pending.extend(frame);
        let next = self.pending.pop_front();
        if next.is_none() {
            self.pending = VecDeque::new();
        }
        next
    }

    /// Takes a line, or the part of it that is there.
    fn header_line(&mut self, input: &mut &[u8]) {
        if !self.settled && self.opens_with_brace(input) {
            // A line of JSON in place of a header. Its end may never come, so it is not awaited.
            self.settled = true;
            return self.pending.push_back(Frame::Mismatch(Framing::Ndjson));
        }
        let Some(at) = newline(input) else {
            return self.line.push(std::mem::take(input), self.header_max);
        };
        let part = &advance(input, at + 1)[..at];
        if self.line.is_empty() {
            return self.take_line(HeaderLine::whole(part, self.header_max).without_mark());
        }
        let mut line = std::mem::take(&mut self.line);
        line.push(part, self.header_max);
        self.take_line(line.line().without_mark());
        // Its memory serves the next line.
        line.clear();
        self.line = line;
    }

    fn opens_with_brace(&self, input: &[u8]) -> bool {
        let start = self.line.start();
        start.iter().chain(input).nth(mark_len(start, input)) == Some(&b'{')
    }

    fn take_line(&mut self, line: HeaderLine<'_>) {
        if let Some(doubtful) = self.doubtful.take() {
            let other = line.header().is_some_and(|header| header.opens_block());
            if line.is_empty() || (other && line.glued().is_none()) {
                self.pending.extend(doubtful.before.map(Frame::Noise));
                self.block = Some(doubtful.block);
            } else {
                self.pending.push_back(Frame::Noise(doubtful.whole));
            }
        }
        if line.is_blank() {
            // Only an empty line ends a block. A line of spaces is skipped.
            if line.is_empty()
                && let Some(block) = self.block.take()
            {
                self.end_block(&block);
            }
            return;
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
                return self.add_header(&line, length);
            }
        }
        let whole = Preview::new(line.len(), line.text(), self.sample);
        let glued = line.glued().filter(|_| line.ends_in_cr() || !self.crlf);
        let Some((own, length)) = glued else {
            return self.pending.push_back(Frame::Noise(whole));
        };
        let before = line.raw_len - own as u64;
        // Of a long line only the start is kept, so the text may be shorter than the noise was.
        let noise = first(line.text(), clamp(before));
        // White space before a header is framing, as before a line of NDJSON.
        let is_noise = !noise.iter().all(|&byte| is_space(byte));
        let before = is_noise.then(|| Preview::new(before, noise, self.sample));
        let header = HeaderLine::whole(last(line.tail, own), TAIL);
        if line.ends_in_cr() || self.block.is_some() {
            self.pending.extend(before.map(Frame::Noise));
            return self.add_header(&header, Some(Some(length)));
        }
        let mut block = HeaderBlock::new();
        block.add(&header, Some(Some(length)));
        self.doubtful = Some(DoubtfulLine { block, before, whole });
    }

    /// Adds a header to the block. `length` is `None` for another header, `Some(None)` for a length
    /// that cannot be read.
    fn add_header(&mut self, line: &HeaderLine<'_>, length: Option<Option<u64>>) {
        let mut block = self.block.take().unwrap_or_else(HeaderBlock::new);
        block.add(line, length);
        if line.long || block.raw_len > self.header_max as u64 {
            return self.refuse(&block);
        }
        self.settled = true;
        self.block = Some(block);
    }

    fn refuse(&mut self, block: &HeaderBlock) {
        self.resync = true;
        let (reason, sample) = (MalformedReason::Header, block.sample(self.sample));
        self.pending.push_back(Frame::Malformed { reason, sample });
    }

    fn end_block(&mut self, block: &HeaderBlock) {
        let Some(claimed) = block.length.filter(|_| !block.bad) else {
            return self.refuse(block);
        };
        self.resync = false;
        self.settled = true;
        self.crlf |= block.crlf;
        let need = clamp(claimed);
        if need == 0 {
            let (reason, sample) = (classify::why_not_json(&[]), Preview::new(0, &[], 0));
            return self.pending.push_back(Frame::Malformed { reason, sample });
        }
        self.part = if need <= self.record_max {
            MessagePart::Body { need }
        } else {
            let (head, tail) = (Vec::new(), Vec::new());
            MessagePart::SkippedBody { claimed, left: claimed, head, tail }
        };
    }

    /// Ends a body at the header that it holds. `part` continues the carried bytes up to the end of
    /// that header, which has `own` bytes.
    fn cut_body(
        &mut self,
        part: &[u8],
        own: usize,
        length: u64,
        buffers: &mut CarryBuffers,
    ) -> Frame<'static> {
        let carried = self.body.bytes();
        let len = carried.len() + part.len() - own;
        let mark = mark_len(carried, part).min(len);
        let body = carried.iter().chain(part).take(len).skip(mark).copied();
        let head: Vec<u8> = body.take(self.sample).collect();
        let sample = Preview::new((len - mark) as u64, &head, self.sample);
        let near = last(part, own);
        let far = last(carried, own - near.len());
        let header = [far, near].concat();
        self.body.clear(buffers);
        self.begin_at(&header, length);
        Frame::Malformed { reason: MalformedReason::Length, sample }
    }

    /// Begins a message at a header that was found inside of a body.
    fn begin_at(&mut self, header: &[u8], length: u64) {
        self.part = MessagePart::Header;
        self.add_header(&HeaderLine::whole(header, TAIL), Some(Some(length)));
    }

    /// Returns the frame of a body that lies inside one read, without a copy.
    fn whole_body<'read>(&mut self, body: &'read [u8]) -> Frame<'read> {
        match self.judge(body) {
            Ok((body, outline)) => Frame::Record(Payload::Borrowed(body), outline),
            Err(frame) => frame,
        }
    }
    fn carried_body(&mut self, buffers: &mut CarryBuffers) -> Frame<'_> {
        let body = std::mem::take(&mut self.body);
        let judged = self.judge(body.bytes()).map(|(content, outline)| (content.len(), outline));
        self.body = body;
        match judged {
            Ok((len, outline)) => {
                Frame::Record(self.body.lend(self.body.len() - len..self.body.len()), outline)
            }
            Err(frame) => {
                self.body.clear(buffers);
                frame
            }
        }
    }

    /// Returns the record in a complete body. If there is none, goes on with the header that the
    /// body may end in.
    fn judge<'a>(&mut self, body: &'a [u8]) -> Result<(&'a [u8], Outline), Frame<'static>> {
        let content = without_mark(body);
        let reason = match classify::body(content, self.check) {
            Ok(outline) => return Ok((content, outline)),
            Err(reason) => reason,
        };
        let is_record = |at: &usize| classify::body(&content[..*at], JsonCheck::Syntax).is_ok();
        let malformed = |reason, content: &[u8]| Frame::Malformed {
            reason,
            sample: Preview::new(content.len() as u64, content, self.sample),
        };
        let Some(at) = header_starts(content).find(is_record) else {
            return Err(malformed(reason, content));
        };
        let frame = malformed(MalformedReason::Length, &content[..at]);
        self.line.push(&content[at..], self.header_max);
        Err(frame)
    }

    fn skip_body(&mut self, input: &mut &[u8]) {
        let MessagePart::SkippedBody { claimed, left, head, tail } = &mut self.part else { return };
        let part = first(input, clamp(*left));
        let header = header_inside(tail, part);
        let part = advance(input, header.map_or(part.len(), |(end, _, _)| end));
        let room = self.sample.saturating_sub(head.len());
        head.extend_from_slice(first(part, room));
        tail.extend_from_slice(last(part, TAIL));
        *left -= part.len() as u64;
        if let Some((_, own, length)) = header {
            let len = *claimed - *left - own as u64 - 1;
            let sample = Preview::new(len, first(head, clamp(len)), self.sample);
            let header = last(&tail[..tail.len() - 1], own).to_vec();
            self.pending.push_back(Frame::Malformed { reason: MalformedReason::Length, sample });
            return self.begin_at(&header, length);
        }
        tail.drain(..tail.len().saturating_sub(TAIL));
        if *left == 0 {
            let sample = Preview::new(*claimed, head, self.sample);
            self.pending.push_back(Frame::Oversized(sample));
            self.part = MessagePart::Header;
        }
    }

    pub(super) fn held(&self) -> usize {
        let skipped = match &self.part {
            MessagePart::SkippedBody { head, tail, .. } => head.len() + tail.len(),
            _ => 0,
        };
        let block = self.block.as_ref().map_or(0, |block| block.head_len);
        let doubtful = self.doubtful.as_ref().map_or(0, |line| line.block.head_len);
        self.body.len() + self.line.held() + skipped + block + doubtful
    }

    #[cfg(any(test, fuzzing))]
    pub(super) fn capacity(&self) -> usize {
        let skipped = match &self.part {
            MessagePart::SkippedBody { head, tail, .. } => head.capacity() + tail.capacity(),
            _ => 0,
        };
        self.body.capacity() + self.line.capacity() + skipped + self.pending.capacity()
    }
}

/// Returns a body without the byte order mark at its start.
fn without_mark(body: &[u8]) -> &[u8] {
    &body[mark_len(body, &[])..]
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
