//! Bulk reads: an agent in a burst is read into large chunks of which its records are slices.
//!
//! A read of the pool brings 4 KiB, and a record that spans reads is put together by copies. In a burst
//! each READ instead goes behind the unfinished record of the last one, in the same chunk, so the kernel's
//! copy is the only one. An agent that pauses has no chunk: it goes back to the pool.

use std::ops::Range;
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};
use rustix::io::ioctl_fionread;

use crate::close::CloseEvent;
use crate::frame::{Frame, Payload};
use crate::io::PipeIo;
use crate::record::Preview;

use super::Transport;
use super::buffers::ReadBuffers;

/// The time within which [`BulkLimits::burst`] bytes are a burst.
const BURST_TIME: Duration = Duration::from_millis(1);

/// An agent that has written nothing for this long is read from the pool again.
const IDLE: Duration = Duration::from_millis(10);

/// After this many reads below [`SMALL`] bytes the burst is over.
const SMALL_MAX: u32 = 8;
const SMALL: usize = 2 << 10;

/// Bytes of used chunks that a thread keeps for reuse while an agent of it is read in bulk.
const KEPT_MAX: usize = 4 << 20;

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

/// Sizes in bytes. The simulation has smaller ones.
#[derive(Clone, Copy, Debug)]
pub(super) struct BulkLimits {
    /// Bytes within [`BURST_TIME`] that begin bulk reads.
    pub(super) burst: usize,
    /// An agent is ahead of the reads if this much of an unfinished record has arrived.
    pub(super) held: usize,
    /// An agent is ahead of the reads if this much is left in its pipe.
    pub(super) in_pipe: u64,
    /// The size of a chunk. A larger one is made for a record that does not fit.
    pub(super) chunk: usize,
    /// The first read of a chunk begins at a multiple of this: the kernel copies faster to a page.
    pub(super) align: usize,
    /// The least room of a read.
    pub(super) room: usize,
    /// A record is a slice of a chunk that is at most this many times as large, because it may keep that
    /// chunk alive.
    pub(super) slice: usize,
    /// Agents of a thread that are read in bulk at a time. This bounds the memory.
    pub(super) agents: usize,
}

impl Default for BulkLimits {
    fn default() -> Self {
        const CHUNK: usize = 256 << 10;
        let align = rustix::param::page_size();
        Self {
            burst: 32 << 10,
            held: 8 << 10,
            in_pipe: 1 << 10,
            chunk: CHUNK,
            align,
            room: 32 << 10,
            slice: 5,
            agents: 4,
        }
    }
}

/// The chunks of a thread.
#[derive(Debug, Default)]
pub(super) struct BulkChunks {
    pub(super) limits: BulkLimits,
    /// Agents that are read in bulk.
    agents: usize,
    /// Used chunks, of which records may be alive, with their sizes. The oldest first.
    used: Vec<(BytesMut, usize)>,
}

impl BulkChunks {
    /// Returns the chunk, or another one that begins with the same bytes, and the length of the next
    /// read. That ends where a record of the expected length does, if the chunk ends there: then the
    /// next chunk begins without a copy.
    fn with_room(
        &mut self,
        chunk: BytesMut,
        size: &mut usize,
        expected: usize,
    ) -> (BytesMut, usize) {
        let held = chunk.len();
        let whole = |chunk: &BytesMut| {
            let records = chunk.capacity().checked_div(expected)?;
            (records * expected).checked_sub(held).filter(|len| *len > 0)
        };
        let rest = |chunk: &BytesMut| chunk.capacity() - held;
        match whole(&chunk) {
            Some(len) if len >= self.limits.room => return (chunk, len),
            // In another chunk, the start of this record would be copied.
            Some(len) if (1..expected).contains(&held) => return (chunk, len),
            // Longer than expected, or nothing is expected yet.
            None if held >= expected && rest(&chunk) >= self.limits.room => {
                let len = rest(&chunk);
                return (chunk, len);
            }
            _ => {}
        }
        let room = expected.saturating_sub(held).max(held).max(self.limits.room);
        let (next, next_size) = self.take(&chunk, room);
        self.give_back(chunk, std::mem::replace(size, next_size));
        let len = whole(&next).unwrap_or_else(|| rest(&next));
        (next, len)
    }

    /// Returns a chunk that begins with `start` and has room for `room` bytes behind it, and its size.
    fn take(&mut self, start: &[u8], room: usize) -> (BytesMut, usize) {
        let align = self.limits.align;
        let need = (start.len() + room).max(self.limits.chunk) + align;
        // The latest are the warmest.
        let free = self.used.iter_mut().rposition(|(chunk, _)| chunk.try_reclaim(need));
        let (mut chunk, size) = match free {
            Some(at) => self.used.remove(at),
            None => (BytesMut::with_capacity(need), need),
        };
        let at = chunk.as_ptr().addr() + start.len();
        let skipped = at.next_multiple_of(align) - at;
        chunk.resize(skipped, 0);
        chunk.advance(skipped);
        chunk.extend_from_slice(start);
        (chunk, size)
    }

    /// Keeps a chunk for reuse. One that is not kept is freed with the last of its records.
    fn give_back(&mut self, chunk: BytesMut, size: usize) {
        if size == 0 {
            return;
        }
        self.used.push((chunk, size));
        let mut kept: usize = self.used.iter().map(|(_, size)| size).sum();
        while kept > KEPT_MAX {
            kept -= self.used.remove(0).1;
        }
    }

    /// Checks the laws that hold between turns.
    #[cfg(test)]
    pub(super) fn check(&self, agents: usize) {
        assert_eq!(self.agents, agents, "agents in bulk");
        assert!(agents <= self.limits.agents, "{agents} of {}", self.limits.agents);
        assert!(agents > 0 || self.used.is_empty(), "{} chunks are kept", self.used.len());
    }

    /// Notes that an agent is not read in bulk any more. After the last of them nothing is kept.
    fn leave(&mut self) {
        self.agents -= 1;
        if self.agents == 0 {
            self.used = Vec::new();
        }
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
    /// The size of the chunk, with what is used of it.
    size: usize,
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
    /// Notes a read of the pool. Returns true, and starts to count anew, if `enough` bytes arrived within
    /// [`BURST_TIME`].
    fn note(&mut self, bytes: usize, enough: usize, now: Instant) -> bool {
        match self.since {
            Some(since) if now.saturating_duration_since(since) < BURST_TIME => self.bytes += bytes,
            _ => (self.since, self.bytes) = (Some(now), bytes),
        }
        let bursts = self.bytes >= enough;
        if bursts {
            self.since = None;
        }
        bursts
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
    /// Notes a read of the pool, and begins with bulk reads in a burst: many bytes arrived in a short time,
    /// and the agent is ahead of the reads. An agent that waits after each record is not ahead.
    pub(super) fn note_pool_read(
        &mut self,
        io: &dyn PipeIo,
        buffers: &mut ReadBuffers,
        len: usize,
        now: Instant,
    ) {
        let limits = &buffers.bulk.limits;
        if !self.bulk.note(len, limits.burst, now) || self.bulk.is_active() || self.stdout_ended {
            return;
        }
        if buffers.bulk.agents == limits.agents {
            return;
        }
        let pipe = self.ends.stdout.open().and_then(|stdout| io.descriptor(stdout));
        let in_pipe = || pipe.and_then(|pipe| ioctl_fionread(pipe).ok()).unwrap_or(0);
        if self.framer.held() < limits.held && in_pipe() < limits.in_pipe {
            return;
        }
        buffers.bulk.agents += 1;
        self.bulk.active = Some(Box::new(BulkRead {
            chunk: Some(BytesMut::new()),
            size: 0,
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
        let (before, size) = (self.intake.stats.records_in, bulk.size);
        self.framer.hold_back(true);
        let expected = self.frame_chunk(buffers, &mut chunk, size);
        self.framer.hold_back(false);
        self.plan_event(CloseEvent::Output, now);
        let records = self.intake.stats.records_in - before;
        let Some(bulk) = &mut self.bulk.active else { return Pace::Still };
        bulk.expected = expected.unwrap_or(bulk.expected);
        bulk.unfinished = chunk.len();
        bulk.chunk = Some(chunk);
        self.count_unfinished();
        if came as u64 / records.max(1) < LARGE { Pace::Small } else { Pace::Large }
    }

    /// Queues the frames of a chunk of this size, and advances it past them. Returns the length of the
    /// last one.
    fn frame_chunk(
        &mut self,
        buffers: &mut ReadBuffers,
        chunk: &mut BytesMut,
        size: usize,
    ) -> Option<usize> {
        let slice_min = size / buffers.bulk.limits.slice;
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
                Some(place) if record.len() >= slice_min => {
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
                let (chunk, len) = buffers.bulk.with_room(chunk, &mut bulk.size, bulk.expected);
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

    /// Goes back to the pool: the framer keeps the unfinished record. If the backend has the chunk, the
    /// record is lost and counted as truncated.
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
        let size = bulk.size;
        self.bulk = BulkReads::default();
        self.frame_chunk(buffers, &mut chunk, size);
        buffers.bulk.give_back(chunk, size);
        buffers.bulk.leave();
        self.count_unfinished();
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the bytes copied from chunk to chunk for each byte of such records, and the chunks made.
    fn copies(record: usize, read: usize) -> (f64, usize) {
        let mut chunks = BulkChunks::default();
        let (mut chunk, mut size) = (BytesMut::new(), 0);
        let (mut total, mut copied, mut made) = (0, 0, std::collections::BTreeSet::new());
        // The reader is one record behind.
        let mut last = None;
        while total < 1000 * record {
            let (held, before) = (chunk.len(), chunk.as_ptr());
            let len;
            (chunk, len) = chunks.with_room(chunk, &mut size, record);
            made.insert(chunk.as_ptr().addr() / (64 << 10));
            copied += if chunk.as_ptr() == before { 0 } else { held };
            let came = len.min(read);
            assert!(came > 0 && chunk.capacity() - held >= came, "{came} of {len}");
            chunk.resize(held + came, b'x');
            total += came;
            let unfinished = total % record;
            let whole = (held + came).saturating_sub(unfinished);
            last = Some(chunk.split_to(whole).freeze());
        }
        drop(last);
        let kept: usize = chunks.used.iter().map(|(_, size)| size).sum();
        assert!(kept <= KEPT_MAX, "{kept} bytes");
        (copied as f64 / total as f64, made.len())
    }

    #[test]
    fn large_records_are_not_copied() {
        for record in [20 << 10, 64 << 10, 100_000, 256 << 10, 1 << 20] {
            for read in [4 << 10, 64 << 10, 1 << 20] {
                let (copies, _) = copies(record, read);
                assert!(copies <= 0.05, "{record} in reads of {read}: {copies}");
            }
        }
    }

    #[test]
    fn few_chunks_serve_a_reader_that_keeps_up() {
        for (record, read) in [(256, 4 << 10), (64 << 10, 64 << 10)] {
            let (_, ranges) = copies(record, read);
            // Three chunks of five ranges each, which need not begin at one.
            assert!(ranges <= 3 * 6, "{record} in reads of {read}: {ranges}");
        }
    }

    /// A chunk that its reader holds is not written again.
    #[test]
    fn kept_records_keep_their_bytes() {
        let mut chunks = BulkChunks::default();
        let (mut chunk, mut size, mut kept) = (BytesMut::new(), 0, Vec::new());
        for byte in 0..100 {
            (chunk, _) = chunks.with_room(chunk, &mut size, 64 << 10);
            chunk.resize(64 << 10, byte);
            kept.push(chunk.split().freeze());
        }
        let all: usize = chunks.used.iter().map(|(_, size)| size).sum();
        assert!((KEPT_MAX / 2..=KEPT_MAX).contains(&all), "{all} bytes of 6 MiB");
        for (byte, record) in (0..).zip(&kept) {
            assert!(record.iter().all(|it| *it == byte) && record.len() == 64 << 10);
        }
    }
}
