//! A cancel that arrives while its read is running does not end it (EALREADY).

use super::*;
use crate::ring::op::OpKind;
use crate::ring::queue::Cqe;

/// An armed read, and the completion of a cancel that found it running. The completion is made by
/// hand, because known kernels complete reads of pipes where no cancel can find them running.
fn cancel_finds_read_running(rig: &mut Rig, wanted_again: bool) -> (EndId, OwnedFd) {
    let (end, write) = rig.reading(1);
    rig.turn(Duration::ZERO);
    let cancel = rig.ring.inflight.ops.insert(end, OpKind::Cancel);
    let state = rig.ring.inflight.fds.get_mut(end).unwrap();
    state.pending += 1;
    state.cancelling = true;
    state.want_read = wanted_again;
    let (result, more) = (-libc::EALREADY, false);
    rig.ring.inflight.cqes.push_back(Cqe { token: cancel, result, more, buffer: None });
    (end, write)
}

/// A read that stays armed after a pause would take all output of the agent into memory.
#[test]
fn missed_read_is_cancelled_again() {
    let Some(mut rig) = Rig::new() else { return };
    let (end, write) = cancel_finds_read_running(&mut rig, false);
    rig.run_until_quiet();
    assert_eq!(rig.ring.in_kernel(), 0, "the read is still armed");
    put(&write, b"unread");
    rig.run_until_quiet();
    assert_eq!(rig.seen, []);
    rig.ring.read(end);
    rig.until("bytes", |seen| bytes(seen, 1) == b"unread");
}

/// The reader caught up meanwhile, so a second cancel would end a read that is wanted.
#[test]
fn resumed_read_is_not_cancelled_again() {
    let Some(mut rig) = Rig::new() else { return };
    let (_, write) = cancel_finds_read_running(&mut rig, true);
    let before = rig.ring.counters().submitted;
    rig.run_until_quiet();
    assert_eq!((rig.ring.in_kernel(), rig.ring.counters().submitted), (1, before));
    put(&write, b"read");
    rig.until("bytes", |seen| bytes(seen, 1) == b"read");
}
