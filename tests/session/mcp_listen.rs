//! Subscriptions of MCP: who gets which notification, and how they end.

use std::sync::mpsc;
use std::time::Duration;

use agentpipe::session::Settings;
use agentpipe::session::mcp::{Client, Filter, Subscription, Update};
use agentpipe::{ErrorKind, Record};
use serde_json::{Value, json};

use crate::mcp::{answers, connect, discovered, expects, greeted, legacy, modern, refuses};
use crate::support::dialogue::assert_played;
use crate::support::{engine, shell};
use crate::wait;

const ID: &str = "io.modelcontextprotocol/subscriptionId";

fn sends(method: &str, params: Value) -> String {
    json!({"send": {"jsonrpc": "2.0", "method": method, "params": params}}).to_string()
}

/// The server acknowledges the subscription, whose id it has bound to `name`.
fn acknowledges(name: &str, accepted: Value) -> String {
    let meta = json!({ID: format!("${{{name}}}")});
    sends(
        "notifications/subscriptions/acknowledged",
        json!({"_meta": meta, "notifications": accepted}),
    )
}

fn tools_changed(id: Value) -> String {
    sends("notifications/tools/list_changed", json!({"_meta": {ID: id}}))
}

fn updated(id: Value, uri: &str) -> String {
    sends("notifications/resources/updated", json!({"_meta": {ID: id}, "uri": uri}))
}

/// The method of the next update, and the last part of its URI.
async fn next(of: &mut Subscription) -> String {
    match of.next().await.expect("it goes on") {
        Some(Update::Notification(record)) => {
            let record: Value = record.json().expect("JSON");
            let uri = match &record["params"]["uri"] {
                Value::Null => String::new(),
                Value::String(uri) => uri.clone(),
                other => other.to_string(),
            };
            format!("{}{uri}", record["method"].as_str().expect("a method"))
        }
        other => format!("{other:?}"),
    }
}

const TOOLS: &str = "notifications/tools/list_changed";
const UPDATED: &str = "notifications/resources/updated";

// All subscriptions share one pipe. A notification of one must not reach the other.
#[test]
fn update_reaches_its_subscription_only() {
    let mut steps = modern();
    steps.extend([
        expects(
            "a",
            "subscriptions/listen",
            json!({
            "_meta": {"io.modelcontextprotocol/protocolVersion": "2026-07-28"},
            "notifications": {"toolsListChanged": true, "promptsListChanged": "${absent}",
                "resourceSubscriptions": ["file:///x"]}}),
        ),
        acknowledges("a", json!({"toolsListChanged": true})),
        expects(
            "b",
            "subscriptions/listen",
            json!({"notifications": {
            "promptsListChanged": true, "resourcesListChanged": true,
            "resourceSubscriptions": "${absent}"}}),
        ),
        acknowledges("b", json!({})),
        updated(json!("${a}"), ":1"),
        tools_changed(json!("${b}")),
        updated(json!("other"), ":no such subscription"),
        // Some servers keep ids as texts. The first request has the id 1.
        updated(json!("2"), ":3"),
        tools_changed(json!("${a}")),
        updated(json!("${b}"), ":2"),
        sends("notifications/message", json!({"level": "info"})),
        expects("l", "tools/list", json!({})),
        answers("l", json!({})),
    ]);
    let (sender, others) = mpsc::channel();
    wait(async {
        let builder = Client::builder().on_notification(move |record: Record| {
            let record: Value = record.json().expect("JSON");
            sender.send(record["method"].as_str().expect("a method").to_owned()).expect("sent");
        });
        let client = connect(builder, steps).await.expect("connects");
        let filter = Filter::new().tools().resource("file:///x");
        let mut first = client.listen(filter).await.expect("acknowledged");
        let filter = Filter::new().prompts().resources();
        let mut second = client.listen(filter).await.expect("acknowledged");
        let accepted = first.accepted().expect("acknowledged");
        assert_eq!(accepted.as_bytes(), br#"{"toolsListChanged":true}"#);
        client.call("tools/list", ()).await.expect("answered");
        assert_eq!(next(&mut first).await, format!("{UPDATED}:1"));
        assert_eq!(next(&mut first).await, format!("{UPDATED}:3"));
        assert_eq!(next(&mut first).await, TOOLS);
        assert_eq!(next(&mut second).await, TOOLS);
        assert_eq!(next(&mut second).await, format!("{UPDATED}:2"));
        let others: Vec<_> = others.try_iter().collect();
        assert_eq!(others, [UPDATED, "notifications/message"], "what belongs to none");
        client.close().await;
        let error = first.next().await.expect_err("the client was closed");
        assert_eq!(error.kind(), ErrorKind::Closed, "{error}");
        assert_eq!(first.next().await.expect("over"), None);
    });
}

// Either side may end it: the server with a response or with a cancellation, the client by a drop or a
// close. The server must learn of it, and the other subscriptions must live.
#[test]
fn subscription_ends_from_either_side() {
    let cancelled = |name: &str| {
        let id = format!("${{={name}}}");
        json!({"expect": {"method": "notifications/cancelled", "params": {"requestId": id}}})
            .to_string()
    };
    let mut steps = modern();
    for name in ["a", "b", "c", "d"] {
        steps.push(expects(name, "subscriptions/listen", json!({})));
        steps.push(acknowledges(name, json!({})));
    }
    steps.extend([
        cancelled("a"),
        cancelled("b"),
        expects("l", "tools/list", json!({})),
        tools_changed(json!("${c}")),
        answers("c", json!({"resultType": "complete", "_meta": {ID: "${c}"}})),
        tools_changed(json!("${d}")),
        sends("notifications/cancelled", json!({"requestId": "${d}"})),
        answers("l", json!({})),
        expects("e", "subscriptions/listen", json!({})),
        refuses("e", json!({"code": -32601, "message": "Method not found"})),
    ]);
    wait(async {
        let client = connect(Client::builder(), steps).await.expect("connects");
        let mut open = Vec::new();
        for _ in 0..4 {
            open.push(client.listen(Filter::new().tools()).await.expect("acknowledged"));
        }
        drop(open.remove(0));
        open.remove(0).close().await.expect("told");
        client.call("tools/list", ()).await.expect("answered");
        for mut ended in open {
            assert_eq!(next(&mut ended).await, TOOLS, "what came before the end");
            assert_eq!(ended.next().await.expect("no error"), None);
        }
        let error = client.listen(Filter::new().tools()).await.expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::AgentError, "{error}");
        assert_eq!(client.metrics().pending, 0);
        assert_played(&client.close().await);
    });
}

// A server that never acknowledges must not hold the caller, and must not keep the subscription.
#[test]
fn subscription_without_acknowledgement_times_out() {
    let mut steps = modern();
    steps.extend([
        expects("a", "subscriptions/listen", json!({})),
        r#"{"expect":{"method":"notifications/cancelled","params":{"requestId":"${=a}"}}}"#
            .to_owned(),
    ]);
    wait(async {
        let settings = Settings::new().request_timeout(Duration::from_millis(50));
        let client = connect(Client::builder().settings(settings), steps).await.expect("connects");
        let error = client.listen(Filter::new().tools()).await.expect_err("silence");
        assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
        assert_played(&client.close().await);
    });
}

// A host that looks only now and then needs each change once. What exceeds the limit is counted.
#[test]
fn unread_updates_are_bounded_and_counted() {
    let mut steps = modern();
    steps.extend([expects("a", "subscriptions/listen", json!({})), acknowledges("a", json!({}))]);
    steps.push(
        json!({"repeat": 100, "steps": [
        {"send": {"method": TOOLS, "params": {"_meta": {ID: "${a}"}}}}]})
        .to_string(),
    );
    let large = json!({"send": {"method": UPDATED, "params": {
        // A number, which is wrong: it must not hide the id of the subscription.
        "_meta": {ID: "${a}"}, "uri": "${i}", "text": "x".repeat(60_000)}}});
    steps.push(json!({"repeat": 20, "steps": [large]}).to_string());
    steps.extend([expects("l", "tools/list", json!({})), answers("l", json!({}))]);
    wait(async {
        let client = connect(Client::builder(), steps).await.expect("connects");
        let mut changes = client.listen(Filter::new().tools()).await.expect("acknowledged");
        client.call("tools/list", ()).await.expect("unread updates hold up no call");
        assert_eq!(next(&mut changes).await, TOOLS);
        for kept in 0..17 {
            assert_eq!(next(&mut changes).await, format!("{UPDATED}{kept}"));
        }
        assert_eq!(changes.next().await.expect("open"), Some(Update::Lost(3)));
        assert_played(&client.close().await);
    });
}

// The same calls work with a server of the legacy era, as far as it announces them.
#[test]
fn legacy_server_reports_the_same_changes() {
    let mut hello = greeted("2025-11-25");
    hello["capabilities"] = json!({"tools": {"listChanged": true}, "prompts": {},
        "resources": {"subscribe": true}});
    let mut steps = legacy();
    steps[3] = answers("i", hello);
    for name in ["x", "y", "z"] {
        let uri = if name == "y" { "file:///2" } else { "file:///1" };
        steps.push(expects(name, "resources/subscribe", json!({"uri": uri})));
        steps.push(answers(name, json!({})));
    }
    steps.extend([
        sends(TOOLS, json!({})),
        sends("notifications/prompts/list_changed", json!({})),
        sends(UPDATED, json!({"uri": "file:///2"})),
        sends(UPDATED, json!({"uri": "file:///1"})),
        // The first subscription still watches the other resource.
        expects("u", "resources/unsubscribe", json!({"uri": "file:///2"})),
        answers("u", json!({})),
    ]);
    wait(async {
        let client = connect(Client::builder(), steps).await.expect("connects");
        let filter = Filter::new().tools().prompts().resource("file:///1");
        let mut first = client.listen(filter.resource("file:///2")).await.expect("subscribed");
        let second = Filter::new().resource("file:///1");
        let mut second = client.listen(second).await.expect("subscribed");
        let accepted: Value = first.accepted().expect("open").json().expect("JSON");
        let expected = json!({"toolsListChanged": true,
            "resourceSubscriptions": ["file:///1", "file:///2"]});
        assert_eq!(accepted, expected, "changes of prompts are not announced");
        let mut seen = Vec::new();
        for _ in 0..4 {
            seen.push(next(&mut first).await);
        }
        let prompts = "notifications/prompts/list_changed";
        let both = [format!("{UPDATED}file:///2"), format!("{UPDATED}file:///1")];
        assert_eq!(seen, [TOOLS, prompts, &both[0], &both[1]]);
        assert_eq!(next(&mut second).await, both[1], "and not the change of the other resource");
        first.close().await.expect("told");
        assert_played(&client.close().await);
    });
}

/// A server that reports one change to each subscription and then ends.
fn short_lived(is_modern: bool) -> agentpipe::AgentCommand {
    let mut greeted = greeted("2025-11-25");
    greeted["capabilities"] =
        json!({"tools": {"listChanged": true}, "resources": {"subscribe": true}});
    let hello = match is_modern {
        true => format!("server/discover) answer '{}';;", discovered()),
        false => {
            format!("server/discover) say '\"error\":{{}}';; initialize) answer '{greeted}';;")
        }
    };
    let script = r#"
        say() { printf '{"jsonrpc":"2.0","id":%s,%s}\n' "$id" "$1"; }
        answer() { say "\"result\":$1"; }
        notify() { printf '{"jsonrpc":"2.0","method":"notifications/%s","params":{"_meta":{"io.modelcontextprotocol/subscriptionId":%s},"notifications":{},"uri":"u"}}\n' "$1" "$id"; }
        while read -r line; do
            id=${line#*\"id\":}; id=${id%%,*}
            method=${line#*\"method\":\"}; method=${method%%\"*}
            case $method in
            HELLO
            subscriptions/listen) notify subscriptions/acknowledged; notify resources/updated; exit 5;;
            resources/subscribe) answer '{}'; notify resources/updated; exit 5;;
            esac
        done"#;
    shell(&script.replace("HELLO", &hello))
}

// The server holds no subscription over its end, so the client opens it again, and says that changes
// may have been missed.
#[test]
fn subscription_outlives_its_server() {
    for is_modern in [true, false] {
        wait(async {
            let builder = Client::builder().restarts(2, Duration::from_secs(60));
            let client =
                builder.connect(&engine(), short_lived(is_modern)).await.expect("connects");
            let mut changes = client.listen(Filter::new().resource("u")).await.expect("subscribed");
            for run in 0..3 {
                assert_eq!(next(&mut changes).await, format!("{UPDATED}u"), "run {run}");
                if run < 2 {
                    let update = changes.next().await.expect("started again");
                    assert_eq!(update, Some(Update::Reopened));
                }
            }
            let error = changes.next().await.expect_err("the limit of restarts");
            assert!(error.to_string().contains("after 2 restarts"), "{error}");
            assert_eq!(changes.next().await.expect("over"), None);
            assert_eq!(client.restarts(), 2);
            client.close().await;
        });
    }
}
