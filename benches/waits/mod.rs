//! Waits until an agent is in the state that is measured: blocked, or idle. Every contestant waits
//! for it alike: an agent that still ran a moment ago is gone sooner than one that has slept, by a
//! hundred microseconds.

use std::time::{Duration, Instant};

/// Generous: a thousand processes start on a busy machine.
pub(crate) const CEILING: Duration = Duration::from_secs(60);

pub(crate) fn await_that(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + CEILING;
    while !holds() {
        assert!(Instant::now() < deadline, "in vain: {what}");
        std::thread::yield_now();
    }
}

/// It sleeps, and the agents that are asked about sleep nowhere but in write(2), or once all is
/// said in read(2). No event tells it.
pub(crate) fn is_asleep(pid: u32) -> bool {
    let stat = format!("/proc/{pid}/stat");
    (0..20).all(|_| {
        std::thread::yield_now();
        std::fs::read_to_string(&stat).is_ok_and(|text| text.contains(") S "))
    })
}
