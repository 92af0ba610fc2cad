//! stdin of the fake, split into records.

use std::cell::Cell;
use std::io;
use std::ops::Range;
use std::rc::Rc;
use std::time::Instant;

use rustix::buffer::spare_capacity;
use rustix::io::Errno;

use super::args::Framing;
use super::ends::Stop;
use super::signals::TermSignal;

/// The size of a read, in bytes.
const CHUNK: usize = 64 * 1024;
/// The largest record, in bytes. A larger one is an error of the host.
const LIMIT: usize = 256 << 20;

/// stdin, with the bytes that are read and not returned yet.
#[derive(Debug)]
pub(super) struct FakeInput {
    /// Shared with the output, which writes as the host does.
    framing: Rc<Cell<Framing>>,
    signals: Rc<TermSignal>,
    buffer: Vec<u8>,
    start: usize,
    /// Where the search for a newline continues, so that a long record is searched once.
    scanned: usize,
    ended: bool,
}

/// The next thing on stdin.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Item<'a> {
    /// A record without its newline or header.
    Record(&'a [u8]),
    /// The bytes after the last newline when stdin ended.
    Tail(&'a [u8]),
    End,
}

impl FakeInput {
    pub(super) fn new(framing: Rc<Cell<Framing>>, signals: Rc<TermSignal>) -> Self {
        Self { framing, signals, buffer: Vec::new(), start: 0, scanned: 0, ended: false }
    }

    /// Waits for the next item.
    pub(super) fn next(&mut self) -> Result<Item<'_>, Stop> {
        loop {
            if let Some(range) = self.cut()? {
                return Ok(Item::Record(&self.buffer[range]));
            }
            if self.ended {
                return Ok(self.last());
            }
            if self.signals.watched() && self.signals.wait(true, false, None)?.term {
                return Err(Stop::Terminated);
            }
            self.fill()?;
        }
    }

    /// Returns the next item if it is available without a wait.
    pub(super) fn try_next(&mut self) -> Result<Option<Item<'_>>, Stop> {
        loop {
            if let Some(range) = self.cut()? {
                return Ok(Some(Item::Record(&self.buffer[range])));
            }
            if self.ended {
                return Ok(Some(self.last()));
            }
            let now = Instant::now();
            if !self.signals.wait(true, false, Some(now))?.input {
                return Ok(None);
            }
            self.fill()?;
        }
    }

    /// Waits for the next item. Returns `None` at `until`.
    pub(super) fn next_before(&mut self, until: Option<Instant>) -> Result<Option<Item<'_>>, Stop> {
        loop {
            if let Some(range) = self.cut()? {
                return Ok(Some(Item::Record(&self.buffer[range])));
            }
            if self.ended {
                return Ok(Some(self.last()));
            }
            let ready = self.signals.wait(true, false, until)?;
            if ready.term {
                return Err(Stop::Terminated);
            }
            if !ready.input {
                return Ok(None);
            }
            self.fill()?;
        }
    }

    /// Closes the pipe: the next write of the host fails, and no further item follows.
    pub(super) fn close(&mut self) -> Result<(), Stop> {
        let null = std::fs::File::open("/dev/null")?;
        rustix::stdio::dup2_stdin(null).map_err(io::Error::from)?;
        self.ended = true;
        Ok(())
    }

    fn last(&mut self) -> Item<'_> {
        let start = std::mem::replace(&mut self.start, self.buffer.len());
        match &self.buffer[start..] {
            [] => Item::End,
            tail => Item::Tail(tail),
        }
    }

    /// Reads once.
    fn fill(&mut self) -> Result<(), Stop> {
        if self.start > 0 {
            self.buffer.drain(..self.start);
            self.scanned -= self.start;
            self.start = 0;
        }
        if self.buffer.len() > LIMIT {
            return Err(Stop::Failed("a record on stdin is too long".to_owned()));
        }
        self.buffer.reserve(CHUNK);
        match rustix::io::read(rustix::stdio::stdin(), spare_capacity(&mut self.buffer)) {
            Ok(0) => self.ended = true,
            Ok(_) | Err(Errno::INTR) => {}
            // The host may have passed a descriptor in non-blocking mode.
            Err(Errno::AGAIN) => {
                self.signals.wait(true, false, None)?;
            }
            Err(error) => return Err(io::Error::from(error).into()),
        }
        Ok(())
    }

    /// Takes the next whole record from the buffer.
    fn cut(&mut self) -> Result<Option<Range<usize>>, Stop> {
        let unread = &self.buffer[self.start..];
        if let (Framing::Auto, Some(first)) = (self.framing.get(), unread.first()) {
            let headers = first.eq_ignore_ascii_case(&b'c');
            self.framing.set(if headers { Framing::ContentLength } else { Framing::Ndjson });
        }
        match self.framing.get() {
            Framing::ContentLength => self.cut_frame(),
            _ => Ok(self.cut_line()),
        }
    }

    fn cut_line(&mut self) -> Option<Range<usize>> {
        let Some(found) = memchr::memchr(b'\n', &self.buffer[self.scanned..]) else {
            self.scanned = self.buffer.len();
            return None;
        };
        let line = self.start..self.scanned + found;
        self.start = line.end + 1;
        self.scanned = self.start;
        Some(line)
    }

    fn cut_frame(&mut self) -> Result<Option<Range<usize>>, Stop> {
        self.scanned = self.start;
        let Some(head) = memchr::memmem::find(&self.buffer[self.start..], b"\r\n\r\n") else {
            return Ok(None);
        };
        let body = self.start + head + 4;
        let length = content_length(&self.buffer[self.start..body])
            .filter(|length| *length <= LIMIT)
            .ok_or_else(|| Stop::Failed("a frame on stdin has no Content-Length".to_owned()))?;
        if self.buffer.len() - body < length {
            return Ok(None);
        }
        self.start = body + length;
        self.scanned = self.start;
        Ok(Some(body..self.start))
    }
}

fn content_length(head: &[u8]) -> Option<usize> {
    std::str::from_utf8(head).ok()?.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.trim().eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
    })
}
