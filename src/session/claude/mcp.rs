//! MCP servers that live in this process: JSON-RPC inside of `mcp_message` requests.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::record::Record;
use crate::session::handlers::{AgentRequest, Handler, HandlerResult};
use crate::session::protocol::{RpcError, part_of};

const INVALID_REQUEST: i64 = -32600;
const METHOD_NOT_FOUND: i64 = -32601;

/// A message to an MCP server of this process: a request, a notification, or the response of the CLI to
/// a request that was sent with [`McpMessage`](super::control::McpMessage).
#[derive(Clone, Debug)]
pub struct McpRequest {
    message: Record,
    method: String,
    params: Record,
    is_notification: bool,
}

impl McpRequest {
    /// Returns the whole JSON-RPC message, byte for byte.
    #[must_use]
    pub fn message(&self) -> &Record {
        &self.message
    }

    /// Returns the method: `initialize`, `tools/list`, `tools/call`, ... A response has none, so it is
    /// empty there; [`message`](Self::message) has the id, and the result or the error.
    #[must_use]
    pub fn method(&self) -> &str {
        &self.method
    }

    /// Returns the params; `null` if the message has none.
    #[must_use]
    pub fn params(&self) -> &Record {
        &self.params
    }

    /// Returns whether the message is a notification, or a response. The result of the server is then
    /// dropped.
    #[must_use]
    pub fn is_notification(&self) -> bool {
        self.is_notification
    }
}

/// The MCP servers of this process, by name.
#[derive(Clone, Default)]
pub(super) struct McpServers(HashMap<String, Handler<McpRequest>>);

/// The body of `mcp_message`.
#[derive(Deserialize)]
struct McpMessage<'a> {
    #[serde(borrow)]
    server_name: Cow<'a, str>,
    #[serde(borrow)]
    message: &'a RawValue,
}

/// A JSON-RPC message to a server. Each key may have any type: one that is wrong must not hide the id.
#[derive(Default, Deserialize)]
struct McpCall<'a> {
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    #[serde(borrow)]
    method: Option<&'a RawValue>,
    #[serde(borrow)]
    params: Option<&'a RawValue>,
    #[serde(borrow)]
    result: Option<&'a RawValue>,
    #[serde(borrow)]
    error: Option<&'a RawValue>,
}

/// The response to `mcp_message`.
#[derive(Serialize)]
struct McpOutcome<'a> {
    mcp_response: McpResponse<'a>,
}

/// A JSON-RPC response of a server.
#[derive(Serialize)]
struct McpResponse<'a> {
    jsonrpc: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<Record>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Box<RawValue>>,
}

impl McpServers {
    pub(super) fn add(&mut self, name: &str, server: Handler<McpRequest>) {
        self.0.insert(name.into(), server);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the names in order, so that the command line is the same each time.
    pub(super) fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.0.keys().map(String::as_str).collect();
        names.sort_unstable();
        names
    }

    /// Handles `mcp_message`. An error of the message or its server is an error of JSON-RPC, inside
    /// of a control response that succeeds.
    pub(super) async fn call(self: Arc<Self>, request: AgentRequest) -> HandlerResult {
        let body = request.body();
        let McpMessage { server_name, message } = serde_json::from_slice(body.as_bytes())
            .map_err(|error| RpcError::new(format!("mcp_message without a message: {error}")))?;
        let mut call: McpCall<'_> = serde_json::from_str(message.get()).unwrap_or_default();
        let method: Option<String> = match call.method {
            Some(method) => serde_json::from_str(method.get()).ok(),
            None => call.result.or(call.error).map(|_response| String::new()),
        };
        if call.method.is_none() && method.is_some() {
            // A response, whose id is that of a request of the server. An answer with that id would
            // be one to a request of the CLI.
            call.id = None;
        }
        let (is_call, is_notification) = (method.is_some(), call.id.is_none());
        let outcome = match (method, self.0.get(&*server_name)) {
            (None, _) => {
                Err(RpcError::new("a message of JSON-RPC has a method, a result or an error")
                    .with_code(INVALID_REQUEST))
            }
            (_, None) => Err(RpcError::new(format!("no MCP server is named {server_name}"))
                .with_code(METHOD_NOT_FOUND)),
            (Some(method), Some(server)) => {
                let params = part_of(body, call.params);
                let message = part_of(body, Some(message));
                server(McpRequest { message, method, params, is_notification }).await
            }
        };
        let (result, error) = match outcome {
            // JSON-RPC answers neither notifications nor responses, but the control request that
            // carries one needs a response.
            _ if is_call && is_notification => (Some(b"{}".to_vec().into()), None),
            Ok(result) => (Some(result), None),
            Err(error) => (None, error.to_json().and_then(|it| RawValue::from_string(it).ok())),
        };
        let id = call.id;
        let mcp_response = McpResponse { jsonrpc: "2.0", id, result, error };
        Ok(Record::from_json(&McpOutcome { mcp_response })?)
    }
}

impl fmt::Debug for McpServers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}
