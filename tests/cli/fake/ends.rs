//! Exits, crashes, grandchildren, the clean flush.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use super::{Fake, converse, json, wait_for_file};
use crate::support::CEILING;

#[test]
fn exits_follow_the_flags() {
    assert_eq!(converse(&["--exit-code", "7"], "a\n").1.code(), Some(7));
    assert_eq!(converse(&["--exit-now", "--exit-code", "3"], "").1.code(), Some(3));
    for signal in ["KILL", "SIGSEGV", "6", "PIPE"] {
        let status = converse(&["--exit-now", "--die-by-signal", signal], "").1;
        let number = [("KILL", 9), ("SIGSEGV", 11), ("6", 6), ("PIPE", 13)];
        let wanted = number.iter().find(|(name, _)| *name == signal).map(|(_, number)| *number);
        assert_eq!(status.signal(), wanted, "{signal}");
    }
}

#[test]
fn crash_in_the_middle_of_the_stream() {
    let args = ["--flood", "--exit-after", "3", "--record-size", "64", "--exit-code", "9"];
    let mut fake = Fake::start(&args);
    assert_eq!(fake.rest().len(), 3 * 64);
    assert_eq!(fake.timed_exit().0, Some(9));
    // And in the middle of a record, by a signal.
    let args = ["--exit-after", "2", "--truncated-tail", "--die-by-signal", "KILL"];
    let (output, status) = converse(&args, "a\nb\nc\n");
    assert_eq!(output, b"a\nb\n{\"type\":\"tail\",\"text\"");
    assert_eq!(status.signal(), Some(9));
}

#[test]
fn stdout_can_end_before_the_process() {
    let mut fake = Fake::start(&["--flood", "64k", "--close-stdout"]);
    assert_eq!(fake.rest().len(), 64 << 10);
    assert!(fake.is_alive_after(100));
    fake.send("the answer is lost");
    fake.end_input();
    assert_eq!(fake.timed_exit().0, Some(0));

    let mut fake = Fake::start(&["--close-stdout", "--ignore-eof"]);
    fake.end_input();
    assert_eq!(fake.rest(), b"");
    assert!(fake.is_alive_after(200));
}

#[test]
fn grandchild_holds_stdout_after_the_exit() {
    let folder = tempfile::tempdir().expect("a folder");
    let pids = folder.path().join("pids");
    let pids_arg = pids.to_str().expect("utf-8");
    let mut fake = Fake::start(&["--grandchild-holds-stdout", "1s", "--print-pids", pids_arg]);
    let start = Instant::now();
    fake.end_input();
    assert_eq!(fake.timed_exit().0, Some(0));
    assert_eq!(fake.rest(), b"");
    assert!(start.elapsed() > Duration::from_millis(700), "{:?}", start.elapsed());
    let pids = json(wait_for_file(&pids).as_bytes());
    assert_eq!(pids["pid"], fake.child.id());
    assert!(pids["grandchild"].is_u64());
}

#[test]
fn grandchild_can_leave_the_group() {
    let folder = tempfile::tempdir().expect("a folder");
    for setsid in [false, true] {
        let pids = folder.path().join(format!("pids-{setsid}"));
        let pids_arg = pids.to_str().expect("utf-8");
        let mut args = vec!["--grandchild-holds-stdout", "60s", "--print-pids", pids_arg];
        if setsid {
            args.push("--setsid");
        }
        let fake = Fake::start(&args);
        // The file is written once the grandchild is where it belongs.
        let pids = json(wait_for_file(&pids).as_bytes());
        let number = pids["grandchild"].as_i64().expect("a pid");
        let grandchild = Pid::from_raw(i32::try_from(number).expect("a pid")).expect("not zero");
        // From /proc: the session of the tests may have no number in their PID namespace.
        let stat = fs::read_to_string(format!("/proc/{number}/stat")).expect("it lives");
        let (_, fields) = stat.rsplit_once(") ").expect("a name");
        let fields: Vec<i64> = fields.split(' ').skip(2).flat_map(str::parse).collect();
        let [group, session, ..] = fields[..] else { panic!("no group: {stat}") };
        assert_eq!(group == number, setsid);
        assert_eq!(session == number, setsid);
        kill_process(grandchild, Signal::KILL).expect("it lives");
        drop(fake);
        let start = Instant::now();
        while test_kill_process(grandchild).is_ok() {
            assert!(start.elapsed() < CEILING);
            // Its new parent may take a while to reap it.
            let stat = fs::read_to_string(format!("/proc/{number}/stat")).unwrap_or_default();
            if stat.is_empty() || stat.contains(") Z ") {
                break;
            }
            thread::sleep(Duration::from_millis(1));
        }
    }
}

#[test]
fn marker_tells_a_flush_from_a_kill() {
    let folder = tempfile::tempdir().expect("a folder");
    let marker = folder.path().join("marker");
    let marker_arg = marker.to_str().expect("utf-8");
    let args = ["--flush-delay", "300ms", "--marker", marker_arg];
    // Killed during the flush: no marker.
    let mut fake = Fake::start(&args);
    fake.send("hello");
    assert_eq!(fake.line(), "hello\n");
    fake.end_input();
    assert!(fake.is_alive_after(50));
    fake.child.kill().expect("our child");
    fake.exit();
    assert!(!marker.exists());
    // Left in peace: a marker.
    let mut fake = Fake::start(&args);
    let start = Instant::now();
    fake.end_input();
    assert_eq!(fake.timed_exit().0, Some(0));
    assert!(start.elapsed() >= Duration::from_millis(300));
    assert_eq!(wait_for_file(&marker), "flushed\n");
}
