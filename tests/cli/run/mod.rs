//! `agentpipe run` as its users see it: streams, exit codes, the report.

mod absence;
mod container;
mod descriptors;
mod framing;
mod guard;
pub(crate) mod launcher;
mod options;
mod orphans;
mod parents;
mod passed;
mod random;
mod security;
mod signals;
mod stderr;
mod terminal;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use self::launcher::inheriting;
use crate::support::process::is_gone;
use crate::support::{CEILING, PROGRAM, backend, engine, wait_until};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use serde_json::value::RawValue;
use tempfile::TempDir;

/// A line about a bad record is no longer, whatever the record.
const LINE_MAX: usize = 400;

/// How a run ended and all it said.
#[derive(Debug)]
struct Done {
    status: ExitStatus,
    stdout: Vec<u8>,
    /// Without the summary of the close.
    stderr: Vec<String>,
    report: Value,
}

impl Done {
    fn code(&self) -> Option<i32> {
        self.status.code()
    }

    fn count(&self, field: &str) -> u64 {
        self.report[field].as_u64().unwrap_or_else(|| panic!("{field} in {}", self.report))
    }

    fn stages(&self) -> Vec<&str> {
        let stages = self.report["close"]["stages"].as_array().expect("stages");
        stages.iter().map(|stage| stage["stage"].as_str().expect("a name")).collect()
    }
}

/// A run under way.
struct Run {
    child: Child,
    folder: TempDir,
}

impl Run {
    /// `agentpipe run FLAGS -- AGENT`, with a report.
    fn start(flags: &[&str], agent: &[&str]) -> Self {
        Self::start_by(flags, agent, |command| {
            inheriting(command, &[], &[]);
        })
    }

    /// The same, started in another way.
    fn start_by(flags: &[&str], agent: &[&str], how: impl FnOnce(&mut Command)) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut command = Command::new(PROGRAM);
        command
            .arg("run")
            .arg("--report")
            .arg(folder.path().join("report"))
            .args(flags)
            .arg("--")
            .args(agent)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        how(&mut command);
        let child = command.spawn().expect("starts");
        Self { child, folder }
    }

    fn send(&mut self, input: &[u8]) {
        self.child.stdin.as_mut().expect("open").write_all(input).expect("it reads");
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("it lives");
    }

    /// Sends all of `input`, ends it, and collects what comes.
    fn finish(mut self, input: &[u8]) -> Done {
        let mut stdin = self.child.stdin.take().expect("open");
        let input = input.to_vec();
        // The agent may be gone before all is read; the assertions see it where it matters.
        let writer = thread::spawn(move || stdin.write_all(&input).is_ok());
        let done = self.collect();
        writer.join().expect("no panic");
        done
    }

    /// Collects what comes, stdin as it is.
    fn collect(mut self) -> Done {
        let stdin = self.child.stdin.take();
        let output = self.child.wait_with_output().expect("ends");
        drop(stdin);
        let stderr = String::from_utf8(output.stderr).expect("text");
        let is_summary =
            |line: &str| line.starts_with("agentpipe: pid ") && line.contains("closed");
        let lines = stderr.lines().map(str::to_owned);
        let (summary, stderr): (Vec<String>, Vec<String>) =
            lines.partition(|line| is_summary(line));
        assert_eq!(summary.len(), 1, "one summary: {stderr:?}");
        let report = fs::read_to_string(self.folder.path().join("report")).expect("a report");
        assert_eq!(report.matches('\n').count(), 1, "one line");
        let report = serde_json::from_str(&report).expect("JSON");
        Done { status: output.status, stdout: output.stdout, stderr, report }
    }
}

fn run(flags: &[&str], agent: &[&str], input: &[u8]) -> Done {
    Run::start(flags, agent).finish(input)
}

/// `agentpipe fake ARGS` as the agent.
fn run_fake(flags: &[&str], args: &[&str], input: &[u8]) -> Done {
    run(flags, &fake(args), input)
}

fn fake<'a>(args: &[&'a str]) -> Vec<&'a str> {
    [&[PROGRAM, "fake"], args].concat()
}

/// An agent that says exactly these bytes.
fn run_said(said: &[u8]) -> Done {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("said");
    fs::write(&path, said).expect("written");
    run(&[], &["cat", path.to_str().expect("utf-8")], b"")
}

/// Longer than the thing that must not happen would take.
fn pass(time: Duration) {
    let since = Instant::now();
    wait_until("time passes", || since.elapsed() > time);
}

// A proxy that parses and writes again changes numbers, key order and escapes, and a signature over
// the record no longer holds.
#[test]
fn records_pass_byte_for_byte() {
    let records = concat!(
        "{\"b\":1,\"a\":2,\"b\":3}\n",
        "  {  \"x\" :\t[ 1 , 2.50e+1 , 12345678901234567890123 ] }  \n",
        "{\"escaped\":\"\\u00e9\\/\\n\\ud83d\\ude00\",\"raw\":\"\u{e9}\u{1f600}\u{2028}\u{7f}\"}\n",
        "[]\n",
        "{\"deep\":[[[[[[[[{}]]]]]]]]}\n",
    );
    let done = run_said(records.as_bytes());
    assert_eq!(String::from_utf8_lossy(&done.stdout), records);
    assert_eq!((done.code(), done.count("records_in")), (Some(0), 5));
    assert_eq!(done.stderr, Vec::<String>::new());

    // The same the other way round, through an agent that gives back what it gets. Blanks around
    // a record are not a part of it on the way in.
    let done = run_fake(&[], &[], records.as_bytes());
    let trimmed: String = records.lines().map(|line| format!("{}\n", line.trim())).collect();
    assert_eq!(String::from_utf8_lossy(&done.stdout), trimmed);
    assert_eq!((done.count("records_out"), done.count("bytes_out")), (5, trimmed.len() as u64));
}

#[test]
fn crlf_line_ends_are_accepted() {
    let done = run_fake(&[], &["--crlf"], b"{\"a\":1}\r\n{\"a\":2}\r\n\r\n{\"a\":3}");
    assert_eq!(done.stdout, b"{\"a\":1}\n{\"a\":2}\n{\"a\":3}\n");
    assert_eq!((done.code(), done.count("records_in")), (Some(0), 3));
    assert_eq!(done.stderr, Vec::<String>::new());
}

// One debug line from a dependency of the agent must not end the session of the JSON parser
// downstream.
#[test]
fn bad_output_is_a_bounded_stderr_line() {
    struct Case {
        fake: &'static [&'static str],
        field: &'static str,
        count: u64,
        says: &'static str,
        records: u64,
    }
    let case = |fake, field, count, says, records| Case { fake, field, count, says, records };
    let cases = [
        case(&["--noise"], "noise", 2, "noise: 30 bytes: [debug] this", 2),
        case(&["--malformed"], "malformed", 2, "not valid JSON: it stops before its end): 20", 2),
        case(&["--invalid-utf8"], "malformed", 2, "malformed record (not valid UTF-8): ", 2),
        case(&["--truncated-tail"], "truncated", 1, "truncated record: 21 bytes: ", 2),
        case(&["--huge", "100k"], "oversized", 1, "oversized record: 102399 bytes: ", 2),
        case(&["--no-final-newline"], "noise", 0, "", 3),
        case(&["--bom"], "malformed", 0, "", 2),
        case(&["--blank-lines"], "noise", 0, "", 2),
    ];
    for case in cases {
        let done = run_fake(&["--record-max", "64k"], case.fake, b"{\"a\":1}\n{\"a\":2}\n");
        let shown = format!("{:?}: {done:?}", case.fake);
        // A record of the agent that is above the limit is lost, and no success.
        let lost = case.field == "oversized";
        assert_eq!(done.code(), Some(if lost { 125 } else { 0 }), "{shown}");
        assert!(done.stdout.starts_with(b"{\"a\":1}\n{\"a\":2}\n"), "records only: {shown}");
        let lines = done.stdout.split_inclusive(|byte| *byte == b'\n');
        assert_eq!(lines.count() as u64, case.records, "{shown}");
        assert!(done.stdout.ends_with(b"}\n"), "the last line is whole: {shown}");
        assert_eq!(done.count("records_in"), case.records, "{shown}");
        assert_eq!(done.count(case.field), case.count, "{shown}");
        let lines = case.count + u64::from(lost);
        assert_eq!(done.stderr.len() as u64, lines, "one line each: {shown}");
        assert_eq!(done.stderr.last().is_some_and(|line| line.contains("exit code 125")), lost);
        for line in &done.stderr[..done.stderr.len() - usize::from(lost)] {
            assert!(line.contains(case.says), "{shown}");
        }
        for line in &done.stderr {
            assert!(line.starts_with("agentpipe: "), "{shown}");
            assert!(line.len() <= LINE_MAX, "{shown}");
        }
    }
}

#[test]
fn truncated_tail_is_counted_in_bytes() {
    let done = run_said(b"{\"a\":1}\n{\"half\":\"of a rec");
    assert_eq!(done.stdout, b"{\"a\":1}\n");
    assert_eq!((done.count("truncated"), done.count("truncated_tail_bytes")), (1, 17));
    assert_eq!(done.count("bytes_in"), 8 + 17);
}

// A megabyte of binary on stdout must not become a megabyte in the log, nor must its escape
// sequences reach a terminal.
#[test]
fn lines_about_binary_output_stay_bounded() {
    let mut said = Vec::new();
    for byte in [b'x', 0x1b, 0x01, 0xff, b'"', b'\\'] {
        said.extend(std::iter::repeat_n(byte, 1 << 20));
        said.push(b'\n');
    }
    said.extend("\u{10ffff}\u{202e}\u{e0001}".repeat(1000).bytes());
    said.extend(b"\n{\"fine\":1}\n");
    let done = run_said(&said);
    assert_eq!(done.stdout, b"{\"fine\":1}\n");
    assert_eq!((done.count("noise"), done.stderr.len()), (7, 7));
    for line in &done.stderr {
        assert!(line.starts_with("agentpipe: noise: ") && line.ends_with("..."), "{line}");
        assert!(line.len() <= LINE_MAX, "{} bytes: {line}", line.len());
        assert!(!line.contains(char::is_control), "escaped: {line:?}");
    }
}

#[test]
fn content_length_works_both_ways() {
    let frame = |body: &str| format!("Content-Length: {}\r\n\r\n{body}", body.len());
    let flags = ["--framing", "content-length"];
    // A body may hold a newline, and a header another field; the case of the name does not matter.
    let bodies = ["{\"a\":\n1}", "{\"b\":\"\u{e9}\"}", "[1,\r\n2]"];
    let other = "content-length: 7\r\nContent-Type: x\r\n\r\n{\"c\":2}";
    let input: String = bodies.iter().map(|body| frame(body)).collect::<String>() + other;
    let done = run_fake(&flags, &flags, input.as_bytes());
    let wanted: String = bodies.iter().chain([&"{\"c\":2}"]).map(|body| frame(body)).collect();
    assert_eq!(String::from_utf8_lossy(&done.stdout), wanted);
    assert_eq!((done.code(), done.count("records_in")), (Some(0), 4));
    assert_eq!(done.stderr, Vec::<String>::new());
}

#[test]
fn exit_code_is_the_agents() {
    for code in ["0", "1", "7", "125", "255"] {
        let done = run_fake(&[], &["--exit-code", code], b"{}\n");
        assert_eq!(done.code(), code.parse().ok());
        assert_eq!(done.report["exit"], serde_json::json!({ "code": done.code() }));
        assert_eq!(done.stdout, b"{}\n");
    }
    for (signal, number) in [("KILL", 9), ("TERM", 15), ("SEGV", 11)] {
        // Its stdin stays open: only the agent ends this.
        let agent = fake(&["--exit-now", "--die-by-signal", signal]);
        let done = Run::start(&[], &agent).collect();
        assert_eq!(done.code(), Some(128 + number));
        assert_eq!(done.report["exit"], serde_json::json!({ "signal": number }));
        assert_eq!(done.report["close"]["reason"], "exited");
    }
}

#[test]
fn end_of_stdin_closes_without_loss() {
    let done = run_fake(&[], &[], b"");
    assert_eq!((done.code(), done.stdout), (Some(0), Vec::new()));
    assert_eq!(done.report["close"]["mode"], "graceful");
    assert_eq!(done.report["close"]["reason"], "requested");
    // What the agent still has to say comes after the end of its input.
    let done = run_fake(&[], &["--flood-after-input", "--records", "5000"], b"{}\n");
    assert_eq!(done.stdout.iter().filter(|byte| **byte == b'\n').count(), 5001);
    assert_eq!((done.code(), done.count("records_in")), (Some(0), 5001));
    assert_eq!(done.count("records_discarded"), 0);
}

#[test]
fn report_has_every_field_with_its_type() {
    let done = run_fake(&[], &["--stderr", "last words", "--noise"], b"{\"a\":1}\n");
    let report = &done.report;
    assert_eq!((&report["schema"], &report["backend"]), (&1.into(), &backend().as_str().into()));
    assert!(report["pid"].as_u64().is_some_and(|pid| pid > 1));
    assert!(report["command"].as_str().is_some_and(|command| command.contains("agentpipe")));
    let close = &report["close"];
    assert_eq!((&close["mode"], &close["reason"]), (&"graceful".into(), &"requested".into()));
    assert_eq!(close["stage"], "drain");
    let sum: u64 = close["stages"]
        .as_array()
        .expect("stages")
        .iter()
        .map(|stage| stage["us"].as_u64().expect("microseconds"))
        .sum();
    let total = close["total_us"].as_u64().expect("microseconds");
    assert!(total.abs_diff(sum) <= done.stages().len() as u64, "{total} and {sum}: {close}");
    assert_eq!(done.stages().first(), Some(&"refuse"));
    assert!(done.stages().ends_with(&["drain", "cut", "reap", "release"]), "{close}");
    assert_eq!(report["exit"], serde_json::json!({ "code": 0 }));
    let counts = [
        ("records_in", 1),
        ("bytes_in", 8 + 31),
        ("records_out", 1),
        ("bytes_out", 8),
        ("records_discarded", 0),
        ("bytes_discarded", 0),
        ("noise", 1),
        ("malformed", 0),
        ("oversized", 0),
        ("truncated", 0),
        ("truncated_tail_bytes", 0),
        ("unsent_bytes", 0),
        ("unsent_records", 0),
        ("killed_extra", 0),
        ("stderr_bytes", 11),
        ("stderr_lines_dropped", 0),
        ("undelivered_records", 0),
        ("undelivered_bytes", 0),
        ("undelivered_stderr_lines", 0),
        ("stdin_refused_records", 0),
        ("stdin_unsent_bytes", 0),
        ("left_running", 0),
        ("strays_killed", 0),
    ];
    for (field, count) in counts {
        assert_eq!(done.count(field), count, "{field} in {report}");
    }
    for field in ["outputs_held", "stopped", "input_ended_while_busy", "output_may_be_lost"] {
        assert_eq!(report[field], false, "{field} in {report}");
    }
    assert_eq!(report["stderr_tail"], "last words\n");
    assert_eq!(report["signals_refused"], Value::Null);
    assert_eq!(report["output_framing"], "ndjson");
    assert_eq!(report["framing_mismatch"], Value::Null);
    assert_eq!(report["interrupt_answered"], Value::Null);
    // Present where io_uring is denied.
    let fallback = engine().fallback().is_some();
    let known = counts.len() + 15 + usize::from(fallback);
    assert_eq!(report.as_object().map(serde_json::Map::len), Some(known), "{report}");
}

#[test]
fn agent_stderr_passes_unchanged() {
    let args = ["--stderr", "one", "--stderr", "  two\t\u{e9}"];
    let done = run_fake(&[], &args, b"{}\n");
    assert_eq!(done.stderr, ["one", "  two\t\u{e9}"]);
}

#[test]
fn close_abort_does_not_wait() {
    let folder = tempfile::tempdir().expect("a folder");
    let marker = folder.path().join("marker");
    let slow = ["--flush-delay", "30s", "--marker", marker.to_str().expect("utf-8")];
    let done = run_fake(&["--close", "abort"], &slow, b"");
    assert_eq!(done.report["close"]["mode"], "abort");
    assert_eq!(done.code(), Some(128 + 9), "{done:?}");
    assert_eq!(done.stages(), ["refuse", "cut", "kill", "reap", "release"]);
    assert!(!marker.exists(), "it was given no time");
}

#[test]
fn drain_and_terminate_are_honoured() {
    let flags = ["--drain", "200ms", "--terminate", "100ms"];
    let stage_us = |done: &Done, name: &str| {
        let stages = done.report["close"]["stages"].as_array().expect("stages");
        let stage = stages.iter().find(|stage| stage["stage"] == name).expect("passed through");
        stage["us"].as_u64().expect("microseconds")
    };
    // EOF is ignored, SIGTERM is not.
    let done = run_fake(&flags, &["--ignore-eof"], b"");
    assert_eq!((done.code(), &done.report["close"]["stage"]), (Some(143), &"terminate".into()));
    let settled = stage_us(&done, "end_input") + stage_us(&done, "drain");
    assert!((195_000..2_000_000).contains(&settled), "{}", done.report);
    // Neither helps.
    let done = run_fake(&flags, &["--ignore-eof", "--ignore-sigterm"], b"");
    assert_eq!((done.code(), &done.report["close"]["stage"]), (Some(137), &"kill".into()));
    assert!((99_000..1_000_000).contains(&stage_us(&done, "terminate")), "{}", done.report);
}

/// A running agent that has spoken, its stdin open.
fn talking(flags: &[&str], args: &[&str]) -> (Run, BufReader<std::process::ChildStdout>) {
    let mut run = Run::start(flags, &fake(args));
    run.send(b"{\"a\":1}\n");
    let mut stdout = BufReader::new(run.child.stdout.take().expect("piped"));
    let mut line = String::new();
    stdout.read_line(&mut line).expect("text");
    assert_eq!(line, "{\"a\":1}\n");
    (run, stdout)
}

#[test]
fn first_signal_closes_gracefully() {
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        let folder = tempfile::tempdir().expect("a folder");
        let marker = folder.path().join("marker");
        let flush = ["--flush-delay", "100ms", "--marker", marker.to_str().expect("utf-8")];
        let (run, _stdout) = talking(&[], &flush);
        run.signal(signal);
        let done = run.collect();
        assert_eq!(done.code(), Some(0), "the agent's: {done:?}");
        assert_eq!(done.report["close"]["mode"], "graceful");
        assert_eq!(done.report["close"]["reason"], "requested");
        assert!(marker.exists(), "it had its time");
    }
}

#[test]
fn second_signal_aborts() {
    let (mut run, _stdout) = talking(&["--drain", "60m"], &["--ignore-eof", "--ignore-sigterm"]);
    let begun = Instant::now();
    // Signals that come together are one to the kernel: they go on until it has seen two.
    wait_until("it ends", || {
        let ended = run.child.try_wait().expect("our child").is_some();
        if !ended {
            run.signal(Signal::TERM);
            thread::sleep(Duration::from_millis(100));
        }
        ended
    });
    assert!(begun.elapsed() < CEILING);
    let done = run.collect();
    assert_eq!(done.report["close"]["mode"], "abort");
    assert_eq!(done.code(), Some(137), "{done:?}");
}

// `agentpipe run ... | head -1`: without a consumer the agent must not work on.
#[test]
fn consumer_that_leaves_ends_the_agent() {
    let folder = tempfile::tempdir().expect("a folder");
    let marker = folder.path().join("epipe");
    let mut run = Run::start(
        &["--drain", "60m"],
        &fake(&["--flood", "--epipe-marker", marker.to_str().expect("utf-8")]),
    );
    let mut stdout = BufReader::new(run.child.stdout.take().expect("piped"));
    let mut line = String::new();
    stdout.read_line(&mut line).expect("text");
    assert!(line.contains("\"seq\":0"), "{line}");
    drop(stdout);
    let done = run.collect();
    assert_eq!(done.code(), Some(141), "{done:?}");
    assert_eq!(done.report["close"]["mode"], "abort");
    assert_eq!(done.stderr, Vec::<String>::new(), "a closed pipe is not an error");
    // On a busy machine the grace of an abort may be over before the agent gets to run.
    let left_by_itself = done.report["exit"] == serde_json::json!({ "code": 1 });
    assert_eq!(marker.exists(), left_by_itself, "{}", done.report);
    assert!(is_gone(done.count("pid")));
}

// The log shipper behind agentpipe hangs. The agent must be gone in time, and the report must say
// so while stdout is still blocked.
#[test]
fn stuck_consumer_does_not_delay_close_or_report() {
    let mut run = Run::start(&["--drain", "60m"], &fake(&["--flood", "3m"]));
    let report = run.folder.path().join("report");
    // Stdin ends; its stdout is full and stays so.
    drop(run.child.stdin.take());
    wait_until("the report is written", || {
        fs::read_to_string(&report).is_ok_and(|text| text.ends_with('\n'))
    });
    assert!(run.child.try_wait().expect("our child").is_none(), "it has records to pass on");
    let text = fs::read_to_string(&report).expect("the report");
    let json: Value = serde_json::from_str(&text).expect("JSON");
    assert!(is_gone(json["pid"].as_u64().expect("a pid")));
    let count = |field: &str| json[field].as_u64().expect("a number");
    let waiting = count("undelivered_records");
    assert!(count("records_in") == 3072 && (2900..3072).contains(&waiting), "{json}");
    // A signal ends it now, since nothing is left to close. What stdout did not take is lost, and no
    // success, though the agent ended well.
    run.signal(Signal::TERM);
    let stdout = run.child.stdout.take().expect("piped");
    let done = run.collect();
    assert_eq!(done.code(), Some(125), "{done:?}");
    let delivered = BufReader::new(stdout)
        .lines()
        .filter(|line| line.as_ref().is_ok_and(|line| line.len() == 1023 && line.ends_with('}')));
    let delivered = delivered.count() as u64;
    assert_eq!(delivered + done.count("undelivered_records"), 3072, "{}", done.report);
    assert_eq!(done.stderr.len(), 1, "{:?}", done.stderr);
    assert!(done.stderr[0].contains("not taken by stdout"), "{:?}", done.stderr);
}

// A client of a server elsewhere says goodbye before it leaves. A signal would cut that short.
#[test]
fn slow_leaver_gets_no_signal() {
    let script = "cat >/dev/null; sleep 1; echo '{\"bye\":1}'; exit 3";
    let done = Run::start(&["--drain", "60s"], &["sh", "-c", script]).finish(b"{}\n");
    assert_eq!((done.code(), &*done.stdout), (Some(3), &b"{\"bye\":1}\n"[..]), "{}", done.report);
    assert_eq!(done.report["close"]["stage"], "drain");
}

// The limit for all closing agents of an engine must not take half of the room from the only one.
#[test]
fn late_consumer_gets_everything() {
    let mut run = Run::start(&["--drain", "60m"], &fake(&["--records", "48000"]));
    let report = run.folder.path().join("report");
    drop(run.child.stdin.take());
    wait_until("the report is written", || {
        fs::read_to_string(&report).is_ok_and(|text| text.ends_with('\n'))
    });
    let done = run.collect();
    assert_eq!((done.code(), done.count("records_in")), (Some(0), 48_000));
    for (number, line) in done.stdout.split_inclusive(|byte| *byte == b'\n').enumerate() {
        let record: Value = serde_json::from_slice(line).expect("whole");
        assert_eq!(record["seq"], number);
    }
    assert_eq!(done.stdout.len() as u64, done.count("bytes_in"));
}

#[test]
fn unwritable_report_exits_125() {
    let child = Command::new(PROGRAM)
        .args(["run", "--quiet", "--report", "/no/such/folder/report", "--", PROGRAM, "fake"])
        .stdin(Stdio::null())
        .output()
        .expect("starts");
    let stderr = String::from_utf8(child.stderr).expect("text");
    assert_eq!(child.status.code(), Some(125), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    for part in ["agentpipe: ", "/no/such/folder/report", "No such file"] {
        assert!(stderr.contains(part), "{stderr}");
    }
}

#[test]
fn report_to_stderr_is_its_last_line() {
    let child = Command::new(PROGRAM)
        .args(["run", "--report", "-", "--", PROGRAM, "fake"])
        .stdin(Stdio::null())
        .output()
        .expect("starts");
    let stderr = String::from_utf8(child.stderr).expect("text");
    let report: Value = serde_json::from_str(stderr.lines().last().expect("lines")).expect("JSON");
    assert_eq!((report["schema"].as_u64(), child.status.code()), (Some(1), Some(0)));
}

/// What a trace says of one direction, blanks between tokens taken out as on the wire.
fn side(trace: &str, direction: &str) -> String {
    #[derive(serde::Deserialize)]
    struct Line<'a> {
        dir: &'a str,
        #[serde(borrow)]
        record: Option<&'a RawValue>,
    }
    let mut out = String::new();
    for line in trace.lines() {
        let line: Line<'_> = serde_json::from_str(line).expect("a trace");
        if let Some(record) = line.record.filter(|_| line.dir == direction) {
            let mut quoted = false;
            let mut escaped = false;
            for c in record.get().chars() {
                if quoted || !c.is_ascii_whitespace() {
                    out.push(c);
                }
                quoted ^= c == '"' && !escaped;
                escaped = c == '\\' && !escaped;
            }
            out.push('\n');
        }
    }
    out
}

#[test]
fn recorded_sessions_pass_unchanged() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/traces");
    let mut traces: Vec<PathBuf> =
        fs::read_dir(folder).expect("traces").flatten().map(|entry| entry.path()).collect();
    traces.retain(|path| path.extension().is_some_and(|extension| extension == "ndjson"));
    assert!(traces.len() >= 21, "{traces:?}");
    for path in traces {
        let trace = fs::read_to_string(&path).expect("a trace");
        let path = path.to_str().expect("utf-8");
        let done = run_fake(&[], &["--replay", path], side(&trace, "in").as_bytes());
        let wanted = side(&trace, "out");
        assert!(!wanted.is_empty(), "{path}");
        assert!(done.stdout == wanted.as_bytes(), "{path}: {}", done.report);
        assert_eq!(done.count("records_in"), wanted.lines().count() as u64, "{path}");
        assert_eq!(done.count("unsent_bytes"), 0, "{path}");
    }
}

fn output_of(args: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(PROGRAM).args(args).stdin(Stdio::null()).output().expect("starts");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn every_subcommand_has_help() {
    let (code, text, errors) = output_of(&["--help"]);
    assert_eq!((code, errors.as_str()), (Some(0), ""));
    let commands = text.split("Commands:").nth(1).expect("a list").lines().skip(1);
    let names: Vec<&str> = commands
        .take_while(|line| !line.trim().is_empty())
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help")
        .collect();
    for known in ["run", "doctor", "fake"] {
        assert!(names.contains(&known), "{names:?}");
    }
    for name in names {
        let (code, text, errors) = output_of(&[name, "--help"]);
        assert_eq!((code, errors.as_str()), (Some(0), ""), "{name}");
        assert!(text.contains("Usage: agentpipe"), "{name}: {text}");
    }
    let (code, text, _) = output_of(&["--version"]);
    assert_eq!((code, text.trim()), (Some(0), concat!("agentpipe ", env!("CARGO_PKG_VERSION"))));
}

// A block-buffered stdout would hold each answer until the next one comes.
#[test]
fn records_flow_while_stdin_stays_open() {
    let (mut run, mut stdout) = talking(&[], &[]);
    for number in 0..100 {
        let record = format!("{{\"n\":{number}}}\n");
        run.send(record.as_bytes());
        let mut line = String::new();
        stdout.read_line(&mut line).expect("text");
        assert_eq!(line, record);
    }
    drop(run.child.stdin.take());
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).expect("text");
    assert_eq!((rest.as_str(), run.collect().code()), ("", Some(0)));
}
