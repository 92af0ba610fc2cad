//! The records of a chat, in each of its protocols.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::super::args::ChatAs;

const CANCELLED: i64 = -32800;

/// The meaning of a line of the host.
#[derive(Debug, PartialEq)]
pub(super) enum Heard {
    /// A request, with its id as JSON text.
    Asked { id: String, ask: Ask },
    /// The answer to the agent's request of this number, or to none of its requests.
    Answered { number: Option<u64>, outcome: Reply },
    /// The host withdraws a request.
    Withdrawn { id: String },
    /// A notification.
    Told,
    /// Not part of a chat.
    Strange,
}

/// How a request of the host is to be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    Answer(u64),
    /// A handshake, which is answered at once and not counted.
    Greet,
    Fail,
    Ignore,
    Twice(u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reply {
    /// With the number of the request.
    Success(Option<u64>),
    Error,
    /// The error that confirms a withdrawal.
    Cancelled,
}

#[derive(Deserialize)]
struct ChatLine<'a> {
    #[serde(borrow, rename = "type")]
    kind: Option<Cow<'a, str>>,
    #[serde(borrow)]
    request_id: Option<&'a RawValue>,
    #[serde(borrow)]
    request: Option<Body<'a>>,
    #[serde(borrow)]
    response: Option<Response<'a>>,
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    #[serde(borrow)]
    method: Option<Cow<'a, str>>,
    #[serde(borrow)]
    params: Option<Body<'a>>,
    result: Option<Number>,
    error: Option<Code>,
}

#[derive(Deserialize)]
struct Body<'a> {
    #[serde(borrow)]
    subtype: Option<Cow<'a, str>>,
    n: Option<u64>,
    #[serde(borrow, rename = "do")]
    act: Option<Cow<'a, str>>,
    #[serde(borrow, alias = "requestId")]
    id: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Response<'a> {
    #[serde(borrow)]
    subtype: Cow<'a, str>,
    #[serde(borrow)]
    request_id: Cow<'a, str>,
    response: Option<Number>,
}

#[derive(Deserialize)]
struct Number {
    n: Option<u64>,
}

#[derive(Deserialize)]
struct Code {
    code: i64,
}

impl Body<'_> {
    fn ask(&self, method: &str) -> Option<Ask> {
        match (method, self.act.as_deref(), self.n) {
            ("initialize", _, _) => Some(Ask::Greet),
            ("chat", Some("answer"), Some(number)) => Some(Ask::Answer(number)),
            ("chat", Some("twice"), Some(number)) => Some(Ask::Twice(number)),
            ("chat", Some("fail"), _) => Some(Ask::Fail),
            ("chat", Some("ignore"), _) => Some(Ask::Ignore),
            _ => None,
        }
    }
}

impl ChatAs {
    pub(super) fn read(self, line: &[u8]) -> Heard {
        let Ok(line) = serde_json::from_slice::<ChatLine<'_>>(line) else { return Heard::Strange };
        let heard = if self == Self::Claude { line.control() } else { line.rpc() };
        heard.unwrap_or(Heard::Strange)
    }

    /// Returns the agent's request of this number.
    pub(super) fn request(self, number: u64, act: &str) -> String {
        let body = match self {
            Self::Claude => json!({
                "type": "control_request", "request_id": format!("c-{number}"),
                "request": {"subtype": "chat", "n": number, "do": act},
            }),
            // The same numbers as the host uses, to show that it keeps the two directions apart.
            _ => json!({
                "jsonrpc": "2.0", "id": number, "method": "chat",
                "params": {"n": number, "do": act},
            }),
        };
        body.to_string()
    }

    /// Returns the withdrawal of the agent's request of this number.
    pub(super) fn withdrawal(self, number: u64) -> String {
        match self {
            Self::Claude => json!({
                "type": "control_cancel_request", "request_id": format!("c-{number}"),
            }),
            Self::Mcp => note("notifications/cancelled", json!({"requestId": number})),
            Self::Lsp => note("$/cancelRequest", json!({"id": number})),
        }
        .to_string()
    }

    /// Returns an answer. `id` is JSON text.
    pub(super) fn answer(self, id: &str, outcome: Reply) -> String {
        let success = match outcome {
            Reply::Success(number) => number.map_or_else(|| json!({}), |n| json!({"n": n})),
            Reply::Error | Reply::Cancelled => Value::Null,
        };
        let code = if outcome == Reply::Cancelled { CANCELLED } else { -32000 };
        match (self, success) {
            (Self::Claude, Value::Null) => format!(
                concat!(
                    r#"{{"type":"control_response","response":{{"subtype":"error","#,
                    r#""request_id":{id},"error":"no"}}}}"#,
                ),
                id = id
            ),
            (Self::Claude, body) => super::super::protocol::success(id, &body.to_string()),
            (_, Value::Null) => {
                format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{{"code":{code},"message":"no"}}}}"#)
            }
            (_, body) => format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{body}}}"#),
        }
    }

    /// Returns a record outside of requests: `chat_note`, `chat_done` or `chat_tally`.
    pub(super) fn data(self, name: &str, mut body: Value) -> String {
        if self != Self::Claude {
            return note(name, body).to_string();
        }
        body["type"] = name.into();
        body.to_string()
    }
}

fn note(method: &str, params: Value) -> Value {
    json!({"jsonrpc": "2.0", "method": method, "params": params})
}

impl ChatLine<'_> {
    fn control(self) -> Option<Heard> {
        match self.kind.as_deref()? {
            "control_request" => {
                let body = self.request?;
                let ask = body.ask(body.subtype.as_deref()?)?;
                Some(Heard::Asked { id: self.request_id?.get().to_owned(), ask })
            }
            "control_response" => {
                let response = self.response?;
                let number = response.request_id.strip_prefix("c-");
                let outcome = match &*response.subtype {
                    "success" => Reply::Success(response.response.and_then(|body| body.n)),
                    _ => Reply::Error,
                };
                Some(Heard::Answered { number: number.and_then(|n| n.parse().ok()), outcome })
            }
            _ => None,
        }
    }

    fn rpc(self) -> Option<Heard> {
        let id = self.id.map(|id| id.get().to_owned());
        match (self.method.as_deref(), id) {
            (Some(method), Some(id)) => Some(Heard::Asked { id, ask: self.params?.ask(method)? }),
            (Some("notifications/cancelled" | "$/cancelRequest"), None) => {
                Some(Heard::Withdrawn { id: self.params?.id?.get().to_owned() })
            }
            (Some(_), None) => Some(Heard::Told),
            (None, Some(id)) => {
                let outcome = match (self.result, self.error) {
                    (Some(body), None) => Reply::Success(body.n),
                    (None, Some(error)) if error.code == CANCELLED => Reply::Cancelled,
                    (None, Some(_)) => Reply::Error,
                    _ => return None,
                };
                Some(Heard::Answered { number: id.parse().ok(), outcome })
            }
            (None, None) => None,
        }
    }
}
