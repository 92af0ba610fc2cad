//! The close matrix through `agentpipe run`: stdin ends, stdout is not read until the report is
//! there, and the report says what became of the agent.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::agents::once_within;
use crate::support::process::assert_gone;
use crate::support::{HANG, PROGRAM, backend};
use agentpipe::ClosePolicy;
use rustix::io::ioctl_fionread;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

/// One run of `agentpipe run`, its stdout unread.
struct Run {
    child: Child,
    dir: TempDir,
}

impl Run {
    /// Ends its stdin at once.
    fn start(options: &[&str], flags: &[&str]) -> Self {
        let mut run = Self::open(options, flags);
        drop(run.child.stdin.take());
        run
    }

    /// Ends its stdin once its stdout is full: the agent runs, and its output is unread.
    fn start_unread(flags: &[&str]) -> Self {
        let mut run = Self::open(&[], flags);
        let stdout = run.child.stdout.as_ref().expect("piped");
        let deadline = Instant::now() + HANG;
        // A pipe of 16 pages is full with 32 KiB at the least: two pages side by side that one could
        // hold do not occur.
        while ioctl_fionread(stdout).expect("a pipe") <= 32 << 10 {
            assert!(Instant::now() < deadline, "stdout never filled");
            std::thread::yield_now();
        }
        drop(run.child.stdin.take());
        run
    }

    fn open(options: &[&str], flags: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let child = Command::new(PROGRAM)
            .arg("run")
            .args(options)
            .arg("--report")
            .arg(dir.path().join("report"))
            .args(["--", PROGRAM, "fake"])
            .args(flags)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it starts");
        Self { child, dir }
    }

    /// The report, as soon as it is written; stdout is still unread then.
    fn report(&self) -> Value {
        let deadline = Instant::now() + HANG;
        loop {
            if let Ok(text) = fs::read(self.dir.path().join("report"))
                && let Ok(report) = serde_json::from_slice(&text)
            {
                return report;
            }
            assert!(Instant::now() < deadline, "no report");
            std::thread::yield_now();
        }
    }

    /// Reads all output and waits: bytes of stdout, exit code.
    fn finish(mut self, report: &Value) -> (usize, i32) {
        let mut out = Vec::new();
        self.child.stdout.take().expect("piped").read_to_end(&mut out).expect("readable");
        let code = self.child.wait().expect("reapable").code().expect("a code");
        assert_gone(u32::try_from(report["pid"].as_u64().expect("a pid")).expect("a pid"));
        (out.len(), code)
    }
}

struct Row {
    hazard: &'static str,
    options: &'static [&'static str],
    flags: &'static [&'static str],
    stage: &'static str,
    code: i32,
    bytes: Option<usize>,
}

impl Row {
    fn bound(&self) -> Duration {
        let policy = match self.options {
            ["--close", "abort"] => ClosePolicy::abort(),
            ["--drain", "200ms", "--terminate", "100ms"] => ClosePolicy::graceful()
                .drain(Duration::from_millis(200))
                .terminate(Duration::from_millis(100)),
            [] => ClosePolicy::graceful().flush(Duration::from_secs(2)),
            other => panic!("{other:?}"),
        };
        policy.max_duration()
    }
}

const QUICK: &[&str] = &["--drain", "200ms", "--terminate", "100ms"];

#[rustfmt::skip]
const ROWS: &[Row] = &[
    Row { hazard: "idle", options: &[], flags: &[], stage: "drain", code: 0, bytes: Some(0) },
    Row { hazard: "unread, SIGTERM restarted", options: &[],
        flags: &["--flood", "1m", "--sigterm-restart"], stage: "drain", code: 0, bytes: Some(1 << 20) },
    Row { hazard: "unread, SIGTERM ignored", options: &[],
        flags: &["--flood", "1m", "--ignore-sigterm"], stage: "drain", code: 0, bytes: Some(1 << 20) },
    Row { hazard: "ignores the end of input", options: QUICK,
        flags: &["--ignore-eof"], stage: "terminate", code: 143, bytes: Some(0) },
    Row { hazard: "ignores SIGTERM, too", options: QUICK,
        flags: &["--ignore-eof", "--ignore-sigterm"], stage: "kill", code: 137, bytes: Some(0) },
    Row { hazard: "floods without end", options: QUICK,
        flags: &["--flood", "--never-read-stdin", "--ignore-sigterm"], stage: "cut", code: 1, bytes: None },
    Row { hazard: "a native CLI, idle", options: &[],
        flags: &["--like", "claude-native"], stage: "drain", code: 0, bytes: Some(0) },
    Row { hazard: "a Node CLI, idle", options: &[],
        flags: &["--like", "claude-node"], stage: "drain", code: 0, bytes: Some(0) },
    Row { hazard: "dies during the close", options: &[],
        flags: &["--die-by-signal", "SEGV"], stage: "drain", code: 139, bytes: Some(0) },
    Row { hazard: "exits 0 before reading", options: &[],
        flags: &["--exit-now"], stage: "refuse", code: 0, bytes: Some(0) },
    Row { hazard: "abort", options: &["--close", "abort"],
        flags: &["--ignore-eof", "--ignore-sigterm"], stage: "kill", code: 137, bytes: Some(0) },
    Row { hazard: "exits 3 before reading", options: &[],
        flags: &["--exit-now", "--exit-code", "3"], stage: "refuse", code: 3, bytes: Some(0) },
    Row { hazard: "dies by a signal", options: &[],
        flags: &["--exit-now", "--die-by-signal", "SEGV"], stage: "refuse", code: 139, bytes: Some(0) },
];

/// How long its close took.
fn total(report: &Value) -> Duration {
    Duration::from_micros(report["close"]["total_us"].as_u64().expect("a number"))
}

#[test]
fn every_row_of_the_matrix_ends_as_stated() {
    let backend = backend().as_str();
    for row in ROWS {
        let run = Run::start(row.options, row.flags);
        let report = run.report();
        let (bytes, code) = run.finish(&report);
        let hazard = row.hazard;
        // An agent that leaves at once may be seen gone before or after stdin's end is.
        if row.stage != "refuse" {
            assert_eq!(report["close"]["stage"], row.stage, "{hazard}: {report}");
        }
        assert_eq!(code, row.code, "{hazard}: {report}");
        // The sum of its settings, whatever it is.
        let bound = row.bound() + Duration::from_millis(250);
        assert!(total(&report) < bound, "{hazard}: {report}");
        if let Some(expected) = row.bytes {
            assert_eq!(bytes, expected, "{hazard}: {report}");
            assert_eq!(report["records_discarded"], 0, "{hazard}: {report}");
        }
        assert_eq!(report["backend"], backend);
        assert_eq!(report["schema"], 1);
    }
}

// The case of the blocked child and that of the real CLIs, timed: without this crate they take
// seconds.
#[test]
fn unread_agent_is_closed_in_milliseconds() {
    let cases: [(&[&str], usize, u64); 5] = [
        (&["--flood", "1m", "--sigterm-restart"], 1 << 20, 100),
        (&["--flood", "1m", "--ignore-sigterm"], 1 << 20, 100),
        (&["--one-write", "1m", "--sigterm-restart"], 1 << 20, 100),
        (&["--like", "claude-native", "--backlog", "13m", "--backlog-at-start"], 13 << 20, 150),
        (&["--like", "claude-node", "--backlog", "13m", "--backlog-at-start"], 13 << 20, 150),
    ];
    for (flags, least, limit_ms) in cases {
        once_within(Duration::from_millis(limit_ms), || {
            let run = Run::start_unread(flags);
            let report = run.report();
            assert_eq!(report["close"]["stage"], "drain", "{report}");
            assert_eq!(report["truncated_tail_bytes"], 0, "{report}");
            let (bytes, code) = run.finish(&report);
            assert_eq!(code, 0, "{report}");
            assert!(bytes >= least, "{bytes} bytes: {report}");
            total(&report)
        });
    }
}

// The close ends while the command's stdout is blocked: the agent does not wait for the consumer.
#[test]
fn stuck_consumer_keeps_no_agent_alive() {
    let run = Run::start_unread(&["--flood", "3m"]);
    let report = run.report();
    assert_gone(u32::try_from(report["pid"].as_u64().expect("a pid")).expect("a pid"));
    let (bytes, code) = run.finish(&report);
    assert_eq!((bytes, code), (3 << 20, 0), "{report}");
    assert!(total(&report) < Duration::from_secs(5));
}

#[test]
fn grandchild_is_cut_off_and_swept() {
    // In the group of the agent; out of it, and killed by the guard; out of reach without one.
    let ways = [
        (None, 1, 0, None),
        (Some("--setsid"), 0, 1, None),
        (Some("--setsid"), 0, 0, Some("--no-guard")),
    ];
    for (setsid, killed, strays, no_guard) in ways {
        let begun = Instant::now();
        let pids = tempfile::NamedTempFile::new().expect("a file");
        let path = pids.path().to_str().expect("text");
        let mut flags = vec!["--grandchild-holds-stdout", "60s", "--print-pids", path];
        flags.extend(setsid);
        let run = Run::start(no_guard.as_slice(), &flags);
        let report = run.report();
        assert!(begun.elapsed() < Duration::from_secs(30), "{report}");
        assert_eq!(report["killed_extra"], killed, "{report}");
        assert_eq!(report["strays_killed"], strays, "{report}");
        assert_eq!(report["outputs_held"], true, "{report}");
        assert_eq!(run.finish(&report), (0, 0));
        if no_guard.is_some() {
            // It lives: only the pipes are cut from it.
            let pids: Value =
                serde_json::from_slice(&fs::read(path).expect("written")).expect("JSON");
            let pid = pids["grandchild"].as_i64().and_then(|pid| i32::try_from(pid).ok());
            let pid = pid.and_then(Pid::from_raw).expect("a pid");
            kill_process(pid, Signal::KILL).expect("it lives");
        }
    }
}

// The result is read and stdin ends in the same instant; one more record is still to come.
#[test]
fn cli_closed_after_its_result_loses_nothing() {
    for like in ["claude-native", "claude-node"] {
        once_within(Duration::from_millis(150), || {
            let mut run = Run::open(&[], &["--like", like, "--session-state"]);
            let user = b"{\"type\":\"user\",\"message\":{\"role\":\"user\",\"content\":\"Hi.\"}}\n";
            let mut stdin = run.child.stdin.take().expect("piped");
            stdin.write_all(user).expect("it reads");
            let mut stdout = BufReader::new(run.child.stdout.take().expect("piped"));
            let mut line = String::new();
            while !line.contains("\"type\":\"result\"") {
                line.clear();
                assert!(stdout.read_line(&mut line).expect("text") > 0, "no result");
            }
            drop(stdin);
            let mut rest = String::new();
            stdout.read_to_string(&mut rest).expect("text");
            let report = run.report();
            assert!(rest.contains("session_state_changed"), "{like}: {rest:?} {report}");
            assert_eq!(run.child.wait().expect("reapable").code(), Some(0), "{report}");
            total(&report)
        });
    }
}

// 900 KB are accepted, the pipe takes 64 KiB, and the agent reads nothing.
#[test]
fn unread_input_is_counted_as_unsent() {
    let mut run = Run::open(QUICK, &["--never-read-stdin", "--ignore-eof"]);
    let mut stdin = run.child.stdin.take().expect("piped");
    let record = format!("{{\"pad\":\"{}\"}}\n", "x".repeat(90_000));
    for _ in 0..10 {
        stdin.write_all(record.as_bytes()).expect("it reads");
    }
    drop(stdin);
    let report = run.report();
    let count = |field: &str| report[field].as_u64().expect("a number");
    assert_eq!(count("bytes_out") + count("unsent_bytes"), 10 * record.len() as u64, "{report}");
    assert!(count("bytes_out") <= 64 << 10, "{report}");
    assert_eq!(count("records_out") + count("unsent_records"), 10, "{report}");
    assert_eq!(report["close"]["stage"], "terminate", "{report}");
    assert_eq!(run.finish(&report), (0, 143));
}

// Stdin is open: only agentpipe sees that the agent cannot answer any more.
#[test]
fn agent_that_closes_stdout_is_closed() {
    let run = Run::open(QUICK, &["--close-stdout", "--ignore-eof"]);
    let report = run.report();
    assert_eq!(report["close"]["reason"], "output_ended", "{report}");
    assert_eq!(report["close"]["stage"], "terminate", "{report}");
    assert_eq!(run.finish(&report), (0, 143));
}

// `cat questions | agentpipe run --drain 60s`: all of stdin is accepted at once, and the agent
// takes it slowly. A limit of half a second lost the rest.
#[test]
fn drain_lets_a_slow_agent_read() {
    let pids = tempfile::NamedTempFile::new().expect("a file");
    let mut run =
        Run::open(&["--drain", "60s"], &["--print-pids", pids.path().to_str().expect("text")]);
    let deadline = Instant::now() + HANG;
    let pid = loop {
        let pids = fs::read(pids.path()).expect("there");
        if let Ok(pids) = serde_json::from_slice::<Value>(&pids) {
            break pids["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok());
        }
        assert!(Instant::now() < deadline, "it never started");
        std::thread::yield_now();
    };
    let pid = pid.and_then(Pid::from_raw).expect("a pid");
    kill_process(pid, Signal::STOP).expect("it lives");
    let mut stdin = run.child.stdin.take().expect("piped");
    let record = format!("{{\"pad\":\"{}\"}}\n", "x".repeat(90_000));
    for _ in 0..10 {
        stdin.write_all(record.as_bytes()).expect("it reads");
    }
    drop(stdin);
    // Longer than the default: a close with that would have begun to lose.
    std::thread::sleep(Duration::from_millis(2500));
    kill_process(pid, Signal::CONT).expect("it lives");
    let report = run.report();
    assert_eq!((&report["unsent_bytes"], &report["records_out"]), (&0.into(), &10.into()));
    assert_eq!(run.finish(&report), (10 * record.len(), 0));
}
