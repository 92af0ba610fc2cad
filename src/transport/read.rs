//! Floor 2. Bytes from the agent become events; back-pressure goes the other way.

use std::time::{Duration, Instant};

use crate::close::CloseReason;
use crate::io::{Lease, PipeIo, ReadEnd, Role};

use super::arena::Arena;
use super::state::Transport;
use crate::close::CloseEvent;

/// How long an agent that has closed its stdout may live on before it is closed. One that is about to
/// exit does so in less.
const OUTPUT_ENDED_GRACE: Duration = Duration::from_millis(100);

impl Transport {
    /// Bytes came in a pool buffer: they are framed, and the buffer goes back before anything
    /// else happens.
    pub(super) fn on_data(
        &mut self,
        io: &mut dyn PipeIo,
        arena: &mut Arena,
        role: Role,
        lease: Lease,
        now: Instant,
    ) {
        self.last_output = now;
        let Self { framer, stderr, intake, .. } = self;
        io.take_bytes(lease, &mut |bytes| {
            if role == Role::Stderr {
                intake.stats.stderr_bytes += bytes.len() as u64;
                if intake.stderr_events {
                    stderr.feed(bytes, &mut |line| intake.stderr_line(line));
                } else {
                    stderr.absorb(bytes);
                }
            } else {
                intake.stats.bytes_in += bytes.len() as u64;
                arena.with_spares(|arena, spares| {
                    framer.feed(bytes, spares, &mut |frame| intake.frame(arena, frame));
                });
            }
        });
        self.plan_event(CloseEvent::Output, now);
    }

    /// An output is at its end.
    pub(super) fn on_read_end(
        &mut self,
        arena: &mut Arena,
        role: Role,
        why: ReadEnd,
        now: Instant,
    ) {
        if let ReadEnd::Failed(errno) = why {
            let agent = self.channel.label.as_str();
            crate::trace::warn!(
                agent,
                ?role,
                errno,
                "reading failed; taken for the end of the output"
            );
        }
        let Self { framer, stderr, intake, .. } = self;
        if role == Role::Stderr {
            self.stderr_ended = true;
            stderr.finish(&mut |line| intake.stderr_line(line));
        } else {
            self.stdout_ended = true;
            arena.with_spares(|arena, spares| {
                framer.finish(spares, &mut |frame| intake.frame(arena, frame));
            });
            if !self.exited && self.close.is_none() {
                self.mute_deadline = Some(now + OUTPUT_ENDED_GRACE);
            }
        }
        if self.outputs_ended() {
            self.plan_event(CloseEvent::OutputsEnded, now);
        }
    }

    /// Stdout ended some time ago and the agent still lives: nobody can talk with it any more.
    pub(super) fn on_mute(&mut self, now: Instant) {
        if self.mute_deadline.is_some_and(|deadline| now >= deadline) {
            self.mute_deadline = None;
            self.begin_close(self.policy, CloseReason::OutputEnded, now);
        }
    }

    /// Gives the turn's events to the reader, and stops reading while too much is unread. Not
    /// while the agent is being closed: then the drain budget bounds what is kept. Whether it
    /// stopped now.
    pub(super) fn deliver(&mut self, io: &mut dyn PipeIo) -> bool {
        let unread = self.intake.deliver();
        if unread <= self.channel.limits.inbox_high || self.paused || self.intake.draining {
            return false;
        }
        if let Some(stdout) = self.ends.stdout.open()
            && !self.channel.reader_is_gone()
            && self.channel.pause()
        {
            self.paused = true;
            self.intake.stats.pauses += 1;
            self.channel.note_stats(&self.intake.stats);
            io.pause(stdout);
        }
        self.paused
    }

    /// Reads again: the reader caught up, or is gone, or the agent is being closed.
    pub(super) fn resume(&mut self, io: &mut dyn PipeIo) {
        if self.paused {
            self.paused = false;
            self.channel.unpause();
            if let Some(stdout) = self.ends.stdout.open() {
                io.read(stdout);
            }
        }
    }
}
