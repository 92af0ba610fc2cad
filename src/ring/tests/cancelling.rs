//! A cancel that comes while its read is being served finds it, and does not end it (EALREADY).

use super::*;
use crate::ring::op::OpKind;
use crate::ring::queue::Cqe;

/// An armed read, and the completion of a cancel that caught it in the act. The completion is made
/// by hand: the kernels we know serve reads of pipes where no cancel can meet them.
fn caught_in_the_act(rig: &mut Rig, wanted_again: bool) -> (EndId, OwnedFd) {
    let (end, write) = rig.reading(1);
    rig.turn(Duration::ZERO);
    let cancel = rig.ring.ops.insert(end, OpKind::Cancel);
    let state = rig.ring.ends.get_mut(end).unwrap();
    state.pending += 1;
    state.cancelling = true;
    state.want_read = wanted_again;
    let (result, more) = (-libc::EALREADY, false);
    rig.ring.reaped.push_back(Cqe { token: cancel, result, more, buffer: None });
    (end, write)
}

/// The story: the reader is slow, its agent's read is to be paused, and stays armed: it swallows
/// what the agent says, and the host's memory grows with it.
#[test]
fn a_read_that_a_cancel_missed_is_cancelled_again() {
    let mut rig = Rig::new();
    let (end, write) = caught_in_the_act(&mut rig, false);
    rig.settle();
    assert_eq!(rig.ring.in_kernel(), 0, "the read is still armed");
    put(&write, b"unread");
    rig.settle();
    assert_eq!(rig.seen, []);
    rig.ring.read(end);
    rig.until("bytes", |seen| bytes(seen, 1) == b"unread");
}

/// The story: the reader has caught up meanwhile. A second cancel would end a read that is wanted.
#[test]
fn a_read_that_is_wanted_again_is_not_cancelled_again() {
    let mut rig = Rig::new();
    let (_, write) = caught_in_the_act(&mut rig, true);
    let before = rig.ring.counters().submitted;
    rig.settle();
    assert_eq!((rig.ring.in_kernel(), rig.ring.counters().submitted), (1, before));
    put(&write, b"read");
    rig.until("bytes", |seen| bytes(seen, 1) == b"read");
}
