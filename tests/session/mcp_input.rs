//! Results of MCP that ask for input, and calls that are given up.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use agentpipe::ErrorKind;
use agentpipe::session::mcp::{Builder, Call, Client};
use agentpipe::session::{AgentRequest, RequestOptions, RpcError, Settings};
use serde_json::{Value, json};

use crate::mcp::{answers, connect, expects, legacy, modern, notified};
use crate::support::dialogue::assert_played;
use crate::wait;

fn needs(questions: Value, state: Option<&str>) -> Value {
    let mut result = json!({"resultType": "input_required", "inputRequests": questions});
    if let Some(state) = state {
        result["requestState"] = state.into();
    }
    result
}

fn name_question() -> Value {
    json!({"login": {"method": "elicitation/create", "params": {"message": "Your name?"}}})
}

/// Answers every elicitation, and counts.
fn asking(count: &Arc<AtomicU32>) -> Builder {
    let count = Arc::clone(count);
    Client::builder().handle("elicitation/create", move |asked: AgentRequest| {
        count.fetch_add(1, Ordering::Relaxed);
        async move {
            let asked: Value = asked.json()?;
            Ok(json!({"action": "accept", "content": {"to": asked["message"]}}))
        }
    })
}

// The second request is the first one with the answers and the state, under a new id. State of an
// earlier round must not be sent again: the server would take it for the current one.
#[test]
fn input_is_given_in_a_second_request() {
    let accepted = |to: &str| json!({"action": "accept", "content": {"to": to}});
    let roots = json!({"r": {"method": "roots/list"}, "s": {
        "method": "elicitation/create", "params": {"message": "Sure?"}}});
    let mut steps = modern();
    steps.extend([
        expects(
            "a",
            "tools/call",
            json!({
            "name": "login", "inputResponses": "${absent}", "requestState": "${absent}"}),
        ),
        answers("a", needs(name_question(), Some("opaque \u{e9} 1"))),
        expects(
            "b",
            "tools/call",
            json!({
            "name": "login", "_meta": "${_}", "requestState": "opaque \u{e9} 1",
            "inputResponses": {"login": accepted("Your name?"), "r": "${absent}"}}),
        ),
        answers("b", needs(roots, None)),
        expects(
            "c",
            "tools/call",
            json!({
            "name": "login", "requestState": "${absent}", "inputResponses": {
                "r": {"roots": []}, "s": accepted("Sure?"), "login": "${absent}"}}),
        ),
        // Only a state: the server sheds load, and wants to be asked again.
        answers("c", json!({"resultType": "input_required", "requestState": "2"})),
        expects(
            "d",
            "tools/call",
            json!({
            "name": "login", "requestState": "2", "inputResponses": "${absent}"}),
        ),
        answers("d", json!({"resultType": "complete", "content": [1]})),
    ]);
    wait(async {
        let count = Arc::default();
        let builder = asking(&count).handle("roots/list", |_| async { Ok(json!({"roots": []})) });
        let client = connect(builder, steps).await.expect("connects");
        let result = client.call("tools/call", json!({"name": "login"})).await.expect("completed");
        let result: Value = result.json().expect("JSON");
        assert_eq!(result, json!({"resultType": "complete", "content": [1]}));
        assert_eq!(count.load(Ordering::Relaxed), 2);
        assert_played(&client.close().await);
    });
}

// The same handler answers a server of the legacy era, which asks with a request.
#[test]
fn legacy_server_asks_the_same_handler() {
    let asked = json!({"send": {"jsonrpc": "2.0", "id": "q", "method": "elicitation/create",
        "params": {"message": "Your name?"}}});
    let answer = json!({"expect": {"id": "q", "result": {"action": "accept"}}});
    let mut steps = legacy();
    steps.extend([
        expects("a", "tools/call", json!({})),
        asked.to_string(),
        answer.to_string(),
        // A type of result is a thing of the modern era: here it is data of the server.
        answers("a", json!({"resultType": "input_required"})),
    ]);
    wait(async {
        let count = Arc::default();
        let client = connect(asking(&count), steps).await.expect("connects");
        client.call("tools/call", json!({})).await.expect("completed");
        assert_eq!(count.load(Ordering::Relaxed), 1);
        assert_played(&client.close().await);
    });
}

// A server may ask without end. The user must learn of it, and the model of the host must not be asked for
// ever either.
#[test]
fn rounds_of_input_are_bounded() {
    let mut steps = modern();
    for _ in 0..3 {
        steps.push(expects("a", "tools/call", json!({})));
        steps.push(answers("a", needs(name_question(), None)));
    }
    wait(async {
        let count = Arc::default();
        let client = connect(asking(&count).input_rounds_max(2), steps).await.expect("connects");
        let error = client.call("tools/call", ()).await.expect_err("too often");
        assert_eq!(error.kind(), ErrorKind::InputRequired, "{error}");
        assert_eq!(count.load(Ordering::Relaxed), 2, "no answer is made that is not sent");
        assert_played(&client.close().await);
    });
}

// What cannot be completed fails with the reason, and is not sent again.
#[test]
fn unanswerable_input_fails_the_call() {
    let sampling = json!({"s": {"method": "sampling/createMessage", "params": {}}});
    let roots = json!({"r": {"method": "roots/list"}});
    for (result, kind, says) in [
        (needs(sampling, None), ErrorKind::InputRequired, "set one with Builder::handle"),
        (needs(roots, None), ErrorKind::InputRequired, "no folder"),
        (needs(name_question(), None), ErrorKind::InputRequired, "panicked: a bug of the host"),
        (json!({"resultType": "input_required"}), ErrorKind::InvalidRecord, "does not say which"),
        (json!({"resultType": "task"}), ErrorKind::InvalidRecord, "unknown type `task`"),
        (json!([]), ErrorKind::InvalidRecord, "not an object"),
    ] {
        let mut steps = modern();
        steps.extend([expects("a", "tools/call", json!({})), answers("a", result)]);
        wait(async {
            let builder = Client::builder()
                .handle("roots/list", |_| async { Err::<(), _>(RpcError::new("no folder")) })
                .handle("elicitation/create", |_| async {
                    assert!(std::hint::black_box(false), "a bug of the host");
                    Ok(())
                });
            let client = connect(builder, steps).await.expect("connects");
            let error = client.call("tools/call", ()).await.expect_err("not complete");
            assert_eq!(error.kind(), kind, "{error}");
            assert!(error.to_string().contains(says), "{error}");
            assert_played(&client.close().await);
        });
    }
}

// Types of results that an extension adds belong to the caller who announced it.
#[test]
fn extension_may_add_types_of_results() {
    let mut steps = modern();
    steps.extend([
        expects("a", "tools/call", json!({})),
        answers("a", json!({"resultType": "task", "taskId": "t"})),
    ]);
    wait(async {
        let tasks = json!({"io.modelcontextprotocol/tasks": {}});
        let builder = Client::builder().capability("extensions", tasks);
        let client = connect(builder, steps).await.expect("connects");
        let result: Value = client.call("tools/call", ()).await.expect("a task").json().unwrap();
        assert_eq!(result["taskId"], "t");
        assert_played(&client.close().await);
    });
}

// On stdio a server learns only so that its work is not wanted any more.
#[test]
fn given_up_call_is_cancelled() {
    let cancelled =
        r#"{"expect":{"method":"notifications/cancelled","params":{"requestId":"${=a}"}}}"#;
    let steps = |mut head: Vec<String>| {
        head.extend([expects("a", "tools/call", json!({})), cancelled.into(), notified("over")]);
        head
    };
    for head in [modern, legacy] {
        wait(async {
            let client = connect(Client::builder(), steps(head())).await.expect("connects");
            let options = RequestOptions::new().timeout(Duration::from_millis(20));
            let call = Call::new("tools/call", ()).options(options);
            let error = client.run(call).await.expect_err("no answer");
            assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
            client.notify("over", ()).await.expect("sent");
            assert_played(&client.close().await);
        });
        wait(async {
            let client = connect(Client::builder(), steps(head())).await.expect("connects");
            let call = client.call("tools/call", ());
            tokio::select! {
                result = call => panic!("{result:?}"),
                () = tokio::time::sleep(Duration::from_millis(50)) => {}
            }
            client.notify("over", ()).await.expect("sent");
            assert_played(&client.close().await);
        });
    }
}

// A tool that works and says so must not time out, in either era, without an option of the caller.
#[test]
fn progress_renews_the_timeout_of_a_call() {
    for head in [modern, legacy] {
        let mut steps = head();
        let report = |n: u32| {
            json!({"send": {"jsonrpc": "2.0", "method": "notifications/progress",
                "params": {"progressToken": "${token}", "progress": n}}})
        };
        steps.push(expects("a", "tools/call", json!({"_meta": {"progressToken": "${token}"}})));
        for n in 0..8 {
            steps.extend([r#"{"delay":100}"#.to_owned(), report(n).to_string()]);
        }
        steps.push(answers("a", json!({"content": []})));
        wait(async {
            let settings = Settings::new().request_timeout(Duration::from_millis(500));
            let builder = Client::builder().settings(settings);
            let client = connect(builder, steps).await.expect("connects");
            client.call("tools/call", ()).await.expect("it works and says so");
            assert_played(&client.close().await);
        });
    }
}
