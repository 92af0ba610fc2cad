//! The waker of the event loop: what the engine has for it ends its wait in poll(2).

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Wake;

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd};

#[derive(Debug)]
pub(super) struct Bell {
    eventfd: OwnedFd,
    /// It was rung and not yet silenced: to ring it again is not worth a system call.
    rung: AtomicBool,
}

impl Bell {
    pub(super) fn new() -> io::Result<Arc<Self>> {
        let eventfd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Arc::new(Self { eventfd, rung: AtomicBool::new(false) }))
    }

    pub(super) fn ring(&self) {
        if !self.rung.swap(true, Ordering::SeqCst) {
            // Only fails when the counter is at its maximum, and then the bell has rung.
            let _rung = rustix::io::write(&self.eventfd, &1_u64.to_ne_bytes());
        }
    }

    /// Comes before the look at what there is: whatever comes after the look rings anew.
    pub(super) fn silence(&self) {
        if self.rung.load(Ordering::SeqCst) {
            let mut count = [0; 8];
            let _empty = rustix::io::read(&self.eventfd, &mut count);
            self.rung.swap(false, Ordering::SeqCst);
        }
    }

    pub(super) fn poll_fd(&self) -> PollFd<'_> {
        PollFd::new(&self.eventfd, PollFlags::IN)
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.ring();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.ring();
    }
}
