//! Reads into memory of the caller: it comes back in any case, after what an armed read brought.

use bytes::BytesMut;

use super::*;
use crate::ring::inflight::DeferredSubmission;

fn filled(seen: &Seen) -> bool {
    matches!(seen, Seen::Filled(..))
}

/// Memory with room for eight bytes behind `before`.
fn room(before: &[u8]) -> BytesMut {
    let mut room = BytesMut::with_capacity(before.len() + 8);
    room.extend_from_slice(before);
    room
}

/// Whether a read was armed before, and how many turns have passed since: the read waits for the other one,
/// or for bytes.
const STATES: [(bool, u32); 5] = [(false, 0), (false, 1), (true, 0), (true, 1), (true, 2)];

/// A read into memory that holds `kept`, from an empty pipe.
fn reading_into(rig: &mut Rig, armed: bool, turns: u32) -> (EndId, OwnedFd) {
    let (read, write) = pipe();
    let end = rig.adopt(read, 1, Role::Stdout);
    if armed {
        rig.ring.read(end);
        rig.turn(Duration::ZERO);
    }
    rig.ring.read_into(end, room(b"kept"), 4);
    (0..turns).for_each(|_| rig.turn(Duration::ZERO));
    (end, write)
}

#[test]
fn read_into_appends_what_is_there() {
    let Some(mut rig) = Rig::new() else { return };
    let (read, write) = pipe();
    let end = rig.adopt(read, 1, Role::Stdout);
    rig.ring.read_into(end, room(b"abc"), 4);
    rig.turn(Duration::ZERO);
    assert_eq!(rig.seen, []);
    put(&write, b"defghi");
    rig.until("four bytes", |seen| count(seen, filled) == 1);
    // It reads once, and the rest stays in the pipe.
    rig.run_until_quiet();
    assert_eq!(rig.seen, [Seen::Filled(1, b"abcdefg".to_vec())]);
    assert_eq!((rig.ring.in_kernel(), rig.ring.has_unread(end)), (0, true));
    rig.ring.read(end);
    rig.until("the rest", |seen| bytes(seen, 1) == b"hi");
}

/// What the armed read brings comes first, or a record would be put together in the wrong order.
#[test]
fn armed_read_ends_before_a_read_into() {
    let Some(mut rig) = Rig::new() else { return };
    for turns in [0, 1] {
        let (end, write) = rig.reading(1);
        rig.turn(Duration::ZERO);
        put(&write, b"first");
        (0..turns).for_each(|_| rig.turn(LIMIT));
        put(&write, b"second");
        rig.ring.read_into(end, room(b""), 8);
        rig.turn(Duration::ZERO);
        put(&write, b"third");
        rig.until("the memory", |seen| count(seen, filled) == 1);
        put(&write, b"after it");
        rig.run_until_quiet();
        let Some(Seen::Filled(_, last)) = rig.seen.pop() else { panic!("{:?}", rig.seen) };
        let all = [rig.bytes(1), last].concat();
        assert!(b"firstsecondthird".starts_with(&all) && all.len() >= 8, "{all:?}");
        assert_eq!(rig.others(), [], "{turns}");
        rig.ring.close(&[end]);
        rig.until("closed", |seen| count(seen, closed) == 1);
        rig.seen.clear();
    }
}

#[test]
fn memory_comes_back_from_a_pause() {
    let Some(mut rig) = Rig::new() else { return };
    for (armed, turns) in STATES {
        let (end, write) = reading_into(&mut rig, armed, turns);
        rig.ring.pause(end);
        rig.until("the memory", |seen| count(seen, filled) == 1);
        rig.run_until_quiet();
        assert_eq!(rig.seen, [Seen::Filled(1, b"kept".to_vec())], "{armed} {turns}");
        put(&write, b"later");
        rig.run_until_quiet();
        assert_eq!(rig.seen.len(), 1, "a paused read takes nothing");
        rig.ring.read(end);
        rig.until("the bytes", |seen| bytes(seen, 1) == b"later");
        rig.ring.close(&[end]);
        rig.until("closed", |seen| count(seen, closed) == 1);
        rig.seen.clear();
    }
}

#[test]
fn memory_comes_back_before_the_close() {
    let Some(mut rig) = Rig::new() else { return };
    for (armed, turns) in STATES {
        let (end, write) = reading_into(&mut rig, armed, turns);
        rig.ring.close(&[end]);
        rig.until("closed", |seen| count(seen, closed) == 1);
        let all = [Seen::Filled(1, b"kept".to_vec()), Seen::Closed(1, Ok(()))];
        assert_eq!(rig.seen, all, "{armed} {turns}");
        must_break(&write);
        rig.seen.clear();
    }
    assert_eq!(rig.ring.in_kernel(), 0);
}

#[test]
fn memory_comes_back_before_the_end() {
    let Some(mut rig) = Rig::new() else { return };
    for armed in [false, true] {
        let (read, write) = pipe();
        let end = rig.adopt(read, 1, Role::Stdout);
        if armed {
            rig.ring.read(end);
            rig.turn(Duration::ZERO);
        }
        drop(write);
        rig.ring.read_into(end, room(b"kept"), 4);
        rig.run_until_quiet();
        let all = [Seen::Filled(1, b"kept".to_vec()), Seen::ReadEnd(1, ReadEnd::Eof)];
        assert_eq!(rig.seen, all, "{armed}");
        rig.ring.read_into(end, room(b"again"), 4);
        rig.run_until_quiet();
        assert_eq!(rig.seen[2..], [Seen::Filled(1, b"again".to_vec())], "{armed}");
        rig.seen.clear();
    }
}

/// The armed read meets the end before it is cancelled.
#[test]
fn memory_that_waits_comes_back_at_the_end() {
    let Some(mut rig) = Rig::new() else { return };
    let (end, write) = rig.reading(1);
    rig.turn(Duration::ZERO);
    rig.ring.inflight.fds.get_mut(end).unwrap().next_into = Some((room(b"kept"), 4));
    drop(write);
    rig.run_until_quiet();
    let all = [Seen::Filled(1, b"kept".to_vec()), Seen::ReadEnd(1, ReadEnd::Eof)];
    assert_eq!(rig.seen, all);
}

/// Without a pool buffer a READ of the pool would fail, but this one needs none.
#[test]
fn empty_pool_does_not_stop_a_read_into() {
    let Some(mut rig) = Rig::with(RingConfig { buffers: 1, ..config() }) else { return };
    let (read, write) = pipe();
    let end = rig.adopt(read, 1, Role::Stdout);
    rig.ring.inflight.pool.note_lent(0);
    put(&write, b"bytes");
    rig.ring.read(end);
    rig.ring.read_into(end, room(b""), 8);
    rig.until("the bytes", |seen| seen.contains(&Seen::Filled(1, b"bytes".to_vec())));
    rig.ring.inflight.pool.give_back(0);
}

/// The kernel takes no more submissions for a while.
#[test]
fn deferred_read_into_is_retried() {
    let Some(mut rig) = Rig::new() else { return };
    let (read, write) = pipe();
    let end = rig.adopt(read, 1, Role::Stdout);
    let entry = rig.ring.inflight.fds.get_mut(end).unwrap();
    (entry.want_read, entry.next_into) = (true, Some((room(b""), 8)));
    rig.ring.inflight.deferred.push(DeferredSubmission::Arm(end));
    put(&write, b"bytes");
    rig.until("the bytes", |seen| seen.contains(&Seen::Filled(1, b"bytes".to_vec())));
}
