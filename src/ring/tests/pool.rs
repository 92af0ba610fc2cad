//! The pool: shared by all, empty at times, never leaking.

use super::*;
use crate::io::Lease;

fn small(buffers: u16) -> RingConfig {
    RingConfig { buffers, ..RingConfig::default() }
}

/// More writers than buffers: reads end with ENOBUFS. Armed again before buffers are back, they
/// would spin; not armed again, bytes would stay in the pipe for ever.
#[test]
fn an_empty_pool_loses_nothing_and_does_not_spin() {
    let mut rig = Rig::with(small(4));
    let pipes: Vec<_> = (0..64).map(|agent| rig.reading(agent)).collect();
    rig.turn(Duration::ZERO);
    let payload = pattern(3 * 4096);
    for (_, write) in pipes {
        put(&write, &payload);
    }
    let eof = |seen: &Seen| matches!(seen, Seen::ReadEnd(_, ReadEnd::Eof));
    rig.until("every end", |seen| count(seen, eof) == 64);
    for agent in 0..64 {
        assert!(rig.bytes(agent) == payload, "agent {agent}");
    }
    let counters = rig.ring.counters();
    assert!(counters.starved > 0, "the test must empty the pool");
    assert_eq!(counters.buffers_free_min, 0);
    assert_eq!(counters.buffers_free, 4);
    // 192 buffers full and 64 ends. One buffer a turn would be 256 turns and a start.
    assert!(counters.enters <= 300, "{counters:?}");
    assert!(counters.submitted <= 64 + 300, "{counters:?}");
}

/// Buffers held by the caller: a wait must sleep, not arm and fail and arm again.
#[test]
fn while_the_pool_is_empty_nothing_is_armed() {
    let mut rig = Rig::with(small(2));
    let pipes: Vec<_> = (0..6).map(|agent| rig.reading(agent)).collect();
    for (_, write) in &pipes {
        put(write, b"one record");
    }
    let mut leases = Vec::new();
    let start = Instant::now();
    while leases.len() < 2 {
        assert!(start.elapsed() < LIMIT);
        rig.ring.wait(Some(LIMIT)).unwrap();
        while let Some(Completion::Data { lease, .. }) = rig.ring.next() {
            leases.push(lease);
        }
    }
    // What had been armed before may still report that it found nothing.
    rig.ring.wait(Some(QUIET)).unwrap();
    let before = rig.ring.counters();
    rig.ring.wait(Some(QUIET)).unwrap();
    let after = rig.ring.counters();
    assert_eq!(after.buffers_free, 0);
    assert_eq!(after.submitted, before.submitted, "armed on an empty pool");
    assert_eq!(after.enters, before.enters + 1, "did not sleep");
    // A new reader waits as well.
    let (_, write) = rig.reading(6);
    put(&write, b"one record");
    rig.ring.wait(Some(Duration::ZERO)).unwrap();
    assert_eq!(rig.ring.counters().submitted, before.submitted);
    for lease in leases {
        assert_eq!(rig.ring.bytes(&lease), b"one record");
        rig.ring.give_back(lease);
    }
    rig.until("the other five", |seen| seen.len() == 5);
    assert_eq!(rig.ring.counters().buffers_free, 2);
}

/// A starved read that is paused or closed while it waits must not be armed when buffers return.
#[test]
fn a_starved_read_can_be_paused_and_closed() {
    let mut rig = Rig::with(small(1));
    let pipes: Vec<_> = (0..3).map(|agent| rig.reading(agent)).collect();
    for (_, write) in &pipes {
        put(write, b"x");
    }
    rig.ring.wait(Some(LIMIT)).unwrap();
    let Some(Completion::Data { tag, lease }) = rig.ring.next() else { panic!("no data") };
    assert_eq!(tag.agent, 0);
    rig.ring.wait(Some(QUIET)).unwrap();
    rig.ring.pause(pipes[1].0);
    rig.ring.close(&[pipes[2].0]);
    rig.ring.give_back(lease);
    rig.settle();
    assert_eq!(rig.seen, [Seen::Closed(2, Ok(()))]);
    rig.ring.read(pipes[1].0);
    rig.until("its byte", |seen| bytes(seen, 1) == b"x");
    assert_eq!(rig.ring.counters().buffers_free, 1);
}

/// A buffer put into the ring twice would be written by the kernel while someone reads it.
#[test]
fn a_buffer_is_given_back_once() {
    let mut rig = Rig::with(small(4));
    for buffer in [0, 3, 4, u16::MAX] {
        let forged = Lease { buffer, len: 4096 };
        assert_eq!(rig.ring.bytes(&forged), b"");
        rig.ring.give_back(forged);
    }
    assert_eq!(rig.ring.counters().buffers_free, 4);
}

/// Buffers go round many times: the 16-bit tail wraps, and every byte stays right.
#[test]
fn the_tail_wraps() {
    let config = RingConfig { buffers: 8, buffer_size: 512, ..RingConfig::default() };
    let mut rig = Rig::with(config);
    let (_, write) = rig.reading(1);
    let mut turns = 0_u32;
    while turns < 70_000 {
        put(&write, &pattern(4096));
        let start = Instant::now();
        while rig.bytes(1).len() < 4096 {
            assert!(start.elapsed() < LIMIT);
            rig.turn(LIMIT);
        }
        assert!(rig.bytes(1) == pattern(4096));
        turns += u32::try_from(rig.seen.len()).unwrap();
        rig.seen.clear();
    }
    assert_eq!(rig.ring.counters().buffers_free, 8);
}

/// Two starved reads, one buffer: the first, fed, finds its pipe empty. The wait must go on to the
/// second and not sleep on a pipe with bytes in it.
#[test]
fn an_idle_reader_does_not_starve_the_next() {
    let mut rig = Rig::with(small(1));
    let (_, first) = rig.reading(0);
    put(&first, b"x");
    rig.ring.wait(Some(LIMIT)).unwrap();
    let Some(Completion::Data { lease, .. }) = rig.ring.next() else { panic!("no data") };
    let (_, _idle) = rig.reading(1);
    let (_, busy) = rig.reading(2);
    put(&busy, b"waiting");
    rig.ring.give_back(lease);
    rig.until("the second", |seen| bytes(seen, 2) == b"waiting");
}

/// A small submission queue: feeding starved reads fills it, and what it is emptied for completes
/// at once. With that in hand a wait must not sleep for the read that was armed last.
#[test]
fn bytes_that_come_while_reads_are_armed_end_the_wait() {
    let config = RingConfig { entries: 2, buffers: 8, ..RingConfig::default() };
    let mut rig = Rig::with(config);
    let (_, hog) = rig.reading(0);
    put(&hog, &pattern(8 * 4096));
    let mut leases = Vec::new();
    while leases.len() < 8 {
        rig.ring.wait(Some(LIMIT)).unwrap();
        while let Some(Completion::Data { lease, .. }) = rig.ring.next() {
            leases.push(lease);
        }
    }
    let idle: Vec<_> = (1..5).map(|agent| rig.reading(agent)).collect();
    put(&idle[0].1, b"waiting");
    for lease in leases {
        rig.ring.give_back(lease);
    }
    let start = Instant::now();
    rig.turn(LIMIT);
    assert_eq!(rig.bytes(1), b"waiting");
    assert!(start.elapsed() < LIMIT, "it slept with bytes in hand");
}

/// One that always has more must not have every buffer that comes back: those that starve longest
/// come first.
#[test]
fn who_starves_longest_is_fed_first() {
    let mut rig = Rig::with(small(1));
    let pipes: Vec<_> = (0..6).map(|agent| rig.reading(agent)).collect();
    for (_, write) in &pipes {
        put(write, &[b'x'; 4096]);
    }
    let others = |seen: &[Seen]| (1..6).filter(|agent| !bytes(seen, *agent).is_empty()).count();
    let start = Instant::now();
    let mut given = 1;
    while others(&rig.seen) < 5 {
        assert!(start.elapsed() < LIMIT, "{:?}", rig.others());
        rig.turn(LIMIT);
        // Whenever it was read, it has more.
        while bytes(&rig.seen, 0).len() == given * 4096 {
            put(&pipes[0].1, &[b'x'; 4096]);
            given += 1;
        }
    }
    let turns = count(&rig.seen, |seen| matches!(seen, Seen::Data(..)));
    assert!(turns <= 2 * 6, "{turns} reads until all five were read once");
}
