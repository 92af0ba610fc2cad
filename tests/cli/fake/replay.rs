//! Recorded traces, played back.

use std::fs;
use std::io::Read;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{Fake, INITIALIZE, USER, converse, json, lines};

/// The `out` records of a trace, in order.
fn recorded(name: &str) -> Vec<(Value, u64)> {
    trace_lines(name)
        .into_iter()
        .filter(|line| line["dir"] == "out")
        .map(|line| (line["record"].clone(), line["bytes"].as_u64().expect("a size")))
        .collect()
}

fn trace_lines(name: &str) -> Vec<Value> {
    let path = trace_path(name);
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    text.lines().map(|line| json(line.as_bytes())).collect()
}

fn trace_path(name: &str) -> String {
    format!("{}/tests/traces/{name}.ndjson", env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn trace_is_played_record_by_record() {
    for name in ["text_turn", "tool_use_turn", "initialize_two_turns", "can_use_tool_allow"] {
        let (output, status) = converse(&["--replay", &trace_path(name)], "");
        assert_eq!(status.code(), Some(0), "{name}");
        let played = lines(&output);
        let recorded = recorded(name);
        assert_eq!(played.len(), recorded.len(), "{name}");
        for (line, (record, _)) in played.iter().zip(&recorded) {
            assert_eq!(&json(line), record, "{name}");
        }
    }
}

#[test]
fn played_record_keeps_its_bytes() {
    let (output, _) = converse(&["--replay-builtin", "text_turn"], "");
    let recorded = recorded("text_turn");
    let played = lines(&output);
    // Nothing was replaced in these two: their lengths are the recorded ones, newline included.
    for number in [1, 2] {
        assert_eq!(played[number].len() as u64 + 1, recorded[number].1);
    }
    assert_eq!(converse(&["--replay", "builtin:text_turn"], "").0, output);
    assert_eq!(converse(&["--replay", &trace_path("text_turn")], "").0, output);
    let (tool_use, _) = converse(&["--replay-builtin", "tool_use_turn"], "");
    assert_eq!(converse(&["--replay", &trace_path("tool_use_turn")], "").0, tool_use);
}

#[test]
fn trace_waits_for_its_recorded_input() {
    let mut fake = Fake::start(&["--replay", &trace_path("initialize_two_turns")]);
    assert!(fake.is_alive_after(50));
    for line in trace_lines("initialize_two_turns") {
        match line["dir"].as_str() {
            Some("in") => {
                let pipe = fake.stdout.as_ref().expect("open");
                assert_eq!(pipe.buffer(), b"", "nothing is said ahead of its time");
                fake.send(&line["record"].to_string());
            }
            Some("out") => assert_eq!(fake.record(), line["record"]),
            Some("close-stdin") => {
                assert!(fake.is_alive_after(50));
                fake.end_input();
            }
            _ => {}
        }
    }
    assert_eq!(fake.timed_exit().0, Some(0));
}

#[test]
fn strict_trace_demands_all_input() {
    let path = trace_path("initialize_two_turns");
    let args = ["--replay", path.as_str(), "--replay-strict"];
    assert_eq!(converse(&args, "one\n").1.code(), Some(1));
    assert_eq!(converse(&args, "one\ntwo\nthree\n").1.code(), Some(0));
}

#[test]
fn trace_can_answer_with_the_hosts_ids() {
    let path = trace_path("initialize_two_turns");
    let input = format!("{INITIALIZE}\n{USER}\n{USER}\n");
    let (plain, _) = converse(&["--replay", &path], &input);
    assert_eq!(json(lines(&plain)[0])["response"]["request_id"], "req_2");
    let (mapped, _) = converse(&["--replay", &path, "--replay-map-ids"], &input);
    assert_eq!(json(lines(&mapped)[0])["response"]["request_id"], "req_1_9f3a01bc");
    assert_eq!(lines(&plain)[1..], lines(&mapped)[1..]);
}

#[test]
fn trace_keeps_pauses_and_exit_status() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("trace.ndjson");
    let trace = r#"{"t_ms": 0, "dir": "out", "record": {"b": 1, "a": 2}}
{"t_ms": 400, "dir": "out", "record": {"last": 1.50}}
{"t_ms": 400, "dir": "close-stdin"}
{"t_ms": 400, "dir": "exit", "code": 5}
"#;
    fs::write(&path, trace).expect("a file");
    let path = path.to_str().expect("utf-8");
    let start = Instant::now();
    let (output, status) = converse(&["--replay", path, "--speed", "2"], "");
    assert!(start.elapsed() >= Duration::from_millis(200));
    assert_eq!(output, b"{\"b\":1,\"a\":2}\n{\"last\":1.50}\n");
    assert_eq!(status.code(), Some(5));
}

#[test]
fn broken_trace_is_reported_on_stderr() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("trace.ndjson");
    fs::write(&path, "{\"dir\": \"out\", \"record\": {}}\n{\"dir\":\n").expect("a file");
    for (args, wanted) in [
        (["--replay", "/nonexistent/trace"], "/nonexistent/trace: "),
        (["--replay", path.to_str().expect("utf-8")], "trace line 2: "),
        (["--replay-builtin", "nope"], "no built-in trace `nope`"),
    ] {
        let mut fake = Fake::start(&args);
        fake.end_input();
        assert_eq!(fake.timed_exit().0, Some(1));
        let mut stderr = String::new();
        fake.stderr.take().expect("piped").read_to_string(&mut stderr).expect("utf-8");
        assert!(stderr.contains(wanted) && stderr.lines().count() == 1, "{stderr}");
    }
}
