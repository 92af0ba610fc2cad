//! Own stdin, stdout and stderr as whatever the parent has: pipes that it made non-blocking, FIFOs,
//! sockets, terminals, files, nothing at all.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use rustix::fs::{CWD, FileType, Mode, OFlags, fcntl_getfl, fcntl_setfl, mknodat};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};

use super::pass;
use crate::support::own_process::test_name;
use crate::support::{PROGRAM, has_ring, wait_until};

/// Both ends of a stream: what this test keeps, and what `run` gets.
struct Ends {
    ours: File,
    theirs: OwnedFd,
}

/// Another process made the file non-blocking: all that have it open share the flag.
fn make_non_blocking(fd: impl AsFd) {
    let flags = fcntl_getfl(&fd).expect("readable");
    fcntl_setfl(&fd, flags | OFlags::NONBLOCK).expect("settable");
}

fn is_non_blocking(fd: impl AsFd) -> bool {
    fcntl_getfl(&fd).expect("readable").contains(OFlags::NONBLOCK)
}

/// A pseudo-terminal that changes no byte: the end of a terminal program, and that of its shell.
pub(super) fn terminal() -> (OwnedFd, OwnedFd) {
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    let ours =
        openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).expect("a terminal");
    grantpt(&ours).expect("granted");
    unlockpt(&ours).expect("unlocked");
    let name = ptsname(&ours, Vec::new()).expect("a name");
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let theirs = rustix::fs::open(name.as_c_str(), flags, Mode::empty()).expect("there");
    let mut modes = tcgetattr(&theirs).expect("a terminal");
    modes.make_raw();
    tcsetattr(&theirs, OptionalActions::Now, &modes).expect("settable");
    (ours, theirs)
}

// An editor gives one socket for both ways, and shuts its half down at the end.
#[test]
fn one_socket_carries_both_ways() {
    let (mut ours, theirs) = UnixStream::pair().expect("a pair");
    let child = Command::new(PROGRAM)
        .args(["run", "-q", "--", "sh", "-c", "cat; echo '{\"last\":1}'"])
        .stdin(OwnedFd::from(theirs.try_clone().expect("a copy")))
        .stdout(OwnedFd::from(theirs))
        .spawn();
    let mut child = child.expect("starts");
    ours.write_all(b"{\"a\":1}\n").expect("sent");
    ours.shutdown(std::net::Shutdown::Write).expect("half closed");
    let mut all = String::new();
    ours.read_to_string(&mut all).expect("text");
    assert_eq!(all, "{\"a\":1}\n{\"last\":1}\n");
    assert!(child.wait().expect("our child").success());
}

const KINDS: &[&str] =
    &["pipe", "non-blocking pipe", "fifo", "non-blocking fifo", "socket", "terminal"];

/// A stream to (`writes`) or from the run.
fn ends(kind: &str, folder: &Path, writes: bool) -> Ends {
    let order = |(read, write): (OwnedFd, OwnedFd)| {
        let (ours, theirs) = if writes { (read, write) } else { (write, read) };
        Ends { ours: ours.into(), theirs }
    };
    let ends = match kind {
        "pipe" | "non-blocking pipe" => {
            order(rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).expect("a pipe"))
        }
        "fifo" | "non-blocking fifo" => {
            let path = folder.join("fifo");
            mknodat(CWD, &path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).expect("a FIFO");
            // An end whose other end is not open yet would wait: that of the reader does not, if asked.
            let read = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let read = rustix::fs::open(&path, read, Mode::empty()).expect("there");
            let write = OFlags::WRONLY | OFlags::CLOEXEC;
            let write = rustix::fs::open(&path, write, Mode::empty()).expect("there");
            fcntl_setfl(&read, OFlags::empty()).expect("settable");
            order((read, write))
        }
        "socket" => {
            let (ours, theirs) = UnixStream::pair().expect("a pair");
            Ends { ours: OwnedFd::from(ours).into(), theirs: theirs.into() }
        }
        "terminal" => {
            let (ours, theirs) = terminal();
            Ends { ours: ours.into(), theirs }
        }
        other => panic!("{other}"),
    };
    if kind.starts_with("non-blocking") {
        make_non_blocking(&ends.theirs);
    }
    ends
}

fn run(agent: &[&str]) -> Command {
    let mut command = Command::new(PROGRAM);
    command.args(["run", "--drain", "60m", "--", PROGRAM, "fake"]).args(agent);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn records(count: usize) -> String {
    (0..count).map(|n| format!("{{\"n\":{n},\"pad\":\"{}\"}}\n", "x".repeat(200))).collect()
}

/// Reads `len` bytes, a little at a time.
fn read_slowly(mut from: impl Read, len: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut chunk = [0; 4001];
    while bytes.len() < len {
        match from.read(&mut chunk) {
            Ok(0) => break,
            Ok(read) => bytes.extend_from_slice(&chunk[..read]),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            // A terminal program sees this at the end.
            Err(error) if error.raw_os_error() == Some(Errno::IO.raw_os_error()) => break,
            Err(error) => panic!("{error}"),
        }
        thread::yield_now();
    }
    bytes
}

fn ended(mut child: Child, what: &str) -> (Option<i32>, String) {
    let mut stderr = String::new();
    child.stderr.take().expect("piped").read_to_string(&mut stderr).expect("text");
    wait_until(what, || child.try_wait().expect("our child").is_some());
    (child.wait().expect("our child").code(), stderr)
}

// Node makes its pipes non-blocking. A full one is not an error, and must not abort the run.
#[test]
fn every_kind_of_stdout_gets_every_record() {
    let said = records(3000);
    let input = tempfile::NamedTempFile::new().expect("a file");
    fs::write(input.path(), &said).expect("written");
    for kind in KINDS {
        let folder = tempfile::tempdir().expect("a folder");
        let Ends { ours, theirs } = ends(kind, folder.path(), true);
        let watched = theirs.try_clone().expect("dup");
        let before = is_non_blocking(&watched);
        let mut command = run(&[]);
        command.stdin(File::open(input.path()).expect("there")).stdout(theirs);
        let child = command.spawn().expect("starts");
        drop(command);
        let out = read_slowly(ours, said.len());
        assert!(out == said.as_bytes(), "{kind}: {} bytes of {}", out.len(), said.len());
        assert_eq!(is_non_blocking(&watched), before, "{kind}: the flag is not ours");
        let (code, stderr) = ended(child, kind);
        assert_eq!(code, Some(0), "{kind}: {stderr}");
        assert_eq!(stderr.lines().count(), 1, "{kind}: {stderr}");
    }
}

#[test]
fn every_kind_of_stdin_is_read_to_its_end() {
    let said = records(3000);
    for kind in KINDS {
        let folder = tempfile::tempdir().expect("a folder");
        let Ends { mut ours, theirs } = ends(kind, folder.path(), false);
        let watched = theirs.try_clone().expect("dup");
        let before = is_non_blocking(&watched);
        let mut command = run(&[]);
        command.stdin(theirs);
        let mut child = command.spawn().expect("starts");
        drop(command);
        let mut stdout = BufReader::new(child.stdout.take().expect("piped"));
        // It is empty at first, which is neither an end nor an error.
        ours.write_all(b"{\"first\":1}\n").expect("written");
        let mut first = String::new();
        stdout.read_line(&mut first).expect("text");
        assert_eq!(first, "{\"first\":1}\n", "{kind}");
        let input = said.clone();
        let writer = thread::spawn(move || ours.write_all(input.as_bytes()).map(|()| ours));
        let mut out = vec![0; said.len()];
        stdout.read_exact(&mut out).expect("all of it");
        assert!(out == said.as_bytes(), "{kind}");
        assert_eq!(is_non_blocking(&watched), before, "{kind}: the flag is not ours");
        // A terminal has its end when the last process that has it open is gone, and so has a FIFO here.
        drop(watched);
        drop(writer.join().expect("no panic").expect("all is taken"));
        let mut rest = Vec::new();
        stdout.read_to_end(&mut rest).expect("readable");
        let (code, stderr) = ended(child, kind);
        assert_eq!((code, rest), (Some(0), Vec::new()), "{kind}: {stderr}");
    }
}

#[test]
fn closed_stdin_is_an_input_that_ends() {
    for how in ["<&-", "</dev/null", "<<'.'\n{\"a\":1}\n."] {
        let script = format!("exec \"$0\" run --quiet -- cat {how}");
        let output = Command::new("sh").args(["-c", &script, PROGRAM]).output().expect("starts");
        let wanted: &[u8] =
            if how.contains('a') && how.contains("{") { b"{\"a\":1}\n" } else { b"" };
        assert_eq!((output.status.code(), &*output.stdout), (Some(0), wanted), "{how}");
        assert_eq!(output.stderr, b"", "{how}");
    }
}

#[test]
fn unusable_stdout_or_stderr_is_reported() {
    let cases = [
        (">&-", 0, "exit code 0; 1000 records in"),
        (">/dev/null", 0, "exit code 0; 1000 records in"),
        (">/dev/full", 125, "writing to stdout failed: No space left on device"),
        ("2>&-", 0, ""),
        ("2>/dev/full", 0, ""),
        (">&- 2>&- <&-", 0, ""),
    ];
    for (how, code, says) in cases {
        let folder = tempfile::tempdir().expect("a folder");
        let report = folder.path().join("report");
        let script = format!(
            "exec \"$0\" run --report '{}' -- \"$0\" fake --records 1000 --flood-stderr 100k {how}",
            report.display()
        );
        let output = Command::new("sh").args(["-c", &script, PROGRAM]).output().expect("starts");
        let stderr = String::from_utf8(output.stderr).expect("text");
        assert_eq!(output.status.code(), Some(code), "{how}: {stderr}");
        assert!(stderr.contains(says), "{how}: {stderr}");
        let report = fs::read_to_string(&report).expect("a report");
        let report: serde_json::Value = serde_json::from_str(&report).expect("JSON");
        let count = |field: &str| report[field].as_u64().expect("a number");
        // 100 KiB in lines of 25 bytes; the summary comes after the count.
        let lines = if how == "2>/dev/full" { 4096 } else { 0 };
        assert_eq!(count("undelivered_stderr_lines"), lines, "{how}: {report}");
        assert_eq!(count("undelivered_records") > 0, code == 125, "{how}: {report}");
    }
}

#[test]
fn reader_that_leaves_closes_stdout() {
    for kind in ["pipe", "fifo", "socket"] {
        let folder = tempfile::tempdir().expect("a folder");
        let Ends { ours, theirs } = ends(kind, folder.path(), true);
        let mut command = run(&["--flood"]);
        command.stdin(Stdio::piped()).stdout(theirs);
        let mut child = command.spawn().expect("starts");
        drop(command);
        let stdin = child.stdin.take();
        assert_eq!(read_slowly(&ours, 100_000).len() / 100_000, 1, "{kind}");
        drop(ours);
        let (code, stderr) = ended(child, kind);
        assert_eq!(code, Some(141), "{kind}: {stderr}");
        assert!(stderr.contains("closed (abort"), "{kind}: {stderr}");
        drop(stdin);
    }
}

// `2>&1` into a reader that makes room a page at a time, which often ends inside a record.
#[test]
fn records_and_log_lines_do_not_mix() {
    for kind in ["pipe", "socket"] {
        let folder = tempfile::tempdir().expect("a folder");
        let Ends { mut ours, theirs } = ends(kind, folder.path(), true);
        let mut command = run(&["--records", "2500", "--record-size", "20000", "--noise"]);
        command.stderr(theirs.try_clone().expect("dup")).stdout(theirs);
        let mut child = command.spawn().expect("starts");
        drop(command);
        let mut all = Vec::new();
        let mut page = [0; 4096];
        while let Ok(len) = ours.read(&mut page)
            && len > 0
        {
            all.extend_from_slice(&page[..len]);
        }
        assert_eq!(child.wait().expect("our child").code(), Some(0), "{kind}");
        let lines: Vec<&[u8]> = all.split_inclusive(|byte| *byte == b'\n').collect();
        let is_record = |line: &&[u8]| line.len() == 20_000 && line.ends_with(b"\"}\n");
        let is_line = |line: &&[u8]| line.starts_with(b"agentpipe: ") && line.len() < 400;
        assert_eq!(lines.iter().filter(|line| is_record(line)).count(), 2500, "{kind}");
        assert_eq!(lines.iter().filter(|line| is_line(line)).count(), 2501, "{kind}");
        assert_eq!(lines.len(), 5001, "{kind}");
    }
}

// The user presses Ctrl-Z while the records of a finished agent are read. Afterwards every deadline
// has passed, and none of that is the reader's fault.
#[test]
fn own_stop_is_not_charged_to_the_reader() {
    let folder = tempfile::tempdir().expect("a folder");
    let report = folder.path().join("report");
    let mut child = Command::new(PROGRAM)
        .args(["run", "--drain", "3s", "--report", report.to_str().expect("text"), "--", PROGRAM])
        .args(["fake", "--flood", "3m"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("starts");
    let mut stdout = child.stdout.take().expect("piped");
    let closed = || fs::read_to_string(&report).is_ok_and(|text| text.ends_with('\n'));
    wait_until("the agent is closed", closed);
    let pid = Pid::from_child(&child);
    kill_process(pid, Signal::STOP).expect("it lives");
    pass(Duration::from_secs(4));
    kill_process(pid, Signal::CONT).expect("it lives");
    // Long enough to find stdout as full as before.
    pass(Duration::from_millis(300));
    let mut all = Vec::new();
    stdout.read_to_end(&mut all).expect("readable");
    assert_eq!(all.len(), 3 << 20);
    assert_eq!(child.wait().expect("our child").code(), Some(0));
}

// With RUST_LOG=trace and a parent that does not read stderr, the engine thread waited in write(2),
// and the close waited with it.
#[test]
fn unread_traces_do_not_block_the_engine() {
    if !has_ring(test_name!()) {
        return;
    }
    let mut command = run(&["--records", "2000"]);
    command.env("RUST_LOG", "trace");
    let mut child = command.spawn().expect("starts");
    let stderr = child.stderr.take().expect("piped");
    let mut all = Vec::new();
    child.stdout.take().expect("piped").read_to_end(&mut all).expect("readable");
    assert_eq!(all.len(), 2000 * 1024);
    assert_eq!(child.wait().expect("our child").code(), Some(0));
    let mut told = String::new();
    BufReader::new(stderr).read_to_string(&mut told).expect("text");
    assert!(told.contains("agentpipe::ring"), "there were traces");
    let null = OpenOptions::new().write(true).open("/dev/null").expect("there");
    assert!(!is_non_blocking(&null));
}

// A filter that selects nothing without a word looks like a close that did nothing.
#[test]
fn unsupported_trace_filter_is_reported() {
    for (filter, said) in [
        ("agentpipe[close]=debug", "a filter by span or field is not supported"),
        ("agentpipe=loud", "cannot be parsed"),
    ] {
        let output = run(&["--records", "1"]).env("RUST_LOG", filter).output().expect("starts");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(stderr.contains("RUST_LOG") && stderr.contains(said), "{filter}: {stderr}");
        assert_eq!(output.status.code(), Some(0), "the run goes on: {stderr}");
    }
}
