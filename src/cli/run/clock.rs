//! Time as the event loop counts it: without the time in which this process did not run.

use std::time::{Duration, Instant};

/// A turn of the loop that is this late was not slow: the process was stopped, or had no processor.
/// Neither agent nor parent is to blame for that time, so no deadline counts it.
const STOPPED: Duration = Duration::from_millis(500);

/// A wait before a deadline is no longer than this, so that little of a stop falls into it unseen.
pub(super) const TICK: Duration = Duration::from_millis(250);

#[derive(Debug)]
pub(super) struct Clock {
    /// When the turn began, by the clock of the machine.
    turn: Instant,
    /// Time that does not count.
    stopped: Duration,
}

impl Clock {
    pub(super) fn new(machine: Instant) -> Self {
        Self { turn: machine, stopped: Duration::ZERO }
    }

    /// The moment by this clock, of which all deadlines are.
    pub(super) fn at(&self, machine: Instant) -> Instant {
        machine.checked_sub(self.stopped).unwrap_or(machine)
    }

    /// A turn is over that meant to wait for `waited` at the most. Where it had no limit there is no
    /// deadline to move.
    pub(super) fn turned(&mut self, machine: Instant, waited: Option<Duration>) {
        let took = machine.saturating_duration_since(self.turn);
        let late = waited.map_or(Duration::ZERO, |waited| took.saturating_sub(waited));
        if late > STOPPED {
            // When the stop began nothing tells, so all of the turn goes.
            self.stopped += took;
        }
        self.turn = machine;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stop_of_the_process_is_taken_from_no_deadline() {
        let seconds = Duration::from_secs;
        let start = Instant::now();
        let mut clock = Clock::new(start);
        clock.turned(start + seconds(2), Some(seconds(2)));
        assert_eq!(clock.at(start + seconds(2)), start + seconds(2), "a wait counts");
        clock.turned(start + seconds(10), Some(seconds(3)));
        assert_eq!(
            clock.at(start + seconds(10)),
            start + seconds(2),
            "a turn with a stop does not"
        );
        clock.turned(start + seconds(90), None);
        assert_eq!(clock.at(start + seconds(90)), start + seconds(82));
        let late = start + seconds(90) + Duration::from_millis(400);
        clock.turned(late, Some(Duration::ZERO));
        assert_eq!(clock.at(late), late - seconds(8), "a busy machine is a little late");
    }
}
