//! The wait of the readiness backend.

use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, Event, EventData, EventFlags};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::io::EndId;

/// The most events of one wait. The kernel reports the others first at the next one.
const EVENTS_MAX: usize = 256;

/// A wait of this length or longer may be rounded up to a millisecond.
const COARSE_MIN: Duration = Duration::from_millis(100);

/// A longer wait ends early: epoll_wait(2) counts up to 2^31 milliseconds, which is 24 days.
const WAIT_MAX: Duration = Duration::from_secs(24 * 3600);

const AT_ONCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

/// Waits for the descriptors that epoll knows.
pub(super) struct Waiter {
    epoll: OwnedFd,
    events: Vec<Event>,
    /// The batching window: how long a wait continues after its first event. Zero: no window.
    pub(super) window: Duration,
    /// Calls of epoll_wait(2).
    pub(super) waits: u64,
    /// Calls of epoll_ctl(2).
    pub(super) changes: u64,
}

impl Waiter {
    pub(super) fn new(epoll: OwnedFd, window: Duration) -> Self {
        let events = Vec::with_capacity(EVENTS_MAX);
        Self { epoll, events, window, waits: 0, changes: 0 }
    }

    /// Watches a descriptor for these events.
    pub(super) fn watch(
        &mut self,
        fd: &OwnedFd,
        id: EndId,
        events: EventFlags,
        is_known: bool,
    ) -> Result<(), Errno> {
        self.changes += 1;
        let data = EventData::new_u64(u64::from(id.generation) << 32 | u64::from(id.slot));
        if is_known {
            epoll::modify(&self.epoll, fd, data, events)
        } else {
            epoll::add(&self.epoll, fd, data, events)
        }
    }

    /// Forgets a descriptor that it watches.
    pub(super) fn forget(&mut self, fd: &OwnedFd) {
        self.changes += 1;
        // An error says that epoll does not know it.
        let _forgotten = epoll::delete(&self.epoll, fd);
    }

    /// Returns a descriptor that is readable while one of those in epoll is ready.
    #[cfg(feature = "local")]
    pub(super) fn descriptor(&self) -> io::Result<OwnedFd> {
        self.epoll.try_clone()
    }

    /// Waits for at least one event or for `timeout`, and adds the descriptors that are ready, some
    /// perhaps twice. `wake` is the eventfd by which other threads end a window.
    pub(super) fn wait(
        &mut self,
        timeout: Option<Duration>,
        wake: Option<&OwnedFd>,
        ready: &mut Vec<EndId>,
    ) -> io::Result<()> {
        let begun = (!self.window.is_zero()).then(Instant::now);
        self.events.clear();
        self.collect(timeout)?;
        let sleeps = timeout != Some(Duration::ZERO) && !self.events.is_empty();
        if let Some(begun) = begun.filter(|_| sleeps) {
            let length = timeout.map_or(self.window, |timeout| timeout.min(self.window));
            rest(length.saturating_sub(begun.elapsed()), wake)?;
            self.collect(Some(Duration::ZERO))?;
        }
        ready.extend(self.events.iter().map(|event| id_of(event.data.u64())));
        Ok(())
    }

    /// Adds what is ready to the events.
    fn collect(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        let timeout = match timeout {
            // epoll_wait(2) counts milliseconds, and epoll_pwait2(2) needs Linux 5.11.
            Some(left) if !left.is_zero() && left < COARSE_MIN => {
                let left = Timespec::try_from(left).unwrap_or(AT_ONCE);
                match poll(&mut [PollFd::new(&self.epoll, PollFlags::IN)], Some(&left)) {
                    Ok(0) | Err(Errno::INTR) => return Ok(()),
                    Ok(_) => Some(AT_ONCE),
                    Err(error) => return Err(error.into()),
                }
            }
            other => other.and_then(|left| Timespec::try_from(left.min(WAIT_MAX)).ok()),
        };
        self.waits += 1;
        self.events.reserve(EVENTS_MAX);
        match epoll::wait(&self.epoll, spare_capacity(&mut self.events), timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// Lets the rest of a window pass, unless another thread ends it.
fn rest(left: Duration, wake: Option<&OwnedFd>) -> io::Result<()> {
    let left = Timespec::try_from(left).unwrap_or(AT_ONCE);
    let wake = wake.map(|wake| PollFd::new(wake, PollFlags::IN));
    match poll(&mut Vec::from_iter(wake), Some(&left)) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn id_of(data: u64) -> EndId {
    let half = |bits: u64| u32::try_from(bits & u64::from(u32::MAX)).unwrap_or(u32::MAX);
    EndId { slot: half(data), generation: half(data >> 32) }
}
