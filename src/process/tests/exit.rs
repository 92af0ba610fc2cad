//! Signals, exit statuses, process groups, and the effect of a drop.

use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};

use super::{
    PATIENCE, await_readable, become_nobody, exists, read_line, read_to_end, read_until, reap, run,
    shell, start,
};
use crate::close::ExitStatus;
use crate::command::AgentCommand;
use crate::process::AgentProcess;
#[cfg(feature = "cli")]
use crate::process::child_setup::set_signal_mask;
use crate::process::procfs::{descendants, living_members};
use crate::process::spawn::spawn;

#[test]
fn exit_code_and_signal_are_distinguished() {
    assert_eq!(run(&shell("exit 0")).1, ExitStatus::Code(0));
    assert_eq!(run(&shell("exit 255")).1, ExitStatus::Code(255));
    assert_eq!(run(&shell("kill -9 $$")).1, ExitStatus::Signal(9));
    assert_eq!(run(&shell("exit 137")).1, ExitStatus::Code(137));
    // An exit with a core dump is still reported as its signal.
    assert_eq!(run(&shell("kill -ABRT $$")).1, ExitStatus::Signal(6));
}

/// `has_exited` must not reap, and `try_reap` must keep the status for later calls.
#[test]
fn status_is_reaped_once_and_kept() {
    let mut parts = start(&shell("read line; exit 7"));
    assert!(!parts.child.has_exited());
    assert_eq!(parts.child.try_reap(), None);
    assert_eq!(parts.child.status(), None);
    drop(parts.stdin);
    await_readable(&parts.pidfd, Instant::now() + PATIENCE);
    assert!(parts.child.has_exited());
    assert!(parts.child.has_exited(), "looking takes nothing");
    assert_eq!(parts.child.try_reap(), Some(ExitStatus::Code(7)));
    assert_eq!(parts.child.try_reap(), Some(ExitStatus::Code(7)));
    assert_eq!(parts.child.status(), Some(ExitStatus::Code(7)));
    assert!(parts.child.has_exited());
}

/// Counts the living processes of a group.
fn members(group: u32) -> usize {
    let [members] = living_members([group]);
    members.len()
}

/// A group is signalled by number only while its leader is not reaped: afterwards the number may belong
/// to another group.
#[test]
fn reaped_leader_is_not_signalled_by_number() {
    // A second process keeps the group, and so the number, alive after the leader.
    let mut parts = start(&shell("sleep 1000 & echo; exit 0"));
    assert_eq!(read_line(&parts.stdout), "");
    await_readable(&parts.pidfd, Instant::now() + PATIENCE);
    let group = parts.child.pid();
    assert_eq!(members(group), 1, "the zombie leader does not count");
    assert_eq!(reap(&mut parts), ExitStatus::Code(0));
    assert!(!parts.child.kill(None));
    assert!(!parts.child.terminate(None));
    assert!(parts.child.group_has_members(None), "it must have survived");
    assert_eq!(members(group), 1);
    // The pidfd still names this group and no other.
    let pidfd = parts.pidfd.try_clone().expect("dup");
    assert!(parts.child.can_signal_reaped(Some(pidfd.as_fd())), "Linux 6.9");
    assert!(parts.child.kill(Some(pidfd.as_fd())));
    assert_eq!(read_to_end(parts.stdout), "", "ends when the last of them is dead");
    await_empty(group);
    while parts.child.group_has_members(Some(pidfd.as_fd())) {
        // Its new parent has not reaped it yet.
        std::thread::yield_now();
    }
    assert!(!parts.child.kill(Some(pidfd.as_fd())), "no process is left to be reached");
}

/// With SIGCHLD ignored, or a `waitpid(-1)` in a library of the host, the status is lost; the group must
/// be killed all the same.
#[test]
fn group_of_a_stolen_leader_is_killed_through_its_pidfd() {
    let mut parts = start(&shell("sleep 1000 & echo; exit 7"));
    assert_eq!(read_line(&parts.stdout), "");
    await_readable(&parts.pidfd, Instant::now() + PATIENCE);
    let pid = Pid::from_raw(i32::try_from(parts.child.pid()).expect("a pid")).expect("a pid");
    waitid(WaitId::Pid(pid), WaitIdOptions::EXITED).expect("waitid").expect("a status");
    assert!(!parts.child.kill(None), "the number is no longer ours");
    assert_eq!(members(parts.child.pid()), 1);
    assert!(parts.child.has_exited());
    assert_eq!(parts.child.try_reap(), Some(ExitStatus::Unknown));
    assert_eq!(parts.child.try_reap(), Some(ExitStatus::Unknown));
    let why = parts.child.why_unknown().expect("a reason");
    assert!(why.contains("waitpid"), "{why}");
    assert!(parts.child.kill(Some(parts.pidfd.as_fd())));
    assert_eq!(read_to_end(parts.stdout), "");
}

/// A stopped process acts on SIGTERM only after SIGCONT.
#[test]
fn stopped_child_can_act_on_sigterm() {
    for way in ["the group by pidfd", "the group by number", "the leader alone"] {
        let mut parts =
            start(&shell("trap 'echo saved; exit 0' TERM; echo; kill -STOP $$; read line"));
        assert_eq!(read_line(&parts.stdout), "");
        let pid = parts.child.pid();
        while !std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("lives").contains(") T ")
        {
            std::thread::yield_now();
        }
        let pidfd = parts.pidfd.try_clone().expect("dup");
        assert!(match way {
            "the group by pidfd" => parts.child.terminate(Some(pidfd.as_fd())),
            "the group by number" => parts.child.terminate(None),
            _ => parts.child.terminate_leader(),
        });
        await_readable(&parts.pidfd, Instant::now() + PATIENCE);
        assert_eq!(read_line(&parts.stdout), "saved", "{way}");
        assert_eq!(parts.child.try_reap(), Some(ExitStatus::Code(0)));
    }
}

/// The grandchild holds the pipe: a kill of the leader alone leaves it open for 1000 s.
#[test]
fn kill_reaches_the_grandchild() {
    for kill in [true, false] {
        let mut parts = start(&shell("sleep 1000 & sleep 1000 & echo ready; wait"));
        assert_eq!(read_line(&parts.stdout), "ready");
        let group = parts.child.pid();
        assert_eq!(members(group), 3);
        assert_eq!(descendants(group).0.len(), 2);
        assert!(if kill { parts.child.kill(None) } else { parts.child.terminate(None) });
        assert_eq!(read_to_end(parts.stdout), "", "ends when the last of them is dead");
        await_readable(&parts.pidfd, Instant::now() + PATIENCE);
        let signal = if kill { libc::SIGKILL } else { libc::SIGTERM };
        assert_eq!(parts.child.try_reap(), Some(ExitStatus::Signal(signal)));
        await_empty(group);
    }
}

/// A pipe ends a moment before its last holder is dead.
fn await_empty(group: u32) {
    let start = Instant::now();
    while members(group) != 0 {
        assert!(start.elapsed() < PATIENCE, "a member of the group lives on");
        std::thread::yield_now();
    }
}

/// The zombie of a leader that exits first keeps the number, so the rest of the group is still reached.
#[test]
fn kill_after_leader_exit_reaches_group() {
    let mut parts = start(&shell("sleep 1000 & echo ready"));
    assert_eq!(read_line(&parts.stdout), "ready");
    await_readable(&parts.pidfd, Instant::now() + PATIENCE);
    assert!(parts.child.kill(None));
    assert_eq!(read_to_end(parts.stdout), "");
    assert_eq!(parts.child.try_reap(), Some(ExitStatus::Code(0)));
}

/// A leader in another group would miss every signal to its own. The kernel refuses to move the leader
/// of a session. The agent is this test itself.
#[test]
fn leader_cannot_leave_its_group() {
    const OTHER_GROUP: &str = "AGENTPIPE_TEST_JOIN_GROUP";
    if let Ok(group) = std::env::var(OTHER_GROUP) {
        let own = rustix::process::getpid();
        assert_eq!(rustix::process::getsid(None), Ok(own));
        assert_eq!(rustix::process::getpgrp(), own);
        let group = Pid::from_raw(group.parse().expect("a number"));
        assert_eq!(rustix::process::setpgid(None, group), Err(Errno::PERM));
        assert_eq!(rustix::process::setsid(), Err(Errno::PERM));
        println!("stayed");
        await_readable(rustix::stdio::stdin(), Instant::now() + PATIENCE);
    } else {
        check_leader_that_tries_to_leave(OTHER_GROUP);
    }
}

fn check_leader_that_tries_to_leave(other_group: &str) {
    // Not the group of this test, which may have no number in a PID namespace.
    let mut neighbour = std::process::Command::new("/bin/cat")
        .stdin(std::process::Stdio::piped())
        .process_group(0)
        .spawn()
        .expect("a process with a group");
    let mut parts = start(
        &AgentCommand::new(std::env::current_exe().expect("this binary"))
            .args(["--exact", "--nocapture"])
            .arg("process::tests::exit::leader_cannot_leave_its_group")
            .env(other_group, neighbour.id().to_string()),
    );
    let mut said = Vec::new();
    let mut stdout = std::fs::File::from(parts.stdout.try_clone().expect("dup"));
    read_until(&mut stdout, &mut said, |said| said.ends_with(b"stayed\n"));
    assert!(parts.child.kill(None));
    assert_eq!(reap(&mut parts), ExitStatus::Signal(libc::SIGKILL));
    drop(neighbour.stdin.take());
    assert!(neighbour.wait().expect("a status").success(), "a process of another group was killed");
}

#[test]
fn members_of_several_groups_are_told_apart() {
    let script = |n: usize| format!("{}echo ready; read line", "sleep 1000 & ".repeat(n));
    let mut all: Vec<_> = [0, 2, 1].map(|n| start(&shell(&script(n)))).into();
    for parts in &all {
        assert_eq!(read_line(&parts.stdout), "ready");
    }
    let groups = [0, 1, 2].map(|n: usize| all[n].child.pid());
    assert_eq!(living_members(groups).map(|members| members.len()), [1, 3, 2]);
    assert_eq!(living_members([u32::MAX]), [[]]);
    for parts in &mut all {
        assert!(parts.child.kill(None));
        reap(parts);
    }
}

#[test]
fn unreaped_leader_is_a_member_of_its_group() {
    let mut parts = start(&AgentCommand::new("/bin/cat"));
    assert!(parts.child.group_has_members(None));
    assert!(parts.child.kill(None));
    await_readable(&parts.pidfd, Instant::now() + PATIENCE);
    assert!(parts.child.group_has_members(Some(parts.pidfd.as_fd())), "the zombie is one");
    reap(&mut parts);
    assert!(!parts.child.group_has_members(None));
    assert!(!parts.child.group_has_members(Some(parts.pidfd.as_fd())));
}

/// If the engine ends, or the agent cannot be registered, a spawned agent has no owner.
#[test]
fn dropped_spawn_leaves_nothing() {
    let spawned = spawn(&shell("trap '' TERM; sleep 1000 & wait")).expect("spawns");
    let pid = spawned.pid();
    assert!(exists(pid));
    drop(spawned);
    assert!(!exists(pid), "neither process nor zombie");
}

/// After a failed exec this process has the same children as before.
#[test]
fn failed_exec_leaves_no_zombie() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("file");
    super::write_file(&file, "no program\n", 0o755);
    for _ in 0..50 {
        assert!(spawn(&AgentCommand::new(&file)).is_err());
    }
    // Only children of this thread: other tests spawn, too.
    let children = std::fs::read_to_string("/proc/thread-self/children").expect("children");
    assert_eq!(children.trim(), "");
}

#[test]
fn each_pipe_carries_its_stream() {
    let mut parts = start(&shell("read line; echo out $line; echo err $line >&2"));
    std::fs::File::from(parts.stdin.try_clone().expect("dup")).write_all(b"x\n").expect("write");
    assert_eq!(read_line(&parts.stdout), "out x");
    assert_eq!(read_line(&parts.stderr), "err x");
    assert_eq!(reap(&mut parts), ExitStatus::Code(0));
}

/// If the agent becomes root by a set-user-ID program, SIGKILL is refused. A drop must not wait until
/// such an agent ends.
#[test]
fn unkillable_child_is_waited_for_with_a_limit() {
    let spawned = spawn(&shell("sleep 1000")).expect("spawns");
    let pid = Pid::from_raw(i32::try_from(spawned.pid()).expect("a pid")).expect("a pid");
    let begun = Instant::now();
    let dropper = std::thread::spawn(move || {
        become_nobody();
        drop(spawned);
    });
    dropper.join().expect("no panic");
    assert!(begun.elapsed() < PATIENCE, "it waited for what it could not kill");
    // It lives on if this test is root; otherwise it could be killed, and is reaped.
    let killed = rustix::process::kill_process_group(pid, rustix::process::Signal::KILL);
    assert_eq!(killed.is_ok(), rustix::process::geteuid().is_root());
    // A background thread reaps it when it ends.
    while killed.is_ok() && exists(pid.as_raw_pid().unsigned_abs()) {
        assert!(begun.elapsed() < PATIENCE, "it stays a zombie");
        std::thread::yield_now();
    }
    // Nor for one that was never signalled.
    let mut parts = start(&shell("sleep 1000"));
    assert_eq!(parts.child.reap_within(Duration::from_millis(10)), None);
    parts.child.kill(None);
    assert_eq!(parts.child.reap_within(PATIENCE), Some(ExitStatus::Signal(9)));
}

/// A signal handler of the host ended the wait for a killed child, which was then reported as still
/// running.
#[cfg(feature = "cli")]
#[test]
fn interrupted_wait_for_the_exit_goes_on() {
    // All threads of the process of the test inherit the mask, and then this one alone takes the
    // signal.
    set_signal_mask(1 << (libc::SIGUSR1 - 1));
    if super::limits::alone("exit", "interrupted_wait_for_the_exit_goes_on") {
        set_signal_mask(0);
        let handled = std::sync::Arc::default();
        signal_hook::flag::register(libc::SIGUSR1, std::sync::Arc::clone(&handled)).expect("ours");
        let script = "for n in 1 2 3 4 5; do kill -USR1 $PPID; sleep 0.02; done; exit 3";
        let mut parts = start(&shell(script));
        assert_eq!(parts.child.reap_within(PATIENCE), Some(ExitStatus::Code(3)));
        assert!(handled.load(std::sync::atomic::Ordering::SeqCst), "no signal came");
    }
}

/// `sudo` runs as root. The kernel reports a signal to its group as sent if any member took it, and the
/// report did not say that the agent itself had not.
#[test]
fn refusal_of_a_signal_is_noted() {
    // The second process of the group belongs to the user that `become_nobody` makes this thread.
    let member =
        if rustix::process::geteuid().is_root() { "chroot --userspec=65534:65534 /" } else { "" };
    let script = format!("trap '' TERM; {member} sleep 1000 & echo up; wait; exec sleep 1000");
    for everyone in [false, true] {
        let mut parts = start(&shell(if everyone { "echo up; exec sleep 1000" } else { &script }));
        assert_eq!(read_line(&parts.stdout), "up");
        while !everyone && !belongs_to_nobody(parts.child.pid()) {
            std::thread::yield_now();
        }
        let pidfd = parts.pidfd.try_clone().expect("dup");
        let mut child = parts.child;
        let child = std::thread::spawn(move || {
            become_nobody();
            let reached = [child.terminate(Some(pidfd.as_fd())), child.kill(Some(pidfd.as_fd()))];
            if rustix::process::geteuid().as_raw() == 65_534 {
                // The member is gone with SIGKILL, and nothing was reached by SIGTERM alone.
                assert_eq!(reached, [!everyone; 2]);
                let says = "SIGTERM was refused: EPERM; SIGKILL was refused: EPERM";
                assert_eq!(child.refused_signals().as_deref(), Some(says));
                assert_eq!(child.try_reap(), None, "it lives");
            }
            child
        });
        parts.child = child.join().expect("no panic");
        if !rustix::process::geteuid().is_root() {
            assert_eq!(parts.child.refused_signals(), None);
        }
        parts.child.kill(None);
        reap(&mut parts);
    }
}

/// Whether a process of the group runs as user 65534. Without root all are of one user.
fn belongs_to_nobody(group: u32) -> bool {
    let is_nobody = |pid| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        status.contains("Uid:\t65534\t65534")
    };
    !rustix::process::geteuid().is_root()
        || descendants(group).0.iter().any(|member| is_nobody(member.pid()))
}
