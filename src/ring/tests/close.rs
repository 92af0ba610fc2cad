//! Close: the writer gets EPIPE at once, whatever was pending, and nothing leaks.

use super::*;

/// A pending read holds the pipe open. Without a cancel the child could go on writing after the close.
/// Once `Closed` is reported, the writer gets EPIPE.
#[test]
fn close_with_a_pending_read_gives_the_writer_epipe() {
    let Some(mut rig) = Rig::new() else { return };
    for armed in [true, false] {
        let (end, write) = rig.reading(1);
        if armed {
            rig.turn(Duration::ZERO);
        }
        rig.ring.close(&[end]);
        rig.until("closed", |seen| count(seen, closed) == 1);
        must_break(&write);
        assert_eq!(rig.seen, [Seen::Closed(1, Ok(()))]);
        assert_eq!(rig.ring.in_kernel(), 0);
        rig.seen.clear();
    }
}

/// With nothing pending the cancel finds nothing. A soft-linked close would then be cancelled, the
/// descriptor would leak, and the writer would fill the pipe and hang.
#[test]
fn close_with_nothing_pending_closes() {
    let Some(mut rig) = Rig::new() else { return };
    let (read, write) = pipe();
    let end = rig.adopt(read, 1, Role::Stdout);
    put(&write, b"never read");
    rig.ring.close(&[end]);
    rig.until("closed", |seen| count(seen, closed) == 1);
    must_break(&write);
    assert_eq!(rig.seen, [Seen::Closed(1, Ok(()))]);
    assert_eq!(rig.ring.inflight.closed_by_hand, 0);
}

/// The child does not read its input, so a write is blocked in the kernel. Its payload is returned, the
/// descriptor is closed, and the child reads what was written and EOF.
#[test]
fn close_with_a_blocked_write_returns_the_payload() {
    let Some(mut rig) = Rig::new() else { return };
    let (end, read) = rig.writing(1);
    rig.ring.write(end, pattern(100_000), 0).unwrap();
    rig.until("the first write", |seen| seen == [Seen::Wrote(1, 100_000, Ok(65_536))]);
    rig.ring.write(end, pattern(50), 0).unwrap();
    rig.run_until_quiet();
    assert_eq!(rig.seen.len(), 1, "the second must be blocked");
    rig.ring.close(&[end]);
    rig.until("closed", |seen| count(seen, closed) == 1);
    let blocked = Seen::Wrote(1, 50, Err(libc::ECANCELED));
    assert_eq!(rig.seen[1..], [blocked, Seen::Closed(1, Ok(()))]);
    let (bytes, eof) = get(&read);
    assert!(bytes == pattern(100_000)[..65_536]);
    assert!(eof);
}

/// A write queued in the same turn as the close runs first, because the queue keeps the order.
#[test]
fn write_queued_before_a_close_is_written() {
    let Some(mut rig) = Rig::new() else { return };
    let (end, read) = rig.writing(1);
    rig.ring.write(end, b"goodbye".to_vec(), 0).unwrap();
    rig.ring.close(&[end]);
    rig.until("closed", |seen| count(seen, closed) == 1);
    assert_eq!(rig.seen, [Seen::Wrote(1, 7, Ok(7)), Seen::Closed(1, Ok(()))]);
    assert_eq!(get(&read), (b"goodbye".to_vec(), true));
}

/// All pipes of a child are closed in one enter.
#[test]
fn close_of_several_pipes_is_one_submission() {
    let Some(mut rig) = Rig::new() else { return };
    let (out, out_write) = rig.reading(1);
    let (err, err_write) = rig.reading(2);
    let (input, input_read) = rig.writing(3);
    rig.run_until_quiet();
    let before = rig.ring.counters();
    rig.ring.close(&[out, err, input]);
    assert_eq!(rig.ring.counters().queued, 6);
    rig.turn(LIMIT);
    let after = rig.ring.counters();
    assert_eq!(after.submitted, before.submitted + 6);
    assert_eq!(after.enters, before.enters + 1);
    rig.until("closed", |seen| count(seen, closed) == 3);
    must_break(&out_write);
    must_break(&err_write);
    assert_eq!(get(&input_read), (Vec::new(), true));
}

/// A second close of the same number could close a descriptor of other code.
#[test]
fn descriptor_is_closed_once() {
    let Some(mut rig) = Rig::new() else { return };
    let (end, _write) = rig.reading(1);
    rig.ring.close(&[end, end]);
    rig.ring.close(&[end]);
    assert_eq!(rig.ring.counters().queued, 3, "the read, one cancel, one close");
    rig.until("closed", |seen| count(seen, closed) == 1);
    rig.ring.close(&[end]);
    rig.run_until_quiet();
    assert_eq!(rig.seen, [Seen::Closed(1, Ok(()))]);
}

/// The slot of a closed descriptor is reused: an old id must have no effect on the new one.
#[test]
fn stale_id_has_no_effect() {
    let Some(mut rig) = Rig::new() else { return };
    let (old, _write) = rig.reading(1);
    rig.ring.close(&[old]);
    let refused = rig.ring.write(old, b"closing".to_vec(), 0).unwrap_err();
    assert_eq!((errno(refused.error), refused.buf), (libc::EBADF, b"closing".to_vec()));
    rig.until("closed", |seen| count(seen, closed) == 1);
    let (new, write) = rig.reading(2);
    assert_eq!(new.slot, old.slot, "the test needs the slot again");
    rig.turn(Duration::ZERO);
    let refused = rig.ring.write(old, b"stale".to_vec(), 0).unwrap_err();
    assert_eq!((errno(refused.error), refused.buf), (libc::EBADF, b"stale".to_vec()));
    rig.ring.read(old);
    rig.ring.watch(old);
    rig.ring.close(&[old]);
    rig.ring.pause(old);
    rig.run_until_quiet();
    put(&write, b"to the new one");
    rig.until("bytes", |seen| bytes(seen, 2) == b"to the new one");
    assert_eq!(count(&rig.seen, closed), 1);
    assert_eq!(rig.ring.counters().stale, 0);
}

/// Data on its way during a close may arrive or not; its buffer returns either way.
#[test]
fn data_racing_a_close_leaks_no_buffer() {
    let Some(mut rig) = Rig::with(RingConfig { buffers: 2, ..config() }) else { return };
    for round in 0..100 {
        let (end, write) = rig.reading(round);
        rig.turn(Duration::ZERO);
        put(&write, b"racing");
        rig.ring.close(&[end]);
        rig.until("closed", |seen| count(seen, closed) == round as usize + 1);
        must_break(&write);
    }
    assert_eq!(rig.ring.counters().buffers_free, 2);
    assert_eq!(count(&rig.seen, closed), 100);
    assert_eq!(rig.ring.in_kernel(), 0);
}

/// If a kernel reports the close before the operation that was cancelled for it, the payload must still
/// come first and `Closed` last.
#[test]
fn closed_is_last_in_any_order_of_completions() {
    let Some(mut rig) = Rig::new() else { return };
    let (end, _read) = rig.writing(1);
    rig.ring.write(end, pattern(100_000), 0).unwrap();
    rig.until("a full pipe", |seen| !seen.is_empty());
    rig.ring.write(end, pattern(50), 0).unwrap();
    rig.run_until_quiet();
    rig.seen.clear();
    rig.ring.close(&[end]);
    let start = Instant::now();
    while rig.ring.inflight.cqes.len() < 3 {
        assert!(start.elapsed() < LIMIT);
        rig.ring.inflight.submit_and_collect();
    }
    rig.ring.inflight.cqes.make_contiguous().reverse();
    rig.run_until_quiet();
    assert_eq!(rig.seen, [Seen::Wrote(1, 50, Err(libc::ECANCELED)), Seen::Closed(1, Ok(()))]);
    assert_eq!(rig.ring.counters().stale, 0);
}
