//! The agent's records on their way to stdout, and the queue that records and lines share.

use std::collections::VecDeque;
use std::io;
use std::time::Instant;

use agentpipe::{Framing, Record};
use rustix::stdio::stdout;

use super::descriptor::{Descriptor, Direction};

/// Above this many bytes no record is taken from the agent. Its records then wait in the engine, which
/// counts them and holds the agent back.
pub(super) const FULL: usize = 64 << 10;

/// Memory that is kept once everything is written, in bytes. More was needed for one large record.
const KEPT: usize = 256 << 10;

#[derive(Debug)]
pub(super) struct Output {
    pub(super) descriptor: Descriptor,
    pub(super) framing: Framing,
    backlog: Backlog,
    /// The error after which stdout accepts no more.
    pub(super) failed: Option<io::Error>,
    /// The reader was given up: what is left, and what is still to come, is lost.
    given_up: bool,
    /// Bytes that stdout accepted.
    accepted: u64,
    /// Records that will never be written, and their bytes.
    pub(super) lost: (u64, u64),
    /// When stdout last accepted something.
    pub(super) took: Instant,
}

impl Output {
    pub(super) fn new(framing: Framing, now: Instant) -> Self {
        let descriptor = Descriptor::new(stdout(), Direction::Write);
        Self {
            descriptor,
            framing,
            backlog: Backlog::default(),
            failed: None,
            given_up: false,
            accepted: 0,
            lost: (0, 0),
            took: now,
        }
    }

    pub(super) fn has_room(&self, most: usize) -> bool {
        self.backlog.len() < most
    }

    pub(super) fn is_empty(&self) -> bool {
        self.backlog.is_empty()
    }

    /// Whether a record is partly written. Another write to the same file would split it.
    pub(super) fn is_inside_a_record(&self) -> bool {
        self.backlog.is_inside_an_item()
    }

    pub(super) fn push(&mut self, record: &Record) {
        let header = self.header(record);
        self.backlog.push(|bytes| {
            bytes.extend_from_slice(header.as_bytes());
            let start = bytes.len();
            bytes.extend_from_slice(record.as_bytes());
            if let Framing::Concat = self.framing {
                // One line each. A raw line end in JSON is white space between tokens.
                for byte in &mut bytes[start..] {
                    if matches!(byte, b'\n' | b'\r') {
                        *byte = b' ';
                    }
                }
            }
            if header.is_empty() {
                bytes.push(b'\n');
            }
        });
        // The record passes through the queue, so that it is counted like those before it.
        if self.failed.is_some() || self.given_up {
            self.give_up();
        }
    }

    /// Returns the length of a record with its framing, in bytes.
    pub(super) fn len_of(&self, record: &Record) -> u64 {
        let framing = self.header(record).len().max(b"\n".len());
        (framing + record.len()) as u64
    }

    fn header(&self, record: &Record) -> String {
        match self.framing {
            Framing::ContentLength => format!("Content-Length: {}\r\n\r\n", record.len()),
            _ => String::new(),
        }
    }

    /// Writes what fits. Returns true if something was written, or if stdout has failed.
    pub(super) fn flush(&mut self, now: Instant) -> bool {
        let mut moved = false;
        while !self.backlog.is_empty() && self.descriptor.is_ready() {
            let left = self.backlog.left();
            match self.descriptor.write(&left[..left.len().min(FULL)]) {
                Ok(len) => {
                    self.backlog.wrote(len);
                    self.accepted += len as u64;
                    self.took = now;
                    moved = true;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => moved = true,
                Err(error) => {
                    self.failed = Some(error);
                    self.give_up();
                    return true;
                }
            }
        }
        moved
    }

    /// Returns how many bytes the reader has taken. Where the file does not tell (a socket), all that it
    /// accepted counts as taken.
    pub(super) fn taken(&self) -> u64 {
        self.accepted.saturating_sub(self.descriptor.unread())
    }

    /// Drops what is left and whatever is still to come, and counts it as lost.
    pub(super) fn give_reader_up(&mut self) {
        self.given_up = true;
        self.give_up();
    }

    /// Returns the records and bytes that are not written.
    pub(super) fn undelivered(&self) -> (u64, u64) {
        let (records, bytes) = self.lost;
        (records + self.backlog.items() as u64, bytes + self.backlog.len() as u64)
    }

    /// Drops what is left, and counts it as lost.
    fn give_up(&mut self) {
        let (records, bytes) = self.backlog.give_up();
        self.lost.0 += records;
        self.lost.1 += bytes;
    }
}

/// Bytes to write, with the length of each item, so that items which are never written can be counted.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    bytes: Vec<u8>,
    /// How many of `bytes` are written.
    written: usize,
    /// The lengths of the items that are not fully written.
    items: VecDeque<usize>,
    /// How many bytes of the first item are written.
    begun: usize,
}

impl Backlog {
    /// Adds one item, which `fill` appends to the bytes.
    pub(super) fn push(&mut self, fill: impl FnOnce(&mut Vec<u8>)) {
        let before = self.bytes.len();
        fill(&mut self.bytes);
        let len = self.bytes.len() - before;
        if len > 0 {
            self.items.push_back(len);
        }
    }

    /// Adds bytes to the last item, or an item if all are written.
    pub(super) fn extend(&mut self, fill: impl FnOnce(&mut Vec<u8>)) {
        let before = self.bytes.len();
        fill(&mut self.bytes);
        let len = self.bytes.len() - before;
        match self.items.back_mut() {
            Some(last) => *last += len,
            None if len > 0 => self.items.push_back(len),
            None => {}
        }
    }

    /// Returns the number of bytes left.
    pub(super) fn len(&self) -> usize {
        self.bytes.len() - self.written
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the number of items that are not fully written.
    pub(super) fn items(&self) -> usize {
        self.items.len()
    }

    /// Whether the next write continues in the middle of an item.
    pub(super) fn is_inside_an_item(&self) -> bool {
        self.begun > 0
    }

    /// Returns the bytes left.
    pub(super) fn left(&self) -> &[u8] {
        &self.bytes[self.written..]
    }

    /// Returns the rest of the first item, and as many whole items after it as fit into `most` bytes.
    pub(super) fn whole_items(&self, most: usize) -> &[u8] {
        let mut len = self.items.front().map_or(0, |first| first - self.begun);
        for item in self.items.iter().skip(1) {
            if len + item > most {
                break;
            }
            len += item;
        }
        &self.left()[..len]
    }

    /// Notes that `len` bytes were written.
    pub(super) fn wrote(&mut self, mut len: usize) {
        self.written += len;
        while let Some(first) = self.items.front() {
            let rest = first - self.begun;
            if len < rest {
                self.begun += len;
                break;
            }
            len -= rest;
            self.begun = 0;
            self.items.pop_front();
        }
        if self.written == self.bytes.len() {
            self.bytes.clear();
            self.written = 0;
            // One large record must not keep its memory for the rest of the run.
            if self.bytes.capacity() > KEPT {
                self.bytes = Vec::new();
            }
        } else if self.written > KEPT / 2 && self.written > self.bytes.len() / 2 {
            // This moves fewer bytes than were written since the last time, so the cost per byte
            // stays constant.
            self.bytes.drain(..self.written);
            self.written = 0;
        }
    }

    /// Drops what is left, and returns its items and bytes.
    pub(super) fn give_up(&mut self) -> (u64, u64) {
        let lost = (self.items() as u64, self.len() as u64);
        *self = Self::default();
        lost
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partial_writes_leave_whole_items() {
        let items: Vec<Vec<u8>> = (0..50_u8).map(|n| vec![n; usize::from(n) * 7 + 1]).collect();
        let all = items.concat();
        for step in [1, 2, 3, 7, 100, 1000] {
            let mut backlog = Backlog::default();
            items.iter().for_each(|item| backlog.push(|bytes| bytes.extend_from_slice(item)));
            let mut written = Vec::new();
            while !backlog.is_empty() {
                let ends = items.iter().scan(0, |sum, item| {
                    *sum += item.len();
                    Some(*sum)
                });
                let left = ends.clone().filter(|end| *end > written.len()).count();
                assert_eq!((backlog.items(), backlog.len()), (left, all.len() - written.len()));
                let at_an_end =
                    written.is_empty() || ends.into_iter().any(|end| end == written.len());
                assert_eq!(backlog.is_inside_an_item(), !at_an_end);
                let part = &backlog.left()[..step.min(backlog.len())];
                written.extend_from_slice(part);
                backlog.wrote(step.min(backlog.len()));
            }
            assert_eq!((written == all, backlog.items(), backlog.give_up()), (true, 0, (0, 0)));
        }
    }

    #[test]
    fn lines_are_not_split() {
        let mut backlog = Backlog::default();
        for line in ["one\n", "two\n", "a longer one\n", "four\n"] {
            backlog.push(|bytes| bytes.extend_from_slice(line.as_bytes()));
        }
        assert_eq!(backlog.whole_items(9), b"one\ntwo\n");
        backlog.wrote(2);
        assert_eq!(backlog.whole_items(6), b"e\ntwo\n");
        backlog.wrote(6);
        assert_eq!(backlog.whole_items(3), b"a longer one\n", "a long line is written anyway");
        assert_eq!(backlog.give_up(), (2, 18));
    }
}
