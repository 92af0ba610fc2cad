//! Hosts that refuse the newer system calls of a spawn and of the guard, as older kernels and some container
//! filters do: the second way has the same result.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::{Command, Stdio};
use std::time::Instant;

use agentpipe::AgentCommand;
use rustix::fs::OFlags;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};

use super::{agentpipe, seccomp};
use crate::support::own_process::{check_passed, is_alone, test_name, this_test};
use crate::support::process::await_end;
use crate::support::{CEILING, PROGRAM, engine};

/// The open descriptors of a process.
fn open(pid: u32) -> Vec<u32> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).expect("proc");
    let mut open: Vec<u32> =
        entries.filter_map(|it| it.ok()?.file_name().to_str()?.parse().ok()).collect();
    open.sort_unstable();
    open
}

/// Descriptors without close-on-exec, as a library of the host may have them.
fn leak() -> Vec<OwnedFd> {
    let file = fs::File::open("/dev/null").expect("open");
    (0..20).map(|_| rustix::io::dup(&file).expect("dup")).collect()
}

// A descriptor that leaks into an agent keeps a pipe of another agent open, and that agent never sees
// the end of its input.
#[test]
fn without_close_range_no_descriptor_leaks() {
    if is_alone() {
        return check_descriptors();
    }
    // The open of /proc/self/fd by the child, and no other of this process.
    let listing = i32::try_from((OFlags::DIRECTORY | OFlags::CLOEXEC).bits()).expect("flags");
    let no_listing = (libc::SYS_openat, Some((2, listing)), libc::ENOENT);
    for errno in [libc::ENOSYS, libc::EPERM] {
        let no_range = (libc::SYS_close_range, None, errno);
        for refused in [vec![no_range], vec![no_range, no_listing]] {
            let mut command = this_test(test_name!());
            for (call, when, errno) in refused {
                seccomp::deny_when(&mut command, call, when, errno);
            }
            check_passed(&command.output().expect("runs"));
        }
    }
}

fn check_descriptors() {
    let leaked = leak();
    let most = leaked.iter().map(AsRawFd::as_raw_fd).max().expect("some");
    let most = u32::try_from(most).expect("a number");
    // One in the middle of the leaked ones, and one above them.
    let (low, high) = (most - 5, most + 50);
    let null = || OwnedFd::from(fs::File::open("/dev/null").expect("open"));
    let engine = engine();
    let plain = AgentCommand::new("cat");
    let passing = AgentCommand::new("cat").pass_fd(null(), low).pass_fd(null(), high);
    for (command, want) in [(plain, vec![0, 1, 2]), (passing, vec![0, 1, 2, low, high])] {
        let mut agent = engine.spawn_blocking(command).expect("spawns");
        agent.send_blocking("{}").expect("sent");
        assert!(agent.next_record_blocking().is_some(), "its loader is done");
        assert_eq!(open(agent.pid()), want);
        let report = agent.close_blocking();
        assert!(report.exit().success(), "{report}");
    }
}

/// `agentpipe run` of a shell that leaves a daemon, with these calls refused: the process that it runs in,
/// once it is up, and the daemon.
fn run_with_daemon(refused: &[&str]) -> (std::process::Child, Pid) {
    let script = "setsid sleep 1000 >/dev/null 2>&1 & echo \"[$!]\"; exec cat";
    let mut command = Command::new(PROGRAM);
    command.args(["fake", "deny"]).args(refused).arg("--");
    command.args([PROGRAM, "run", "--", "/bin/sh", "-c", script]);
    let mut run = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("starts");
    let mut said = String::new();
    BufReader::new(run.stdout.as_mut().expect("piped")).read_line(&mut said).expect("text");
    let daemon = said.trim().trim_matches(['[', ']']).parse().expect("a number");
    (run, Pid::from_raw(daemon).expect("a pid"))
}

/// The guard of a process: its child with this name.
fn guard_of(host: u32) -> u32 {
    let begun = Instant::now();
    loop {
        let children = fs::read_to_string(format!("/proc/{host}/task/{host}/children"));
        let children = children.unwrap_or_default();
        let name = |pid: &str| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        let is_guard = |pid: &&str| name(pid).trim_end() == "agentpipe-guard";
        if let Some(guard) = children.split_whitespace().find(is_guard) {
            return guard.parse().expect("a number");
        }
        assert!(begun.elapsed() < CEILING, "no guard");
        std::thread::yield_now();
    }
}

// A guard that cannot signal by pidfd would leave everything running after the death of the host.
#[test]
fn guard_kills_where_pidfd_signals_are_refused() {
    for errno in ["ENOSYS", "EPERM"] {
        let (mut run, daemon) = run_with_daemon(&[&format!("pidfd_send_signal={errno}")]);
        let watched = pidfd_open(daemon, PidfdFlags::empty()).expect("it is there");
        run.kill().expect("ours");
        run.wait().expect("ours");
        await_end(&watched, errno);
    }
}

// The guard is a copy of the host. A pipe that it keeps open never ends for its other reader.
#[test]
fn guard_keeps_no_descriptor_without_close_range() {
    let (mut run, daemon) = run_with_daemon(&["close_range=ENOSYS"]);
    let guard = guard_of(run.id());
    // The host, the socket, the ledger and /proc.
    assert_eq!(open(guard).len(), 4, "{:?}", open(guard));
    drop(run.stdin.take());
    assert!(run.wait().expect("ours").success());
    let _gone = kill_process(daemon, Signal::KILL);
}

// "No descriptors for the guard" sends its reader to the wrong limit.
#[test]
fn refused_pidfd_open_is_named() {
    let mut command = agentpipe(&["run", "--", "cat"]);
    let output = seccomp::deny(&mut command, libc::SYS_pidfd_open, libc::ENOSYS).output();
    let output = output.expect("starts");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    assert!(stderr.contains("pidfd_open(2)") && stderr.contains("seccomp"), "{stderr}");
}

// The search for a program asks faccessat2, which Linux has from 5.8 on.
#[test]
fn without_faccessat2_programs_are_found() {
    for errno in [libc::ENOSYS, libc::EPERM] {
        let mut command = agentpipe(&["run", "-q", "--", "sh", "-c", "exit 7"]);
        let output = seccomp::deny(&mut command, libc::SYS_faccessat2, errno).output();
        let output = output.expect("starts");
        assert_eq!(output.status.code(), Some(7), "{output:?}");
    }
}
