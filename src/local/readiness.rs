//! The two descriptors that the caller's runtime watches for the driver: one by which the backend
//! signals completions, and a timer.
//!
//! Invariant of the `unsafe`: an [`AsyncFd`] owns its descriptor until it has deregistered it.
#![expect(unsafe_code, reason = "a runtime registers a descriptor by its number")]

use std::io;
use std::os::fd::OwnedFd;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A descriptor that is never read: it becomes readable anew with each event, and the runtime watches
/// for edges.
#[derive(Debug)]
struct EdgeFd(AsyncFd<OwnedFd>);

impl EdgeFd {
    /// # Panics
    /// Outside a tokio runtime that was built with `enable_io`.
    fn new(fd: OwnedFd) -> io::Result<Self> {
        // SAFETY: `AsyncFd` owns the descriptor until it has been deregistered, and nothing else
        // closes it or puts another file in its place.
        let fd = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?;
        Ok(Self(fd))
    }

    /// Returns whether it fired since the last call. The task is woken when it fires next.
    fn fired(&self, context: &mut Context<'_>) -> io::Result<bool> {
        let mut fired = false;
        loop {
            // The runtime registers the task only when it returns `Pending`, so earlier readiness
            // is cleared until it does.
            match self.0.poll_read_ready(context) {
                Poll::Ready(Ok(mut guard)) => guard.clear_ready(),
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Pending => return Ok(fired),
            }
            fired = true;
        }
    }
}

/// The descriptor of [`PipeIo::readiness`](crate::io::PipeIo::readiness).
#[derive(Debug)]
pub(super) struct Readiness(EdgeFd);

impl Readiness {
    pub(super) fn new(fd: OwnedFd) -> io::Result<Self> {
        EdgeFd::new(fd).map(Self)
    }

    /// Wakes the task when the backend signals next.
    pub(super) fn listen(&self, context: &mut Context<'_>) -> io::Result<()> {
        self.0.fired(context).map(drop)
    }
}

/// A timer that does not need the runtime's time driver, and is finer than it.
#[derive(Debug)]
pub(super) struct TimerFd {
    timer: EdgeFd,
    /// When it will fire.
    set: Option<Instant>,
}

impl TimerFd {
    pub(super) fn new() -> io::Result<Self> {
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        // This is the clock of `Instant`.
        let timer = EdgeFd::new(timerfd_create(TimerfdClockId::Monotonic, flags)?)?;
        Ok(Self { timer, set: None })
    }

    /// Wakes the task at `at` or earlier: moving a deadline back costs a wake-up later, not a system
    /// call now.
    pub(super) fn wake_at(
        &mut self,
        at: Option<Instant>,
        now: Instant,
        context: &mut Context<'_>,
    ) -> io::Result<()> {
        if self.set.is_some() && self.timer.fired(context)? {
            self.set = None;
        }
        let Some(at) = at.filter(|at| self.set.is_none_or(|set| *at < set)) else { return Ok(()) };
        // Zero would disarm it.
        let left = at.saturating_duration_since(now).max(Duration::from_nanos(1));
        let none = Timespec { tv_sec: 0, tv_nsec: 0 };
        // A time that the kernel cannot express leaves the timer disarmed, which is as good as
        // never.
        let left = Timespec::try_from(left).unwrap_or(none);
        let once = Itimerspec { it_interval: none, it_value: left };
        timerfd_settime(self.timer.0.get_ref(), TimerfdTimerFlags::empty(), &once)?;
        self.set = Some(at);
        // Registers the task, if it is not yet.
        self.timer.fired(context).map(drop)
    }
}
