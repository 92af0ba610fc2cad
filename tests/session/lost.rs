//! A record that is dropped because it is too large or broken: its waiter gets an error.

use std::time::Duration;

use agentpipe::session::claude::{Permission, Session};
use agentpipe::session::jsonrpc;
use agentpipe::{AgentCommand, CloseStage, ErrorKind, Event, Limits};
use serde_json::json;

use crate::support::dialogue::{HANDSHAKE, RESULT, assert_played, dialogue};
use crate::support::engine;
use crate::{says, wait};

const PROMPT: &str = r#"{"expect":{"type":"user"}}"#;
const END: &str = r#"{"expect_end":true}"#;

fn limited<T: AsRef<str>>(steps: &[T]) -> AgentCommand {
    dialogue(steps).limits(Limits::new().record_max(1 << 10))
}

/// A record of about 5 kB with these keys first.
fn large(mut keys: serde_json::Value, key: &str) -> String {
    keys[key] = "x".repeat(5000).into();
    says(keys)
}

// An answer of 20 MB was dropped, the reader of the turn waited without end, and the close took a
// second to interrupt an idle agent.
#[test]
fn oversized_result_ends_its_turn() {
    let named = r#"{"flood":1,"size":4096,"type":"result"}"#.to_owned();
    // The type stands behind the part that is kept of it.
    let unnamed = says(json!({"a": "x".repeat(4000), "type": "result"}));
    for (lost, bytes) in [(named, "4095 bytes"), (unnamed, "4024 bytes")] {
        let said = says(json!({"type": "assistant", "message": {"content": []}}));
        let steps =
            [HANDSHAKE, PROMPT, &said, &lost, PROMPT, &said, RESULT, PROMPT, &said, &lost, END];
        wait(async {
            let session =
                Session::builder().start(&engine(), limited(&steps)).await.expect("starts");
            session.send("one").await.expect("sent");
            let mut seen = 0;
            let error = session.read_turn(|_| seen += 1).await.expect_err("it is dropped");
            assert_eq!((error.kind(), seen), (ErrorKind::RecordTooLarge, 1), "{error}");
            let text = error.to_string();
            assert!(text.contains(bytes) && text.contains("raise Limits::record_max"), "{text}");
            assert!(text.contains("1024"), "the limit: {text}");
            session.send("two").await.expect("sent");
            session.read_turn(|_| ()).await.expect("the next turn has its result");
            session.send("three").await.expect("sent");
            session.read_turn(|_| ()).await.expect_err("it is dropped");
            let report = session.close().await;
            assert_played(&report);
            let interrupted =
                report.stages().iter().any(|(stage, _)| *stage == CloseStage::Interrupt);
            assert!(!interrupted, "{report}");
        });
    }
}

#[test]
fn malformed_result_ends_its_turn() {
    let steps = [
        HANDSHAKE,
        PROMPT,
        r#"{"raw":"{this is a log\n"}"#,
        r#"{"raw":"{\"type\":\"assistant\",\"n\":oops}\n"}"#,
        r#"{"raw":"{\"type\":\"result\",\"result\":oops}\n"}"#,
        END,
    ];
    wait(async {
        let session = Session::builder().start(&engine(), limited(&steps)).await.expect("starts");
        session.send("go").await.expect("sent");
        let error = session.read_turn(|_| ()).await.expect_err("no JSON");
        assert_eq!(error.kind(), ErrorKind::InvalidRecord, "{error}");
        assert!(error.to_string().contains("not valid JSON"), "{error}");
        let report = session.close().await;
        assert_played(&report);
        assert_eq!(session.as_session().metrics().agent.malformed, 3);
    });
}

// The caller waited for its timeout, and the error advised to make it longer.
#[test]
fn oversized_answer_fails_its_request() {
    let answer = json!({"subtype": "success", "request_id": "${id}"});
    let mut answered = json!({"type": "control_response", "response": answer});
    answered["response"]["response"] = json!({"x": "x".repeat(5000)});
    let asked = r#"{"expect":{"request_id":"${id}","request":{"subtype":"get_context_usage"}}}"#;
    let steps = [HANDSHAKE, asked, &says(answered), END];
    wait(async {
        let session = Session::builder().start(&engine(), limited(&steps)).await.expect("starts");
        let error = session.get_context_usage().await.expect_err("it is dropped");
        assert_eq!(error.kind(), ErrorKind::RecordTooLarge, "{error}");
        assert!(error.to_string().contains("`get_context_usage` was answered"), "{error}");
        assert_played(&session.close().await);
    });
    let asked = r#"{"expect":{"id":1,"method":"tools/list"}}"#;
    let answer = large(json!({"jsonrpc": "2.0", "id": 1}), "result");
    wait(async {
        let steps = [asked, &answer, END];
        let session =
            jsonrpc::Session::builder().start(&engine(), limited(&steps)).await.expect("starts");
        let error = session.request("tools/list", ()).await.expect_err("it is dropped");
        assert_eq!(error.kind(), ErrorKind::RecordTooLarge, "{error}");
        assert!(error.to_string().contains("raise Limits::record_max"), "{error}");
        assert_played(&session.close().await);
        let stats = session.as_session().metrics();
        assert_eq!((stats.settled, stats.pending, stats.late), (1, 0, 0));
    });
}

// The id of the dropped answer stands behind the part that is kept, so its request is not known.
#[test]
fn timeout_names_dropped_records() {
    let lost = says(json!({"a": "x".repeat(5000), "id": 1, "result": {}}));
    let steps = [r#"{"expect":{"id":1}}"#, &lost, r#"{"expect":{"id":2}}"#, END];
    wait(async {
        let session =
            jsonrpc::Session::builder().start(&engine(), limited(&steps)).await.expect("starts");
        let limit = Duration::from_millis(300);
        let error =
            session.as_session().request_with_timeout("a", (), limit).await.expect_err("dropped");
        assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
        let text = error.to_string();
        assert!(text.contains("a record of 5") && text.contains("Limits::record_max"), "{text}");
        // A record lost before a request is not its answer.
        let error =
            session.as_session().request_with_timeout("b", (), limit).await.expect_err("silent");
        assert!(!error.to_string().contains("record_max"), "{error}");
        assert_played(&session.close().await);
    });
}

// The agent requested the permission to write a large file, and waited without end. The keys stand
// in the order of the real CLI.
#[test]
fn oversized_agent_request_is_answered() {
    let ask = format!(
        r#"{{"send":{{"type":"control_request","request_id":"a\"b","request":{{"x":"{}"}}}}}}"#,
        "x".repeat(5000)
    );
    let refused = json!({"expect": {"type": "control_response", "response": {
        "subtype": "error", "request_id": "a\"b", "error": "${why}",
    }}});
    let told = says(json!({"type": "told", "why": "${why}"}));
    wait(async {
        let builder = Session::builder().can_use_tool(|_| async { Ok(Permission::allow()) });
        let steps = [HANDSHAKE, &ask, &refused.to_string(), &told, END];
        let session = builder.start(&engine(), limited(&steps)).await.expect("starts");
        assert!(matches!(session.next().await, Some(Event::Oversized(_))), "the reader sees it");
        let told = session.next_record().await.expect("the answer came");
        assert!(told.as_str().expect("text").contains("above Limits::record_max"), "{told:?}");
        assert_played(&session.close().await);
        assert_eq!(session.as_session().metrics().refused, 1);
    });
    let ask = large(json!({"jsonrpc": "2.0", "id": "q", "method": "edit"}), "params");
    wait(async {
        let steps = [&*ask, r#"{"expect":{"id":"q","error":{"message":"${_}"}}}"#, END];
        let session =
            jsonrpc::Session::builder().start(&engine(), limited(&steps)).await.expect("starts");
        assert!(matches!(session.next().await, Some(Event::Oversized(_))));
        assert_played(&session.close().await);
    });
}
