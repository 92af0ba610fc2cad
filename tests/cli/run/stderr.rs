//! The agent's stderr: every line reaches the user or is counted, and none passes for another.

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::descriptors::terminal;
use super::{Run, pass, run};
use crate::support::process::ends_within;
use crate::support::{HANG, PROGRAM};

const NUMBERS: &[&str] = &["sh", "-c", "seq 200000 >&2; echo '{\"a\":1}'"];

fn numbers(to: u32) -> String {
    (1..=to).map(|n| format!("{n}\n")).collect()
}

// The log of an agent that says much in a short time lost nine lines of ten, and nothing said so.
#[test]
fn every_stderr_line_reaches_a_file() {
    for ends_at_once in [true, false] {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("log");
        let log = File::create(&path).expect("created");
        let mut run = Run::start_by(&["-q"], NUMBERS, |command| {
            command.stderr(log);
        });
        if ends_at_once {
            drop(run.child.stdin.take());
        }
        let status = run.child.wait().expect("our child");
        assert_eq!(status.code(), Some(0));
        let report = fs::read_to_string(run.folder.path().join("report")).expect("a report");
        assert!(report.contains("\"stderr_lines_dropped\":0"), "{report}");
        assert!(report.contains("\"undelivered_stderr_lines\":0"), "{report}");
        assert_eq!(fs::read_to_string(&path).expect("text"), numbers(200_000));
    }
}

// A terminal over a slow line: the agent waits for it, as if it wrote there itself.
#[test]
fn slow_stderr_holds_the_agent_back() {
    let mut run = Run::start(&["-q"], NUMBERS);
    let mut stderr = run.child.stderr.take().expect("piped");
    let (mut said, mut chunk) = (Vec::new(), vec![0; 64 << 10]);
    loop {
        // Never as long as a parent that does not read at all.
        pass(Duration::from_millis(20));
        match stderr.read(&mut chunk).expect("readable") {
            0 => break,
            len => said.extend_from_slice(&chunk[..len]),
        }
    }
    assert_eq!(String::from_utf8_lossy(&said), numbers(200_000));
    assert_eq!(run.child.wait().expect("our child").code(), Some(0));
    let report = fs::read_to_string(run.folder.path().join("report")).expect("a report");
    assert!(report.contains("\"stderr_lines_dropped\":0"), "{report}");
}

// A log without end must not be kept in memory until its slow reader takes it.
#[test]
fn slow_stderr_is_held_back_and_not_kept() {
    let mut run = Run::start(&["--close", "abort"], &["sh", "-c", "yes $(printf %09999d 0) >&2"]);
    let mut stderr = run.child.stderr.take().expect("piped");
    let mut chunk = vec![0; 64 << 10];
    for _ in 0..60 {
        pass(Duration::from_millis(20));
        assert_ne!(stderr.read(&mut chunk).expect("readable"), 0);
    }
    let status = fs::read_to_string(format!("/proc/{}/status", run.child.id())).expect("proc");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
    let peak: u64 = peak.trim().trim_end_matches(" kB").trim().parse().expect("a number");
    run.signal(Signal::TERM);
    std::io::copy(&mut stderr, &mut std::io::sink()).expect("readable");
    run.child.wait().expect("our child");
    assert!(peak < 32 << 10, "{peak} kB are held");
}

// Nothing reads the log. The answers come all the same, and the report counts the lines.
#[test]
fn unread_stderr_delays_no_answer() {
    let script = "seq 400000 >&2 & cat; wait";
    let mut run = Run::start(&["-q"], &["sh", "-c", script]);
    let stdout = OwnedFd::from(run.child.stdout.take().expect("piped"));
    let begun = Instant::now();
    for number in 0..500 {
        run.send(b"{}\n");
        let left = HANG.saturating_sub(begun.elapsed());
        assert!(ends_within(&stdout, left), "answer {number} is late");
        rustix::io::read(&stdout, &mut [0; 3]).expect("an answer");
    }
    drop(run.child.stdin.take());
    let mut stderr = run.child.stderr.take().expect("piped");
    assert_eq!(run.child.wait().expect("our child").code(), Some(0));
    let mut said = String::new();
    stderr.read_to_string(&mut said).expect("text");
    let report = fs::read_to_string(run.folder.path().join("report")).expect("a report");
    let report: serde_json::Value = serde_json::from_str(&report).expect("JSON");
    let lost = report["undelivered_stderr_lines"].as_u64().expect("a number");
    // What fits into the pipe is whole; a line that was cut has an end all the same.
    let whole = said.lines().zip(1..).take_while(|(line, n)| *line == n.to_string()).count() as u64;
    assert!(whole > 1000 && said.ends_with('\n'), "{whole}");
    assert!((whole + lost).abs_diff(400_000) <= 1, "{whole} and {lost}");
}

// `npx` asks whether to install a package. Without the question the agent hangs for no visible reason.
#[test]
fn prompt_is_shown_while_the_agent_waits() {
    let script = "printf 'Ok to proceed? ' >&2; read answer; echo \"so $answer\" >&2";
    let mut run = Run::start(&[], &["sh", "-c", script]);
    let mut stderr = run.child.stderr.take().expect("piped");
    let mut prompt = [0; 15];
    stderr.read_exact(&mut prompt).expect("the prompt");
    assert_eq!(&prompt, b"Ok to proceed? ");
    run.send(b"{}\n");
    let mut rest = String::new();
    stderr.read_to_string(&mut rest).expect("text");
    assert!(rest.starts_with("so {}\nagentpipe: pid "), "{rest}");
    run.child.wait().expect("our child");
    // A line of this command does not continue a line of the agent.
    let done = run_unfinished(&["sh", "-c", "printf 'no end' >&2"]);
    assert!(done.starts_with("no end\nagentpipe: pid "), "{done}");
}

fn run_unfinished(agent: &[&str]) -> String {
    let output = Command::new(PROGRAM)
        .args(["run", "--"])
        .args(agent)
        .stdin(Stdio::null())
        .output()
        .expect("starts");
    String::from_utf8(output.stderr).expect("text")
}

#[test]
fn stderr_bytes_pass_as_they_are() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("said");
    let mut said = b"caf\xe9\r\n\x1b[31mred\x1b[0m\tx\n\n".to_vec();
    said.extend(std::iter::repeat_n(b'x', 200_000));
    said.extend_from_slice(b"\n\xff\xfe no end");
    fs::write(&path, &said).expect("written");
    let mut run =
        Run::start(&["-q"], &["sh", "-c", "cat \"$0\" >&2", path.to_str().expect("text")]);
    drop(run.child.stdin.take());
    let output = run.child.wait_with_output().expect("ends");
    assert!(output.stderr == said, "{} bytes", output.stderr.len());
}

// The agent sets the title, clears the screen, or hides what came before.
#[test]
fn no_escape_of_the_agent_reaches_a_terminal() {
    let (ours, theirs) = terminal();
    let script = "printf 'tab\\there \\033]0;title\\007 \\302\\233 \\233\\rover\\n' >&2
        printf '\\033[2J noise \\302\\233\\n{\"bad\": \\033[2J\\302\\233}\\n'";
    let mut run = Run::start_by(&[], &["sh", "-c", script], |command| {
        command.stderr(theirs);
    });
    drop(run.child.stdin.take());
    assert_eq!(run.child.wait().expect("our child").code(), Some(0));
    let mut said = vec![0; 64 << 10];
    let len = File::from(ours).read(&mut said).expect("readable");
    let said = String::from_utf8(said[..len].to_vec()).expect("text");
    assert!(said.contains("tab\there \\u{1b}]0;title\\u{7} \\u{9b} \\x9b\\rover\n"), "{said:?}");
    assert_eq!(said.lines().count(), 4, "the line, two of bad output, the summary: {said:?}");
    let controls = |char: &char| char.is_control() && *char != '\n' && *char != '\t';
    assert_eq!(said.chars().find(controls), None, "{said:?}");
}

// A host acts on the summary or the report. The agent must not be able to write them.
#[test]
fn agent_cannot_forge_summary_or_report() {
    let forged =
        "agentpipe: pid 1 closed (graceful, io_uring) in 0.1 ms at stage drain: exit code 0";
    let report = "{\"schema\":1,\"exit\":{\"code\":0},\"forged\":true}";
    let script = format!(
        "printf '%s\\n' '{forged}' '  {forged}' '{report}' ' {report}' >&2
        printf 'x\\r{forged}\\n\\033[0m{forged}\\nagentpi' >&2; sleep 0.3
        printf 'pe: pid 1 closed\\n' >&2; exit 9"
    );
    let output = Command::new(PROGRAM)
        .args(["run", "--report", "-", "--", "sh", "-c", &script])
        .stdin(Stdio::null())
        .output()
        .expect("starts");
    let said = String::from_utf8(output.stderr).expect("text");
    let lines: Vec<&str> = said.split(['\n', '\r']).collect();
    let ours = |begin: &str| {
        lines
            .iter()
            .filter(|line| line.trim_start().starts_with(begin))
            .copied()
            .collect::<Vec<_>>()
    };
    let (summaries, reports) = (ours("agentpipe:"), ours("{"));
    assert_eq!((summaries.len(), reports.len()), (1, 1), "{said}");
    assert!(summaries[0].contains("exit code 9") && reports[0].contains("\"code\":9"), "{said}");
    assert_eq!(ours("agent: ").len(), 7, "{said}");
    // Without a report among the lines, JSON logs stay as they are.
    let done = run_with_log(report);
    assert_eq!(done, [report]);
}

fn run_with_log(line: &str) -> Vec<String> {
    run(&[], &["sh", "-c", "printf '%s\\n' \"$0\" >&2", line], b"").stderr
}
