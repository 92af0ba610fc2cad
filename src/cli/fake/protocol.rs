//! F5, fake: the records an agent speaks, and what a host's line asks for.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

/// What a line from the host wants.
#[derive(Debug)]
pub(super) enum Asked<'a> {
    Initialize(&'a str),
    Interrupt(&'a str),
    /// Any other control request.
    Control(&'a str),
    /// A user message: a turn.
    User,
    /// Nothing that is answered.
    Other,
}

#[derive(Deserialize)]
struct Line<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    /// Raw: an id goes back exactly as it came.
    #[serde(borrow)]
    request_id: Option<&'a RawValue>,
    #[serde(borrow)]
    request: Option<Request<'a>>,
}

#[derive(Deserialize)]
struct Request<'a> {
    #[serde(borrow)]
    subtype: Option<Cow<'a, str>>,
}

pub(super) fn asked(line: &[u8]) -> Asked<'_> {
    let Ok(line) = serde_json::from_slice::<Line<'_>>(line) else {
        return Asked::Other;
    };
    let subtype = line.request.and_then(|request| request.subtype).unwrap_or_default();
    match (line.kind.as_ref(), line.request_id.map(RawValue::get), subtype.as_ref()) {
        ("control_request", Some(id), "initialize") => Asked::Initialize(id),
        ("control_request", Some(id), "interrupt") => Asked::Interrupt(id),
        ("control_request", Some(id), _) => Asked::Control(id),
        ("user", _, _) => Asked::User,
        _ => Asked::Other,
    }
}

/// The records that answer a line; none for a line that asks nothing.
pub(super) fn answers(line: &[u8]) -> Vec<String> {
    match asked(line) {
        Asked::Initialize(id) => vec![initialized(id)],
        Asked::Interrupt(id) => vec![interrupted(id)],
        Asked::Control(id) => vec![success(id, "{}")],
        Asked::User => vec![assistant("An answer."), result(1)],
        Asked::Other => Vec::new(),
    }
}

pub(super) fn initialized(id: &str) -> String {
    let pid = std::process::id();
    let info = format!(
        concat!(
            r#"{{"commands":[],"output_style":"default","available_output_styles":["default"],"#,
            r#""models":[],"account":{{}},"pid":{pid}}}"#,
        ),
        pid = pid
    );
    success(id, &info)
}

pub(super) fn interrupted(id: &str) -> String {
    success(id, r#"{"still_queued":[]}"#)
}

/// `id` and `response` are JSON text.
pub(super) fn success(id: &str, response: &str) -> String {
    format!(
        concat!(
            r#"{{"type":"control_response","response":{{"subtype":"success","request_id":{id},"#,
            r#""response":{response}}}}}"#,
        ),
        id = id,
        response = response
    )
}

/// `text` must need no escaping.
pub(super) fn assistant(text: &str) -> String {
    format!(
        concat!(
            r#"{{"type":"assistant","message":{{"role":"assistant","model":"fake","#,
            r#""content":[{{"type":"text","text":"{text}"}}]}},"parent_tool_use_id":null,"#,
            r#""session_id":"fake"}}"#,
        ),
        text = text
    )
}

pub(super) fn result(turn: u64) -> String {
    format!(
        concat!(
            r#"{{"type":"result","subtype":"success","is_error":false,"num_turns":{turn},"#,
            r#""duration_ms":1,"duration_api_ms":1,"#,
            r#""result":"An answer.","session_id":"fake"}}"#,
        ),
        turn = turn
    )
}

pub(super) fn interrupted_result(turn: u64) -> String {
    format!(
        concat!(
            r#"{{"type":"result","subtype":"error_during_execution","is_error":true,"#,
            r#""num_turns":{turn},"duration_ms":1,"duration_api_ms":1,"#,
            r#""terminal_reason":"aborted_streaming","session_id":"fake"}}"#,
        ),
        turn = turn
    )
}

pub(super) const SESSION_IDLE: &str =
    r#"{"type":"system","subtype":"session_state_changed","state":"idle","session_id":"fake"}"#;

/// Makes `body` a JSON object of exactly `size` bytes. Sizes below what the fields take give
/// the fields alone.
pub(super) fn filler(kind: &str, sequence: u64, size: usize, body: &mut Vec<u8>) {
    const PAD: &[u8] = b",\"pad\":\"";
    static BLOCK: [u8; 4096] = [b'x'; 4096];
    body.clear();
    body.extend_from_slice(b"{\"type\":\"");
    body.extend_from_slice(kind.as_bytes());
    body.extend_from_slice(b"\",\"seq\":");
    body.extend_from_slice(sequence.to_string().as_bytes());
    let left = size.saturating_sub(body.len() + 1);
    if left > PAD.len() {
        body.extend_from_slice(PAD);
        // In blocks: a debug build fills byte by byte otherwise, and tests are debug builds.
        let mut pad = size.saturating_sub(body.len() + 2);
        while pad > 0 {
            let block = pad.min(BLOCK.len());
            body.extend_from_slice(&BLOCK[..block]);
            pad -= block;
        }
        body.push(b'"');
    } else {
        // Too little room for a string: JSON allows blanks.
        body.resize(body.len() + left, b' ');
    }
    body.push(b'}');
}
