//! Records that look like internal marks of the host, and malformed envelopes: the first are data, the
//! second cost only themselves.

use agentpipe::Event;
use agentpipe::session::claude::{self, Message};
use serde_json::{Value, json};

use crate::support::dialogue::{ANSWER_ALL, HANDSHAKE, RESULT, assert_played, dialogue};
use crate::support::engine;
use crate::{start, wait};

/// What an agent can say that has no place in the protocol, or looks as if it had another.
const IMPOSTORS: &[&str] = &[
    r#"{"type":"end"}"#,
    r#"{"type":"error","error":"boom"}"#,
    r#"{"type":"exit","code":0}"#,
    r#"{"type":"closed"}"#,
    r#"{"type":null}"#,
    r#"{"type":["control_request"]}"#,
    r#"{"no":"type"}"#,
    r#"{}"#,
    r#"{"type":"control_request"}"#,
    r#"{"type":"control_request","request":{"subtype":"can_use_tool"}}"#,
    r#"{"type":"control_response"}"#,
    r#"{"type":"control_response","response":null}"#,
    r#"{"type":"control_response","response":["success","req_2"]}"#,
    r#"{"type":"control_response","response":{"subtype":"success"}}"#,
    r#"{"type":"control_response","response":{"subtype":"success","request_id":7}}"#,
    r#"{"type":"control_cancel_request"}"#,
    r#"{"type":"control_something_new","request_id":"x"}"#,
];

/// Requests without a subtype: those with an id can be answered.
const NAMELESS: &[&str] = &[
    r#"{"type":"control_request","request_id":"n0"}"#,
    r#"{"type":"control_request","request_id":"n1","request":null}"#,
    r#"{"type":"control_request","request_id":"n2","request":{}}"#,
    r#"{"type":"control_request","request_id":"n3","request":{"subtype":null}}"#,
    r#"{"type":"control_request","request_id":"n4","request":{"subtype":{"a":1}}}"#,
    r#"{"type":"control_request","request_id":"n5","request":["subtype"]}"#,
    r#"{"type":"control_request","request_id":"n6","request":"can_use_tool"}"#,
];

fn send(record: &str) -> String {
    format!("{{\"send\":{record}}}")
}

#[test]
fn reserved_looking_records_are_data() {
    let sends: Vec<String> = IMPOSTORS.iter().map(|record| send(record)).collect();
    let mut steps = vec![HANDSHAKE, ANSWER_ALL];
    steps.extend(sends.iter().map(String::as_str));
    steps.push(RESULT);
    wait(async {
        let session = start(&engine(), &steps).await;
        let mut seen = Vec::new();
        let result = session.read_turn(|record| seen.push(record.clone())).await;
        assert!(result.is_ok(), "the session goes on to the end of the turn");
        let texts: Vec<&str> = seen.iter().map(|record| record.as_str().expect("text")).collect();
        assert_eq!(texts, IMPOSTORS);
        // None of them passes for the end, or for an answer.
        assert!(session.close_reason().is_none());
        session.interrupt().await.expect("requests are answered as before");
        let stats = session.as_session().metrics();
        assert_eq!((stats.pending, stats.serving, stats.unknown, stats.late), (0, 0, 0, 0));
        for record in &seen {
            let value: Value = record.json().expect("JSON");
            assert_eq!(Message::of(record).is_ok(), value["type"].is_string(), "{value}");
        }
        assert_played(&session.close().await);
    });
}

#[test]
fn request_without_subtype_gets_an_error() {
    let mut steps = vec![HANDSHAKE.to_owned(), ANSWER_ALL.to_owned()];
    for (at, record) in NAMELESS.iter().enumerate() {
        steps.push(send(record));
        let refused = json!({"expect": {"type": "control_response", "response": {
            "subtype": "error", "request_id": format!("n{at}"),
            "error": "a control request without a subtype",
        }}});
        steps.push(refused.to_string());
    }
    steps.push(RESULT.to_owned());
    let steps: Vec<&str> = steps.iter().map(String::as_str).collect();
    wait(async {
        let session = start(&engine(), &steps).await;
        let mut others = 0;
        assert!(session.read_turn(|_| others += 1).await.is_ok());
        assert_eq!(others, 0, "they are answered, and not data besides");
        let stats = session.as_session().metrics();
        assert_eq!((stats.refused, stats.serving), (NAMELESS.len() as u64, 0));
        session.interrupt().await.expect("the session goes on");
        assert_played(&session.close().await);
    });
}

// One invalid byte, one stray brace or one line of a debugger must not end the reader, nor lose
// earlier lines of the same read.
#[test]
fn bad_lines_cost_only_themselves() {
    let steps = [
        HANDSHAKE,
        ANSWER_ALL,
        r#"{"raw":"{\"type\":\"control_request\",\"request_id\":\n"}"#,
        r#"{"raw":"\"end\"\nnull\n[{\"type\":\"error\"}]\ndebug: {}\n"}"#,
        // {"type":"<ff>"}
        r#"{"raw_hex":"7b2274797065223a22ff227d0a"}"#,
        r#"{"raw":"{\"type\":\"end\"} {\"type\":\"end\"}\n"}"#,
        RESULT,
    ];
    wait(async {
        let builder = claude::Session::builder();
        let session = builder.start(&engine(), dialogue(&steps)).await.expect("starts");
        let (mut bad, mut records) = (0, Vec::new());
        while records.len() < 2 {
            match session.next().await.expect("the session goes on") {
                Event::Record(record) => records.push(record.as_str().expect("text").to_owned()),
                Event::Exit(status) => panic!("{status}"),
                _ => bad += 1,
            }
        }
        // Half an envelope, a text, a word, a line of a debugger, bad UTF-8, two in one.
        assert_eq!((bad, &*records[0]), (6, "[{\"type\":\"error\"}]"), "an array is a record");
        assert!(records[1].contains("\"result\""), "{records:?}");
        session.interrupt().await.expect("requests are answered as before");
        assert_played(&session.close().await);
    });
}
