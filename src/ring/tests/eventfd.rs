//! A driver that waits elsewhere: the kernel writes its eventfd, and no completion is missed.

use std::thread;

use super::*;

/// A ring with this set of setup flags, and its eventfd.
fn with_eventfd(set: usize) -> Option<(Rig, OwnedFd)> {
    let mut rig = Rig::with_flags(config(), set)?;
    let signal = rig.ring.readiness().unwrap();
    Some((rig, signal))
}

/// Whether the eventfd was written within this time. Resets it.
fn was_written(signal: &OwnedFd, limit: Duration) -> bool {
    let limit = Timespec::try_from(limit).unwrap();
    let written = poll(&mut [PollFd::new(signal, PollFlags::IN)], Some(&limit)).unwrap() == 1;
    let mut count = [0; 8];
    assert_eq!(rustix::io::read(signal, &mut count).is_ok(), written);
    written
}

impl Rig {
    /// Runs a turn without a wait and records its data.
    fn turn_at_once(&mut self) {
        self.ring.turn().unwrap();
        while let Some(completion) = self.ring.next() {
            if let Completion::Data { tag, lease } = completion {
                let bytes = self.ring.bytes(&lease).to_vec();
                self.ring.give_back(lease);
                self.seen.push(Seen::Data(tag.agent, bytes));
            }
        }
    }
}

#[test]
fn eventfd_is_written_only_while_enabled() {
    // If the completions of a turn wrote the eventfd, each turn would wake the driver for the next
    // one. If the eventfd stayed disabled, the driver would miss the next completion.
    for set in 0..FLAG_SETS.len() {
        let Some((mut rig, signal)) = with_eventfd(set) else { return };
        let (_, write) = rig.reading(1);
        rig.turn_at_once();
        assert!(!rig.ring.wants_turn());
        put(&write, b"disabled");
        assert!(!was_written(&signal, QUIET), "set {set}: not enabled");
        assert!(!rig.ring.notify(), "set {set}: a completion is there already");
        rig.turn_at_once();
        assert_eq!(rig.bytes(1), b"disabled", "set {set}");
        // The next read is queued, if it is a single one.
        assert_eq!(rig.ring.wants_turn(), !multishot(), "set {set}");
        rig.turn_at_once();
        assert!(!rig.ring.wants_turn(), "set {set}");

        assert!(rig.ring.notify(), "set {set}: no completion is there");
        put(&write, b", enabled");
        assert!(was_written(&signal, LIMIT), "set {set}");
        rig.turn_at_once();
        assert_eq!(rig.bytes(1), b"disabled, enabled", "set {set}");
        put(&write, b".");
        assert!(!was_written(&signal, QUIET), "set {set}: a turn disables it");
    }
}

#[test]
fn idle_turn_makes_no_system_call() {
    let Some((mut rig, _signal)) = with_eventfd(0) else { return };
    let (_, _write) = rig.reading(1);
    rig.turn_at_once();
    let enters = rig.ring.counters().enters;
    for _ in 0..100 {
        rig.turn_at_once();
        assert!(rig.ring.notify());
    }
    assert_eq!(rig.ring.counters().enters, enters);
}

#[test]
fn no_byte_between_a_turn_and_a_wait_is_missed() {
    // A byte arrives after the last check and before the sleep. Tested with every set of flags,
    // because the kernel completes at different moments with each.
    const BYTES: usize = 20_000;
    for set in 0..FLAG_SETS.len() {
        let Some((mut rig, signal)) = with_eventfd(set) else { return };
        let (_, write) = rig.reading(1);
        thread::scope(|scope| {
            scope.spawn(|| {
                for number in 0..BYTES {
                    // The pipe is full, because the reader is behind.
                    while rustix::io::write(&write, b"x").is_err() {
                        thread::yield_now();
                    }
                    if number % 7 == 0 {
                        thread::yield_now();
                    }
                }
            });
            let mut taken = 0;
            while taken < BYTES {
                rig.turn_at_once();
                taken += rig.bytes(1).len();
                rig.seen.clear();
                if taken < BYTES && !rig.ring.wants_turn() && rig.ring.notify() {
                    assert!(was_written(&signal, LIMIT), "set {set}: asleep after {taken} bytes");
                }
            }
            assert_eq!(taken, BYTES);
        });
    }
}
