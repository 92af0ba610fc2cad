//! Records of an agent that writes anything: the outline of their envelope, and what JSON-RPC takes them
//! for. The body of a fuzz target.

use std::collections::BTreeMap;

use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use crate::record::{Envelope, Record};
use crate::session::dropped::RecordHead;
use crate::session::protocol::{DroppedRecord, Incoming, Protocol, RpcError, WireId};

use super::protocol::{Cancellation, JsonRpcProtocol};

const PROTOCOLS: [JsonRpcProtocol; 4] = [
    JsonRpcProtocol::new(Cancellation::None),
    JsonRpcProtocol::new(Cancellation::Lsp),
    JsonRpcProtocol::new(Cancellation::Mcp),
    JsonRpcProtocol::new(Cancellation::Acp),
];

/// Classifies one record with every protocol, and checks that nothing is in the outcome that the record
/// does not say.
pub(crate) fn target(data: &[u8]) {
    let record = Record::from(data.to_vec());
    // Only UTF-8 passes the framer.
    let Ok(text) = std::str::from_utf8(data) else {
        return drop(
            PROTOCOLS.iter().map(|protocol| protocol.classify(&record)).collect::<Vec<_>>(),
        );
    };
    let parsed = serde_json::from_str::<Envelope<'_>>(text);
    // JSON has no largest number; this parser has one.
    let too_large = |error: &serde_json::Error| error.to_string().contains("number out of range");
    if !parsed.as_ref().is_err_and(too_large) {
        assert_eq!(record.envelope().ok(), parsed.ok(), "the outline says what a parser says");
    }
    for protocol in &PROTOCOLS {
        check_incoming(protocol, &record, text);
        check_progress(protocol, text);
    }
    // A record above a limit is known by its first bytes.
    for cut in (0..data.len()).step_by(1 + data.len() / 64) {
        let _head = PROTOCOLS[0].identify(&RecordHead::of(&data[..cut]));
    }
}

/// Checks what a protocol takes a record for.
pub(super) fn check_incoming(protocol: &JsonRpcProtocol, record: &Record, text: &str) {
    let head = RecordHead::of(record.as_bytes());
    let dropped = protocol.identify(&head);
    match protocol.classify(record) {
        Incoming::Request { id, body, .. } => {
            assert!(body.as_bytes() == b"null" || text.contains(body.as_str().expect("UTF-8")));
            check_answers(protocol, &id, text);
            // An error may be `null`, which the head does not look at.
            let is_response = matches!(dropped, DroppedRecord::Response(_));
            assert!(!is_response || text.contains("error"), "the head is a response: {text}");
        }
        Incoming::Cancel { id } | Incoming::Progress { token: id } => {
            assert!(text.contains(&*id.0), "{id:?} is not in {text}");
        }
        Incoming::Response { id, .. } => {
            let is_request = matches!(dropped, DroppedRecord::Request(_));
            assert!(!is_request || !head.replies, "the head is a request: {text}");
            // The whole record and its head never name two requests of this session.
            if let (Some(id), DroppedRecord::Response(head)) = (id, dropped) {
                assert_eq!(id, head, "{text}");
            }
        }
        Incoming::Batch(records) => records.iter().for_each(|record| {
            assert!(is_object(record.as_bytes()), "a batch holds objects");
        }),
        Incoming::Refused { response, .. } => assert!(json(&response)["error"].is_object()),
        _ => {}
    }
}

/// Checks that a response to a request is JSON and has its id as it came.
fn check_answers(protocol: &JsonRpcProtocol, id: &WireId, text: &str) {
    assert!(text.contains(&*id.0), "{id:?} is not in {text}");
    assert!(id.0.starts_with(['"', '-']) || id.0.parse::<f64>().is_ok(), "{id:?}");
    let error = RpcError::new("no");
    let answers = [
        Some(protocol.response(id, Ok(b"[1]"))),
        Some(protocol.response(id, Err(&error))),
        protocol.cancelled_response(id),
    ];
    for answer in answers.into_iter().flatten() {
        assert!(is_object(&answer));
        let has_id = format!("\"id\":{},", id.0);
        let answer = String::from_utf8(answer).expect("JSON is text");
        assert!(answer.contains(&has_id), "{answer} has no {has_id}");
    }
}

/// Checks that params stay an object when a progress token is added, and that the agent finds it there.
fn check_progress(protocol: &JsonRpcProtocol, params: &str) {
    if let Ok((body, token)) = protocol.with_progress(7, params.as_bytes()) {
        let params = members(&body);
        let meta = params.get("_meta").filter(|meta| meta.get().starts_with('{'));
        let meta = meta.map(|meta| members(meta.get().as_bytes())).unwrap_or_default();
        let found = [params.get("workDoneToken"), meta.get("progressToken")];
        let is_found = found.into_iter().flatten().any(|value| value.get() == &*token.0);
        assert!(is_found, "{} has no token {token:?}", body.escape_ascii());
    }
}

/// Whether the bytes are a JSON object. A number in it may be beyond the range of any type.
fn is_object(bytes: &[u8]) -> bool {
    bytes.starts_with(b"{") && serde_json::from_slice::<IgnoredAny>(bytes).is_ok()
}

fn members(object: &[u8]) -> BTreeMap<String, &RawValue> {
    serde_json::from_slice(object).expect("an object")
}

fn json(bytes: &[u8]) -> serde_json::Value {
    serde_json::from_slice(bytes).expect("JSON")
}

#[cfg(test)]
mod tests {
    #[test]
    fn any_record_says_no_more_than_it_holds() {
        crate::fuzz_driver::run("jsonrpc", super::target);
    }
}
