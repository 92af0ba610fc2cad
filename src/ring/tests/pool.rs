//! The buffer pool: shared by all reads, empty at times, without leaks.

use super::*;
use crate::io::Lease;

fn small(buffers: u16) -> RingConfig {
    RingConfig { buffers, ..config() }
}

/// With more writers than buffers, reads end with ENOBUFS. Armed again too early they would spin; not
/// armed again, bytes would stay in the pipe.
#[test]
fn empty_pool_loses_no_bytes_and_does_not_spin() {
    let Some(mut rig) = Rig::with(small(4)) else { return };
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
    // 192 full buffers and 64 ends of output: with one buffer per turn that is 256 turns and a start.
    assert!(counters.enters <= 300, "{counters:?}");
    assert!(counters.submitted <= 64 + 300, "{counters:?}");
}

/// While the caller holds all buffers, a wait must sleep and arm no read that would fail.
#[test]
fn no_read_is_armed_on_an_empty_pool() {
    let Some(mut rig) = Rig::with(small(2)) else { return };
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
    // Reads that were armed before may still complete with ENOBUFS.
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

/// A starved read that is paused or closed must not be armed when buffers return.
#[test]
fn starved_read_can_be_paused_and_closed() {
    let Some(mut rig) = Rig::with(small(1)) else { return };
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
    rig.run_until_quiet();
    assert_eq!(rig.seen, [Seen::Closed(2, Ok(()))]);
    rig.ring.read(pipes[1].0);
    rig.until("its byte", |seen| bytes(seen, 1) == b"x");
    assert_eq!(rig.ring.counters().buffers_free, 1);
}

/// The kernel would write to a buffer that is in the ring twice while it is being read.
#[test]
fn buffer_cannot_be_returned_twice() {
    let Some(mut rig) = Rig::with(small(4)) else { return };
    for buffer in [0, 3, 4, u16::MAX] {
        let forged = Lease { buffer, len: 4096 };
        assert_eq!(rig.ring.bytes(&forged), b"");
        rig.ring.give_back(forged);
    }
    assert_eq!(rig.ring.counters().buffers_free, 4);
}

/// The 16-bit tail wraps after many buffers, and every byte stays right.
#[test]
fn tail_wraps() {
    let config = RingConfig { buffers: 8, buffer_size: 512, ..config() };
    let Some(mut rig) = Rig::with(config) else { return };
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

/// Two starved reads and one buffer: the first read finds its pipe empty. The wait must arm the
/// second and not sleep while its pipe has bytes.
#[test]
fn idle_reader_does_not_starve_the_next() {
    let Some(mut rig) = Rig::with(small(1)) else { return };
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

/// With a small submission queue, arming starved reads enters the kernel and collects completions.
/// The wait must return them and not sleep.
#[test]
fn wait_returns_bytes_collected_while_arming() {
    let config = RingConfig { entries: 2, buffers: 8, ..config() };
    let Some(mut rig) = Rig::with(config) else { return };
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

/// An agent with endless output must not get every returned buffer: the longest starved read is armed
/// first.
#[test]
fn longest_starved_read_is_armed_first() {
    let Some(mut rig) = Rig::with(small(1)) else { return };
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
        // The pipe of agent 0 is always full.
        while bytes(&rig.seen, 0).len() == given * 4096 {
            put(&pipes[0].1, &[b'x'; 4096]);
            given += 1;
        }
    }
    let turns = count(&rig.seen, |seen| matches!(seen, Seen::Data(..)));
    assert!(turns <= 2 * 6, "{turns} reads until all five were read once");
}
