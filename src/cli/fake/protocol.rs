//! The records of a Claude-like agent, and the meaning of a line of the host.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

/// The meaning of a line of the host.
#[derive(Debug)]
pub(super) enum Asked<'a> {
    Initialize(&'a str),
    Interrupt(&'a str),
    /// Any other control request.
    Control(&'a str),
    /// A user message, which begins a turn.
    User,
    /// Anything else, which is not answered.
    Other,
}

#[derive(Deserialize)]
struct HostLine<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    /// Raw, because an id is sent back unchanged.
    #[serde(borrow)]
    request_id: Option<&'a RawValue>,
    #[serde(borrow)]
    request: Option<RequestBody<'a>>,
}

#[derive(Deserialize)]
struct RequestBody<'a> {
    #[serde(borrow)]
    subtype: Option<Cow<'a, str>>,
}

pub(super) fn asked(line: &[u8]) -> Asked<'_> {
    let Ok(line) = serde_json::from_slice::<HostLine<'_>>(line) else {
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

/// Returns the records that answer a line.
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

/// Returns a successful response. `id` and `response` are JSON text.
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

/// Returns an assistant record. `text` is not escaped.
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

/// Makes `body` a JSON object of exactly `size` bytes, or of the fields alone if they need more.
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
        // In blocks, because a debug build would fill byte by byte, and tests are debug builds.
        let mut pad = size.saturating_sub(body.len() + 2);
        while pad > 0 {
            let block = pad.min(BLOCK.len());
            body.extend_from_slice(&BLOCK[..block]);
            pad -= block;
        }
        body.push(b'"');
    } else {
        // Blanks, if there is no room for a string.
        body.resize(body.len() + left, b' ');
    }
    body.push(b'}');
}
