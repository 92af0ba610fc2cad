//! MCP of both eras: the first requests, and what each era puts on the wire.

use std::time::Duration;

use agentpipe::session::RpcError;
use agentpipe::session::mcp::{Builder, Client, Era};
use agentpipe::{AgentCommand, ErrorKind, ExitStatus, Result};
use serde_json::{Value, json};

use crate::support::dialogue::{assert_played, dialogue};
use crate::support::{engine, shell};
use crate::wait;

/// The answer of a modern server to `server/discover`.
pub(crate) fn discovered() -> Value {
    json!({
        "resultType": "complete", "supportedVersions": ["2026-07-28"],
        "capabilities": {"tools": {"listChanged": true}}, "instructions": "Add only small numbers.",
        "_meta": {"io.modelcontextprotocol/serverInfo": {"name": "adder", "version": "3"}},
    })
}

/// The answer of a legacy server to `initialize`.
pub(crate) fn greeted(version: &str) -> Value {
    json!({
        "protocolVersion": version, "capabilities": {"tools": {}},
        "serverInfo": {"name": "old adder", "version": "2"},
    })
}

/// The server expects a request of this method, whose id it binds to `name`.
pub(crate) fn expects(name: &str, method: &str, params: Value) -> String {
    let id = format!("${{{name}}}");
    json!({"expect": {"jsonrpc": "2.0", "id": id, "method": method, "params": params}}).to_string()
}

/// The server answers the request with this id.
pub(crate) fn answers(name: &str, result: Value) -> String {
    json!({"send": {"jsonrpc": "2.0", "id": format!("${{{name}}}"), "result": result}}).to_string()
}

pub(crate) fn refuses(name: &str, error: Value) -> String {
    json!({"send": {"jsonrpc": "2.0", "id": format!("${{{name}}}"), "error": error}}).to_string()
}

pub(crate) fn notified(method: &str) -> String {
    json!({"expect": {"jsonrpc": "2.0", "id": "${absent}", "method": method}}).to_string()
}

/// The steps of a modern server up to its first request.
pub(crate) fn modern() -> Vec<String> {
    vec![expects("d", "server/discover", json!({})), answers("d", discovered())]
}

/// The steps of a legacy server up to its first request.
pub(crate) fn legacy() -> Vec<String> {
    vec![
        expects("d", "server/discover", json!({})),
        refuses("d", json!({"code": -32601, "message": "Method not found"})),
        expects("i", "initialize", json!({"protocolVersion": "2025-11-25"})),
        answers("i", greeted("2025-11-25")),
        notified("notifications/initialized"),
    ]
}

pub(crate) async fn connect(builder: Builder, steps: Vec<String>) -> Result<Client> {
    builder.connect(&engine(), dialogue(&steps)).await
}

// A modern server refuses each request that does not carry the version and the capabilities, and a
// trace of the caller must not end at the client.
#[test]
fn modern_request_carries_its_meta() {
    let mut steps = vec![
        expects(
            "d",
            "server/discover",
            json!({"_meta": {
                "io.modelcontextprotocol/protocolVersion": "2026-07-28",
                "io.modelcontextprotocol/clientCapabilities": {"elicitation": {}, "roots": {"x": 1}},
                "io.modelcontextprotocol/clientInfo": {"name": "host", "version": "7"},
            }}),
        ),
        answers("d", discovered()),
        expects(
            "l",
            "tools/list",
            json!({"_meta": {
                "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            }}),
        ),
        answers("l", json!({"resultType": "complete", "tools": []})),
    ];
    steps.extend([
        expects(
            "c",
            "tools/call",
            json!({"name": "add", "_meta": {
            "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "io.modelcontextprotocol/clientCapabilities": {"elicitation": "${absent}"},
            "io.modelcontextprotocol/clientInfo": {"name": "host", "version": "7"},
        }, "arguments": {"a": 12345678901234567890_u64}}),
        ),
        answers("c", json!({"resultType": "complete", "content": []})),
    ]);
    wait(async {
        let builder = Client::builder()
            .client_info("host", "7")
            .capability("roots", json!({"x": 1}))
            .handle("roots/list", |_| async { Ok(json!({"roots": []})) })
            .handle("elicitation/create", |_| async { Err::<(), _>(RpcError::new("no")) });
        let client = connect(builder, steps).await.expect("connects");
        let server = client.server();
        assert_eq!((server.era(), server.version()), (Era::Modern, "2026-07-28"));
        assert_eq!((server.name(), server.release()), (Some("adder"), Some("3")));
        assert_eq!(server.instructions(), Some("Add only small numbers."));
        assert_eq!(server.capability("tools"), Some(r#"{"listChanged":true}"#));
        assert_eq!(server.capability("prompts"), None);
        client.call("tools/list", ()).await.expect("answered");
        let params = json!({
            "name": "add", "arguments": {"a": 12345678901234567890_u64},
            "_meta": {
                "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
                "io.modelcontextprotocol/clientCapabilities": {},
            },
        });
        client.call("tools/call", params).await.expect("answered");
        let error = client.call("tools/call", [1]).await.expect_err("positional params");
        assert_eq!(error.kind(), ErrorKind::InvalidRecord, "{error}");
        assert_played(&client.close().await);
    });
}

// Servers of the legacy era refuse an unknown method before the handshake with many codes, or answer
// it with some result. Each of them must still be reached.
#[test]
fn any_refused_probe_leads_to_the_handshake() {
    let refusals = [
        refuses("d", json!({"code": -32601, "message": "Method not found"})),
        refuses("d", json!({"code": -32602, "message": "not initialized", "data": ""})),
        refuses(
            "d",
            json!({"code": -32000, "message": "x", "data": {"supported": ["2026-07-28"]}}),
        ),
        refuses("d", json!({"code": "E_METHOD", "message": 7})),
        answers("d", json!({})),
        answers("d", json!("what?")),
    ];
    let versions = ["2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05"];
    for (index, refusal) in refusals.into_iter().enumerate() {
        let version = versions[index % versions.len()];
        let steps = vec![
            expects("d", "server/discover", json!({})),
            refusal,
            expects(
                "i",
                "initialize",
                json!({
                    "protocolVersion": "2025-11-25", "capabilities": {"sampling": {}},
                    "clientInfo": {"name": "agentpipe"}, "_meta": "${absent}",
                }),
            ),
            answers("i", greeted(version)),
            notified("notifications/initialized"),
            expects(
                "l",
                "tools/list",
                json!({"_meta": {
                "progressToken": "${_}", "io.modelcontextprotocol/protocolVersion": "${absent}"}}),
            ),
            answers("l", json!({"tools": []})),
        ];
        wait(async {
            let builder = Client::builder()
                .handle("sampling/createMessage", |_| async { Err::<(), _>(RpcError::new("no")) });
            let client = connect(builder, steps).await.expect("connects");
            let server = client.server();
            assert_eq!((server.era(), server.version()), (Era::Legacy, version));
            assert_eq!((server.name(), server.release()), (Some("old adder"), Some("2")));
            client.call("tools/list", ()).await.expect("answered");
            assert_played(&client.close().await);
        });
    }
}

// Some servers ignore what comes before the handshake. The probe must not wait for its whole timeout.
#[test]
fn silent_server_gets_the_handshake() {
    let steps = vec![
        expects("d", "server/discover", json!({})),
        expects("i", "initialize", json!({})),
        answers("i", greeted("2025-11-25")),
        notified("notifications/initialized"),
        notified("notifications/cancelled"),
    ];
    wait(async {
        let builder = Client::builder().probe_timeout(Duration::from_millis(30));
        let client = connect(builder, steps).await.expect("connects");
        assert_eq!(client.server().era(), Era::Legacy);
        assert_played(&client.close().await);
    });
}

// A modern server that is slow to start looks silent. It refuses the handshake, and must not be given
// up for that, whichever of the two it answers first.
#[test]
fn slow_modern_server_is_not_taken_for_legacy() {
    let no = json!({"code": -32601, "message": "Method not found"});
    let two = [answers("d", discovered()), refuses("i", no)];
    for order in [[0, 1], [1, 0]] {
        let mut steps =
            vec![expects("d", "server/discover", json!({})), expects("i", "initialize", json!({}))];
        steps.extend(order.map(|index| two[index].clone()));
        steps.extend([
            expects("l", "tools/list", json!({"_meta": "${_}"})),
            answers("l", json!({"resultType": "complete", "tools": []})),
        ]);
        wait(async {
            let builder = Client::builder().probe_timeout(Duration::from_millis(30));
            let client = connect(builder, steps).await.expect("connects");
            assert_eq!(client.server().era(), Era::Modern);
            client.call("tools/list", ()).await.expect("answered");
            assert_played(&client.close().await);
        });
    }
}

/// A server that ends if its first request is not `initialize`.
fn touchy() -> AgentCommand {
    let greeted = json!({"jsonrpc": "2.0", "id": 1, "result": greeted("2025-06-18")});
    shell(&format!(
        "read -r line; case $line in *'\"initialize\"'*) echo '{greeted}';; *) exit 3;; esac; cat >/dev/null"
    ))
}

// The probe kills such a server. The user of the client must not notice.
#[test]
fn server_that_ends_over_the_probe_is_started_again() {
    wait(async {
        let client = Client::builder().connect(&engine(), touchy()).await.expect("connects");
        assert_eq!(client.server().version(), "2025-06-18");
        assert!(client.close().await.exit().success());
        let known = Client::builder().era(Era::Legacy).connect(&engine(), touchy()).await;
        known.expect("no probe is needed").close().await;
    });
}

// A server that cannot start at all is reported with its own words, and not tried without end.
#[test]
fn server_that_cannot_start_is_reported() {
    let broken = shell("echo 'no licence' >&2; exit 4");
    let error = wait(Client::builder().connect(&engine(), broken)).expect_err("it ends");
    assert_eq!(error.kind(), ErrorKind::Closed, "{error}");
    assert_eq!(error.exit_status(), Some(ExitStatus::Code(4)));
    assert!(error.to_string().contains("no licence"), "{error}");
}

// The error names the versions of both sides: it is the only hint which side is too old.
#[test]
fn versions_without_a_match_are_named() {
    let unsupported = |supported: Value| {
        let data = json!({"supported": supported, "requested": "2026-07-28"});
        refuses("d", json!({"code": -32022, "message": "Unsupported", "data": data}))
    };
    let newer = json!({"supportedVersions": ["2027-01-01"], "capabilities": {}});
    let missing = json!({"code": -32021, "message": "needs sampling", "data": {}});
    for (answer, says) in [
        (vec![unsupported(json!(["2027-01-01", "2028-01-01"]))], "2027-01-01, 2028-01-01"),
        (vec![unsupported(json!(7))], "Unsupported"),
        (vec![answers("d", newer)], "2027-01-01"),
        (vec![refuses("d", missing)], "needs sampling"),
        (
            vec![
                unsupported(json!(["2025-06-18"])),
                expects("i", "initialize", json!({"protocolVersion": "2025-06-18"})),
                answers("i", greeted("1999-12-31")),
            ],
            "1999-12-31",
        ),
    ] {
        let mut steps = vec![expects("d", "server/discover", json!({}))];
        steps.extend(answer);
        let error = wait(connect(Client::builder(), steps)).expect_err("no common version");
        assert_eq!(error.kind(), ErrorKind::AgentError, "{error}");
        assert!(error.to_string().contains(says), "{error}");
        assert!(error.response().is_some(), "the answer is kept: {error}");
    }
}

// A client of the modern era must not write a response, and a legacy server that pings waits for one.
#[test]
fn server_request_is_answered_in_the_legacy_era_only() {
    let ping = r#"{"send":{"jsonrpc":"2.0","id":"p","method":"ping"}}"#;
    let pong = r#"{"expect":{"id":"p","result":{}}}"#;
    for (mut steps, reaction) in [(legacy(), pong), (modern(), r#"{"quiet":50}"#)] {
        steps.push(expects("l", "tools/list", json!({})));
        steps.extend([ping.to_owned(), reaction.to_owned()]);
        steps.push(answers("l", json!({"tools": []})));
        wait(async {
            let client = connect(Client::builder(), steps).await.expect("connects");
            client.call("tools/list", ()).await.expect("answered");
            assert_played(&client.close().await);
        });
    }
}
