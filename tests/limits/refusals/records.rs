//! Records that may not be sent, and writes that come too late.

use agentpipe::{ErrorKind, Event, ExitStatus, Limits};

use super::check_nothing_left;
use crate::support::{PROGRAM, check_alive, check_error, check_line, engine, fake};
use std::io::Write;
use std::process::{Command, Stdio};

// One raw newline in a record is two broken records to the agent, and most agents end the session
// over the first.
#[test]
fn bad_record_is_refused_unsent() {
    let engine = engine();
    let limits = Limits::new().record_max(100);
    let mut agent = engine.spawn_blocking(fake(&[]).limits(limits)).expect("spawns");
    let name = format!("pid {}", agent.pid());
    let oversized = format!("\"{}\"", "x".repeat(99));
    let bad: [(&[u8], ErrorKind, &str); 7] = [
        (b"{\"a\":\n1}", ErrorKind::InvalidRecord, "line end at byte 5"),
        (b"{\"a\":1}\n", ErrorKind::InvalidRecord, "line end at byte 7"),
        (b"{\"a\":1", ErrorKind::InvalidRecord, "stops before its end"),
        (b"hello", ErrorKind::InvalidRecord, "not valid JSON"),
        (b"", ErrorKind::InvalidRecord, "empty"),
        (b"\"\xff\"", ErrorKind::InvalidRecord, "UTF-8"),
        (oversized.as_bytes(), ErrorKind::RecordTooLarge, "101 bytes"),
    ];
    for (record, kind, says) in bad {
        let error = agent.send_blocking(record).expect_err("refused");
        check_error(&error, kind, &["write", says, &name]);
        assert!(!error.is_closed(), "{error}");
        check_alive(&mut agent);
    }
    assert_eq!(agent.stats().records_in, 7, "nothing but the echoes came back");
    let report = agent.close_blocking();
    assert_eq!((report.exit(), report.stats().records_out), (ExitStatus::Code(0), 7));
    drop(agent);
    check_nothing_left(&engine);
}

#[test]
fn oversized_record_is_an_event() {
    let engine = engine();
    let limits = Limits::new().record_max(4096);
    let command = fake(&["--huge", "100k"]).limits(limits);
    let mut agent = engine.spawn_blocking(command).expect("spawns");
    let Some(Event::Oversized(sample)) = agent.next_blocking() else { panic!("not told") };
    assert_eq!(sample.len(), (100 << 10) - 1, "the newline is framing");
    assert!(sample.head().starts_with(b"{\"type\":\"huge\""), "{sample}");
    check_line(&sample.to_string(), &["102399 bytes"]);
    check_alive(&mut agent);
    let report = agent.close_blocking();
    assert_eq!((report.stats().oversized, report.stats().records_in), (1, 1));
    drop(agent);
    check_nothing_left(&engine);
}

#[test]
fn late_write_says_why() {
    let engine = engine();
    let agent = engine.spawn_blocking(fake(&[])).expect("spawns");
    let name = format!("pid {}", agent.pid());
    agent.end_input();
    let error = agent.send_blocking("{}").expect_err("ended");
    check_error(&error, ErrorKind::InputEnded, &["write", "the input was ended", &name]);
    assert_eq!(agent.close_blocking().exit(), ExitStatus::Code(0));
    drop(agent);

    let agent = engine.spawn_blocking(fake(&[])).expect("spawns");
    let name = format!("pid {}", agent.pid());
    agent.close_blocking();
    let error = agent.send_blocking("{}").expect_err("closed");
    check_error(&error, ErrorKind::Closed, &["write", "exit code 0", &name]);
    let flushed = agent.flush_blocking();
    assert!(flushed.is_ok(), "everything accepted was written: {flushed:?}");
    drop(agent);
    check_nothing_left(&engine);
}

// The agent wrote "invalid API key" to stderr and left. "Broken pipe" alone sends its user to the
// wrong place.
#[test]
fn write_to_a_dead_agent_says_how_it_died() {
    let engine = engine();
    let ends: [(&[&str], &str); 2] =
        [(&["--exit-code", "7"], "exit code 7"), (&["--die-by-signal", "SEGV"], "signal 11")];
    for (end, how) in ends {
        let args = ["--exit-now", "--stderr", "first", "--stderr", "invalid API key"];
        let command = fake(&args).args(end);
        let mut agent = engine.spawn_blocking(command).expect("spawns");
        let name = format!("pid {}", agent.pid());
        while agent.next_blocking().is_some() {}
        agent.closed_blocking();
        let error = agent.send_blocking("{}").expect_err("gone");
        check_error(
            &error,
            ErrorKind::Closed,
            &["write", how, "last stderr line: invalid API key", &name],
        );
        assert_eq!(error.stderr_tail(), Some("first\ninvalid API key\n"));
    }
    check_nothing_left(&engine);
}

#[test]
fn run_refuses_a_bad_line_and_goes_on() {
    let mut child = Command::new(PROGRAM)
        .args(["run", "--quiet", "--record-max", "64", "--", PROGRAM, "fake"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("starts");
    let mut stdin = child.stdin.take().expect("piped");
    let long = "x".repeat(100_000);
    let input = format!("{{\"a\":1}}\nno json\n\"{long}\"\n\n   \n{{\"a\":2}}\r\n");
    stdin.write_all(input.as_bytes()).expect("written");
    drop(stdin);
    let output = child.wait_with_output().expect("ends");
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(output.stdout, b"{\"a\":1}\n{\"a\":2}\n");
    let stderr = String::from_utf8(output.stderr).expect("text");
    let lines: Vec<&str> = stderr.lines().collect();
    assert_eq!(lines.len(), 2, "{stderr}");
    check_line(lines[0], &["agentpipe: noise on stdin: 7 bytes: no json"]);
    check_line(lines[1], &["agentpipe: record on stdin", "limit of 64", "100002 bytes"]);
}

// An agent dies with a screen of coloured text. The error of the next send goes to a log and to a
// terminal.
#[test]
fn stderr_tail_in_an_error_is_bounded_and_escaped() {
    let engine = engine();
    let words = format!("\u{1b}[31mfatal\u{1b}[0m {}", "x".repeat(5000));
    let mut agent = engine
        .spawn_blocking(fake(&["--exit-now", "--exit-code", "3", "--stderr", &words]))
        .expect("spawns");
    while agent.next_blocking().is_some() {}
    let error = agent.send_blocking("{}").expect_err("it is gone");
    check_error(&error, ErrorKind::Closed, &["exit code 3", "fatal", "xxx..."]);
    assert!(!error.to_string().contains(char::is_control), "{error:?}");
    assert!(error.stderr_tail().is_some_and(|tail| tail.len() > 5000), "the tail is whole");
    drop(agent);
    check_nothing_left(&engine);
}
