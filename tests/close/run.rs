//! The close matrix through `agentpipe run`: stdin ends, nobody reads stdout until the report is
//! there, and the report says what became of the agent.

use std::fs;
use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::{AGENT, HANG, assert_gone};
use rustix::io::ioctl_fionread;
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

    /// Ends its stdin once its stdout is full: the agent is up, and nobody reads.
    fn start_unread(flags: &[&str]) -> Self {
        let mut run = Self::open(&[], flags);
        let stdout = run.child.stdout.as_ref().expect("piped");
        let deadline = Instant::now() + HANG;
        while ioctl_fionread(stdout).expect("a pipe") < 60_000 {
            assert!(Instant::now() < deadline, "stdout never filled");
            std::thread::yield_now();
        }
        drop(run.child.stdin.take());
        run
    }

    fn open(options: &[&str], flags: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let child = Command::new(AGENT)
            .arg("run")
            .args(options)
            .arg("--report")
            .arg(dir.path().join("report"))
            .args(["--", AGENT, "fake"])
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
    Row { hazard: "floods for ever", options: QUICK,
        flags: &["--flood", "--never-read-stdin", "--ignore-sigterm"], stage: "cut", code: 1, bytes: None },
    Row { hazard: "abort", options: &["--close", "abort"],
        flags: &["--ignore-eof", "--ignore-sigterm"], stage: "kill", code: 137, bytes: Some(0) },
    Row { hazard: "exits before reading", options: &[],
        flags: &["--exit-now", "--exit-code", "3"], stage: "refuse", code: 3, bytes: Some(0) },
    Row { hazard: "dies by a signal", options: &[],
        flags: &["--exit-now", "--die-by-signal", "SEGV"], stage: "refuse", code: 139, bytes: Some(0) },
];

#[test]
fn every_row_of_the_matrix_ends_as_it_should() {
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
        if let Some(expected) = row.bytes {
            assert_eq!(bytes, expected, "{hazard}: {report}");
            assert_eq!(report["records_discarded"], 0, "{hazard}: {report}");
        }
        assert_eq!(report["backend"], "io_uring");
        assert_eq!(report["schema"], 1);
    }
}

/// The seed's case and the real CLIs' case, timed: seconds in the field, milliseconds here.
#[test]
fn an_unread_agent_is_closed_in_milliseconds() {
    let cases: [(&[&str], usize, u64); 3] = [
        (&["--flood", "1m", "--sigterm-restart"], 1 << 20, 100_000),
        (&["--like", "claude-native", "--backlog", "13m", "--backlog-at-start"], 13 << 20, 150_000),
        (&["--like", "claude-node", "--backlog", "13m", "--backlog-at-start"], 13 << 20, 150_000),
    ];
    for (flags, least, limit_us) in cases {
        // A busy machine may delay any one close; the hazard is seconds every time.
        let mut took = Vec::new();
        while took.last().is_none_or(|last| *last >= limit_us) {
            assert!(took.len() < 10, "{flags:?} never within {limit_us} us: {took:?}");
            let run = Run::start_unread(flags);
            let report = run.report();
            took.push(report["close"]["total_us"].as_u64().expect("a number"));
            assert_eq!(report["close"]["stage"], "drain", "{report}");
            assert_eq!(report["truncated_tail_bytes"], 0, "{report}");
            let (bytes, code) = run.finish(&report);
            assert_eq!(code, 0, "{report}");
            assert!(bytes >= least, "{bytes} bytes: {report}");
        }
    }
}

/// The close is done while own stdout is blocked: the agent does not wait for our consumer.
#[test]
fn a_consumer_that_never_reads_does_not_keep_the_agent_alive() {
    let run = Run::start_unread(&["--flood", "3m"]);
    let report = run.report();
    assert_gone(u32::try_from(report["pid"].as_u64().expect("a pid")).expect("a pid"));
    let (bytes, code) = run.finish(&report);
    assert_eq!((bytes, code), (3 << 20, 0), "{report}");
    assert!(report["close"]["total_us"].as_u64().expect("a number") < 5_000_000);
}

#[test]
fn a_grandchild_is_swept_and_counted() {
    let begun = Instant::now();
    let run = Run::start(&[], &["--grandchild-holds-stdout", "60s"]);
    let report = run.report();
    assert!(begun.elapsed() < Duration::from_secs(30), "{report}");
    assert_eq!((&report["killed_extra"], &report["outputs_held"]), (&1.into(), &true.into()));
    assert_eq!(run.finish(&report), (0, 0));
}
