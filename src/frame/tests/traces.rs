//! Recorded sessions of the Claude CLI.

use std::path::Path;

use super::super::encode;
use super::*;

/// The records of one direction, on one line each.
fn records(trace: &str, dir: &str) -> Vec<Vec<u8>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/traces").join(trace);
    let text = std::fs::read_to_string(&path).expect("a trace of the repository");
    let lines = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    lines
        .filter(|line| line["dir"] == dir)
        .map(|line| line["record"].to_string().into_bytes())
        .collect()
}

#[test]
fn recorded_sessions_survive_any_chunk_size() {
    for (trace, count) in [
        ("text_turn.ndjson", 3),
        ("can_use_tool_allow.ndjson", 8),
        ("claude-2.1.112.text_turn.ndjson", 3),
    ] {
        let out = records(trace, "out");
        assert_eq!(out.len(), count, "{trace}");
        let expected: Vec<Event> = out.iter().map(record).collect();
        for framing in [Framing::Ndjson, Framing::ContentLength] {
            let mut wire = Vec::new();
            for record in &out {
                encode(framing, record, &Limits::new(), &mut wire).unwrap();
            }
            for chunk in [1, 7, 1000, 4096, 65536] {
                let seen = feed_all(framing, &Limits::new(), wire.chunks(chunk));
                assert_eq!(seen, expected, "{trace} in chunks of {chunk}");
            }
        }
    }
}

#[test]
fn recorded_requests_are_accepted() {
    for trace in ["text_turn.ndjson", "can_use_tool_allow.ndjson"] {
        let sent = records(trace, "in");
        assert!(!sent.is_empty());
        for record in sent {
            encode(Framing::Ndjson, &record, &Limits::new(), &mut Vec::new()).unwrap();
        }
    }
}
