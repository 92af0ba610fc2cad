//! Reads: no byte is lost, and no read stops by itself.

use std::collections::BTreeSet;

use super::*;
use crate::ring::probe::workers;

#[test]
fn bytes_written_are_the_bytes_read() {
    let Some(mut rig) = Rig::new() else { return };
    let (read, write) = pipe();
    let read = rig.adopt(read, 1, Role::Stdout);
    let write = rig.adopt(write, 2, Role::Stdin);
    rig.ring.read(read);
    rig.ring.write(write, b"..hello".to_vec(), 2).unwrap();
    rig.until("five bytes", |seen| bytes(seen, 1).len() == 5);
    rig.until("the write", |seen| count(seen, |seen| matches!(seen, Seen::Wrote(..))) == 1);
    assert_eq!(rig.bytes(1), b"hello");
    assert_eq!(rig.others(), [Seen::Wrote(2, 7, Ok(5))]);
}

/// Completions of many reads arrive in one turn and must not be mixed up.
#[test]
fn many_pipes_keep_their_bytes_apart() {
    let Some(mut rig) = Rig::new() else { return };
    let pipes: Vec<_> = (0..100).map(|agent| rig.reading(agent)).collect();
    for round in 0..3 {
        for (agent, (_, write)) in pipes.iter().enumerate() {
            put(write, format!("<{agent}:{round}>").as_bytes());
        }
        rig.turn(LIMIT);
    }
    drop(pipes);
    let eof = |seen: &Seen| matches!(seen, Seen::ReadEnd(_, ReadEnd::Eof));
    rig.until("every end", |seen| count(seen, eof) == 100);
    for agent in 0..100 {
        let want = format!("<{agent}:0><{agent}:1><{agent}:2>");
        assert_eq!(String::from_utf8(rig.bytes(agent)).unwrap(), want);
    }
}

/// The last bytes and the end may arrive in one turn. The end must be reported last and once, even if
/// the read is started again.
#[test]
fn eof_is_reported_once_after_the_last_byte() {
    let Some(mut rig) = Rig::new() else { return };
    let (end, write) = rig.reading(1);
    put(&write, b"last words");
    drop(write);
    rig.until("the end", |seen| seen.contains(&Seen::ReadEnd(1, ReadEnd::Eof)));
    rig.ring.read(end);
    rig.ring.pause(end);
    rig.ring.read(end);
    rig.run_until_quiet();
    assert_eq!(rig.seen, [Seen::Data(1, b"last words".to_vec()), Seen::ReadEnd(1, ReadEnd::Eof)]);
    assert_eq!(rig.ring.in_kernel(), 0);
}

/// A paused read that stays armed would take bytes out of the pipe: no back-pressure on the child.
#[test]
fn paused_read_takes_no_bytes() {
    let Some(mut rig) = Rig::new() else { return };
    let (end, write) = rig.reading(1);
    put(&write, b"before ");
    rig.until("the first bytes", |seen| bytes(seen, 1).len() == 7);
    rig.ring.pause(end);
    rig.run_until_quiet();
    assert_eq!(rig.ring.in_kernel(), 0, "the read was cancelled");
    put(&write, b"meanwhile ");
    rig.run_until_quiet();
    assert_eq!(rig.bytes(1), b"before ");
    rig.ring.read(end);
    put(&write, b"after");
    rig.until("the rest", |seen| bytes(seen, 1).len() == 22);
    assert_eq!(rig.bytes(1), b"before meanwhile after");
    assert_eq!(rig.others(), []);
}

/// The reader catches up while the cancel is on its way: the read must be armed again.
#[test]
fn read_resumed_during_its_cancel_is_armed_again() {
    let Some(mut rig) = Rig::new() else { return };
    let (end, write) = rig.reading(1);
    rig.run_until_quiet();
    rig.ring.pause(end);
    rig.ring.read(end);
    rig.run_until_quiet();
    put(&write, b"still here");
    rig.until("bytes", |seen| bytes(seen, 1).len() == 10);
    rig.ring.pause(end);
    rig.ring.read(end);
    rig.ring.pause(end);
    rig.run_until_quiet();
    assert_eq!(rig.ring.in_kernel(), 0);
    put(&write, b"!");
    rig.run_until_quiet();
    assert_eq!(rig.bytes(1), b"still here");
}

/// Bytes arrive in the same turn as the pause: they are delivered before or after it.
#[test]
fn bytes_racing_a_pause_are_not_lost() {
    let Some(mut rig) = Rig::new() else { return };
    let (end, write) = rig.reading(1);
    let mut sent = Vec::new();
    for round in 0..200_u8 {
        rig.turn(Duration::ZERO);
        put(&write, &[round; 100]);
        sent.extend_from_slice(&[round; 100]);
        rig.ring.pause(end);
        rig.turn(Duration::ZERO);
        rig.ring.read(end);
    }
    rig.until("all", |seen| bytes(seen, 1).len() >= sent.len());
    assert_eq!(rig.bytes(1), sent);
}

/// READ_MULTISHOT refuses a regular file, which must be reported as an error. READ reads it.
#[test]
fn unpollable_descriptor_ends_its_read() {
    let Some(mut rig) = Rig::new() else { return };
    let file = tempfile::tempfile().unwrap();
    let end = rig.adopt(file.into(), 1, Role::Stdout);
    rig.ring.read(end);
    rig.until("the end", |seen| !seen.is_empty());
    rig.run_until_quiet();
    let why = if multishot() { ReadEnd::Failed(libc::EBADFD) } else { ReadEnd::Eof };
    assert_eq!(rig.seen, [Seen::ReadEnd(1, why)]);
}

/// A kernel thread for each waiting read would be one per agent, and two system calls per chunk would
/// be twice the cost.
#[test]
fn waiting_read_costs_no_thread_and_no_call() {
    for flags in [PipeFlags::CLOEXEC, PipeFlags::CLOEXEC | PipeFlags::NONBLOCK] {
        let Some(mut rig) = Rig::new() else { return };
        let pipes: Vec<_> = (0..20)
            .map(|agent| {
                let (read, write) = pipe_with(flags).unwrap();
                let end = rig.adopt(read, agent, Role::Stdout);
                rig.ring.read(end);
                write
            })
            .collect();
        rig.turn(Duration::ZERO);
        let before = rig.ring.counters();
        for chunk in 1..=10 {
            put(&pipes[0], b"x");
            rig.until("the chunk", |seen| bytes(seen, 0).len() == chunk);
        }
        let after = rig.ring.counters();
        assert_eq!(after.enters - before.enters, 10);
        // The read after the last chunk is queued.
        let submitted = if multishot() { 0 } else { 9 };
        assert_eq!(after.submitted - before.submitted, submitted);
        assert_eq!((after.in_kernel, workers()), (20, 0), "{flags:?}");
    }
}

/// With a buffer of one page, each page of a single read would cost a turn of the engine.
#[test]
fn single_read_takes_several_pages() {
    let Some(mut rig) = Rig::with(RingConfig { multishot: multishot(), ..RingConfig::default() })
    else {
        return;
    };
    let (size, reads) = if multishot() { (4096, 16) } else { (16_384, 4) };
    assert_eq!(rig.ring.kernel_features().buffer_size, size);
    let (_, write) = rig.reading(1);
    put(&write, &pattern(65_536));
    rig.until("a full pipe", |seen| bytes(seen, 1).len() == 65_536);
    assert!(rig.bytes(1) == pattern(65_536));
    assert_eq!(rig.seen.len(), reads);
}

/// A completion queue that is too small ends reads with good data and without MORE, and keeps the
/// rest in the kernel. A ring that takes this for the end of the output loses bytes.
#[test]
fn overflowing_completion_queue_loses_no_bytes() {
    let config = RingConfig { entries: 4, cq_entries: 8, ..config() };
    let Some(mut rig) = Rig::with(config) else { return };
    let pipes: Vec<_> = (0..60).map(|agent| rig.reading(agent)).collect();
    rig.turn(Duration::ZERO);
    let payload = pattern(3 * 4096 + 17);
    for (_, write) in &pipes {
        put(write, &payload);
    }
    let total = 60 * payload.len();
    let sum = |seen: &[Seen]| {
        seen.iter().map(|seen| if let Seen::Data(_, b) = seen { b.len() } else { 0 }).sum::<usize>()
    };
    rig.until("all bytes", |seen| sum(seen) == total);
    rig.ring.close(&pipes.iter().map(|(end, _)| *end).collect::<Vec<_>>());
    rig.until("all closed", |seen| count(seen, closed) == 60);
    for agent in 0..60 {
        assert!(rig.bytes(agent) == payload, "agent {agent}");
    }
    let agents: BTreeSet<_> = rig.others().into_iter().map(|seen| format!("{seen:?}")).collect();
    assert_eq!(agents.len(), 60);
    assert_eq!(rig.ring.counters().stale, 0);
}
