//! Polls: reported once, and never after a close.

use rustix::event::{EventfdFlags, eventfd};

use super::*;

fn event() -> (OwnedFd, OwnedFd) {
    let ours = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap();
    let theirs = ours.try_clone().unwrap();
    (ours, theirs)
}

/// A pidfd stays readable, so a poll that repeats would spin.
#[test]
fn poll_reports_once() {
    let Some(mut rig) = Rig::new() else { return };
    let (ours, theirs) = event();
    let end = rig.adopt(theirs, 1, Role::Exit);
    rig.ring.watch(end);
    rig.ring.watch(end);
    rig.run_until_quiet();
    assert_eq!(rig.seen, []);
    put(&ours, &1_u64.to_ne_bytes());
    rig.run_until_quiet();
    assert_eq!(rig.seen, [Seen::Ready(1, Ok(()))]);
    // The eventfd is still readable, so the next poll reports again.
    rig.ring.watch(end);
    rig.run_until_quiet();
    assert_eq!(rig.seen.len(), 2);
}

#[test]
fn exit_is_reported_through_a_pidfd() {
    use rustix::process::{Pid, PidfdFlags, pidfd_open};
    let Some(mut rig) = Rig::new() else { return };
    let mut child = std::process::Command::new("cat")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).unwrap();
    let end = rig.adopt(pidfd, 1, Role::Exit);
    rig.ring.watch(end);
    rig.run_until_quiet();
    assert_eq!(rig.seen, []);
    drop(child.stdin.take());
    rig.until("its exit", |seen| !seen.is_empty());
    assert_eq!(rig.seen, [Seen::Ready(1, Ok(()))]);
    assert!(child.wait().unwrap().success());
}

/// A poll cancelled by its own close must not look like an event.
#[test]
fn closed_poll_reports_only_closed() {
    let Some(mut rig) = Rig::new() else { return };
    let (_ours, theirs) = event();
    let end = rig.adopt(theirs, 1, Role::Exit);
    rig.ring.watch(end);
    rig.turn(Duration::ZERO);
    rig.ring.close(&[end]);
    rig.until("closed", |seen| count(seen, closed) == 1);
    rig.run_until_quiet();
    assert_eq!(rig.seen, [Seen::Closed(1, Ok(()))]);
    assert_eq!(rig.ring.in_kernel(), 0);
}
