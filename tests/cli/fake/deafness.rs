//! Agents that do not listen: to SIGTERM, to the end of input, to a broken pipe. The seed's case is here.

use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::thread;
use std::time::Duration;

use rustix::io::ioctl_fionread;
use rustix::pipe::fcntl_getpipe_size;

use super::{Fake, text, wait_for_file};

// The agent owes 1 MiB, the host has stopped reading and closes stdin. Nothing happens, and SIGTERM
// changes nothing, because the restarted write never returns to the loop. This is the defect that
// the crate exists for.
#[test]
fn blocked_writer_ignores_eof_and_sigterm() {
    let mut fake = Fake::start(&["--flood", "1m", "--sigterm-restart"]);
    fake.wait_until_full();
    fake.end_input();
    assert!(fake.is_alive_after(200));
    fake.sigterm();
    assert!(fake.is_alive_after(200));
    fake.sigterm();
    assert!(fake.is_alive_after(200));
    // Closing the read end is what ends it: the write gets EPIPE.
    fake.close_read_end();
    assert_eq!(fake.timed_exit().0, Some(1));
}

#[test]
fn blocked_writer_finishes_once_it_is_read() {
    let mut fake = Fake::start(&["--flood", "1m", "--sigterm-restart"]);
    fake.wait_until_full();
    fake.end_input();
    assert_eq!(fake.rest().len(), 1 << 20);
    assert_eq!(fake.timed_exit().0, Some(0));
}

#[test]
fn sigterm_is_seen_between_two_records() {
    let mut fake = Fake::start(&["--flood", "--sigterm-restart"]);
    fake.wait_until_full();
    fake.sigterm();
    assert!(fake.is_alive_after(200));
    // Reading lets the write finish; then the flag is seen, and records stay whole.
    let output = fake.rest();
    assert_eq!(output.len() % 1024, 0);
    assert_eq!(fake.timed_exit().0, Some(143));
}

#[test]
fn sigterm_is_seen_while_idle() {
    for args in [&["--sigterm-restart"][..], &["--sigterm-restart", "--never-read-stdin"]] {
        let mut fake = Fake::start(args);
        if args.len() == 1 {
            fake.send("hello");
            assert_eq!(fake.line(), "hello\n");
        } else {
            thread::sleep(Duration::from_millis(200));
        }
        fake.sigterm();
        assert_eq!(fake.timed_exit().0, Some(143), "{args:?}");
    }
}

// A write that has moved something returns a short count, so the handler is seen at once: a child
// that writes one huge record does not reproduce the defect.
#[test]
fn signal_cuts_one_large_write_short() {
    let mut fake = Fake::start(&["--one-write", "--sigterm-restart"]);
    fake.wait_until_full();
    fake.sigterm();
    assert_eq!(fake.timed_exit().0, Some(143));
    let output = fake.rest();
    assert!(!output.is_empty() && output.len() < 1 << 20);
}

#[test]
fn large_write_that_is_read_arrives_whole() {
    let output = text(&["--one-write"], "hello\n");
    assert_eq!(output.len(), (1 << 20) + 6);
    assert!(output.ends_with("}\nhello\n"));
}

#[test]
fn ignored_sigterm_changes_nothing() {
    let mut fake = Fake::start(&["--flood", "1m", "--ignore-sigterm"]);
    fake.wait_until_full();
    fake.sigterm();
    assert!(fake.is_alive_after(200));
    fake.end_input();
    assert_eq!(fake.rest().len(), 1 << 20);
    assert_eq!(fake.timed_exit().0, Some(0));
}

#[test]
fn ignored_eof_leaves_only_the_signal() {
    let mut fake = Fake::start(&["--ignore-eof"]);
    fake.send("hello");
    assert_eq!(fake.line(), "hello\n");
    fake.end_input();
    assert!(fake.is_alive_after(200));
    fake.sigterm();
    assert_eq!(fake.exit().signal(), Some(15));
}

#[test]
fn unread_stdin_fills_the_pipe() {
    let mut fake = Fake::start(&["--never-read-stdin"]);
    let stdin = fake.stdin.as_mut().expect("open");
    let size = fcntl_getpipe_size(&*stdin).expect("a pipe");
    // Exactly what the pipe takes; one more byte would block without end.
    stdin.write_all(&vec![b'x'; size]).expect("there is room");
    assert!(fake.is_alive_after(100));
    let stdin = fake.stdin.as_ref().expect("open");
    assert_eq!(ioctl_fionread(stdin).expect("a pipe"), size as u64);
    fake.end_input();
    assert!(fake.is_alive_after(100));
}

#[test]
fn broken_pipe_ends_the_agent_with_a_mark() {
    let folder = tempfile::tempdir().expect("a folder");
    let (epipe, clean) = (folder.path().join("epipe"), folder.path().join("clean"));
    let (epipe_arg, clean_arg) = (epipe.to_str().expect("utf-8"), clean.to_str().expect("utf-8"));
    let mut fake = Fake::start(&["--flood", "--epipe-marker", epipe_arg, "--marker", clean_arg]);
    fake.wait_until_full();
    fake.close_read_end();
    assert_eq!(fake.timed_exit().0, Some(1));
    assert_eq!(wait_for_file(&epipe), "EPIPE\n");
    assert!(!clean.exists(), "output was lost");
}

#[test]
fn ignored_broken_pipe_leaves_it_listening() {
    let folder = tempfile::tempdir().expect("a folder");
    let epipe = folder.path().join("epipe");
    let mut fake = Fake::start(&[
        "--flood",
        "--ignore-epipe",
        "--epipe-marker",
        epipe.to_str().expect("utf-8"),
    ]);
    fake.close_read_end();
    wait_for_file(&epipe);
    assert!(fake.is_alive_after(100));
    fake.end_input();
    assert_eq!(fake.timed_exit().0, Some(0));
}
