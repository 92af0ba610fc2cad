//! Floor 2. Accepted frames go to the agent's stdin, one write in flight at a time.

use std::io;
use std::time::Instant;

use crate::error::{Error, ErrorKind};
use crate::io::{PipeIo, Role, WriteRefused};

use super::state::Transport;
use crate::close::CloseEvent;

impl Transport {
    /// Takes what the writers queued and keeps the pipe busy.
    pub(super) fn pump_writes(&mut self, io: &mut dyn PipeIo, now: Instant) {
        self.queue.take_over(|frames| self.channel.take_frames(frames));
        if self.write_offset.is_none()
            && let Some(stdin) = self.ends.stdin.open()
            && let Some(buffer) = self.queue.next_buffer()
        {
            self.write_offset = Some(0);
            if let Err(refused) = io.write(stdin, buffer, 0) {
                self.write_refused(io, &refused, now);
                return;
            }
        }
        self.writes_checked(io, now);
    }

    /// A write ended: in full, short, cancelled by a close, or with a broken pipe.
    pub(super) fn on_wrote(
        &mut self,
        io: &mut dyn PipeIo,
        buffer: Vec<u8>,
        result: io::Result<usize>,
        now: Instant,
    ) {
        let offset = self.write_offset.take().unwrap_or(0);
        match result {
            Ok(count) => {
                let records = self.queue.advance(count);
                self.intake.stats.records_out += records;
                self.intake.stats.bytes_out += count as u64;
                self.channel.written(count, records);
                let offset = offset + count;
                if offset < buffer.len() {
                    self.write_rest(io, buffer, offset, now);
                } else {
                    self.pump_writes(io, now);
                }
            }
            // The close that cancelled it goes on by itself.
            Err(error)
                if error.raw_os_error() == Some(rustix::io::Errno::CANCELED.raw_os_error()) => {}
            Err(error) => self.writes_failed(io, &error, now),
        }
    }

    /// A started record is finished before anything else is written.
    fn write_rest(&mut self, io: &mut dyn PipeIo, buffer: Vec<u8>, offset: usize, now: Instant) {
        let Some(stdin) = self.ends.stdin.open() else { return };
        self.write_offset = Some(offset);
        if let Err(refused) = io.write(stdin, buffer, offset) {
            self.write_refused(io, &refused, now);
        }
    }

    /// The ring did not take it. The queue still counts those bytes as unsent.
    fn write_refused(&mut self, io: &mut dyn PipeIo, refused: &WriteRefused, now: Instant) {
        self.write_offset = None;
        let bytes = refused.buf.len();
        let agent = self.channel.label.as_str();
        crate::trace::warn!(agent, bytes, error = %refused.error, "write refused");
        self.writes_failed(io, &refused.error, now);
    }

    /// The user wants the input ended once everything accepted is written.
    pub(super) fn end_input_when_flushed(&mut self, io: &mut dyn PipeIo, now: Instant) {
        self.end_when_flushed = true;
        self.pump_writes(io, now);
    }

    /// Closes stdin: what is pending is cancelled, what is queued is lost and counted once the
    /// kernel has let go of it.
    pub(super) fn close_input(&mut self, io: &mut dyn PipeIo) {
        self.ends.close(io, &[Role::Stdin]);
        self.channel.lose_writes();
    }

    /// Stdin is closed and its last write is final: what is left was never sent.
    pub(super) fn input_closed(&mut self) {
        self.queue.abandon();
        self.write_offset = None;
    }

    /// The pipe broke: the agent closed its stdin or died. Nothing more can be sent.
    fn writes_failed(&mut self, io: &mut dyn PipeIo, error: &io::Error, now: Instant) {
        let why = if error.raw_os_error() == Some(rustix::io::Errno::PIPE.raw_os_error()) {
            Error::new(ErrorKind::InputEnded, "write", "the agent closed its stdin")
        } else {
            Error::new(ErrorKind::Io, "write", format!("writing to stdin failed: {error}"))
        };
        let why = why.on_agent(self.channel.label.as_str()).stderr(self.stderr.tail());
        crate::trace::debug!(error = %why, "input ended by the agent");
        self.channel.refuse_writes(why);
        // Frames accepted up to the refusal are counted as unsent.
        self.queue.take_over(|frames| self.channel.take_frames(frames));
        self.close_input(io);
        self.plan_event(CloseEvent::WritesDone, now);
    }

    fn writes_checked(&mut self, io: &mut dyn PipeIo, now: Instant) {
        if !self.queue.is_empty() {
            return;
        }
        if self.end_when_flushed {
            self.ends.close(io, &[Role::Stdin]);
        }
        self.plan_event(CloseEvent::WritesDone, now);
    }
}
