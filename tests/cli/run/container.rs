//! The command in a container: the first process of its namespaces, without a writable file, without
//! `/proc`, `/dev` or `/sys`.

use std::ffi::CStr;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::launcher::in_container;
use super::orphans::children;
use crate::support::own_process::test_name;
use crate::support::process::{await_end, watch};
use crate::support::{PROGRAM, skipped, wait_until};

/// What a container may lack: the folders, and whether a file can be written.
const LACKS: &[(&[&CStr], bool)] = &[
    (&[], true),
    (&[], false),
    (&[c"/dev"], true),
    (&[c"/sys"], true),
    (&[c"/proc"], true),
    // `/proc` last: the kernel finds the others by it.
    (&[c"/dev", c"/sys", c"/proc"], false),
];

/// Runs the program in such a container, with a record as its input.
fn within(lacks: &(&'static [&'static CStr], bool), program: &str, args: &[&str]) -> Output {
    let mut command = Command::new(program);
    in_container(&mut command, lacks.0, lacks.1).args(args);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("it can be made, or the test was skipped");
    // `true` and `doctor` read nothing.
    let _unread = child.stdin.take().expect("piped").write_all(b"{\"a\":1}\n");
    child.wait_with_output().expect("ends")
}

/// Whether this machine refuses such containers; then it says so.
fn refused(test: &str) -> bool {
    let mut command = Command::new("true");
    let made = in_container(&mut command, &[c"/sys"], false).status();
    if let Err(error) = &made {
        skipped(test, &format!("no namespaces of a user: {error}"));
    }
    made.is_err()
}

// The command said that nothing was left running, or did not start, where it could not look.
#[test]
fn bare_container_runs_an_agent_to_its_end() {
    if refused(test_name!()) {
        return;
    }
    let script = "read line; echo \"$line\"; (echo >/var/tmp/agentpipe.$$) 2>&-; \
        echo \"[$?]\"; rm -f /var/tmp/agentpipe.$$; cat; exit 3";
    let args = ["run", "--report", "-", "--", "/bin/sh", "-c", script];
    for lacks in LACKS {
        let output = within(lacks, PROGRAM, &args);
        let said = String::from_utf8(output.stderr).expect("text");
        assert_eq!(output.status.code(), Some(3), "{lacks:?}: {said}");
        let records = String::from_utf8(output.stdout).expect("text");
        let wrote = records.strip_prefix("{\"a\":1}\n").expect("the record comes back");
        assert_eq!(wrote == "[0]\n", lacks.1, "{lacks:?}: {wrote}");

        let lines: Vec<&str> = said.lines().collect();
        let report: Value = serde_json::from_str(lines.last().expect("a report")).expect("JSON");
        let blind = lacks.0.contains(&c"/proc");
        // Without `/proc` there is no guard, and a line says so.
        assert_eq!(lines.len(), if blind { 3 } else { 2 }, "{lacks:?}: {said}");
        assert_eq!(lines[0].contains("/proc does not show this process"), blind, "{said}");
        let known = |field: &str| !report[field].is_null();
        assert_eq!(known("left_running"), !blind, "{report}");
        assert_eq!(known("input_ended_while_busy"), !blind, "{report}");
        assert_eq!(report["output_may_be_lost"], blind, "{report}");
        // The ends of the pipes say this, and need no `/proc`.
        assert_eq!((&report["outputs_held"], &report["truncated"]), (&false.into(), &0.into()));
        assert_eq!(report["close"]["stage"], "drain", "{report}");
    }
}

// A health check asks `doctor` in the container, and restarts it where that fails.
#[test]
fn doctor_works_in_a_bare_container() {
    if refused(test_name!()) {
        return;
    }
    for lacks in LACKS {
        for flag in [&["doctor"][..], &["doctor", "--json"]] {
            let output = within(lacks, PROGRAM, flag);
            let said = String::from_utf8_lossy(&output.stdout);
            assert_eq!(output.status.code(), Some(0), "{lacks:?}: {output:?}");
            assert!(said.contains("works here") || said.contains("\"usable\":true"), "{said}");
        }
    }
}

// `doctor` tested with `cat`, and said that nothing works in an image that holds this program alone.
#[test]
fn doctor_needs_no_other_program() {
    let output = Command::new(PROGRAM).arg("doctor").env("PATH", "/none").output().expect("starts");
    assert_eq!(output.status.code(), Some(0), "{output:?}");
}

// An agent that does not leave by itself was not ended where `/proc` could not show it.
#[test]
fn deaf_agent_ends_in_a_bare_container() {
    if refused(test_name!()) {
        return;
    }
    let flags = ["run", "--drain", "100ms", "--terminate", "100ms", "--report", "-", "--"];
    let args = [&flags[..], &[PROGRAM, "fake", "--ignore-eof", "--ignore-sigterm"]].concat();
    for lacks in LACKS {
        let output = within(lacks, PROGRAM, &args);
        let said = String::from_utf8(output.stderr).expect("text");
        assert_eq!(output.status.code(), Some(128 + 9), "{lacks:?}: {said}");
        let report = said.lines().last().expect("a report");
        let report: Value = serde_json::from_str(report).expect("JSON");
        assert_eq!(report["close"]["stage"], "kill", "{lacks:?}: {report}");
        assert_eq!(report["exit"]["signal"], 9, "{lacks:?}: {report}");
    }
}

// `docker run --init`: a small init is the first process, and the command its child.
#[test]
fn command_below_an_init_ends_with_the_agents_code() {
    if refused(test_name!()) {
        return;
    }
    let init = "\"$0\" \"$@\"; code=$?; exit $code";
    let args = ["-c", init, PROGRAM, "run", "-q", "--", "sh", "-c", "(true &); cat; exit 5"];
    let output = within(&(&[], true), "sh", &args);
    assert_eq!(
        (output.status.code(), &*output.stdout),
        (Some(5), &b"{\"a\":1}\n"[..]),
        "{output:?}"
    );
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

// `docker stop` sends SIGTERM to the first process, for which the kernel has no default action.
#[test]
fn sigterm_to_the_first_process_closes_the_agent() {
    if refused(test_name!()) {
        return;
    }
    let mut command = Command::new(PROGRAM);
    let script = "echo '{}'; cat; exit 6";
    in_container(&mut command, &[], true).args(["run", "-q", "--", "sh", "-c", script]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut launcher = command.spawn().expect("starts");
    let mut line = String::new();
    BufReader::new(launcher.stdout.take().expect("piped")).read_line(&mut line).expect("text");
    let [first] = children(launcher.id())[..] else { panic!("one first process") };
    let first = Pid::from_raw(i32::try_from(first).expect("a pid")).expect("a pid");
    // Its input stays open meanwhile.
    kill_process(first, Signal::TERM).expect("it lives");
    wait_until("it ends", || launcher.try_wait().expect("ours").is_some());
    assert_eq!(launcher.wait().expect("reaped").code(), Some(6), "the agent's own");
}

// A container whose command is killed: the kernel ends all of its processes, wherever they went.
#[test]
fn killed_first_process_leaves_nothing() {
    if refused(test_name!()) {
        return;
    }
    let script = "setsid sleep 1000 & trap '' TERM HUP; echo '{}'; while :; do sleep 1000; done";
    let mut command = Command::new(PROGRAM);
    in_container(&mut command, &[], true).args(["run", "--no-guard", "--", "sh", "-c", script]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut launcher = command.spawn().expect("starts");
    let mut line = String::new();
    BufReader::new(launcher.stdout.take().expect("piped")).read_line(&mut line).expect("text");
    let [first] = children(launcher.id())[..] else { panic!("one first process") };
    let agent = children(first)[0];
    wait_until("both sleepers are up", || children(agent).len() == 2);
    let watched: Vec<_> = [vec![agent], children(agent)].concat().into_iter().map(watch).collect();
    let first = Pid::from_raw(i32::try_from(first).expect("a pid")).expect("a pid");
    kill_process(first, Signal::KILL).expect("it lives");
    for process in &watched {
        await_end(process, "a process of the container");
    }
    launcher.wait().expect("reaped");
}
