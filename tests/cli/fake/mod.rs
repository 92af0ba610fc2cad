//! `agentpipe fake`, flag by flag: what it writes, when it leaves and with which status.
//!
//! Each test reads as the documentation of one hazard. Times are asserted against generous
//! limits only.

mod bad_output;
mod chat;
mod conversation;
mod deafness;
mod deny;
mod ends;
mod flood;
mod like_claude;
mod replay;
mod script;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::{CEILING, PROGRAM};
use rustix::io::ioctl_fionread;
use rustix::pipe::fcntl_getpipe_size;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

const USER: &str = r#"{"type":"user","message":{"role":"user","content":"Hello."}}"#;
const INITIALIZE: &str = concat!(
    r#"{"type":"control_request","request_id":"req_1_9f3a01bc","#,
    r#""request":{"subtype":"initialize"}}"#
);
const INTERRUPT: &str =
    r#"{"type":"control_request","request_id":"req_2_00000000","request":{"subtype":"interrupt"}}"#;

/// A running fake. Killed when the test is over.
struct Fake {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: Option<BufReader<ChildStdout>>,
    stderr: Option<ChildStderr>,
}

impl Fake {
    fn start(args: &[&str]) -> Self {
        let mut child = Command::new(PROGRAM)
            .arg("fake")
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        Self {
            stdin: child.stdin.take(),
            stdout: child.stdout.take().map(BufReader::new),
            stderr: child.stderr.take(),
            child,
        }
    }

    fn send(&mut self, line: &str) {
        let stdin = self.stdin.as_mut().expect("stdin is open");
        stdin.write_all(format!("{line}\n").as_bytes()).expect("the agent reads");
    }

    /// Closes stdin: the agent sees the end of its input.
    fn end_input(&mut self) {
        self.stdin = None;
    }

    /// Closes the last read end of stdout: a write gets EPIPE.
    fn close_read_end(&mut self) {
        self.stdout = None;
    }

    fn sigterm(&self) {
        kill_process(self.pid(), Signal::TERM).expect("the agent is there");
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.as_mut().expect("stdout is open").read_line(&mut line).expect("utf-8");
        line
    }

    fn record(&mut self) -> Value {
        let line = self.line();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error} in {line:?}"))
    }

    /// Reads stdout to its end.
    fn rest(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.stdout.as_mut().expect("stdout is open").read_to_end(&mut bytes).expect("a pipe");
        bytes
    }

    /// Waits until the agent cannot write because its output is unread.
    fn wait_until_full(&self) {
        let pipe = self.stdout.as_ref().expect("stdout is open").get_ref();
        let size = fcntl_getpipe_size(pipe).expect("a pipe") as u64;
        let start = Instant::now();
        let mut last = (0, start);
        loop {
            let unread = ioctl_fionread(pipe).expect("a pipe");
            if unread != last.0 {
                last = (unread, Instant::now());
            }
            // Almost full and still for a moment: the next record does not fit.
            if unread > size / 2 && last.1.elapsed() > Duration::from_millis(50) {
                return;
            }
            assert!(start.elapsed() < CEILING, "the pipe does not fill: {unread} of {size}");
            thread::sleep(Duration::from_millis(2));
        }
    }

    fn exit(&mut self) -> ExitStatus {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("our child") {
                return status;
            }
            assert!(start.elapsed() < CEILING, "the agent does not leave");
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Waits for the exit; gives status and time.
    fn timed_exit(&mut self) -> (Option<i32>, Duration) {
        let start = Instant::now();
        let status = self.exit();
        (status.code(), start.elapsed())
    }

    fn is_alive_after(&mut self, milliseconds: u64) -> bool {
        thread::sleep(Duration::from_millis(milliseconds));
        self.child.try_wait().expect("our child").is_none()
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends all input, ends it, reads everything.
fn converse(args: &[&str], input: &str) -> (Vec<u8>, ExitStatus) {
    let mut fake = Fake::start(args);
    let mut stdin = fake.stdin.take().expect("stdin is open");
    let input = input.to_owned();
    // A fake that leaves early breaks this pipe; that is for the test to see elsewhere.
    let writer = thread::spawn(move || stdin.write_all(input.as_bytes()).is_ok());
    let output = fake.rest();
    writer.join().expect("no panic");
    let status = fake.exit();
    (output, status)
}

fn text(args: &[&str], input: &str) -> String {
    let (output, status) = converse(args, input);
    assert_eq!(status.code(), Some(0));
    String::from_utf8(output).expect("utf-8")
}

fn lines(output: &[u8]) -> Vec<&[u8]> {
    output.strip_suffix(b"\n").unwrap_or(output).split(|byte| *byte == b'\n').collect()
}

fn json(line: &[u8]) -> Value {
    serde_json::from_slice(line)
        .unwrap_or_else(|error| panic!("{error} in {:?}", String::from_utf8_lossy(line)))
}

fn wait_for_file(path: &Path) -> String {
    let start = Instant::now();
    loop {
        if let Ok(text) = fs::read_to_string(path) {
            return text;
        }
        assert!(start.elapsed() < CEILING, "{} does not appear", path.display());
        thread::sleep(Duration::from_millis(1));
    }
}
