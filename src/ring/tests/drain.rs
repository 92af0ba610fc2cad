//! Drains, waits and stale completions: no operation is left in the kernel.

use super::*;
use crate::ring::op::OpToken;
use crate::ring::queue::Cqe;

/// Every kind of operation is pending, and all must be final before memory is freed.
#[test]
fn drain_leaves_nothing_in_the_kernel() {
    let Some(mut rig) = Rig::new() else { return };
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

/// A pending read outlives the close of the ring's descriptor by milliseconds. A ring is drained when
/// it is dropped, so the writer gets EPIPE at once.
#[test]
fn dropped_ring_releases_its_pipes() {
    for _ in 0..50 {
        let Some(mut rig) = Rig::new() else { return };
        let (_, write) = rig.reading(1);
        rig.turn(Duration::ZERO);
        drop(rig);
        must_break(&write);
    }
}

/// The caller frees memory after a drain, so a drain that ran out of time must return false. A later
/// drain finishes.
#[test]
fn drain_out_of_time_returns_false() {
    let Some(mut rig) = Rig::new() else { return };
    let (_, write) = rig.reading(1);
    rig.turn(Duration::ZERO);
    assert!(!rig.ring.drain(Duration::ZERO));
    assert!(rig.ring.in_kernel() > 0);
    assert!(rig.ring.drain(LIMIT));
    must_break(&write);
}

/// Collected completions must neither delay a drain nor be lost by it.
#[test]
fn drain_keeps_collected_completions() {
    let Some(mut rig) = Rig::new() else { return };
    let (_, write) = rig.reading(1);
    rig.turn(Duration::ZERO);
    put(&write, b"unread");
    rig.ring.wait(Some(LIMIT)).unwrap();
    assert!(rig.ring.drain(LIMIT));
    rig.turn(Duration::ZERO);
    assert_eq!(rig.seen, [Seen::Data(1, b"unread".to_vec()), Seen::Closed(1, Ok(()))]);
}

#[test]
fn wait_times_out() {
    let Some(mut rig) = Rig::new() else { return };
    let (_end, _write) = rig.reading(1);
    rig.run_until_quiet();
    let start = Instant::now();
    rig.ring.wait(Some(Duration::from_millis(20))).unwrap();
    assert!(start.elapsed() >= Duration::from_millis(20), "{:?}", start.elapsed());
    let start = Instant::now();
    rig.ring.wait(Some(Duration::ZERO)).unwrap();
    assert!(start.elapsed() < LIMIT);
}

/// A wait with collected completions returns at once, but must submit what is queued.
#[test]
fn wait_with_collected_completions_submits() {
    let Some(mut rig) = Rig::new() else { return };
    let (_, write) = rig.reading(1);
    rig.turn(Duration::ZERO);
    put(&write, b"x");
    rig.ring.wait(Some(LIMIT)).unwrap();
    // Submits the next read, if it is a single one.
    rig.ring.wait(None).unwrap();
    let before = rig.ring.counters();
    rig.ring.wait(None).unwrap();
    assert_eq!(rig.ring.counters().enters, before.enters, "there is nothing to submit");
    let (input, read) = rig.writing(2);
    rig.ring.write(input, b"y".to_vec(), 0).unwrap();
    rig.ring.wait(None).unwrap();
    assert_eq!(rig.ring.counters().queued, 0);
    assert_eq!(get(&read).0, b"y");
}

/// The completion of a finished operation must not be taken for one of the operation that has its slot
/// now. It is counted, and its buffer is returned.
#[test]
fn stale_completion_is_counted_and_dropped() {
    let Some(mut rig) = Rig::new() else { return };
    let (end, write) = rig.reading(1);
    rig.turn(Duration::ZERO);
    let live = rig.ring.inflight.fds.get(end).unwrap().op.unwrap();
    let token = OpToken::from_raw(live.raw() ^ 1 << 40);
    rig.ring.inflight.pool.note_lent(0);
    rig.ring.inflight.cqes.push_back(Cqe { token, result: 5, more: false, buffer: Some(0) });
    rig.turn(Duration::ZERO);
    let counters = rig.ring.counters();
    assert_eq!((counters.stale, counters.buffers_free, counters.in_kernel), (1, 128, 1));
    assert_eq!(rig.seen, []);
    put(&write, b"alive");
    rig.until("bytes", |seen| bytes(seen, 1) == b"alive");
}
