//! What the flags of `agentpipe run` take, and what becomes of a report or a record that cannot be.

use std::fs;
use std::io::Read;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::Value;

use super::{fake, run, run_fake};
use crate::support::PROGRAM;

/// `agentpipe run FLAGS -- fake AGENT`, without input.
fn output(flags: &[&str], agent: &[&str]) -> (Output, String) {
    let mut command = Command::new(PROGRAM);
    command.arg("run").args(flags).arg("--").args(fake(agent)).stdin(Stdio::null());
    let output = command.output().expect("starts");
    let stderr = String::from_utf8(output.stderr.clone()).expect("text");
    (output, stderr)
}

// 2^64 - 1 overflowed, cut the input into lines of two bytes and lost them all, with exit code 0. A
// limit below 64 became 64 without a word.
#[test]
fn meaningless_limits_are_refused_by_name() {
    let sizes = [
        "0",
        "1",
        "63",
        "18446744073709551615",
        "18446744073709551614",
        "18446744073709551613",
        "18446744073709551616",
        "9223372036854775807",
        "2t",
        "1.5",
        "-1",
        "1e9",
        "16x",
        "",
    ];
    for size in sizes {
        let (output, stderr) = output(&[&format!("--record-max={size}")], &[]);
        assert_eq!(output.status.code(), Some(2), "{size}: {stderr}");
        assert!(stderr.contains("--record-max") && stderr.contains(size), "{size}: {stderr}");
        assert_eq!((stderr.lines().count(), &*output.stdout), (1, &b""[..]), "{size}: {stderr}");
    }
    for flag in ["--drain", "--drain-total", "--terminate"] {
        for time in ["61m", "1h1ns", "2h", "1d", "99999999999999999999h", "5", "-1s", "1.5", ""] {
            let (output, stderr) = output(&[&format!("{flag}={time}")], &[]);
            assert_eq!(output.status.code(), Some(2), "{time}: {stderr}");
            assert!(stderr.contains(flag) && stderr.contains(time), "{time}: {stderr}");
        }
    }
}

#[test]
fn limits_are_exact_to_the_byte() {
    // 102399 bytes of record.
    let sizes = [
        ("102399", true),
        ("102398", false),
        ("100k", true),
        ("99k", false),
        ("0.1MiB", true),
        ("0.09 mib", false),
        ("1 MB", true),
        ("1t", true),
        ("64", false),
    ];
    for (size, fits) in sizes {
        let done = run_fake(&["--record-max", size], &["--huge", "102400"], b"");
        let counts = (done.count("records_in"), done.count("oversized"));
        assert_eq!(counts, if fits { (1, 0) } else { (0, 1) }, "{size}: {done:?}");
        // The same limit on the way in.
        let record = format!("[\"{}\"]\n", "x".repeat(102_395));
        let done = run_fake(&["--record-max", size], &[], record.as_bytes());
        assert_eq!(done.count("records_out"), u64::from(fits), "{size}: {done:?}");
        assert_eq!(done.count("stdin_refused_records"), u64::from(!fits), "{size}: {done:?}");
    }
    for time in ["1h", "0.5h", "1m30s", "90 seconds", "1.5s", "500ms"] {
        let done = run_fake(&["--drain", time, "--terminate", time], &[], b"{}\n");
        assert_eq!((done.code(), done.count("records_out")), (Some(0), 1), "{time}: {done:?}");
    }
}

#[test]
fn drain_total_limits_an_endless_writer() {
    // Records for four seconds, after the end of the input.
    let agent = ["--records", "400", "--rate", "100"];
    let done = run_fake(&["--drain", "1s"], &agent, b"");
    assert!(done.count("records_in") < 400, "2.5 s in all: {done:?}");
    assert_eq!(done.report["close"]["stage"], "terminate", "{done:?}");
    let done = run_fake(&["--drain", "1s", "--drain-total", "1m"], &agent, b"");
    assert_eq!((done.code(), done.count("records_in")), (Some(0), 400), "{done:?}");
}

// The one record that mattered was too long, and the exit code reported success.
#[test]
fn oversized_result_is_not_success() {
    let done = run_fake(&["--record-max", "64k"], &["--huge", "100k"], b"");
    assert_eq!((done.code(), done.count("oversized")), (Some(125), 1));
    let last = done.stderr.last().expect("a reason");
    assert!(last.contains("exit code 125 in place of 0") && last.contains("1 above the limit"));
    // Another code of the agent stays what it is: it says more.
    let done = run_fake(&["--record-max", "64k"], &["--huge", "100k", "--exit-code", "3"], b"");
    assert_eq!((done.code(), done.count("oversized")), (Some(3), 1));
    // --quiet takes the summary away, not the reason.
    let (output, stderr) = output(&["-q", "--record-max", "64k"], &["--huge", "100k"]);
    assert_eq!(output.status.code(), Some(125));
    assert_eq!(stderr.lines().filter(|line| line.contains("in place of 0")).count(), 1, "{stderr}");
    // What the agent may have kept while it is closed is a record, too, where the limit is higher.
    let done = run_fake(&["--record-max", "200m"], &["--huge", "100m"], b"");
    assert_eq!((done.code(), done.stdout.len()), (Some(0), 100 << 20), "{}", done.report);
}

#[test]
fn bad_records_on_stdin_are_counted() {
    let done = run_fake(&["--record-max", "100"], &[], b"{}\nno\n{\"a\":\n[]\n");
    assert_eq!((done.count("stdin_refused_records"), done.count("records_out")), (2, 2));
    let frame = |body: &str| format!("Content-Length: {}\r\n\r\n{body}", body.len());
    let flags = ["--framing", "content-length"];
    let input = format!("{}Content-Length: x\r\n\r\nhello\n{}", frame("{}"), frame("[1]"));
    let done = run_fake(&flags, &flags, input.as_bytes());
    assert_eq!((done.count("stdin_refused_records"), done.count("records_out")), (2, 2));
    assert_eq!(done.stdout, format!("{}{}", frame("{}"), frame("[1]")).as_bytes());
    assert_eq!(done.stderr.len(), 2, "{:?}", done.stderr);
}

/// A marker of the agent: it ran.
fn marker(folder: &Path) -> (String, bool) {
    let path = folder.join("marker");
    (path.to_str().expect("text").to_owned(), path.exists())
}

#[test]
fn unwritable_report_starts_no_agent() {
    let folder = tempfile::tempdir().expect("a folder");
    let fifo = folder.path().join("fifo");
    mknodat(CWD, &fifo, FileType::Fifo, Mode::from_raw_mode(0o600), 0).expect("a FIFO");
    assert!(fs::metadata(&fifo).expect("there").file_type().is_fifo());
    // To open a FIFO without a reader waits for one, maybe without end.
    let fifo = fifo.to_str().expect("text");
    let cases =
        [(fifo, "No such device"), ("/no/such/folder/r", "No such file"), ("/", "directory")];
    for (report, why) in cases {
        let (path, _) = marker(folder.path());
        let (output, stderr) = output(&["--report", report], &["--marker", &path]);
        assert_eq!(output.status.code(), Some(125), "{stderr}");
        assert!(stderr.contains(report) && stderr.contains(why), "{stderr}");
        assert!(!marker(folder.path()).1, "no agent ran");
    }
}

#[test]
fn report_that_fails_late_is_an_error() {
    let (output, stderr) = output(&["--report", "/dev/full"], &[]);
    assert_eq!(output.status.code(), Some(125), "{stderr}");
    assert!(stderr.contains("/dev/full: No space left"), "{stderr}");
    let script = "exec \"$0\" run --report - -- \"$0\" fake 2>/dev/full";
    let mut shell = Command::new("sh");
    shell.args(["-c", script, PROGRAM]).stdin(Stdio::null());
    assert_eq!(shell.status().expect("starts").code(), Some(125), "a lost report is not success");
}

#[test]
fn report_replaces_an_older_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("report");
    fs::write(&path, "x".repeat(100_000)).expect("written");
    let report = path.to_str().expect("text");
    let read = || -> Value {
        let text = fs::read_to_string(&path).expect("text");
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    };
    let (done, stderr) = output(&["--report", report], &[]);
    assert_eq!((done.status.code(), &read()["exit"]["code"]), (Some(0), &0.into()), "{stderr}");
    // Nor does an old one stay where no agent could be started.
    let mut command = Command::new(PROGRAM);
    command.args(["run", "--report", report, "--", "/no/such/agent"]).stdin(Stdio::null());
    assert_eq!(command.output().expect("starts").status.code(), Some(127));
    let error = read()["error"].as_str().expect("an error").to_owned();
    assert!(error.contains("/no/such/agent"), "{error}");
}

#[test]
fn report_can_go_to_a_fifo() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("fifo");
    mknodat(CWD, &path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).expect("a FIFO");
    let script = "exec 3<>\"$1\"; \"$0\" run -q --report \"$1\" -- \"$0\" fake; cat <&3 & \
                  sleep 0; exec 3<&-; wait";
    // Descriptor 3 is a reader and a writer: the FIFO is never at its end, so `head` takes one line.
    let script = script.replace("cat <&3 &", "head -1 <&3 &");
    let mut shell = Command::new("sh");
    shell.args(["-c", &script, PROGRAM, path.to_str().expect("text")]);
    let mut child = shell.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("starts");
    let mut text = String::new();
    child.stdout.take().expect("piped").read_to_string(&mut text).expect("text");
    assert!(child.wait().expect("our child").success());
    let report: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(report["exit"]["code"], 0, "{report}");
}

#[test]
fn help_names_signals_and_exit_codes() {
    let mut command = Command::new(PROGRAM);
    let output = command.args(["run", "--help"]).output().expect("starts");
    let text = String::from_utf8(output.stdout).expect("text");
    for word in ["SIGTERM", "SIGINT", "SIGHUP", "nohup", "125", "126", "127", "128 + n", "141"] {
        assert!(text.contains(word), "{word}: {text}");
    }
}

// `agentpipe run -- head -1` does not read all of its input, and that is not a lost record.
#[test]
fn early_leaver_is_not_a_loss() {
    let input = b"{\"a\":1}\n".repeat(100_000);
    let done = run(&[], &["head", "-1"], &input);
    assert_eq!((done.code(), &*done.stdout), (Some(0), &b"{\"a\":1}\n"[..]), "{done:?}");
}
