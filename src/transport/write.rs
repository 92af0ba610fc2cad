//! The write path: accepted frames go to the agent's stdin, one write in flight at a time.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use crate::error::{Error, ErrorKind};
use crate::frame::{StderrLines, memcpy};
use crate::io::{PipeIo, Role, WriteRefused};

use super::Ends;
use super::channel::{Channel, QUIET_FRAMES};

/// Small frames are put together up to this many bytes: the default capacity of a pipe.
const COALESCE_MAX: usize = 64 << 10;

/// Writes an agent's stdin.
#[derive(Debug)]
pub(super) struct StdinWriter {
    channel: Arc<Channel>,
    queue: WriteQueue,
    /// How much of the buffer in flight is in the pipe. `Some` while a write is in the kernel.
    offset: Option<usize>,
    close_when_flushed: bool,
    pub(super) records_out: u64,
    pub(super) bytes_out: u64,
}

impl StdinWriter {
    pub(super) fn new(channel: Arc<Channel>) -> Self {
        Self {
            channel,
            queue: WriteQueue::default(),
            offset: None,
            close_when_flushed: false,
            records_out: 0,
            bytes_out: 0,
        }
    }

    /// Takes what the writers queued and keeps the pipe busy. Returns whether no accepted write is
    /// left: all are in the pipe, or it broke.
    pub(super) fn pump(
        &mut self,
        io: &mut dyn PipeIo,
        ends: &mut Ends,
        stderr: &StderrLines,
    ) -> bool {
        self.accept();
        // Two pending writes on one pipe complete in reverse order (docs/design/kernel.md), so the
        // next one waits for the end of this one.
        if self.offset.is_none()
            && let Some(stdin) = ends.stdin.open()
            && let Some(buffer) = self.queue.next_buffer()
        {
            self.offset = Some(0);
            if let Err(refused) = io.write(stdin, buffer, 0) {
                return self.on_refused(io, ends, stderr, &refused);
            }
        }
        let done = self.queue.is_empty();
        // A write in flight counts as well: a close of stdin would cancel it.
        if done && self.close_when_flushed {
            ends.close(io, &[Role::Stdin]);
        }
        done
    }

    /// Takes the frames that were accepted since the last call.
    pub(super) fn accept(&mut self) {
        self.queue.extend(|frames| self.channel.outbox.take_frames(frames));
    }

    /// Continues after a write has ended. Returns as [`pump`](Self::pump) does.
    pub(super) fn on_wrote(
        &mut self,
        io: &mut dyn PipeIo,
        ends: &mut Ends,
        stderr: &StderrLines,
        buffer: Vec<u8>,
        result: io::Result<usize>,
    ) -> bool {
        let offset = self.offset.take().unwrap_or(0);
        match result {
            Ok(count) => {
                let records = self.queue.advance(count);
                self.records_out += records;
                self.bytes_out += count as u64;
                // A short write makes room, too: the writers do not wait for the rest of a large
                // buffer.
                self.channel.outbox.written(count, records);
                let offset = offset + count;
                if offset == buffer.len() {
                    return self.pump(io, ends, stderr);
                }
                // A started record is finished before anything else is written.
                let Some(stdin) = ends.stdin.open() else { return false };
                self.offset = Some(offset);
                match io.write(stdin, buffer, offset) {
                    Ok(()) => false,
                    Err(refused) => self.on_refused(io, ends, stderr, &refused),
                }
            }
            // Cancelled by a close, which goes on by itself.
            Err(error)
                if error.raw_os_error() == Some(rustix::io::Errno::CANCELED.raw_os_error()) =>
            {
                false
            }
            Err(error) => self.on_broken_pipe(io, ends, stderr, &error),
        }
    }

    /// The ring did not take the write. The queue still counts its bytes as unsent.
    fn on_refused(
        &mut self,
        io: &mut dyn PipeIo,
        ends: &mut Ends,
        stderr: &StderrLines,
        refused: &WriteRefused,
    ) -> bool {
        self.offset = None;
        let bytes = refused.buf.len();
        let agent = self.channel.label.as_str();
        crate::trace::warn!(agent, bytes, error = %refused.error, "write refused");
        self.on_broken_pipe(io, ends, stderr, &refused.error)
    }

    /// The agent closed its stdin or exited: nothing more can be sent.
    fn on_broken_pipe(
        &mut self,
        io: &mut dyn PipeIo,
        ends: &mut Ends,
        stderr: &StderrLines,
        error: &io::Error,
    ) -> bool {
        // EPIPE is how an agent ends its input by itself. Any other error is a failure of the
        // write.
        let why = if error.raw_os_error() == Some(rustix::io::Errno::PIPE.raw_os_error()) {
            Error::new(ErrorKind::InputEnded, "write", "the agent closed its stdin")
        } else {
            Error::new(ErrorKind::Io, "write", format!("writing to stdin failed: {error}"))
        };
        let why = why.on_agent(self.channel.label.as_str()).stderr(stderr.tail());
        crate::trace::debug!(error = %why, "input ended by the agent");
        self.channel.outbox.refuse(why);
        // Frames accepted up to the refusal are counted as unsent.
        self.accept();
        self.close_stdin(io, ends);
        true
    }

    /// Closes stdin now. What is pending is cancelled; what is queued is lost, and counted once the
    /// kernel has let go of it.
    pub(super) fn close_stdin(&mut self, io: &mut dyn PipeIo, ends: &mut Ends) {
        ends.close(io, &[Role::Stdin]);
        self.channel.outbox.lose();
    }

    /// Closes stdin as soon as everything accepted is written. The caller calls
    /// [`pump`](Self::pump) next.
    pub(super) fn close_stdin_after_flush(&mut self) {
        self.close_when_flushed = true;
    }

    /// Queues the interrupt request of a session behind what was accepted.
    pub(super) fn push(&mut self, frame: Vec<u8>) {
        self.queue.extend(|frames| frames.push_back(frame));
    }

    /// Gives up what is left: stdin is closed and its last write is final.
    pub(super) fn abandon(&mut self) {
        self.queue.abandon();
        self.offset = None;
    }

    /// Returns whether accepted bytes are not in the pipe yet.
    pub(super) fn has_pending(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Returns the bytes and the records that are not in the pipe (in full).
    pub(super) fn unsent(&self) -> (usize, usize) {
        (self.queue.unsent_bytes(), self.queue.unsent_records())
    }
}

/// The frames that are accepted and not written yet: pure.
///
/// One write is in flight per pipe; what is queued meanwhile goes out in one coalesced write. The
/// queue knows where records begin, so a close can report how many were not sent.
#[derive(Debug, Default)]
struct WriteQueue {
    /// Waiting to be written, oldest first.
    frames: VecDeque<Vec<u8>>,
    queued_bytes: usize,
    /// Lengths of the frames in the buffer in flight, oldest first; the first may be written in part.
    in_flight: VecDeque<usize>,
    in_flight_bytes: usize,
    lost_bytes: usize,
    lost_records: usize,
}

impl WriteQueue {
    /// Adds the frames that `add` appends.
    fn extend(&mut self, add: impl FnOnce(&mut VecDeque<Vec<u8>>)) {
        let before = self.frames.len();
        add(&mut self.frames);
        self.queued_bytes += self.frames.iter().skip(before).map(Vec::len).sum::<usize>();
    }

    /// Returns the next buffer to write, or `None` if nothing waits or a buffer is in flight. A lone or
    /// large frame is handed over as it is; small ones are copied together.
    fn next_buffer(&mut self) -> Option<Vec<u8>> {
        if !self.in_flight.is_empty() {
            return None;
        }
        let mut buffer = self.frames.pop_front()?;
        self.in_flight.push_back(buffer.len());
        while let Some(frame) = self.frames.front() {
            if buffer.len() + frame.len() > COALESCE_MAX {
                break;
            }
            memcpy::append(&mut buffer, frame);
            self.in_flight.push_back(frame.len());
            self.frames.pop_front();
        }
        self.queued_bytes -= buffer.len();
        self.in_flight_bytes = buffer.len();
        Some(buffer)
    }

    /// Notes that `count` more bytes of the buffer are in the pipe. Returns how many records that
    /// completed.
    fn advance(&mut self, count: usize) -> u64 {
        debug_assert!(count <= self.in_flight_bytes, "more was written than was in flight");
        self.in_flight_bytes = self.in_flight_bytes.saturating_sub(count);
        let mut left = count;
        let mut records = 0;
        while let Some(first) = self.in_flight.front_mut() {
            if left < *first {
                // What is left of a record that is written in part still counts as one unsent
                // record.
                *first -= left;
                break;
            }
            left -= *first;
            self.in_flight.pop_front();
            records += 1;
        }
        // A quiet agent must not keep the room of its largest burst.
        if self.is_empty() && self.frames.capacity() + self.in_flight.capacity() > QUIET_FRAMES {
            self.frames = VecDeque::new();
            self.in_flight = VecDeque::new();
        }
        records
    }

    /// Gives up what waits and what is in flight. It stays counted as unsent.
    fn abandon(&mut self) {
        // Counted before the queues are freed: the report is written later.
        self.lost_bytes = self.unsent_bytes();
        self.lost_records = self.unsent_records();
        self.frames = VecDeque::new();
        self.in_flight = VecDeque::new();
        self.queued_bytes = 0;
        self.in_flight_bytes = 0;
    }

    fn is_empty(&self) -> bool {
        self.frames.is_empty() && self.in_flight.is_empty()
    }

    /// Returns the bytes that are not in the pipe, those in flight included.
    fn unsent_bytes(&self) -> usize {
        self.queued_bytes + self.in_flight_bytes + self.lost_bytes
    }

    /// Returns the records that are not in the pipe in full.
    fn unsent_records(&self) -> usize {
        self.frames.len() + self.in_flight.len() + self.lost_records
    }
}
