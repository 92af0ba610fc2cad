//! Floor 1. The coalescing window: a wait that goes on after the first completion.
//!
//! One wake-up then serves all that came meanwhile. Two things must not wait for the window: what
//! completes as soon as it is submitted (writes, cancels, closes), so a turn that submits such
//! waits for one completion only; and the eventfd by which other threads wake the driver (see
//! `watch.rs`).

use std::io;
use std::mem;
use std::time::Duration;

use super::queue::Queue;

/// A wait that has collected so many completions ends before the window does.
const ENOUGH: u16 = 64;

/// With a window the kernel ends a wait without limit when the window does, so there is a limit.
const NO_LIMIT: Duration = Duration::from_secs(24 * 3600);

/// How long a wait may go on after the first completion.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Window {
    /// Zero: not at all.
    length: Duration,
    /// The kernel does it in one call.
    min_wait: bool,
    want: u32,
}

impl Window {
    /// Half a pool is enough: a longer wait could only starve reads.
    pub(super) fn new(length: Duration, min_wait: bool, buffers: u16) -> Self {
        Self { length, min_wait, want: u32::from((buffers / 2).clamp(1, ENOUGH)) }
    }

    pub(super) fn is_open(self) -> bool {
        !self.length.is_zero()
    }
}

impl Queue {
    /// Submits what is queued and waits: for one completion, or for those of a window.
    pub(super) fn enter_and_wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        let Window { length, min_wait, want } = self.window;
        if mem::take(&mut self.urgent) || length.is_zero() {
            return self.enter(1, timeout);
        }
        match timeout {
            Some(limit) if limit <= length => self.enter(want, timeout),
            _ if min_wait => self.enter_window(want, length, timeout.unwrap_or(NO_LIMIT)),
            _ => match self.enter(want, Some(length)) {
                // Nothing came within the window: then the first one ends the wait.
                Err(error) if timed_out(&error) && !self.has_completions() => {
                    self.enter(1, timeout.map(|limit| limit - length))
                }
                other => other,
            },
        }
    }
}

fn timed_out(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ETIME)
}
