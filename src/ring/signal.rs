//! Floor 1. A turn without a wait, for a driver that waits elsewhere for an eventfd.
//!
//! The descriptor of a DEFER_TASKRUN ring never becomes readable, so the driver's own poller cannot
//! watch that. The eventfd is silent from each turn on until it is asked for again: otherwise
//! every completion that a turn itself brings about would wake the driver once more.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{Ordering, fence};

use super::Ring;
use super::queue::Queue;

impl Queue {
    /// The registered eventfd is not written from now on.
    fn hush(&mut self) {
        self.uring.completion().disable_eventfd();
    }

    /// The eventfd is written from now on. False if something came while it was not.
    fn speak(&mut self) -> bool {
        self.uring.completion().enable_eventfd();
        // The kernel notes the work, then looks whether to write; we the other way round.
        fence(Ordering::SeqCst);
        !self.has_work() && !self.has_completions()
    }
}

impl Ring {
    /// The kernel keeps the eventfd, whatever becomes of this descriptor.
    pub(super) fn signal_on(&mut self, eventfd: &OwnedFd) -> io::Result<()> {
        self.queue.submitter().register_eventfd(eventfd.as_raw_fd())?;
        self.queue.hush();
        Ok(())
    }

    /// A turn during which the eventfd is silent.
    pub(super) fn turn_at_once(&mut self) -> io::Result<()> {
        self.queue.hush();
        self.turn_without_wait()
    }

    pub(super) fn has_more(&self) -> bool {
        self.queue.queued() > 0 || !self.deferred.is_empty() || self.can_feed()
    }

    /// The buffers given back since the turn are shown first: what comes next needs them.
    pub(super) fn signal_from_now(&mut self) -> bool {
        self.pool.publish();
        self.queue.speak() && self.ready.is_empty()
    }
}
