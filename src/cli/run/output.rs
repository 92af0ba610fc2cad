//! The agent's records on their way to own stdout.

use std::io;
use std::time::Instant;

use agentpipe::{Framing, Record};
use rustix::stdio::stdout;

use super::backlog::Backlog;
use super::descriptor::{Descriptor, Use};

/// Above this no record is taken from the agent, which then waits: its records are held where they
/// are counted, and never in two places.
const FULL: usize = 64 << 10;

#[derive(Debug)]
pub(super) struct Output {
    pub(super) descriptor: Descriptor,
    framing: Framing,
    backlog: Backlog,
    /// It takes no more, ever.
    pub(super) failed: Option<io::Error>,
    /// Records that will never be written, and their bytes.
    pub(super) lost: (u64, u64),
    /// When it last took something.
    pub(super) took: Instant,
}

impl Output {
    pub(super) fn new(framing: Framing, now: Instant) -> Self {
        let descriptor = Descriptor::new(stdout(), Use::Write);
        Self {
            descriptor,
            framing,
            backlog: Backlog::default(),
            failed: None,
            lost: (0, 0),
            took: now,
        }
    }

    pub(super) fn has_room(&self) -> bool {
        self.backlog.len() < FULL
    }

    pub(super) fn is_empty(&self) -> bool {
        self.backlog.is_empty()
    }

    /// A record stands there in part: whatever else is written to the same place would tear it.
    pub(super) fn is_inside_a_record(&self) -> bool {
        self.backlog.is_inside_an_item()
    }

    pub(super) fn push(&mut self, record: &Record) {
        let header = self.header(record);
        self.backlog.push(|bytes| {
            bytes.extend_from_slice(header.as_bytes());
            bytes.extend_from_slice(record.as_bytes());
            if header.is_empty() {
                bytes.push(b'\n');
            }
        });
        if self.failed.is_some() {
            self.give_up();
        }
    }

    /// The bytes of a record with its framing.
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

    /// Writes what fits. True if something moved, or if stdout has just failed.
    pub(super) fn flush(&mut self, now: Instant) -> bool {
        let mut moved = false;
        while !self.backlog.is_empty() && self.descriptor.is_ready() {
            let left = self.backlog.left();
            match self.descriptor.write(&left[..left.len().min(FULL)]) {
                Ok(len) => {
                    self.backlog.wrote(len);
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

    /// Records and bytes that are still to be written or will never be.
    pub(super) fn undelivered(&self) -> (u64, u64) {
        let (records, bytes) = self.lost;
        (records + self.backlog.items() as u64, bytes + self.backlog.len() as u64)
    }

    /// What is left will not be written.
    fn give_up(&mut self) {
        let (records, bytes) = self.backlog.give_up();
        self.lost.0 += records;
        self.lost.1 += bytes;
    }
}
