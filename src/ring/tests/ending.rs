//! The end of a ring: nothing of ours is left in the kernel.

use super::*;
use crate::ring::op::Token;
use crate::ring::queue::Cqe;

/// Everything that can be pending is; all of it must be final before memory is freed.
#[test]
fn drain_leaves_nothing_in_the_kernel() {
    let mut rig = Rig::new();
    let (_, out) = rig.reading(1);
    let (input, read) = rig.writing(2);
    rig.ring.write(input, pattern(70_000), 0).unwrap();
    rig.until("a full pipe", |seen| !seen.is_empty());
    rig.ring.write(input, pattern(10), 0).unwrap();
    let (exit, _peer) = rig.writing(3);
    rig.ring.watch(exit);
    let (_idle, idle_read) = rig.writing(4);
    rig.turn(Duration::ZERO);
    assert!(rig.ring.in_kernel() >= 2);
    assert!(rig.ring.drain(LIMIT));
    assert_eq!(rig.ring.in_kernel(), 0);
    assert_eq!(rig.ring.counters().in_kernel, 0);
    assert_eq!(rig.ring.counters().queued, 0);
    must_break(&out);
    assert!(get(&read).1);
    assert!(get(&idle_read).1);
    rig.turn(Duration::ZERO);
    assert_eq!(count(&rig.seen, closed), 4);
    assert!(rig.seen.contains(&Seen::Wrote(2, 10, Err(libc::ECANCELED))));
    assert!(rig.ring.drain(Duration::ZERO), "an empty ring is drained at once");
}

/// Closing a ring's descriptor is no barrier: a pending read would outlive it by milliseconds. A
/// dropped ring has drained first, so its writer gets EPIPE at once.
#[test]
fn a_dropped_ring_has_let_go_of_its_pipes() {
    for _ in 0..50 {
        let mut rig = Rig::new();
        let (_, write) = rig.reading(1);
        rig.turn(Duration::ZERO);
        drop(rig);
        must_break(&write);
    }
}

/// A drain out of time must say so: the caller frees memory on its word. A later one finishes.
#[test]
fn a_drain_out_of_time_is_no_drain() {
    let mut rig = Rig::new();
    let (_, write) = rig.reading(1);
    rig.turn(Duration::ZERO);
    assert!(!rig.ring.drain(Duration::ZERO));
    assert!(rig.ring.in_kernel() > 0);
    assert!(rig.ring.drain(LIMIT));
    must_break(&write);
}

/// Completions nobody asked for must not keep a drain from its end, nor the drain throw them away.
#[test]
fn drain_keeps_what_was_collected() {
    let mut rig = Rig::new();
    let (_, write) = rig.reading(1);
    rig.turn(Duration::ZERO);
    put(&write, b"unread");
    rig.ring.wait(Some(LIMIT)).unwrap();
    assert!(rig.ring.drain(LIMIT));
    rig.turn(Duration::ZERO);
    assert_eq!(rig.seen, [Seen::Data(1, b"unread".to_vec()), Seen::Closed(1, Ok(()))]);
}

/// The engine's clock: a wait ends when it is told to, with nothing to do and nothing wrong.
#[test]
fn a_wait_times_out() {
    let mut rig = Rig::new();
    let (_end, _write) = rig.reading(1);
    rig.settle();
    let start = Instant::now();
    rig.ring.wait(Some(Duration::from_millis(20))).unwrap();
    assert!(start.elapsed() >= Duration::from_millis(20), "{:?}", start.elapsed());
    let start = Instant::now();
    rig.ring.wait(Some(Duration::ZERO)).unwrap();
    assert!(start.elapsed() < LIMIT);
}

/// Collected completions make a wait return at once, and it must still submit what was queued.
#[test]
fn a_wait_with_completions_collected_submits_and_returns() {
    let mut rig = Rig::new();
    let (_, write) = rig.reading(1);
    rig.turn(Duration::ZERO);
    put(&write, b"x");
    rig.ring.wait(Some(LIMIT)).unwrap();
    let before = rig.ring.counters();
    rig.ring.wait(None).unwrap();
    assert_eq!(rig.ring.counters().enters, before.enters, "nothing to submit, nothing to do");
    let (input, read) = rig.writing(2);
    rig.ring.write(input, b"y".to_vec(), 0).unwrap();
    rig.ring.wait(None).unwrap();
    assert_eq!(rig.ring.counters().queued, 0);
    assert_eq!(get(&read).0, b"y");
}

/// A completion of an operation that is gone must not be taken for one of the operation that has
/// its slot now: counted, its buffer given back, and nobody disturbed.
#[test]
fn a_stale_completion_is_counted_and_dropped() {
    let mut rig = Rig::new();
    let (end, write) = rig.reading(1);
    rig.turn(Duration::ZERO);
    let live = rig.ring.ends.get(end).unwrap().op.unwrap();
    let token = Token::from_raw(live.raw() ^ 1 << 40);
    rig.ring.pool.note_lent(0);
    rig.ring.reaped.push_back(Cqe { token, result: 5, more: false, buffer: Some(0) });
    rig.turn(Duration::ZERO);
    let counters = rig.ring.counters();
    assert_eq!((counters.stale, counters.buffers_free, counters.in_kernel), (1, 128, 1));
    assert_eq!(rig.seen, []);
    put(&write, b"alive");
    rig.until("bytes", |seen| bytes(seen, 1) == b"alive");
}
