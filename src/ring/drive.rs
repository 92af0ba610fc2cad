//! Floor 1. One turn of the ring: submit and wait in one call, reap all, then act.

use std::io;
use std::mem;
use std::time::Duration;

use super::Ring;
use super::end::End;
use super::op::{OpKind, Token};
use super::queue::Cqe;
use crate::counters::IoCounters;
use crate::io::EndId;

/// How long a turn waits for completions where the kernel is too busy for submissions.
const BUSY_WAIT: Duration = Duration::from_millis(10);

/// Something the submission queue had no room for even after an enter.
#[derive(Clone, Copy, Debug)]
pub(super) enum Deferred {
    Arm(EndId),
    Watch(EndId),
    Write(EndId, Token),
    Cancel(EndId, Token),
    Close(EndId),
}

impl Ring {
    /// Submits what is queued; waits only if there is nothing to hand out yet.
    pub(super) fn turn_and_wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        if timeout == Some(Duration::ZERO) {
            return self.turn_without_wait();
        }
        self.prepare();
        let idle = self.ready.is_empty();
        if !idle && self.queue.queued() == 0 {
            return Ok(());
        }
        self.enter_and_act(idle, timeout)
    }

    /// Enters only if that can move something.
    pub(super) fn turn_without_wait(&mut self) -> io::Result<()> {
        self.prepare();
        if self.queue.queued() > 0 || self.queue.has_work() {
            return self.enter_and_act(false, Some(Duration::ZERO));
        }
        self.pool.publish();
        self.reap();
        self.act();
        Ok(())
    }

    /// Puts everything that can be submitted into the queue.
    pub(super) fn prepare(&mut self) {
        self.act();
        self.retry_deferred();
        self.feed_starved();
        // Both may have made room with an enter. What that brought must not be slept over.
        self.act();
    }

    /// Enters once. `hold`: waits for a completion, unless work is left that an enter unblocks.
    pub(super) fn enter_and_act(
        &mut self,
        hold: bool,
        timeout: Option<Duration>,
    ) -> io::Result<()> {
        let hold = hold && self.deferred.is_empty() && !self.can_feed();
        self.pool.publish();
        let entered =
            if hold { self.queue.enter_and_wait(timeout) } else { self.queue.enter(0, timeout) };
        self.reap();
        if let Err(error) = entered {
            self.excuse(error, timeout)?;
        }
        self.act();
        Ok(())
    }

    /// Errors of an enter that are no errors.
    pub(super) fn excuse(&mut self, error: io::Error, timeout: Option<Duration>) -> io::Result<()> {
        match error.raw_os_error() {
            Some(libc::EINTR | libc::ETIME) => Ok(()),
            // Too many completions unreaped, or no memory for requests. Both pass: with the
            // completions just taken, or with those of what is in flight.
            Some(libc::EBUSY | libc::EAGAIN) if !self.reaped.is_empty() => Ok(()),
            Some(libc::EBUSY | libc::EAGAIN) => {
                let limit = timeout.map_or(BUSY_WAIT, |timeout| timeout.min(BUSY_WAIT));
                let waited = self.queue.enter_idle(limit);
                self.reap();
                match waited {
                    Err(error)
                        if !matches!(
                            error.raw_os_error(),
                            Some(libc::EINTR | libc::ETIME | libc::EBUSY | libc::EAGAIN)
                        ) =>
                    {
                        Err(error)
                    }
                    _ => Ok(()),
                }
            }
            _ => Err(error),
        }
    }

    /// Room for `entries` more submissions; submits what is queued to get it. Completions that
    /// come along are kept for the next turn, so this never recurses.
    pub(super) fn make_room(&mut self, entries: usize) -> bool {
        for _ in 0..3 {
            if self.queue.room() >= entries {
                return true;
            }
            self.reap_now();
        }
        self.queue.room() >= entries
    }

    /// Submits what is queued and takes what is complete, without acting on it.
    pub(super) fn reap_now(&mut self) {
        self.pool.publish();
        let entered = self.queue.enter(0, None);
        self.reap();
        if let Err(error) = entered {
            crate::trace::debug!(%error, "submission refused for now");
        }
    }

    fn retry_deferred(&mut self) {
        let mut closes = Vec::new();
        for deferred in mem::take(&mut self.deferred) {
            match deferred {
                Deferred::Arm(id) => self.arm_read(id),
                Deferred::Watch(id) => self.submit_watch(id),
                Deferred::Write(id, token) => self.push_or_defer_write(id, token),
                Deferred::Cancel(id, of) => self.retry_cancel(id, of),
                Deferred::Close(id) => closes.push(id),
            }
        }
        if !closes.is_empty() {
            self.close_doomed(&closes);
        }
    }

    /// The read may have been wanted again, or have ended, since its cancel was put off.
    fn retry_cancel(&mut self, id: EndId, of: Token) {
        let stands = |end: &End| end.op == Some(of) && !end.want_read;
        if self.ends.get(id).is_some_and(stands) {
            self.submit_cancel(id, of);
        }
    }

    pub(super) fn reap(&mut self) {
        let Self { queue, pool, reaped, .. } = self;
        queue.reap(|cqe| {
            if let Some(buffer) = cqe.buffer {
                pool.note_lent(buffer);
            }
            reaped.push_back(cqe);
        });
    }

    /// Acts on all that was reaped.
    pub(super) fn act(&mut self) {
        while let Some(cqe) = self.reaped.pop_front() {
            self.act_on(cqe);
        }
    }

    pub(super) fn act_on(&mut self, cqe: Cqe) {
        let Cqe { token, result, more, buffer } = cqe;
        let Some(op) = self.ops.get(token) else {
            self.stale += 1;
            crate::trace::error!(token = token.raw(), result, "completion of no operation");
            return self.return_buffer(buffer);
        };
        let (id, complete) = (op.end, op.kind.name());
        let token_raw = token.raw();
        crate::trace::trace!(
            target: "agentpipe::ring", complete, token = token_raw, result, more, "complete"
        );
        match op.kind {
            OpKind::Read => self.on_read(token, id, cqe),
            OpKind::Write { .. } => self.on_write(token, id, cqe),
            OpKind::Watch => self.on_watch(token, id, cqe),
            OpKind::Nudge => self.on_nudge(token, id),
            OpKind::Cancel => self.on_cancel(token, id, cqe),
            OpKind::Close { .. } => self.on_close(token, id, cqe),
        }
        self.settle(id);
    }

    pub(super) fn count(&self) -> IoCounters {
        IoCounters {
            queued: self.queue.queued() as u64,
            in_kernel: self.ops.len() as u64,
            enters: self.queue.enters,
            submitted: self.queue.submitted,
            completions: self.queue.completions,
            stale: self.stale,
            buffers: u64::from(self.pool.buffers()),
            buffers_free: u64::from(self.pool.free()),
            buffers_free_min: u64::from(self.pool.free_min()),
            starved: self.starved_count,
            overflows: self.queue.overflows,
        }
    }
}
