//! MCP servers that live in this process: JSON-RPC inside of `mcp_message` requests.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::record::Record;
use crate::session::handlers::{AgentRequest, Handler, HandlerResult};
use crate::session::protocol::RpcError;

const INVALID_REQUEST: i64 = -32600;
const METHOD_NOT_FOUND: i64 = -32601;

/// A request or a notification to an MCP server of this process.
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

    /// Returns the method: `initialize`, `tools/list`, `tools/call`, ...
    #[must_use]
    pub fn method(&self) -> &str {
        &self.method
    }

    /// Returns the params; `null` if the message has none.
    #[must_use]
    pub fn params(&self) -> &Record {
        &self.params
    }

    /// Returns whether the message is a notification. The result of the server is then dropped.
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

/// A JSON-RPC message to a server.
#[derive(Deserialize)]
struct McpCall<'a> {
    #[serde(borrow, default)]
    id: Option<&'a RawValue>,
    method: String,
    #[serde(borrow, default)]
    params: Option<&'a RawValue>,
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
        let outcome = match serde_json::from_str::<McpCall<'_>>(message.get()) {
            Ok(call) => {
                let is_notification = call.id.is_none();
                let outcome = self.serve(&server_name, body, message, call).await;
                // JSON-RPC answers no notification, but the control request that carries it needs a
                // response.
                if is_notification { Ok(b"{}".to_vec().into()) } else { outcome }
            }
            Err(error) => Err(RpcError::new(format!("not a JSON-RPC message: {error}"))
                .with_code(INVALID_REQUEST)),
        };
        // Read apart from the call: a message that is not a valid call may have an id.
        #[derive(Deserialize)]
        struct McpId<'a> {
            #[serde(borrow, default)]
            id: Option<&'a RawValue>,
        }
        let id = serde_json::from_str::<McpId<'_>>(message.get()).ok().and_then(|found| found.id);
        let (result, error) = match outcome {
            Ok(result) => (Some(result), None),
            Err(error) => (None, error.to_json().and_then(|it| RawValue::from_string(it).ok())),
        };
        let mcp_response = McpResponse { jsonrpc: "2.0", id, result, error };
        Ok(Record::from_json(&McpOutcome { mcp_response })?)
    }

    async fn serve(
        &self,
        name: &str,
        body: &Record,
        message: &RawValue,
        call: McpCall<'_>,
    ) -> HandlerResult {
        let Some(server) = self.0.get(name) else {
            return Err(
                RpcError::new(format!("no MCP server is named {name}")).with_code(METHOD_NOT_FOUND)
            );
        };
        let params = match call.params {
            Some(params) => body.part(params.get().as_bytes()),
            None => b"null".to_vec().into(),
        };
        let message = body.part(message.get().as_bytes());
        let is_notification = call.id.is_none();
        server(McpRequest { message, method: call.method, params, is_notification }).await
    }
}

impl fmt::Debug for McpServers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}
