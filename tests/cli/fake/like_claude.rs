//! The measured behaviour of two builds of a real CLI.

use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{Fake, INITIALIZE, INTERRUPT, USER, json, lines, wait_for_file};

const BACKLOG: [&str; 2] = ["--backlog", "13m"];

/// Starts a CLI, sends a user message and waits until its answer fills the pipe.
fn unread(build: &str, more: &[&str]) -> Fake {
    let mut fake = Fake::start(&[&["--like", build][..], &BACKLOG, more].concat());
    fake.send(USER);
    fake.wait_until_full();
    fake
}

fn pause(milliseconds: u64) {
    thread::sleep(Duration::from_millis(milliseconds));
}

#[test]
fn native_leaves_at_once_when_read() {
    let mut fake = Fake::start(&["--like", "claude-native"]);
    fake.send(INITIALIZE);
    assert_eq!(fake.record()["response"]["request_id"], "req_1_9f3a01bc");
    for _ in 0..3 {
        fake.send(USER);
        assert_eq!(fake.record()["type"], "assistant");
        assert_eq!(fake.record()["type"], "result");
    }
    fake.end_input();
    let (code, time) = fake.timed_exit();
    assert_eq!(code, Some(0));
    assert!(time < Duration::from_secs(1), "{time:?}");
}

#[test]
fn native_loses_nothing_when_drained() {
    let folder = tempfile::tempdir().expect("a folder");
    let marker = folder.path().join("marker");
    let mut fake = unread("claude-native", &["--marker", marker.to_str().expect("utf-8")]);
    fake.end_input();
    assert!(fake.is_alive_after(200), "the queue is unread");
    let output = fake.rest();
    let (code, time) = fake.timed_exit();
    assert_eq!(code, Some(0));
    assert!(time < Duration::from_secs(2), "{time:?}");
    assert!(output.len() >= 13 << 20);
    assert_eq!(json(lines(&output).last().expect("lines"))["type"], "result");
    assert!(marker.exists());
}

#[test]
fn native_outlives_eof_while_unread() {
    let mut fake = unread("claude-native", &[]);
    fake.end_input();
    assert!(fake.is_alive_after(3000), "its own limit is 30 s");
    // SIGTERM then takes its 2 s; the status is that of the end of input.
    fake.sigterm();
    let (code, time) = fake.timed_exit();
    assert_eq!(code, Some(0));
    assert!(time >= Duration::from_millis(1500) && time < Duration::from_secs(10), "{time:?}");
}

#[test]
fn native_leaves_by_its_own_limit() {
    let mut fake = unread("claude-native", &["--flush-limit", "500ms"]);
    fake.end_input();
    let (code, time) = fake.timed_exit();
    assert_eq!(code, Some(0));
    assert!(time >= Duration::from_millis(450) && time < Duration::from_secs(10), "{time:?}");
}

#[test]
fn native_sigterm_takes_two_seconds_while_unread() {
    let mut fake = unread("claude-native", &[]);
    fake.sigterm();
    let (code, time) = fake.timed_exit();
    assert_eq!(code, Some(143));
    assert!(time >= Duration::from_millis(1500) && time < Duration::from_secs(10), "{time:?}");
}

#[test]
fn native_sigterm_loses_nothing_when_drained() {
    let mut fake = unread("claude-native", &[]);
    fake.sigterm();
    let output = fake.rest();
    let (code, time) = fake.timed_exit();
    assert_eq!(code, Some(143));
    assert!(time < Duration::from_secs(1), "{time:?}");
    assert_eq!(json(lines(&output).last().expect("lines"))["type"], "result");
}

#[test]
fn native_cut_before_eof_takes_two_seconds() {
    let folder = tempfile::tempdir().expect("a folder");
    let epipe = folder.path().join("epipe");
    let mut fake = unread("claude-native", &["--epipe-marker", epipe.to_str().expect("utf-8")]);
    fake.close_read_end();
    wait_for_file(&epipe);
    // It drops its queue and goes on: EPIPE alone does not end it.
    assert!(fake.is_alive_after(500));
    fake.end_input();
    let (code, time) = fake.timed_exit();
    assert_eq!(code, Some(0));
    assert!(time >= Duration::from_millis(1500) && time < Duration::from_secs(10), "{time:?}");
}

#[test]
fn native_eof_then_cut_is_quick() {
    let mut fake = unread("claude-native", &[]);
    let start = Instant::now();
    fake.end_input();
    pause(60);
    fake.close_read_end();
    assert_eq!(fake.timed_exit().0, Some(0));
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());

    let mut fake = unread("claude-native", &[]);
    let start = Instant::now();
    fake.sigterm();
    pause(60);
    fake.close_read_end();
    assert_eq!(fake.timed_exit().0, Some(143));
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
}

#[test]
fn idle_native_does_not_notice_a_cut() {
    let mut fake = Fake::start(&["--like", "claude-native"]);
    fake.close_read_end();
    assert!(fake.is_alive_after(300));
    fake.end_input();
    let (code, time) = fake.timed_exit();
    assert_eq!(code, Some(0));
    assert!(time < Duration::from_secs(1), "{time:?}");
}

// The result is read, then stdin and stdout are closed together. The session state that follows 3
// ms later meets a broken pipe, and the exit takes 2 s.
#[test]
fn native_cut_after_the_result_is_slow() {
    let mut fake = Fake::start(&["--like", "claude-native", "--session-state"]);
    fake.send(USER);
    assert_eq!(fake.record()["type"], "assistant");
    assert_eq!(fake.record()["type"], "result");
    assert_eq!(fake.record()["subtype"], "session_state_changed");

    let folder = tempfile::tempdir().expect("a folder");
    let epipe = folder.path().join("epipe");
    let mut fake = Fake::start(&[
        "--like",
        "claude-native",
        "--session-state",
        "--epipe-marker",
        epipe.to_str().expect("utf-8"),
    ]);
    fake.close_read_end();
    fake.send(USER);
    wait_for_file(&epipe);
    fake.end_input();
    let (code, time) = fake.timed_exit();
    assert_eq!(code, Some(0));
    assert!(time >= Duration::from_millis(1500), "{time:?}");
}

#[test]
fn native_in_a_turn_needs_an_interrupt() {
    let mut fake = Fake::start(&["--like", "claude-native", "--mid-turn"]);
    fake.send(USER);
    for _ in 0..5 {
        assert_eq!(fake.record()["type"], "assistant");
    }
    // The end of input alone never works: the answer comes first, and it does not end.
    let mut ended = Fake::start(&["--like", "claude-native", "--mid-turn"]);
    ended.send(USER);
    ended.end_input();
    for _ in 0..50 {
        assert_eq!(ended.record()["type"], "assistant");
    }
    assert!(ended.is_alive_after(0));

    fake.send(INTERRUPT);
    fake.end_input();
    let output = fake.rest();
    let records: Vec<Value> = lines(&output).into_iter().map(json).collect();
    let response = records.iter().find(|record| record["type"] == "control_response");
    assert_eq!(response.expect("an answer")["response"]["request_id"], "req_2_00000000");
    let last = records.last().expect("records");
    assert_eq!((&last["type"], &last["is_error"]), (&"result".into(), &true.into()));
    assert_eq!(fake.timed_exit().0, Some(1));
}

#[test]
fn native_in_a_turn_obeys_sigterm() {
    let mut fake = Fake::start(&["--like", "claude-native", "--mid-turn"]);
    fake.send(USER);
    fake.record();
    fake.sigterm();
    let output = fake.rest();
    for line in lines(&output) {
        if !line.is_empty() {
            assert_eq!(json(line)["type"], "assistant", "whole records, no result");
        }
    }
    assert_eq!(fake.timed_exit().0, Some(143));
}

#[test]
fn native_continues_after_an_interrupt() {
    let mut fake = Fake::start(&["--like", "claude-native", "--mid-turn"]);
    fake.send(USER);
    fake.record();
    fake.send(INTERRUPT);
    while fake.record()["type"] != "result" {}
    fake.send(USER);
    assert_eq!(fake.record()["type"], "assistant");
}

#[test]
fn backlog_can_exist_from_the_start() {
    let mut fake =
        Fake::start(&["--like", "claude-native", "--backlog", "1m", "--backlog-at-start"]);
    fake.wait_until_full();
    fake.end_input();
    let output = fake.rest();
    assert!(output.len() >= 1 << 20);
    assert_eq!(json(lines(&output)[0])["seq"], 0);
    assert_eq!(fake.timed_exit().0, Some(0));
}

#[test]
fn node_drops_its_queue_at_eof() {
    for drained in [false, true] {
        // More than anybody reads in the 8 ms that the end of input takes to be noticed.
        let mut fake =
            Fake::start(&["--like", "claude-node", "--backlog", "64m", "--backlog-at-start"]);
        fake.wait_until_full();
        fake.end_input();
        let output = if drained {
            fake.rest()
        } else {
            let (code, time) = fake.timed_exit();
            assert_eq!(code, Some(0));
            assert!(time < Duration::from_secs(1), "{time:?}");
            fake.rest()
        };
        assert_eq!(fake.timed_exit().0, Some(0));
        assert!(output.len() < 64 << 20, "{}", output.len());
        assert_ne!(output.last(), Some(&b'\n'), "cut in the middle of a record");
    }
}

// 64 records of 1 KiB fill a pipe exactly, and the cut would fall between two records. The backlog
// is more than the test reads in the 8 ms until the end of input is noticed.
#[test]
fn node_cuts_inside_a_record() {
    let size = ["--like", "claude-node", "--backlog", "64m", "--record-size", "1k"];
    let mut fake = Fake::start(&size);
    fake.send(USER);
    fake.wait_until_full();
    fake.end_input();
    let output = fake.rest();
    assert_eq!(fake.timed_exit().0, Some(0));
    assert!(output.len() < 64 << 20, "{}", output.len());
    assert_ne!(output.last(), Some(&b'\n'));
}

#[test]
fn node_loses_nothing_when_drained_first() {
    let mut fake = unread("claude-node", &[]);
    while fake.record()["type"] != "result" {}
    fake.end_input();
    assert_eq!(fake.rest(), b"");
    assert_eq!(fake.timed_exit().0, Some(0));
}

#[test]
fn node_leaves_quickly_in_every_case() {
    let mut fake = unread("claude-node", &[]);
    fake.close_read_end();
    assert!(fake.is_alive_after(300), "EPIPE alone does not end it");
    fake.end_input();
    let (code, time) = fake.timed_exit();
    assert_eq!(code, Some(0));
    assert!(time < Duration::from_secs(1), "{time:?}");

    let mut fake = unread("claude-node", &[]);
    fake.sigterm();
    let (code, time) = fake.timed_exit();
    assert_eq!(code, Some(143));
    assert!(time < Duration::from_secs(1), "{time:?}");
}
