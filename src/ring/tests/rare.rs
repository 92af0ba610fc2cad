//! Completions that a sound kernel does not send, or almost never. They are made up here, so that the day
//! they come nothing leaks and nothing hangs.

use std::mem;
use std::os::fd::IntoRawFd;

use super::*;
use crate::ring::fd_table::{FdEntry, FdState};
use crate::ring::op::{OpKind, OpToken};
use crate::ring::queue::Cqe;
use crate::ring::{close, poll, read};

/// Registers an operation that the kernel does not have.
fn pretend(rig: &mut Rig, end: EndId, kind: OpKind) -> OpToken {
    let token = rig.ring.inflight.ops.insert(end, kind);
    let entry = rig.ring.inflight.fds.get_mut(end).unwrap();
    entry.op = Some(token);
    entry.pending += 1;
    token
}

fn completed(token: OpToken, result: i32, more: bool) -> Cqe {
    Cqe { token, result, more, buffer: None }
}

/// A close that the kernel cancelled would leave the agent with an open pipe, and it would wait for ever.
#[test]
fn cancelled_close_is_made_by_hand() {
    let Some(mut rig) = Rig::new() else { return };
    let (end, write) = pipe();
    let end = rig.adopt(end, 1, Role::Stdout);
    let entry = rig.ring.inflight.fds.get_mut(end).unwrap();
    let open = mem::replace(&mut entry.state, FdState::Closing(None));
    let FdState::Open(fd) = open else { panic!("{open:?}") };
    let token = pretend(&mut rig, end, OpKind::Close { fd: fd.into_raw_fd() });
    close::on_close(&mut rig.ring.inflight, end, completed(token, -libc::ECANCELED, false));
    close::report_if_final(&mut rig.ring.inflight, end);
    rig.turn(Duration::ZERO);
    assert_eq!(rig.seen, [Seen::Closed(1, Ok(()))]);
    assert_eq!(rig.ring.inflight.closed_by_hand, 1);
    must_break(&write);
}

/// Linux frees the number even if close(2) fails, so the error is told and nothing repeated.
#[test]
fn failed_close_is_told() {
    let Some(mut rig) = Rig::new() else { return };
    let end = rig.adopt(pipe().0, 1, Role::Stdout);
    rig.ring.inflight.fds.get_mut(end).unwrap().state = FdState::Closing(None);
    let token = pretend(&mut rig, end, OpKind::Close { fd: -1 });
    close::on_close(&mut rig.ring.inflight, end, completed(token, -libc::EIO, false));
    close::report_if_final(&mut rig.ring.inflight, end);
    rig.turn(Duration::ZERO);
    assert_eq!(rig.seen, [Seen::Closed(1, Err(libc::EIO))]);
    assert_eq!(rig.ring.inflight.closed_by_hand, 0);
}

/// A poll that fails must not look like one that our close has cancelled: its agent would never end.
#[test]
fn failed_poll_is_told() {
    for errno in [libc::EIO, libc::ECANCELED] {
        let Some(mut rig) = Rig::new() else { return };
        let end = rig.adopt(pipe().0, 1, Role::Exit);
        let token = pretend(&mut rig, end, OpKind::Poll);
        poll::on_completion(&mut rig.ring.inflight, end, completed(token, -errno, false));
        rig.turn(Duration::ZERO);
        assert_eq!(rig.seen, [Seen::Ready(1, Err(errno))]);
    }
    // The descriptor is closing, and `Closed` says so.
    let Some(mut rig) = Rig::new() else { return };
    let end = rig.adopt(pipe().0, 1, Role::Exit);
    let token = pretend(&mut rig, end, OpKind::Poll);
    rig.ring.inflight.fds.get_mut(end).unwrap().doomed = true;
    poll::on_completion(&mut rig.ring.inflight, end, completed(token, -libc::EIO, false));
    rig.turn(Duration::ZERO);
    assert_eq!(rig.seen, [Seen::Ready(1, Err(libc::EIO))]);
}

/// A read that something else has cancelled has failed. One that says "no bytes, and more to come" goes on.
#[test]
fn read_ends_only_with_its_last_completion() {
    let Some(mut rig) = Rig::new() else { return };
    let end = rig.adopt(pipe().0, 1, Role::Stdout);
    let token = pretend(&mut rig, end, OpKind::Read { multishot: true });
    rig.ring.inflight.fds.get_mut(end).unwrap().want_read = true;
    read::on_completion(&mut rig.ring.inflight, end, completed(token, 0, true));
    rig.turn(Duration::ZERO);
    assert_eq!(rig.seen, []);
    read::on_completion(&mut rig.ring.inflight, end, completed(token, -libc::ECANCELED, false));
    rig.turn(Duration::ZERO);
    assert_eq!(rig.seen, [Seen::ReadEnd(1, ReadEnd::Failed(libc::ECANCELED))]);
    assert_eq!(rig.ring.in_kernel(), 0);
}

/// A read that has failed and is still armed must not take bytes that are never delivered.
#[test]
fn failed_read_does_not_stay_armed() {
    let Some(mut rig) = Rig::new() else { return };
    let (end, _write) = rig.reading(1);
    rig.turn(Duration::ZERO);
    let token = rig.ring.inflight.fds.get(end).unwrap().op.expect("it is armed");
    read::on_completion(&mut rig.ring.inflight, end, completed(token, -libc::EIO, true));
    rig.run_until_quiet();
    assert_eq!(rig.seen, [Seen::ReadEnd(1, ReadEnd::Failed(libc::EIO))]);
    assert_eq!(rig.ring.in_kernel(), 0);
}

/// A buffer that is named twice is lent once, or the pool would seem empty for ever.
#[test]
fn buffer_named_twice_is_lent_once() {
    let Some(mut rig) = Rig::new() else { return };
    let pool = &mut rig.ring.inflight.pool;
    let free = pool.free();
    pool.note_lent(0);
    pool.note_lent(0);
    assert_eq!(pool.free(), free - 1);
}

#[test]
fn no_room_for_more_than_the_queue_holds() {
    let Some(mut rig) = Rig::new() else { return };
    let capacity = rig.ring.inflight.queue.capacity();
    assert!(rig.ring.inflight.make_room(capacity));
    assert!(!rig.ring.inflight.make_room(capacity + 1));
}

/// Silence proves nothing while a completion waits, wherever it waits.
#[test]
fn completion_in_hand_is_unread() {
    let Some(mut rig) = Rig::new() else { return };
    let (end, _write) = rig.reading(1);
    rig.turn(Duration::ZERO);
    let inflight = &mut rig.ring.inflight;
    assert!(!read::has_unread(inflight, end));
    let tag = Tag { agent: 2, role: Role::Exit };
    inflight.completions.push_back(Completion::Ready { tag, result: Ok(()) });
    assert!(read::has_unread(inflight, end));
    inflight.completions.clear();
    inflight.cqes.push_back(completed(OpToken::NONE, 0, false));
    assert!(read::has_unread(inflight, end));
    inflight.cqes.clear();
}

/// A ring that reports itself ready, without a buffer to give to a read, would spin.
#[test]
fn starved_read_waits_for_a_buffer() {
    let Some(mut rig) = Rig::new() else { return };
    let inflight = &mut rig.ring.inflight;
    let end = inflight.fds.insert(FdEntry::new(pipe().0, Tag { agent: 1, role: Role::Stdout }));
    inflight.starved.push_back(end);
    assert!(inflight.can_arm_starved());
    for buffer in 0..inflight.pool.buffers() {
        inflight.pool.note_lent(buffer);
    }
    assert!(!inflight.can_arm_starved());
}

/// A second pause changes nothing, and costs no submission.
#[test]
fn pause_cancels_once() {
    let Some(mut rig) = Rig::new() else { return };
    let (end, _write) = rig.reading(1);
    rig.turn(Duration::ZERO);
    rig.ring.pause(end);
    rig.ring.pause(end);
    assert_eq!(rig.ring.in_kernel(), 2, "the read and one cancel");
}

#[test]
fn operations_have_the_names_of_the_kernel() {
    for (kind, name) in [
        (OpKind::Read { multishot: true }, "READ_MULTISHOT"),
        (OpKind::Read { multishot: false }, "READ"),
        (OpKind::Write { buf: Vec::new(), from: 0 }, "WRITE"),
        (OpKind::Poll, "POLL_ADD"),
        (OpKind::WaitEnd, "TIMEOUT"),
        (OpKind::Cancel, "ASYNC_CANCEL"),
        (OpKind::Close { fd: -1 }, "CLOSE"),
    ] {
        assert_eq!(kind.name(), name);
    }
}

/// A host that starts and stops engines must not grow. If a drain failed, the memory stays, because the
/// kernel may still write to it.
#[test]
fn dropped_ring_returns_its_memory_unless_it_is_leaked() {
    let size = || {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let size = status.lines().find_map(|line| line.strip_prefix("VmSize:")).unwrap();
        size.trim().trim_end_matches(" kB").parse::<i64>().unwrap() >> 10
    };
    for leak in [false, true] {
        let before = size();
        // 16 MiB each, hardly touched.
        for _ in 0..32 {
            let config = RingConfig { buffers: 4096, ..config() };
            let Some(mut rig) = Rig::with(config) else { return };
            if leak {
                rig.ring.inflight.pool.leak();
            }
        }
        let grown = size() - before;
        assert_eq!(grown > 256, leak, "{grown} MiB");
    }
}

/// A read that found the pool empty waits behind the reads that wait already, even if a buffer has come back
/// meanwhile. One that is paused does not wait.
#[test]
fn read_without_a_buffer_waits_its_turn() {
    for want_read in [true, false] {
        let Some(mut rig) = Rig::new() else { return };
        let end = rig.adopt(pipe().0, 1, Role::Stdout);
        let token = pretend(&mut rig, end, OpKind::Read { multishot: true });
        rig.ring.inflight.fds.get_mut(end).unwrap().want_read = want_read;
        let cqe = completed(token, -libc::ENOBUFS, false);
        read::on_completion(&mut rig.ring.inflight, end, cqe);
        assert_eq!(rig.ring.inflight.starved.len(), usize::from(want_read));
        assert_eq!(rig.ring.in_kernel(), 0);
    }
}
