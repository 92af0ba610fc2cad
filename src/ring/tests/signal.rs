//! A driver that waits elsewhere: the ring rings an eventfd, and never too seldom.

use std::thread;

use rustix::event::{EventfdFlags, eventfd};

use super::*;

/// A ring on this step of the ladder, and its eventfd.
fn signalling(step: usize) -> (Rig, OwnedFd) {
    let mut rig = Rig::on_step(RingConfig::default(), step);
    let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap();
    rig.ring.signal_by(&bell).unwrap();
    (rig, bell)
}

/// Whether it rang, at the latest after this time; silent again afterwards.
fn rang(bell: &OwnedFd, limit: Duration) -> bool {
    let limit = Timespec::try_from(limit).unwrap();
    let rang = poll(&mut [PollFd::new(bell, PollFlags::IN)], Some(&limit)).unwrap() == 1;
    let mut count = [0; 8];
    assert_eq!(rustix::io::read(bell, &mut count).is_ok(), rang);
    rang
}

impl Rig {
    /// A turn without a wait, and everything it brought.
    fn turn_at_once(&mut self) {
        self.ring.turn().unwrap();
        // Nothing to wait for: `turn` takes what is collected, whatever the time.
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
fn the_eventfd_rings_only_when_it_was_asked_for() {
    // The story: a turn whose own completions ring the bell wakes its driver for nothing, for
    // ever. A bell that stays silent afterwards leaves an agent unheard.
    for step in 0..LADDER.len() {
        let (mut rig, bell) = signalling(step);
        let (_, write) = rig.reading(1);
        rig.turn_at_once();
        assert!(!rig.ring.wants_turn());
        put(&write, b"unasked");
        assert!(!rang(&bell, QUIET), "step {step}: not asked for");
        assert!(!rig.ring.arm(), "step {step}: something is there already");
        rig.turn_at_once();
        assert_eq!(rig.bytes(1), b"unasked", "step {step}");

        assert!(rig.ring.arm(), "step {step}: nothing is there");
        put(&write, b", asked");
        assert!(rang(&bell, LIMIT), "step {step}");
        rig.turn_at_once();
        assert_eq!(rig.bytes(1), b"unasked, asked", "step {step}");
        put(&write, b".");
        assert!(!rang(&bell, QUIET), "step {step}: a turn silences it");
    }
}

#[test]
fn a_turn_without_news_is_no_call() {
    let (mut rig, _bell) = signalling(0);
    let (_, _write) = rig.reading(1);
    rig.turn_at_once();
    let enters = rig.ring.counters().enters;
    for _ in 0..100 {
        rig.turn_at_once();
        assert!(rig.ring.arm());
    }
    assert_eq!(rig.ring.counters().enters, enters);
}

#[test]
fn no_byte_between_a_turn_and_a_wait_is_missed() {
    // The story: the byte comes after the look and before the sleep. Every step, because the kernel
    // completes at other moments on each.
    const BYTES: usize = 20_000;
    for step in 0..LADDER.len() {
        let (mut rig, bell) = signalling(step);
        let (_, write) = rig.reading(1);
        thread::scope(|scope| {
            scope.spawn(|| {
                for number in 0..BYTES {
                    // Full: the reader is behind, and this byte has to wait.
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
                if taken < BYTES && !rig.ring.wants_turn() && rig.ring.arm() {
                    assert!(rang(&bell, LIMIT), "step {step}: asleep after {taken} bytes");
                }
            }
            assert_eq!(taken, BYTES);
        });
    }
}
