//! Bulk reads: an agent in a burst is read into large chunks of which its records are slices.
//!
//! A read of the pool brings 4 KiB, and a record that spans reads is put together by copies. In a burst
//! each READ instead goes behind the unfinished record of the last one, in the same chunk, so the kernel's
//! copy is the only one. An agent that pauses has no chunk: it goes back to the pool.

use std::ops::Range;
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};

use crate::close::CloseEvent;
use crate::frame::{Frame, Payload};
use crate::io::PipeIo;
use crate::record::Preview;

use super::Transport;
use super::buffers::ReadBuffers;

/// The size of a chunk. A larger one is made for a record that does not fit.
const CHUNK: usize = 256 << 10;

/// The least room of a read.
const ROOM_MIN: usize = 32 << 10;

/// A record of at least this size is a slice: it may keep a chunk alive that is five times as large.
pub(super) const SLICE_MIN: usize = CHUNK / 5;

/// This many bytes within [`BURST_TIME`] are a burst.
const BURST: usize = 32 << 10;
const BURST_TIME: Duration = Duration::from_millis(1);

/// An agent that has written nothing for this long is read from the pool again.
const IDLE: Duration = Duration::from_millis(10);

/// After this many reads below [`SMALL`] bytes the burst is over.
const SMALL_MAX: u32 = 8;
const SMALL: usize = 2 << 10;

/// Agents of a thread that are read in bulk at a time. This bounds the memory.
const AGENTS_MAX: usize = 4;

/// Chunks that a thread keeps for reuse.
const KEPT_MAX: usize = 8;

/// The records that a bulk read brought, which decide whether the driver polls for the next read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pace {
    /// No bytes came.
    Still,
    /// Small records. While the driver sleeps, the writer fills the pipe, and one read brings many of
    /// them. A driver that is awake follows it record by record, and both contend for the pipe.
    Small,
    /// The writer fills the pipe in less time than a sleep takes.
    Large,
}

/// From this mean length on records are large.
const LARGE: u64 = 16 << 10;

/// The chunks of a thread.
#[derive(Debug, Default)]
pub(super) struct BulkChunks {
    /// Agents that are read in bulk.
    agents: usize,
    /// Used chunks, of which records may be alive.
    used: Vec<BytesMut>,
}

impl BulkChunks {
    /// Returns the chunk, or another one that begins with the same bytes, and the length of the next
    /// read. That ends where a record of the expected length does, if the chunk ends there: then the
    /// next chunk begins without a copy.
    fn with_room(&mut self, chunk: BytesMut, expected: usize) -> (BytesMut, usize) {
        let held = chunk.len();
        let whole = |chunk: &BytesMut| {
            let records = chunk.capacity().checked_div(expected)?;
            (records * expected).checked_sub(held).filter(|len| *len > 0)
        };
        let rest = |chunk: &BytesMut| chunk.capacity() - held;
        match whole(&chunk) {
            Some(len) if len.max(held) >= ROOM_MIN => return (chunk, len),
            None if rest(&chunk) >= ROOM_MIN => {
                let len = rest(&chunk);
                return (chunk, len);
            }
            _ => {}
        }
        let room = expected.saturating_sub(held).max(held).max(ROOM_MIN);
        let next = self.take(&chunk, room);
        self.give_back(chunk);
        let len = whole(&next).unwrap_or_else(|| rest(&next));
        (next, len)
    }

    /// Returns a chunk that begins with `start` and has room for `room` bytes behind it, which begin a
    /// page: the kernel copies faster to those.
    fn take(&mut self, start: &[u8], room: usize) -> BytesMut {
        let page = rustix::param::page_size();
        let need = (start.len() + room).max(CHUNK) + page;
        let free = self.used.iter_mut().rposition(|chunk| chunk.try_reclaim(need));
        let mut chunk = match free {
            Some(at) => self.used.swap_remove(at),
            None => BytesMut::with_capacity(need),
        };
        let at = chunk.as_ptr().addr() + start.len();
        let skipped = at.next_multiple_of(page) - at;
        chunk.resize(skipped, 0);
        chunk.advance(skipped);
        chunk.extend_from_slice(start);
        chunk
    }

    fn give_back(&mut self, chunk: BytesMut) {
        if self.used.len() == KEPT_MAX {
            // Freed with the last of its records.
            self.used.remove(0);
        }
        self.used.push(chunk);
    }
}

/// Decides when an agent is read in bulk, and holds its chunk.
#[derive(Debug, Default)]
pub(super) struct BulkReads {
    since: Option<Instant>,
    bytes: usize,
    active: Option<Box<BulkRead>>,
}

/// An agent that is read in bulk.
#[derive(Debug)]
struct BulkRead {
    /// Begins with the unfinished record. `None` while the backend has it.
    chunk: Option<BytesMut>,
    /// The length of the unfinished record.
    unfinished: usize,
    /// It is counted as truncated.
    is_counted: bool,
    /// The length of the last record, with its framing: the next are likely as long.
    expected: usize,
    /// How many reads in a row brought little.
    small: u32,
    last_data: Instant,
    /// When to check whether it is idle.
    check_at: Instant,
    /// Goes back to the pool as soon as the chunk is here.
    leaves: bool,
}

impl BulkReads {
    /// Notes a read of the pool. Returns whether the agent is in a burst.
    fn note(&mut self, bytes: usize, now: Instant) -> bool {
        match self.since {
            Some(since) if now.saturating_duration_since(since) < BURST_TIME => self.bytes += bytes,
            _ => (self.since, self.bytes) = (Some(now), bytes),
        }
        self.bytes >= BURST
    }

    pub(super) fn is_active(&self) -> bool {
        self.active.is_some()
    }

    pub(super) fn check_at(&self) -> Option<Instant> {
        self.active.as_ref().map(|bulk| bulk.check_at)
    }

    /// Returns how many bytes of an unfinished record are in a chunk.
    pub(super) fn held(&self) -> usize {
        self.active.as_ref().map_or(0, |bulk| bulk.unfinished)
    }
}

impl Transport {
    /// Notes a read of the pool, and begins with bulk reads in a burst.
    pub(super) fn note_pool_read(&mut self, buffers: &mut ReadBuffers, len: usize, now: Instant) {
        if !self.bulk.note(len, now) || self.bulk.is_active() {
            return;
        }
        if buffers.bulk.agents == AGENTS_MAX || self.stdout_ended {
            return;
        }
        buffers.bulk.agents += 1;
        self.bulk.active = Some(Box::new(BulkRead {
            chunk: Some(BytesMut::new()),
            unfinished: 0,
            is_counted: false,
            expected: 0,
            small: 0,
            last_data: now,
            check_at: now + IDLE,
            leaves: false,
        }));
    }

    /// Frames what a bulk read brought.
    pub(super) fn on_filled(
        &mut self,
        buffers: &mut ReadBuffers,
        mut chunk: BytesMut,
        now: Instant,
    ) -> Pace {
        let Some(bulk) = &mut self.bulk.active else { return Pace::Still };
        let came = chunk.len() - bulk.unfinished;
        if std::mem::take(&mut bulk.is_counted) {
            chunk.advance(std::mem::take(&mut bulk.unfinished));
        }
        if came == 0 {
            bulk.chunk = Some(chunk);
            return Pace::Still;
        }
        bulk.last_data = now;
        bulk.small = if came < SMALL { bulk.small + 1 } else { 0 };
        bulk.leaves |= bulk.small >= SMALL_MAX;
        self.last_output = now;
        self.intake.stats.bytes_in += came as u64;
        let before = self.intake.stats.records_in;
        self.framer.hold_back(true);
        let expected = self.frame_chunk(buffers, &mut chunk);
        self.framer.hold_back(false);
        self.plan_event(CloseEvent::Output, now);
        let records = self.intake.stats.records_in - before;
        let Some(bulk) = &mut self.bulk.active else { return Pace::Still };
        bulk.expected = expected.unwrap_or(bulk.expected);
        bulk.unfinished = chunk.len();
        bulk.chunk = Some(chunk);
        self.intake.stats.unfinished_bytes = (self.framer.held() + self.bulk.held()) as u64;
        if came as u64 / records.max(1) < LARGE { Pace::Small } else { Pace::Large }
    }

    /// Queues the frames of a chunk, and advances it past them. Returns the length of the last one.
    fn frame_chunk(&mut self, buffers: &mut ReadBuffers, chunk: &mut BytesMut) -> Option<usize> {
        let ReadBuffers { chunks, carries, .. } = buffers;
        let (mut done, mut last) = (0, None);
        loop {
            let mut input = &chunk[done..];
            let frame = self.framer.next(&mut input, carries);
            let used = chunk.len() - done - input.len();
            done += used;
            let Some(frame) = frame else { break };
            last = Some(used);
            let Frame::Record(Payload::Borrowed(record), outline) = frame else {
                self.intake.frame(chunks, frame);
                continue;
            };
            match place_of(record, &chunk[..done]) {
                Some(place) if record.len() >= SLICE_MIN => {
                    let record = chunk.split_to(std::mem::take(&mut done)).freeze().slice(place);
                    self.intake.frame(chunks, Frame::Record(Payload::Shared(record), outline));
                }
                _ => {
                    let record = Payload::Borrowed(record);
                    self.intake.frame(chunks, Frame::Record(record, outline));
                }
            }
        }
        chunk.advance(done);
        last
    }

    /// Submits the next bulk read, or goes back to the pool. Last in a turn, so that the reader has had
    /// time to free a chunk.
    pub(super) fn read_on(&mut self, io: &mut dyn PipeIo, buffers: &mut ReadBuffers) {
        let Some(bulk) = &mut self.bulk.active else { return };
        if bulk.chunk.is_none() {
            return;
        }
        match self.ends.stdout.open() {
            Some(stdout) if !bulk.leaves && !self.stdout_ended => {
                if self.paused {
                    return;
                }
                let Some(chunk) = bulk.chunk.take() else { return };
                let (chunk, len) = buffers.bulk.with_room(chunk, bulk.expected);
                io.read_into(stdout, chunk, len);
            }
            stdout => {
                self.end_bulk_reads(buffers);
                if let Some(stdout) = stdout.filter(|_| !self.paused) {
                    io.read(stdout);
                }
            }
        }
    }

    /// Goes back to the pool: the unfinished record is kept by the framer. While the backend has the
    /// chunk, it only counts the record as truncated, because that is lost.
    pub(super) fn end_bulk_reads(&mut self, buffers: &mut ReadBuffers) {
        let Some(bulk) = &mut self.bulk.active else { return };
        let Some(mut chunk) = bulk.chunk.take() else {
            let lost = if bulk.is_counted { 0 } else { bulk.unfinished };
            bulk.is_counted = true;
            if lost > 0 {
                let cut = Preview::new(lost as u64, &[], 0);
                self.intake.frame(&mut buffers.chunks, Frame::Truncated(cut));
            }
            return;
        };
        self.bulk = BulkReads::default();
        buffers.bulk.agents -= 1;
        self.frame_chunk(buffers, &mut chunk);
        buffers.bulk.give_back(chunk);
        self.intake.stats.unfinished_bytes = self.framer.held() as u64;
    }

    /// Ends the bulk reads of an agent that has paused.
    pub(super) fn check_bulk(&mut self, io: &mut dyn PipeIo, now: Instant) {
        let Some(bulk) = self.bulk.active.as_mut().filter(|bulk| now >= bulk.check_at) else {
            return;
        };
        let idle_at = bulk.last_data + IDLE;
        if now < idle_at {
            bulk.check_at = idle_at;
            return;
        }
        bulk.check_at = now + IDLE;
        bulk.leaves = true;
        if bulk.chunk.is_none()
            && let Some(stdout) = self.ends.stdout.open()
        {
            // The chunk comes back, and the end of that turn reads from the pool.
            io.pause(stdout);
        }
    }
}

/// Returns where in `all` a part of it is.
fn place_of(part: &[u8], all: &[u8]) -> Option<Range<usize>> {
    let start = part.as_ptr().addr().checked_sub(all.as_ptr().addr())?;
    let end = start + part.len();
    (end <= all.len()).then_some(start..end)
}
