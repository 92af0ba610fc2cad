//! Floor 2. What is accepted but not yet written: a pure queue of frames.
//!
//! One write is in flight per pipe; what is queued meanwhile goes out in one coalesced write.
//! The queue knows where records begin, so a close can say how many were not sent.

use std::collections::VecDeque;

use crate::frame::memcpy;

/// Small frames are put together up to this many bytes: one pipe's default capacity.
const COALESCE: usize = 64 << 10;

/// An idle queue keeps room for no more frames than this.
const KEPT: usize = 8;

/// Frames waiting to be written, oldest first.
#[derive(Debug, Default)]
pub(crate) struct WriteQueue {
    /// Empty but while frames are taken over.
    accepted: Vec<Vec<u8>>,
    frames: VecDeque<Vec<u8>>,
    queued_bytes: usize,
    /// Lengths of the frames in the buffer handed out, oldest first; the first may be in part
    /// written.
    in_flight: VecDeque<usize>,
    in_flight_bytes: usize,
    lost_bytes: usize,
    lost_records: usize,
}

impl WriteQueue {
    /// Adds frames in order.
    pub(crate) fn push_all(&mut self, frames: impl IntoIterator<Item = Vec<u8>>) {
        for frame in frames {
            self.queued_bytes += frame.len();
            self.frames.push_back(frame);
        }
    }

    /// Adds the frames for which `take` swaps an empty list.
    pub(crate) fn take_over(&mut self, take: impl FnOnce(&mut Vec<Vec<u8>>)) {
        let mut accepted = std::mem::take(&mut self.accepted);
        take(&mut accepted);
        self.push_all(accepted.drain(..));
        if accepted.capacity() <= KEPT {
            self.accepted = accepted;
        }
    }

    /// The next buffer to write. A lone or large frame is handed over as it is; small ones are
    /// copied together. `None` if nothing waits or a buffer is out.
    pub(crate) fn next_buffer(&mut self) -> Option<Vec<u8>> {
        if !self.in_flight.is_empty() {
            return None;
        }
        let mut buffer = self.frames.pop_front()?;
        self.in_flight.push_back(buffer.len());
        while let Some(frame) = self.frames.front() {
            if buffer.len() + frame.len() > COALESCE {
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

    /// `count` more bytes of the buffer are on the pipe. Returns how many records that completed.
    pub(crate) fn advance(&mut self, count: usize) -> u64 {
        debug_assert!(count <= self.in_flight_bytes, "more was written than was out");
        self.in_flight_bytes = self.in_flight_bytes.saturating_sub(count);
        let mut left = count;
        let mut records = 0;
        while let Some(first) = self.in_flight.front_mut() {
            if left < *first {
                *first -= left;
                break;
            }
            left -= *first;
            self.in_flight.pop_front();
            records += 1;
        }
        if self.is_empty() && self.frames.capacity() + self.in_flight.capacity() > KEPT {
            self.frames = VecDeque::new();
            self.in_flight = VecDeque::new();
        }
        records
    }

    /// Gives up what waits and what is out: the pipe is closed. It stays counted as unsent.
    pub(crate) fn abandon(&mut self) {
        self.lost_bytes = self.unsent_bytes();
        self.lost_records = self.unsent_records();
        self.frames = VecDeque::new();
        self.in_flight = VecDeque::new();
        self.queued_bytes = 0;
        self.in_flight_bytes = 0;
    }

    /// Nothing waits and nothing is out.
    pub(crate) fn is_empty(&self) -> bool {
        self.frames.is_empty() && self.in_flight.is_empty()
    }

    /// Bytes not on the pipe, those of the buffer handed out included.
    pub(crate) fn unsent_bytes(&self) -> usize {
        self.queued_bytes + self.in_flight_bytes + self.lost_bytes
    }

    /// Records not on the pipe in full.
    pub(crate) fn unsent_records(&self) -> usize {
        self.frames.len() + self.in_flight.len() + self.lost_records
    }
}
