//! Floor 1. The end of a ring: close everything, wait until the kernel holds nothing of ours.
//!
//! Closing the ring's own descriptor is no such wait: operations outlive it, and so may their
//! writes into our memory.

use std::mem;
use std::time::{Duration, Instant};

use super::Ring;
use super::buffer::GROUP;

/// How long a dropped ring waits. Cancels finish in microseconds, so this is never reached.
const DROP_LIMIT: Duration = Duration::from_secs(1);

impl Ring {
    /// Closes every end and waits until nothing is in the kernel, at most `limit`.
    pub(super) fn close_and_wait(&mut self, limit: Duration) -> bool {
        let start = Instant::now();
        let ends = self.ends.ids();
        self.close_all(&ends);
        loop {
            self.prepare();
            if self.ops.len() == 0 && self.ends.is_empty() {
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

impl Drop for Ring {
    fn drop(&mut self) {
        if self.close_and_wait(DROP_LIMIT) {
            if let Err(error) = self.queue.submitter().unregister_buf_ring(GROUP) {
                crate::trace::debug!(%error, "the buffer ring was not unregistered");
            }
            return;
        }
        // The kernel may still write to this memory: a leak is the lesser evil.
        let operations = self.ops.len();
        crate::trace::error!(operations, "ring dropped with operations in flight, memory leaked");
        self.pool.leak();
        #[expect(clippy::mem_forget, reason = "the kernel may still read these buffers")]
        mem::forget(mem::take(&mut self.ops));
    }
}
