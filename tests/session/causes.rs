//! Why a session ended: the last failed result explains an exit better than its status.

use agentpipe::session::claude::Session;
use agentpipe::{CloseReason, Error, ErrorKind, ExitStatus};
use serde_json::{Value, json};

use crate::support::dialogue::{HANDSHAKE, assert_played, dialogue};
use crate::support::engine;
use crate::{SOON, says, start, wait};

const INTERRUPT: &str = r#"{"expect":{"request":{"subtype":"interrupt"}}}"#;

fn failed(more: Value) -> Value {
    let mut result = json!({
        "type": "result", "subtype": "success", "is_error": true, "session_id": "s",
    });
    for (key, value) in more.as_object().expect("keys") {
        result[key] = value.clone();
    }
    result
}

/// How a request that is open fails when the agent says this and then does that.
fn end_after(records: &[Value], end: &str) -> (Error, Session) {
    let mut steps = vec![HANDSHAKE.to_owned(), INTERRUPT.to_owned()];
    steps.extend(records.iter().cloned().map(says));
    steps.extend([r#"{"stderr":"at the end"}"#.to_owned(), end.to_owned()]);
    wait(async {
        let session = start(&engine(), &steps).await;
        // Pending requests fail at once with the same text.
        let (first, second) = tokio::join!(session.interrupt(), session.mcp_status());
        let error = first.expect_err("no answer");
        assert_eq!(second.expect_err("no answer").to_string(), error.to_string());
        session.as_session().closed().await;
        while session.next().await.is_some() {}
        (session.close_reason().expect("over"), session)
    })
}

// "exit code 1" does not tell the user that the credit had run out.
#[test]
fn failed_result_explains_the_exit() {
    let said = [
        (failed(json!({"errors": ["no credit", "no luck"], "result": "x"})), "no credit; no luck"),
        (failed(json!({"result": "API Error: 400"})), "API Error: 400"),
        (failed(json!({"api_error_status": 529})), "status 529"),
        (failed(json!({"errors": [" ", ""], "subtype": "error_max_turns"})), "error_max_turns"),
        (
            failed(json!({"errors": {"x": [1]}, "subtype": "error_during_execution"})),
            "error_during_execution",
        ),
        (failed(json!({"errors": [7, null], "result": ["x"]})), "the last result was an error"),
    ];
    for (result, words) in said {
        let (error, session) = end_after(std::slice::from_ref(&result), r#"{"exit":1}"#);
        assert_eq!(error.kind(), ErrorKind::AgentError, "{error}");
        let text = error.to_string();
        assert!(text.contains(words) && text.contains("the agent ended"), "{text}");
        assert!(!text.contains("success"), "never the word of a subtype that lies: {text}");
        assert_eq!(error.exit_status(), Some(ExitStatus::Code(1)), "{error}");
        assert!(error.stderr_tail().is_some_and(|tail| tail.contains("at the end")), "{error}");
        let reply: Value = serde_json::from_str(error.response().expect("the record")).unwrap();
        assert_eq!(reply, result, "the cause is kept");
        drop(session);
    }
}

// A failed result explains the exit that follows it and no other end.
#[test]
fn other_ends_keep_their_cause() {
    let error = failed(json!({"errors": ["no credit"]}));
    let fine = json!({"type": "result", "subtype": "success", "is_error": false});
    let idle = json!({"type": "system", "subtype": "session_state_changed", "state": "idle"});
    let init = json!({"type": "system", "subtype": "init"});
    let keep_alive = json!({"type": "keep_alive"});
    let mirror = json!({"type": "transcript_mirror", "filePath": "f", "entries": []});
    let leaves = r#"{"exit":1}"#;
    for (records, end, told) in [
        (vec![], leaves, false),
        (vec![fine.clone()], leaves, false),
        (vec![error.clone(), fine.clone()], leaves, false),
        (vec![error.clone(), init], leaves, false),
        (vec![error.clone(), json!({"type": "user", "message": {}})], leaves, false),
        (vec![error.clone()], r#"{"exit":0}"#, false),
        (vec![error.clone(), idle, keep_alive, mirror], leaves, true),
        (vec![fine, error.clone()], leaves, true),
        (vec![error.clone()], r#"{"exit":"SIGKILL"}"#, true),
    ] {
        let (why, session) = end_after(&records, end);
        let kind = if told { ErrorKind::AgentError } else { ErrorKind::Closed };
        assert_eq!(why.kind(), kind, "{records:?}: {why}");
        assert_eq!(why.to_string().contains("no credit"), told, "{why}");
        assert_eq!(why.response().is_some(), told);
        assert!(why.exit_status().is_some(), "{why}");
        let report = session.as_session().close_report().expect("it is over");
        assert_eq!(report.reason(), CloseReason::Exited);
    }
}

// The last result was an error, and the agent leaves with 1 because it was closed.
#[test]
fn requested_end_is_not_an_error() {
    let says_error = says(failed(json!({"errors": ["no credit"]})));
    let steps = [HANDSHAKE, &says_error, r#"{"expect_end":true}"#, r#"{"exit":1}"#];
    wait(async {
        let session = start(&engine(), &steps).await;
        assert!(session.read_turn(|_| ()).await.is_ok());
        let report = session.close().await;
        assert_eq!(report.exit(), ExitStatus::Code(1), "{report}");
        while session.next().await.is_some() {}
        let why = session.close_reason().expect("over");
        assert_eq!(why.kind(), ErrorKind::Closed, "{why}");
        assert!(why.to_string().contains("the session was closed"), "{why}");
        let engine = engine();
        let session = start(&engine, &steps).await;
        assert!(session.read_turn(|_| ()).await.is_ok());
        engine.shutdown(SOON).await;
        while session.next().await.is_some() {}
        let why = session.close_reason().expect("over");
        assert_eq!(why.kind(), ErrorKind::EngineStopped, "{why}");
    });
}

// A session that cannot be resumed reports that in a result, before any answer.
#[test]
fn failed_result_explains_the_handshake() {
    let result =
        failed(json!({"subtype": "error_during_execution", "errors": ["No conversation"]}));
    let asked = r#"{"expect":{"request":{"subtype":"initialize"}}}"#;
    let steps = [asked, &says(result), r#"{"exit":1}"#];
    let error = wait(Session::builder().start(&engine(), dialogue(&steps)));
    let error = error.expect_err("no handshake");
    assert_eq!(error.kind(), ErrorKind::AgentError, "{error}");
    assert!(error.to_string().contains("No conversation"), "{error}");
    assert_eq!(error.exit_status(), Some(ExitStatus::Code(1)));
}

// The agent reports its error, closes stdout and takes its time to leave. Waiters must not wait for
// the exit, and must get the same text.
#[test]
fn failed_result_explains_a_closed_stdout() {
    let result = says(failed(json!({"errors": ["no credit"]})));
    let steps = [
        HANDSHAKE,
        INTERRUPT,
        &result,
        r#"{"close":"stdout"}"#,
        r#"{"expect_end":true}"#,
        r#"{"delay":200}"#,
    ];
    wait(async {
        let session = start(&engine(), &steps).await;
        let error = session.interrupt().await.expect_err("the agent is gone");
        assert_eq!(error.kind(), ErrorKind::AgentError, "{error}");
        assert!(error.to_string().contains("no credit; the agent closed its stdout"), "{error}");
        assert_eq!(session.as_session().close_report(), None, "it is still being waited for");
        assert_played(&session.as_session().closed().await);
    });
}
