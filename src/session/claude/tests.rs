//! The records of the control protocol and the turn tracker, without an agent.

use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::protocol::{ControlProtocol, control_request};
use super::run::{RunAction, RunEvent};
use super::turns::TurnTracker;
use crate::record::Record;
use crate::session::protocol::{Incoming, Protocol, RpcError, WireId};

fn record(text: &str) -> Record {
    Record::from(text.as_bytes().to_vec())
}

fn read(text: &str) -> Incoming {
    ControlProtocol::default().classify(&record(text))
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).expect("JSON is text")
}

#[test]
fn control_request_has_its_body_beside_the_subtype() {
    // The CLI ignores keys in any other place.
    let plain = text(control_request(7, "interrupt", b"null"));
    let wanted =
        r#"{"type":"control_request","request_id":"req_7","request":{"subtype":"interrupt"}}"#;
    assert_eq!(plain, wanted);
    assert_eq!(text(control_request(7, "interrupt", b"{ }")), wanted);
    // Of two subtypes the CLI takes the last.
    assert_eq!(text(control_request(7, "interrupt", br#"{"subtype":"x"}"#)), wanted);
    let twice = text(control_request(7, "x", br#"{"a":1.50,"subtype":"y"}"#));
    assert!(twice.ends_with(r#""request":{"subtype":"x","a":1.50}}"#), "{twice}");
    let body = text(control_request(1, "set_model", b"{\"model\":null}"));
    assert!(body.ends_with(r#""request":{"subtype":"set_model","model":null}}"#), "{body}");
}

#[test]
fn response_is_matched_by_its_exact_id() {
    // An id that is read too generously would complete the request of another host of the same CLI.
    let ok = read(concat!(
        r#"{"type":"control_response","response":{"subtype":"success","#,
        r#""request_id":"req_7","response":{"a": 1}}}"#
    ));
    let Incoming::Response { id: Some(7), outcome: Ok(body) } = ok else { panic!("{ok:?}") };
    assert_eq!(body.as_bytes(), b"{\"a\": 1}");
    let bare = read(
        r#"{"type":"control_response","response":{"subtype":"success","request_id":"req_7"}}"#,
    );
    assert!(matches!(bare, Incoming::Response { id: Some(7), outcome: Ok(_) }), "{bare:?}");
    let error = read(
        r#"{"type":"control_response","response":{"subtype":"error","request_id":"req_7","error":"no\n"}}"#,
    );
    let Incoming::Response { outcome: Err(failure), .. } = error else { panic!("{error:?}") };
    assert_eq!(failure, RpcError::new("no\n"));
    for id in ["req_07", "req_+7", "req_", "7", "req_7_9f3a01bc", "req_18446744073709551616"] {
        let stray = read(&format!(
            r#"{{"type":"control_response","response":{{"subtype":"success","request_id":"{id}"}}}}"#
        ));
        assert!(matches!(stray, Incoming::Response { id: None, .. }), "{id}: {stray:?}");
    }
}

#[test]
fn malformed_control_record_is_harmless() {
    // A request without an id, or a response that is `null`, must not end the session.
    for data in [
        r#"{"type":"control_request"}"#,
        r#"{"type":"control_request","request":{"subtype":"can_use_tool"}}"#,
        r#"{"type":"control_response"}"#,
        r#"{"type":"control_response","response":null}"#,
        r#"{"type":"control_response","response":{"subtype":"success"}}"#,
        r#"{"type":"control_response","response":[1]}"#,
        // A derived reader would read an array field by field.
        r#"{"type":"control_response","response":["success","req_7"]}"#,
        r#"["control_request","a",{"subtype":"x"}]"#,
        r#"{"type":"control_cancel_request"}"#,
        r#"{"type":"control_news","request_id":"1"}"#,
        r#"{"type":"keep_alive"}"#,
        r#"{"type":"end"}"#,
        r#"{"type":"error","error":"x"}"#,
        r#"{"type":7}"#,
        "{}",
        "[1]",
    ] {
        assert!(matches!(read(data), Incoming::Data), "{data}");
    }
    for asked in [
        r#"{"type":"control_request","request_id":"a"}"#,
        r#"{"type":"control_request","request_id":"a","request":null}"#,
        r#"{"type":"control_request","request_id":"a","request":{"subtype":7}}"#,
        r#"{"type":"control_request","request_id":"a","request":["can_use_tool"]}"#,
    ] {
        let Incoming::Refused { response: answer, .. } = read(asked) else { panic!("{asked}") };
        let answer = text(answer);
        assert!(answer.contains(r#""subtype":"error","request_id":"a""#), "{answer}");
    }
}

#[test]
fn response_carries_the_id_as_it_came() {
    // The agent compares the id as text.
    for id in [r#""a\u00e9""#, "7", r#"{"odd":true}"#] {
        let asked = format!(
            r#"{{"type":"control_request","request_id":{id},"request":{{"subtype":"x","k":1}}}}"#
        );
        let Incoming::Request { id: wire, method, body } = read(&asked) else { panic!("{asked}") };
        assert_eq!((&*wire.0, &*method), (id, "x"));
        assert_eq!(body.as_bytes(), br#"{"subtype":"x","k":1}"#);
        let wanted = format!(
            concat!(
                r#"{{"type":"control_response","response":{{"subtype":"success","#,
                r#""request_id":{id},"response":{{}}}}}}"#
            ),
            id = id
        );
        assert_eq!(text(ControlProtocol::default().response(&wire, Ok(b"{}"))), wanted);
    }
    let id = WireId("\"a\"".into());
    let wanted = concat!(
        r#"{"type":"control_response","response":{"subtype":"error","#,
        r#""request_id":"a","error":"n\no"}}"#
    );
    assert_eq!(text(ControlProtocol::default().response(&id, Err(&RpcError::new("n\no")))), wanted);
}

fn see(turns: &mut TurnTracker, text: &str) -> Vec<RunAction> {
    turns.on_message(&record(text), Instant::now()).actions
}

fn tell(turns: &mut TurnTracker, event: RunEvent) -> Vec<RunAction> {
    turns.run.handle(event, Instant::now())
}

const RESULT: &str = r#"{"type":"result","subtype":"success","is_error":false}"#;

fn started(id: &str, kind: &str) -> String {
    format!(r#"{{"type":"system","subtype":"task_started","task_id":"{id}","task_type":"{kind}"}}"#)
}

fn changed(state: &str) -> String {
    format!(r#"{{"type":"system","subtype":"session_state_changed","state":{state}}}"#)
}

#[test]
fn turn_is_open_from_message_to_result() {
    // A close interrupts only an open turn.
    let mut turns = TurnTracker::new(None);
    assert_eq!(tell(&mut turns, RunEvent::Prompt), [RunAction::TurnOpened]);
    assert_eq!(see(&mut turns, r#"{"type":"assistant"}"#), []);
    assert_eq!(see(&mut turns, RESULT), [RunAction::TurnEnded]);
    assert_eq!(see(&mut turns, RESULT), []);
    // A queued message begins a turn without a further prompt.
    let init = r#"{"type":"system","subtype":"init"}"#;
    assert_eq!(see(&mut turns, init), [RunAction::TurnOpened]);
    see(&mut turns, RESULT);
    let subagent = r#"{"type":"assistant","parent_tool_use_id":"t"}"#;
    assert_eq!(see(&mut turns, subagent), [], "a subagent works between turns");
}

#[test]
fn host_only_state_is_hidden_from_the_reader() {
    // A state that the reader sees as a message would be shown to the user.
    let mut turns = TurnTracker::new(None);
    assert_eq!(see(&mut turns, &changed("\"running\"")), [RunAction::TurnOpened]);
    assert_eq!(see(&mut turns, RESULT), [], "it is still running");
    for no_state in ["null", "7", "{}"] {
        assert_eq!(see(&mut turns, &changed(no_state)), []);
    }
    assert_eq!(see(&mut turns, &changed("\"requires_action\"")), []);
    assert_eq!(see(&mut turns, &changed("\"a state to come\"")), [], "it is not idle");
    assert_eq!(see(&mut turns, &changed("\"idle\"")), [RunAction::TurnEnded]);
    let marked = |key: &str| format!(r#"{},{key}}}"#, changed("\"idle\"").trim_end_matches('}'));
    for (key, hidden) in [
        (r#""sdk_host_only":true"#, true),
        (r#""sdk_host_only":false"#, false),
        (r#""sdk_host_only":"true""#, false),
    ] {
        let seen = turns.on_message(&record(&marked(key)), Instant::now());
        assert_eq!(seen.for_host, hidden, "{key}");
    }
    let other = record(r#"{"type":"system","subtype":"init","sdk_host_only":true}"#);
    assert!(!turns.on_message(&other, Instant::now()).for_host, "only states are hidden");
}

#[test]
fn input_ends_with_first_result_without_tasks() {
    // If the input ended at the first result while agents run in the background, their hooks would be
    // bypassed silently.
    let mut turns = TurnTracker::new(None);
    assert_eq!(
        tell(&mut turns, RunEvent::EndWhenDone),
        [RunAction::EndInput],
        "nothing is under way"
    );
    let mut turns = TurnTracker::new(None);
    tell(&mut turns, RunEvent::Prompt);
    assert_eq!(tell(&mut turns, RunEvent::EndWhenDone), []);
    see(&mut turns, &started("a", "local_agent"));
    see(&mut turns, &started("a", "local_agent"));
    see(&mut turns, &started("w", "local_workflow"));
    for ignored in ["local_bash", "monitor", "in_process_teammate", "remote_agent", ""] {
        see(&mut turns, &started("s", ignored));
    }
    for ignored in [
        r#"{"type":"system","subtype":"task_started","task_type":"local_agent"}"#,
        r#"{"type":"system","subtype":"task_started","task_id":7,"task_type":"local_agent"}"#,
        r#"{"type":"system","subtype":"task_updated","task_id":"a","patch":null}"#,
        r#"{"type":"system","subtype":"task_updated","task_id":"a","patch":{"status":"running"}}"#,
        r#"{"type":"system","subtype":"task_updated","task_id":"a","patch":{"status":null}}"#,
        r#"{"type":"system","subtype":"task_notification"}"#,
        r#"{"type":"system","subtype":"background_tasks_changed","tasks":[{"task_id":"z"}]}"#,
    ] {
        see(&mut turns, ignored);
    }
    assert_eq!(turns.tasks(), 2);
    assert_eq!(see(&mut turns, RESULT), [], "tasks are in flight");
    let done =
        r#"{"type":"system","subtype":"task_notification","task_id":"a","status":"completed"}"#;
    see(&mut turns, done);
    see(&mut turns, done);
    assert_eq!(see(&mut turns, RESULT), [], "one task is in flight");
    let killed =
        r#"{"type":"system","subtype":"task_updated","task_id":"w","patch":{"status":"killed"}}"#;
    assert_eq!(see(&mut turns, killed), [RunAction::TurnEnded]);
    assert_eq!(see(&mut turns, RESULT), [RunAction::EndInput]);
    assert_eq!(see(&mut turns, RESULT), [], "once");
}

#[test]
fn dropped_record_may_end_a_turn() {
    // A record of unknown type may have been the result, and a known other type cannot.
    for (kind, ends) in [(Some("result"), true), (None, true), (Some("assistant"), false)] {
        let mut turns = TurnTracker::new(None);
        tell(&mut turns, RunEvent::Prompt);
        let actions = turns.on_dropped(kind, Instant::now());
        assert_eq!(actions.contains(&RunAction::TurnEnded), ends, "{kind:?}");
    }
}

#[test]
fn queue_of_a_result_is_read() {
    // One result may answer two prompts. A CLI that says that none is queued has no second turn, and its
    // input would otherwise stay open for it.
    for (count, is_open) in [("0", false), ("1", true), ("\"0\"", true), ("null", true)] {
        let (mut turns, begun) = (TurnTracker::new(None), Instant::now());
        turns.run.handle(RunEvent::Prompt, begun);
        turns.run.handle(RunEvent::Prompt, begun);
        let result = format!(r#"{{"type":"result","queued_turn_count":{count}}}"#);
        turns.on_message(&record(&result), begun + Duration::from_secs(2));
        assert_eq!(turns.run.is_open(), is_open, "{count}");
    }
}

#[test]
fn last_error_has_the_message_of_its_result() {
    // The session ends with this message, which is often the only explanation.
    let words = |records: &[&str]| {
        let mut turns = TurnTracker::new(None);
        records.iter().for_each(|record| drop(see(&mut turns, record)));
        turns.last_error().map(|(words, _)| words)
    };
    let error = |rest: &str| format!(r#"{{"type":"result","is_error":true,{rest}}}"#);
    let said = |rest: &str| words(&[&error(rest)]).expect("an error");
    assert_eq!(said(r#""errors":["a","b"],"result":"c""#), "a; b");
    assert_eq!(said(r#""subtype":"success","result":"API Error: 400""#), "API Error: 400");
    assert_eq!(
        said(r#""subtype":"success","api_error_status":529"#),
        "the API answered with status 529"
    );
    assert_eq!(said(r#""errors":[" ",""],"subtype":"error_max_turns""#), "error_max_turns");
    assert_eq!(
        said(r#""errors":{"x":1},"subtype":"error_during_execution""#),
        "error_during_execution"
    );
    assert_eq!(said(r#""errors":[7,null],"result":7"#), "the last result was an error");
    let failed = error(r#""errors":["a"]"#);
    assert_eq!(words(&[RESULT]), None);
    assert_eq!(words(&[&failed, RESULT]), None);
    assert_eq!(words(&[&failed, r#"{"type":"system","subtype":"init"}"#]), None, "a new turn");
    let idle = r#"{"type":"system","subtype":"session_state_changed","state":"idle"}"#;
    assert_eq!(words(&[&failed, idle, r#"{"type":"keep_alive"}"#]).as_deref(), Some("a"));
}

/// Values in the place of an id or an object.
const PARTS: &[&str] = &[
    "null",
    "7",
    r#""x""#,
    "[]",
    r#"["x"]"#,
    r#"["x","req_1"]"#,
    "{}",
    r#"{"subtype":"x"}"#,
    r#"{"subtype":7,"request_id":"req_1"}"#,
    r#"{"subtype":"success","request_id":"req_1"}"#,
    r#"{"subtype":"error","request_id":"req_1","error":[]}"#,
    r#"{"subtype":"success","request_id":7,"response":{}}"#,
];

fn plain_reading(envelope: &serde_json::Value) -> &'static str {
    let has_id = !envelope["request_id"].is_null();
    let response = &envelope["response"];
    match envelope["type"].as_str() {
        Some("control_request") if has_id => {
            if envelope["request"]["subtype"].is_string() {
                "request"
            } else {
                "refused"
            }
        }
        Some("control_response")
            if response["subtype"].is_string() && response["request_id"].is_string() =>
        {
            "reply"
        }
        Some("control_cancel_request") if has_id => "cancel",
        _ => "data",
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: ProptestConfig::default().cases.max(2000),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// Each record is classified as a plain reading of its JSON says.
    #[test]
    fn record_is_classified_by_its_envelope(
        kind in prop::sample::select(vec![
            "control_request", "control_response", "control_cancel_request", "control_x", "end",
        ]),
        parts in prop::collection::btree_map(
            prop::sample::select(vec!["request_id", "request", "response", "error"]),
            prop::sample::select(PARTS.to_vec()),
            0..4,
        ),
    ) {
        let mut text = format!("{{\"type\":\"{kind}\"");
        for (key, part) in &parts {
            text += &format!(",\"{key}\":{part}");
        }
        text.push('}');
        let found = match read(&text) {
            Incoming::Request { .. } => "request",
            Incoming::Response { .. } => "reply",
            Incoming::Cancel { .. } => "cancel",
            Incoming::Refused { .. } => "refused",
            Incoming::Ignored => "ignored",
            Incoming::Data => "data",
            Incoming::Progress { .. } | Incoming::Complaint(_) | Incoming::Batch(_) => "JSON-RPC",
        };
        prop_assert_eq!(found, plain_reading(&serde_json::from_str(&text).expect("JSON")), "{}", text);
    }

    /// No text panics the parser or yields an id that it does not contain.
    #[test]
    fn any_text_can_be_classified(text in concat!(
        r#"\{"type":"(control_(request|response|cancel_request)|result|system)"#,
        r#""(,"(request_id|request|response|subtype|task_id|patch|is_error)":"#,
        r#"("[a-z_0-9]{0,4}"|null|7|\{("subtype":"x"|"request_id":"req_1")?\})){0,5}\}"#
    )) {
        let incoming = read(&text);
        if let Incoming::Request { id, .. } | Incoming::Cancel { id } = &incoming {
            prop_assert!(text.contains(&*id.0));
        }
        if matches!(incoming, Incoming::Data) {
            TurnTracker::new(None).on_message(&record(&text), Instant::now());
        }
    }
}
