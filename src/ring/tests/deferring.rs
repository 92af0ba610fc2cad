//! What found no room in the submission queue is tried again, unless it is wanted no more.

use super::*;
use crate::ring::drive::Deferred;

/// A kernel short of memory refuses an enter. A close that was asked for then must still happen,
/// and until it does, the end is as good as closed for everybody else.
#[test]
fn a_close_put_off_is_not_forgotten() {
    let mut rig = Rig::new();
    let (end, write) = rig.reading(1);
    rig.turn(Duration::ZERO);
    rig.ring.ends.get_mut(end).unwrap().doomed = true;
    rig.ring.deferred.push(Deferred::Close(end));
    let refused = rig.ring.write(end, b"late".to_vec(), 0).unwrap_err();
    assert_eq!(errno(refused.error), libc::EBADF);
    rig.until("closed", |seen| count(seen, closed) == 1);
    must_break(&write);
    assert!(rig.ring.deferred.is_empty());
}

/// The same with a drain: it must not take an end without operations for closed.
#[test]
fn a_close_put_off_is_done_by_a_drain() {
    let mut rig = Rig::new();
    let (read, write) = pipe();
    let end = rig.adopt(read, 1, Role::Stdout);
    rig.ring.ends.get_mut(end).unwrap().doomed = true;
    rig.ring.deferred.push(Deferred::Close(end));
    assert!(rig.ring.drain(LIMIT));
    must_break(&write);
}

/// Reads and watches come back by themselves; each once.
#[test]
fn reads_and_watches_put_off_are_armed() {
    let mut rig = Rig::new();
    let (read, write) = pipe();
    let read = rig.adopt(read, 1, Role::Stdout);
    rig.ring.ends.get_mut(read).unwrap().want_read = true;
    let (watch, watched) = pipe();
    let watch = rig.adopt(watch, 2, Role::Exit);
    let twice = [Deferred::Arm(read), Deferred::Watch(watch)].repeat(2);
    rig.ring.deferred.extend(twice);
    rig.turn(Duration::ZERO);
    assert_eq!(rig.ring.in_kernel(), 2);
    put(&write, b"bytes");
    put(&watched, b"ready");
    rig.settle();
    assert_eq!(rig.bytes(1), b"bytes");
    assert_eq!(rig.others(), [Seen::Ready(2, Ok(()))]);
}

/// A cancel that was put off must not hit the read that is wanted again meanwhile, nor the next
/// one in its slot.
#[test]
fn a_cancel_put_off_stands_only_while_the_pause_does() {
    let mut rig = Rig::new();
    let (end, write) = rig.reading(1);
    rig.turn(Duration::ZERO);
    let of = rig.ring.ends.get(end).unwrap().op.unwrap();
    rig.ring.deferred.push(Deferred::Cancel(end, of));
    rig.turn(Duration::ZERO);
    assert_eq!(rig.ring.ends.get(end).unwrap().op, Some(of), "still wanted, still armed");
    rig.ring.ends.get_mut(end).unwrap().want_read = false;
    rig.ring.deferred.push(Deferred::Cancel(end, of));
    rig.settle();
    assert_eq!(rig.ring.in_kernel(), 0);
    put(&write, b"x");
    rig.settle();
    assert_eq!(rig.seen, []);
}

/// A kernel too busy for one more write must not cost the agent its session: the write goes out
/// with a later turn, and no other may overtake it.
#[test]
fn a_write_put_off_goes_out() {
    let mut rig = Rig::new();
    let (end, read) = rig.writing(1);
    let token = rig.ring.insert_write(end, b"late".to_vec(), 1);
    rig.ring.deferred.push(Deferred::Write(end, token));
    let overtaking = rig.ring.write(end, b"next".to_vec(), 0).unwrap_err();
    assert_eq!(errno(overtaking.error), libc::EBUSY);
    rig.until("written", |seen| !seen.is_empty());
    assert_eq!(rig.seen, [Seen::Wrote(1, 4, Ok(3))]);
    assert_eq!(get(&read).0, b"ate");
    assert_eq!(rig.ring.in_kernel(), 0);
}

/// Closed before it got to the kernel, it never does; its payload comes back all the same, before
/// the end is reported closed.
#[test]
fn a_write_put_off_ends_with_its_end() {
    for doomed in [false, true] {
        let mut rig = Rig::new();
        let (end, read) = rig.writing(1);
        let token = rig.ring.insert_write(end, b"late".to_vec(), 0);
        rig.ring.deferred.push(Deferred::Write(end, token));
        if doomed {
            rig.ring.ends.get_mut(end).unwrap().doomed = true;
            rig.ring.deferred.push(Deferred::Close(end));
        } else {
            rig.ring.close(&[end]);
        }
        rig.until("closed", |seen| count(seen, closed) == 1);
        assert_eq!(rig.seen, [Seen::Wrote(1, 4, Err(libc::ECANCELED)), Seen::Closed(1, Ok(()))]);
        assert_eq!(get(&read), (Vec::new(), true));
        assert_eq!(rig.ring.in_kernel(), 0);
    }
}
