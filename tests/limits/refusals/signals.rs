//! Kernels and filters that refuse what a close needs: signals to a group, SIGKILL, the exit status.
//! The report claims nothing that did not happen.

use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use std::{fs, thread};

use agentpipe::{ClosePolicy, Engine, ErrorKind, ExitStatus};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::{agentpipe, seccomp};
use crate::support::own_process::{is_alone, test_name, this_test};
use crate::support::{CEILING, PROGRAM, fake};

/// `agentpipe run`, with these system calls refused: the record that the agent wrote, and the report.
fn run(refused: &[(libc::c_long, i32)], options: &[&str], agent: &[&str]) -> (Value, Value) {
    let dir = tempfile::tempdir().expect("a folder");
    let report = dir.path().join("report");
    let mut command: Command = agentpipe(&["run", "-q", "--report"]);
    command.arg(&report).args(options).arg("--").args(agent).stdout(Stdio::piped());
    for (call, errno) in refused {
        seccomp::deny(&mut command, *call, *errno);
    }
    let output = command.output().expect("starts");
    let said = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let report = serde_json::from_slice(&fs::read(&report).expect("written")).expect("JSON");
    (said, report)
}

const SHORT: &[&str] = &["--drain", "100ms", "--terminate", "100ms"];

/// A zombie that its new parent has not reaped yet is gone, too.
fn await_end(pid: &Value) {
    let begun = Instant::now();
    let stat = || fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    while !stat().is_empty() && !stat().contains(") Z ") {
        assert!(begun.elapsed() < CEILING, "it lives: {}", stat());
        thread::yield_now();
    }
}

// Linux before 6.9 has no signals to a group through a pidfd.
#[test]
fn older_kernel_kills_the_group_by_number() {
    let script = "sleep 1000 >/dev/null 2>&1 & echo \"{\\\"pid\\\":$!}\"; read line; exit 3";
    for errno in [libc::EINVAL, libc::ENOSYS] {
        let older = [(libc::SYS_pidfd_send_signal, errno)];
        let (said, report) = run(&older, SHORT, &["/bin/sh", "-c", script]);
        assert_eq!(report["exit"]["code"], 3, "{report}");
        await_end(&said["pid"]);
        let (_, report) = run(&older, SHORT, &[PROGRAM, "fake", "--ignore-eof"]);
        assert_eq!(report["exit"]["signal"], 15, "{report}");
        let deaf = [PROGRAM, "fake", "--ignore-eof", "--ignore-sigterm"];
        let (_, report) = run(&older, SHORT, &deaf);
        assert_eq!(report["exit"]["signal"], 9, "{report}");
    }
}

// The agent became another user by a set-user-ID program. It lives on and was not killed.
#[test]
fn unkillable_agent_is_still_running() {
    let refused = [(libc::SYS_kill, libc::EPERM), (libc::SYS_pidfd_send_signal, libc::EPERM)];
    let (_, report) = run(&refused, SHORT, &[PROGRAM, "fake", "--ignore-eof"]);
    let pid = report["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok());
    kill_process(pid.and_then(Pid::from_raw).expect("a pid"), Signal::KILL).expect("it lives");
    assert_eq!(report["exit"]["still_running"], true, "{report}");
    assert_eq!(report["killed_extra"], 0, "{report}");
    let says = "SIGTERM was refused: EPERM; SIGKILL was refused: EPERM";
    assert_eq!(report["signals_refused"], says, "{report}");
    assert_eq!(report["output_may_be_lost"], true, "{report}");
    await_end(&report["pid"]);
}

// An agent that outlived its close keeps its place of `max_agents`, and gives it back when it ends.
#[test]
fn late_exit_frees_the_place() {
    if is_alone() {
        return check_place();
    }
    let mut command = this_test(test_name!());
    command.stdout(Stdio::piped());
    for call in [libc::SYS_kill, libc::SYS_pidfd_send_signal] {
        seccomp::deny(&mut command, call, libc::EPERM);
    }
    let mut child = command.spawn().expect("runs");
    let mut text = String::new();
    let mut lines = BufReader::new(child.stdout.take().expect("piped"));
    while lines.read_line(&mut text).expect("text") > 0 {
        if let Some(pid) = text.split_once("agent ").map(|(_, pid)| pid) {
            let pid = pid.trim().parse().ok().and_then(Pid::from_raw).expect("a pid");
            kill_process(pid, Signal::KILL).expect("it lives");
            break;
        }
    }
    lines.read_to_string(&mut text).expect("text");
    assert!(child.wait().expect("reapable").success(), "{text}");
    assert!(text.contains("1 passed"), "it did not run: {text}");
}

#[expect(clippy::print_stdout, reason = "tells the test which process to end")]
fn check_place() {
    let engine = Engine::builder().max_agents(1).build().expect("io_uring");
    let agent = engine.spawn_blocking(fake(&["--ignore-eof"])).expect("it starts");
    let quick = Duration::from_millis(50);
    let policy = ClosePolicy::graceful().drain(quick).terminate(quick).cut(quick).kill(quick);
    assert_eq!(agent.close_with_blocking(policy).exit(), ExitStatus::StillRunning);
    let refused = engine.spawn_blocking(fake(&[])).expect_err("it still has its place");
    assert_eq!(refused.kind(), ErrorKind::ResourceLimit, "{refused}");
    println!("agent {}", agent.pid());
    let begun = Instant::now();
    let next = loop {
        match engine.spawn_blocking(fake(&[])) {
            Ok(next) => break next,
            Err(error) => assert!(begun.elapsed() < CEILING, "{error}"),
        }
        thread::yield_now();
    };
    assert_eq!(next.close_blocking().exit(), ExitStatus::Code(0));
}

#[test]
fn denied_waitid_makes_the_exit_unknown() {
    let refused = [(libc::SYS_waitid, libc::EPERM)];
    let (_, report) = run(&refused, SHORT, &[PROGRAM, "fake"]);
    assert_eq!(report["exit"]["unknown"], true, "{report}");
    let note = report["exit"]["note"].as_str().expect("a reason");
    assert!(note.contains("waitid") && note.contains("not permitted"), "{note}");
    assert_eq!(report["killed_extra"], 0, "{report}");
}
