//! Results of the modern era that ask for input: what they ask for, and the request that follows. Pure.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::error::{Error, ErrorKind, Result};
use crate::record::Record;
use crate::session::protocol::object_of;

use super::era::{Object, raw};

/// What a server needs before it can complete a request.
#[derive(Debug, Default)]
pub(super) struct NeededInput {
    /// The questions by the key that the server has given each.
    pub(super) questions: BTreeMap<String, Question>,
    /// Goes back to the server as it came. Only the server knows what it means.
    state: Option<Box<RawValue>>,
}

/// A question of the server, in the form of a request.
#[derive(Debug, Deserialize)]
pub(super) struct Question {
    pub(super) method: String,
    #[serde(default)]
    pub(super) params: Option<Box<RawValue>>,
}

/// Returns what a result asks for, or `None` if it is the final one.
///
/// `extended`: the client has announced extensions, which may have types of results of their own.
pub(super) fn needed(result: &Record, extended: bool) -> Result<Option<NeededInput>> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct TypedResult {
        result_type: Option<String>,
        input_requests: Option<BTreeMap<String, Question>>,
        request_state: Option<Box<RawValue>>,
    }
    let invalid = |what: &str| Error::new(ErrorKind::InvalidRecord, "request", what);
    let Some(result) = object_of::<TypedResult>(result.as_bytes()) else {
        return Err(invalid("the result of the server is not an object of MCP"));
    };
    match result.result_type.as_deref() {
        // Servers of older versions leave the type out.
        None | Some("complete") => Ok(None),
        Some("input_required") => match (result.input_requests, result.request_state) {
            (None, None) => Err(invalid("the server needs input, and does not say which")),
            (questions, state) => {
                Ok(Some(NeededInput { questions: questions.unwrap_or_default(), state }))
            }
        },
        Some(_) if extended => Ok(None),
        Some(other) => Err(invalid(&format!("the result is of the unknown type `{other}`"))),
    }
}

impl NeededInput {
    /// Returns the params of the next request: those of the first one, with the answers.
    pub(super) fn answered(self, params: &Object, answers: &Object) -> Result<Object> {
        let mut params = params.clone();
        if !answers.is_empty() {
            params.insert("inputResponses".into(), raw(answers)?);
        }
        if let Some(state) = self.state {
            params.insert("requestState".into(), state);
        }
        Ok(params)
    }
}
