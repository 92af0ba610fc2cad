//! Submissions that found no room in the queue are retried, unless they are no longer wanted.

use super::*;
use crate::ring::inflight::DeferredSubmission;
use crate::ring::write;

/// A close requested while the kernel refuses an enter must still happen. Until then the descriptor
/// counts as closed.
#[test]
fn deferred_close_is_retried() {
    let Some(mut rig) = Rig::new() else { return };
    let (end, write) = rig.reading(1);
    rig.turn(Duration::ZERO);
    rig.ring.inflight.fds.get_mut(end).unwrap().doomed = true;
    rig.ring.inflight.deferred.push(DeferredSubmission::Close(end));
    let refused = rig.ring.write(end, b"late".to_vec(), 0).unwrap_err();
    assert_eq!(errno(refused.error), libc::EBADF);
    rig.until("closed", |seen| count(seen, closed) == 1);
    must_break(&write);
    assert!(rig.ring.inflight.deferred.is_empty());
}

/// A drain must not take a descriptor without operations for closed.
#[test]
fn drain_performs_a_deferred_close() {
    let Some(mut rig) = Rig::new() else { return };
    let (read, write) = pipe();
    let end = rig.adopt(read, 1, Role::Stdout);
    rig.ring.inflight.fds.get_mut(end).unwrap().doomed = true;
    rig.ring.inflight.deferred.push(DeferredSubmission::Close(end));
    assert!(rig.ring.drain(LIMIT));
    must_break(&write);
}

#[test]
fn deferred_reads_and_polls_are_armed_once() {
    let Some(mut rig) = Rig::new() else { return };
    let (read, write) = pipe();
    let read = rig.adopt(read, 1, Role::Stdout);
    rig.ring.inflight.fds.get_mut(read).unwrap().want_read = true;
    let (watch, watched) = pipe();
    let watch = rig.adopt(watch, 2, Role::Exit);
    let twice = [DeferredSubmission::Arm(read), DeferredSubmission::Poll(watch)].repeat(2);
    rig.ring.inflight.deferred.extend(twice);
    rig.turn(Duration::ZERO);
    assert_eq!(rig.ring.in_kernel(), 2);
    put(&write, b"bytes");
    put(&watched, b"ready");
    rig.run_until_quiet();
    assert_eq!(rig.bytes(1), b"bytes");
    assert_eq!(rig.others(), [Seen::Ready(2, Ok(()))]);
}

/// A deferred cancel must not end a read that was resumed meanwhile, nor the next operation in its
/// slot.
#[test]
fn deferred_cancel_is_dropped_after_a_resume() {
    let Some(mut rig) = Rig::new() else { return };
    let (end, write) = rig.reading(1);
    rig.turn(Duration::ZERO);
    let of = rig.ring.inflight.fds.get(end).unwrap().op.unwrap();
    rig.ring.inflight.deferred.push(DeferredSubmission::Cancel(end, of));
    rig.turn(Duration::ZERO);
    assert_eq!(rig.ring.inflight.fds.get(end).unwrap().op, Some(of), "still wanted, still armed");
    rig.ring.inflight.fds.get_mut(end).unwrap().want_read = false;
    rig.ring.inflight.deferred.push(DeferredSubmission::Cancel(end, of));
    rig.run_until_quiet();
    assert_eq!(rig.ring.in_kernel(), 0);
    put(&write, b"x");
    rig.run_until_quiet();
    assert_eq!(rig.seen, []);
}

/// A write that the kernel is too busy for goes out in a later turn, and no other write overtakes it.
#[test]
fn deferred_write_goes_out() {
    let Some(mut rig) = Rig::new() else { return };
    let (end, read) = rig.writing(1);
    let token = write::insert(&mut rig.ring.inflight, end, b"late".to_vec(), 1);
    rig.ring.inflight.deferred.push(DeferredSubmission::Write(end, token));
    let overtaking = rig.ring.write(end, b"next".to_vec(), 0).unwrap_err();
    assert_eq!(errno(overtaking.error), libc::EBUSY);
    rig.until("written", |seen| !seen.is_empty());
    assert_eq!(rig.seen, [Seen::Wrote(1, 4, Ok(3))]);
    assert_eq!(get(&read).0, b"ate");
    assert_eq!(rig.ring.in_kernel(), 0);
}

/// A deferred write whose descriptor is closed never starts. Its payload is returned before the
/// descriptor is reported closed.
#[test]
fn deferred_write_is_returned_by_a_close() {
    for doomed in [false, true] {
        let Some(mut rig) = Rig::new() else { return };
        let (end, read) = rig.writing(1);
        let token = write::insert(&mut rig.ring.inflight, end, b"late".to_vec(), 0);
        rig.ring.inflight.deferred.push(DeferredSubmission::Write(end, token));
        if doomed {
            rig.ring.inflight.fds.get_mut(end).unwrap().doomed = true;
            rig.ring.inflight.deferred.push(DeferredSubmission::Close(end));
        } else {
            rig.ring.close(&[end]);
        }
        rig.until("closed", |seen| count(seen, closed) == 1);
        assert_eq!(rig.seen, [Seen::Wrote(1, 4, Err(libc::ECANCELED)), Seen::Closed(1, Ok(()))]);
        assert_eq!(get(&read), (Vec::new(), true));
        assert_eq!(rig.ring.in_kernel(), 0);
    }
}
