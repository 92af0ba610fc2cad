//! The ring, and one turn of it: submit and wait in one call, collect all completions, then act.

use std::io;
use std::marker::PhantomData;
use std::mem;
#[cfg(feature = "local")]
use std::os::fd::AsRawFd;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use bytes::BytesMut;
#[cfg(feature = "local")]
use rustix::event::{EventfdFlags, eventfd};

use super::buffer::GROUP;
use super::fd_table::FdEntry;
use super::inflight::{DeferredSubmission, InFlight};
use super::op::OpKind;
use super::queue::Cqe;
use super::{close, poll, read, write};
use crate::counters::{IoCounters, KernelFeatures};
use crate::io::{Completion, EndId, Lease, PipeIo, Tag, WriteRefused};

/// How long a turn waits for completions if the kernel is too busy for submissions.
const BUSY_WAIT: Duration = Duration::from_millis(10);

/// How long a dropped ring waits. Cancels finish in microseconds, so this is never reached.
const DROP_LIMIT: Duration = Duration::from_secs(1);

/// One ring with its pool and everything it has in flight. Stays on the thread that made it.
///
/// Dropping it drains it first.
pub(crate) struct Ring {
    pub(super) inflight: InFlight,
    pub(super) features: KernelFeatures,
    /// Completions of operations that no longer exist.
    pub(super) stale: u64,
    /// A SINGLE_ISSUER ring refuses other threads, although `IoUring` is `Send`.
    pub(super) not_send: PhantomData<*const ()>,
}

impl PipeIo for Ring {
    fn adopt(&mut self, fd: OwnedFd, tag: Tag) -> EndId {
        self.inflight.fds.insert(FdEntry::new(fd, tag))
    }

    fn read(&mut self, end: EndId) {
        read::start(&mut self.inflight, end);
    }

    fn read_into(&mut self, end: EndId, buf: BytesMut, len: usize) {
        read::start_into(&mut self.inflight, end, buf, len);
    }

    fn pause(&mut self, end: EndId) {
        read::pause(&mut self.inflight, end);
    }

    fn has_unread(&mut self, end: EndId) -> bool {
        read::has_unread(&mut self.inflight, end)
    }

    fn bytes(&self, lease: &Lease) -> &[u8] {
        self.inflight.pool.bytes(lease.buffer, lease.len)
    }

    fn give_back(&mut self, lease: Lease) {
        self.inflight.pool.give_back(lease.buffer);
    }

    fn write(&mut self, end: EndId, buf: Vec<u8>, from: usize) -> Result<(), WriteRefused> {
        write::submit(&mut self.inflight, end, buf, from)
    }

    fn watch(&mut self, end: EndId) {
        poll::submit(&mut self.inflight, end);
    }

    fn descriptor(&self, end: EndId) -> Option<BorrowedFd<'_>> {
        // A doomed descriptor is still open, but its close was requested.
        let entry = self.inflight.fds.get(end).filter(|entry| !entry.doomed)?;
        entry.pipe().map(AsFd::as_fd)
    }

    fn close(&mut self, ends: &[EndId]) {
        close::submit(&mut self.inflight, ends);
    }

    fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        if timeout == Some(Duration::ZERO) {
            return self.turn_without_wait();
        }
        self.prepare();
        let idle = self.inflight.completions.is_empty();
        // With completions in hand the call must not sleep, but a queued write or close must not
        // wait for the next turn either.
        if !idle && self.inflight.queue.queued() == 0 {
            return Ok(());
        }
        self.enter_and_act(idle, timeout)
    }

    /// An eventfd. The kernel keeps it registered even if this copy is closed.
    #[cfg(feature = "local")]
    fn readiness(&mut self) -> io::Result<OwnedFd> {
        let eventfd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        self.inflight.queue.submitter().register_eventfd(eventfd.as_raw_fd())?;
        // A registered eventfd is enabled, and the driver expects no wake-up before it asks for
        // one.
        self.inflight.queue.disable_eventfd();
        Ok(eventfd)
    }

    #[cfg(feature = "local")]
    fn turn(&mut self) -> io::Result<()> {
        // Otherwise the completions that this turn brings about would wake the driver again.
        self.inflight.queue.disable_eventfd();
        self.turn_without_wait()
    }

    #[cfg(feature = "local")]
    fn wants_turn(&self) -> bool {
        let inflight = &self.inflight;
        inflight.queue.queued() > 0 || !inflight.deferred.is_empty() || inflight.can_arm_starved()
    }

    #[cfg(feature = "local")]
    fn notify(&mut self) -> bool {
        // The buffers returned since the turn go first: the next completions need them.
        self.inflight.pool.publish();
        // `cqes` needs no check: only `make_room` leaves completions there, and each caller then
        // queues or defers a submission, for which `wants_turn` asks for another turn.
        self.inflight.queue.enable_eventfd() && self.inflight.completions.is_empty()
    }

    fn next(&mut self) -> Option<Completion> {
        self.inflight.completions.pop_front()
    }

    fn in_kernel(&self) -> usize {
        self.inflight.ops.len()
    }

    fn counters(&self) -> IoCounters {
        let InFlight { queue, pool, ops, .. } = &self.inflight;
        IoCounters {
            queued: queue.queued() as u64,
            in_kernel: ops.len() as u64,
            enters: queue.enters,
            submitted: queue.submitted,
            completions: queue.completions,
            stale: self.stale,
            buffers: u64::from(pool.buffers()),
            buffers_free: u64::from(pool.free()),
            buffers_free_min: u64::from(pool.free_min()),
            starved: self.inflight.starved_count,
            overflows: queue.overflows,
        }
    }

    /// Closing the ring's own descriptor does not do this: operations outlive it and may still write
    /// to our memory.
    fn drain(&mut self, limit: Duration) -> bool {
        let start = Instant::now();
        let ends = self.inflight.fds.ids();
        close::submit(&mut self.inflight, &ends);
        loop {
            self.prepare();
            // Both must be empty: a close that is deferred is no operation yet.
            if self.inflight.ops.len() == 0 && self.inflight.fds.is_empty() {
                return true;
            }
            let left = limit.saturating_sub(start.elapsed());
            if left.is_zero() {
                return false;
            }
            if let Err(error) = self.enter_and_act(true, Some(left)) {
                crate::trace::error!(%error, "draining the ring failed");
                return false;
            }
        }
    }
}

impl Ring {
    /// Enters the kernel only if that can make progress.
    fn turn_without_wait(&mut self) -> io::Result<()> {
        self.prepare();
        if self.inflight.queue.queued() > 0 || self.inflight.queue.has_work() {
            return self.enter_and_act(false, Some(Duration::ZERO));
        }
        self.inflight.pool.publish();
        self.inflight.collect();
        self.act();
        Ok(())
    }

    /// Puts everything that can be submitted into the queue.
    fn prepare(&mut self) {
        self.act();
        self.retry_deferred();
        read::arm_starved(&mut self.inflight);
        // Both may have entered the kernel to make room. A wait must not sleep with the completions
        // of that enter in hand.
        self.act();
    }

    fn retry_deferred(&mut self) {
        let inflight = &mut self.inflight;
        let mut closes = Vec::new();
        // The list is taken whole: a submission that finds no room again goes back into it, and the
        // loop must end.
        for deferred in mem::take(&mut inflight.deferred) {
            match deferred {
                DeferredSubmission::Arm(id) => read::arm(inflight, id),
                DeferredSubmission::Poll(id) => poll::submit(inflight, id),
                DeferredSubmission::Write(id, token) => write::push_or_defer(inflight, id, token),
                DeferredSubmission::Cancel(id, of) => close::retry_cancel(inflight, id, of),
                // The closes stay together, so that they go in as few submissions as possible.
                DeferredSubmission::Close(id) => closes.push(id),
            }
        }
        if !closes.is_empty() {
            close::submit_doomed(inflight, &closes);
        }
    }

    /// Enters once. With `hold`, waits for a completion unless work is left that the enter
    /// unblocks.
    fn enter_and_act(&mut self, hold: bool, timeout: Option<Duration>) -> io::Result<()> {
        let inflight = &mut self.inflight;
        let hold = hold && inflight.deferred.is_empty() && !inflight.can_arm_starved();
        inflight.pool.publish();
        let entered = if hold {
            inflight.queue.enter_and_wait(timeout)
        } else {
            inflight.queue.enter(0, timeout)
        };
        // Collected also after an error, because completions in hand decide whether it passes.
        inflight.collect();
        if let Err(error) = entered {
            self.tolerate(error, timeout)?;
        }
        self.act();
        Ok(())
    }

    /// Handles errors of an enter that pass by themselves; returns all others.
    fn tolerate(&mut self, error: io::Error, timeout: Option<Duration>) -> io::Result<()> {
        match error.raw_os_error() {
            // A signal or the timeout ended the wait. The queue knows what was submitted before.
            Some(libc::EINTR | libc::ETIME) => Ok(()),
            // Too many uncollected completions, or no memory for requests. Both pass: with the
            // completions that were just collected, or with those of the operations in flight.
            Some(libc::EBUSY | libc::EAGAIN) if !self.inflight.cqes.is_empty() => Ok(()),
            Some(libc::EBUSY | libc::EAGAIN) => {
                // The wait submits nothing, because that is what the kernel refuses, and it keeps
                // the engine from spinning on the error.
                let limit = timeout.map_or(BUSY_WAIT, |timeout| timeout.min(BUSY_WAIT));
                let waited = self.inflight.queue.enter_idle(limit);
                self.inflight.collect();
                let passes = [libc::EINTR, libc::ETIME, libc::EBUSY, libc::EAGAIN];
                match waited {
                    Err(error) if !error.raw_os_error().is_some_and(|it| passes.contains(&it)) => {
                        Err(error)
                    }
                    _ => Ok(()),
                }
            }
            _ => Err(error),
        }
    }

    /// Acts on all collected completions.
    fn act(&mut self) {
        while let Some(cqe) = self.inflight.cqes.pop_front() {
            self.act_on(cqe);
        }
    }

    fn act_on(&mut self, cqe: Cqe) {
        let Cqe { token, result, more, buffer } = cqe;
        let inflight = &mut self.inflight;
        let Some(op) = inflight.ops.get(token) else {
            // Nothing is known of it but its buffer, which must not be lost to the pool.
            self.stale += 1;
            crate::trace::error!(token = token.raw(), result, "completion without an operation");
            return inflight.return_buffer(buffer);
        };
        let (id, complete) = (op.end, op.kind.name());
        let token_raw = token.raw();
        crate::trace::trace!(
            target: "agentpipe::ring", complete, token = token_raw, result, more, "complete"
        );
        match op.kind {
            OpKind::Read { .. } => read::on_completion(inflight, id, cqe),
            OpKind::ReadInto { .. } => read::on_filled(inflight, id, cqe),
            OpKind::Write { .. } => write::on_completion(inflight, id, cqe),
            OpKind::Poll => poll::on_completion(inflight, id, cqe),
            OpKind::WaitEnd => poll::on_wait_end(inflight, id, cqe),
            OpKind::Cancel => close::on_cancel(inflight, id, cqe),
            OpKind::Close { .. } => close::on_close(inflight, id, cqe),
        }
        close::report_if_final(inflight, id);
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        if self.drain(DROP_LIMIT) {
            // No operation is left that could take a buffer, so a failure is harmless.
            if let Err(error) = self.inflight.queue.submitter().unregister_buf_ring(GROUP) {
                crate::trace::debug!(%error, "the buffer ring was not unregistered");
            }
            return;
        }
        // The kernel may still write to this memory, so it is leaked instead of freed.
        let operations = self.inflight.ops.len();
        crate::trace::error!(operations, "ring dropped with operations in flight, memory leaked");
        self.inflight.pool.leak();
        #[expect(clippy::mem_forget, reason = "the kernel may still read these buffers")]
        mem::forget(mem::take(&mut self.inflight.ops));
    }
}
