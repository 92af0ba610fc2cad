//! A session that stays open for many turns: its messages, its requests, and its end.

use std::panic::{AssertUnwindSafe, catch_unwind};

use agentpipe::session::claude::{MessagePriority, Session, UserMessage};
use agentpipe::{Engine, Error, ErrorKind, Event, ExitStatus};
use serde_json::{Value, json};

use crate::support::dialogue::{ANSWER_ALL, HANDSHAKE, RESULT, assert_played, dialogue};
use crate::support::engine;
use crate::{SOON, says, start, wait};

fn must_be_send<T: Send>(future: T) -> T {
    future
}

/// Until no agent has a handle any more.
fn await_no_agent(engine: &Engine) {
    let begun = std::time::Instant::now();
    while engine.agents() > 0 {
        assert!(begun.elapsed() < SOON, "{} are left", engine.agents());
        std::thread::yield_now();
    }
}

// An error or a panic leaves the scope, and the agent goes with the session.
#[test]
fn leaving_the_scope_closes_the_session() {
    let engine = engine();
    let steps = [HANDSHAKE, r#"{"expect_end":true}"#];
    wait(async {
        let session = start(&engine, &steps).await;
        assert!(session.as_session().pid() > 0);
        assert_eq!(session.server_info().expect("asked").record.as_bytes(), br#"{"commands":[]}"#);
        assert_played(&session.close().await);
        assert!(session.server_info().is_some(), "it is kept");
        let agent = engine.spawn(dialogue(&steps)).await.expect("spawns");
        let by_hand = Session::builder().attach(agent).expect("attached");
        assert!(by_hand.server_info().is_none(), "nothing was asked yet");
        assert_eq!(
            by_hand.initialize().await.expect("answered").record.as_bytes(),
            br#"{"commands":[]}"#
        );
        assert!(by_hand.server_info().is_some());
        assert_played(&by_hand.close().await);
    });
    let body = AssertUnwindSafe(engine.clone());
    let left = catch_unwind(move || {
        wait(async {
            let session = start(&body, &[HANDSHAKE, r#"{"delay":60000}"#]).await;
            session.send("go").await.expect("sent");
            panic!("a bug of the host in the body");
        });
    });
    assert!(left.is_err());
    await_no_agent(&engine);
    assert_eq!(engine.abandoned(), 1, "counted, and aborted");
}

// A prompt given at the start is sent, so are those of a source, with the right frame and session
// id.
#[test]
fn user_messages_have_the_cli_form() {
    let own = json!({"type": "text", "text": "h\u{fc}bsch\n"});
    let user = |content: Value, session: &str, parent: Value| {
        json!({
            "type": "user", "message": {"role": "user", "content": content},
            "parent_tool_use_id": parent, "session_id": session,
        })
    };
    let wanted = [
        user("in words".into(), "default", Value::Null),
        user(json!([own]), "mine", "toolu_1".into()),
        user("first".into(), "default", Value::Null),
        user("second".into(), "", Value::Null),
        json!({
            "type": "user", "message": {"role": "user", "content": "all"},
            "parent_tool_use_id": null, "session_id": "default", "uuid": "u-1",
            "priority": "later", "shouldQuery": true, "timestamp": "2026-01-02T03:04:05Z",
            "client_composed": true, "origin": {"kind": "human"}, "isSynthetic": false,
        }),
    ];
    let steps = [
        HANDSHAKE,
        concat!(
            r#"{"repeat":5,"steps":[{"expect":"${frame}"},"#,
            r#"{"send":{"type":"seen","frame":"${frame}"}}]}"#
        ),
    ];
    wait(async {
        let session = start(&engine(), &steps).await;
        session.send("in words").await.expect("sent");
        let blocks = UserMessage::blocks([&own]).session_id("mine").parent_tool_use_id("toolu_1");
        session.send(blocks).await.expect("sent");
        let all = UserMessage::text("all")
            .uuid("u-1")
            .priority(MessagePriority::Later)
            .should_query(true)
            .timestamp("2026-01-02T03:04:05Z")
            .client_composed(true)
            .origin(json!({"kind": "human"}))
            .synthetic(false);
        let mut source =
            vec![UserMessage::text("first"), UserMessage::text("second").session_id(""), all]
                .into_iter();
        let sending = must_be_send(session.send_all(async move || source.next()));
        assert_eq!(sending.await.expect("sent"), 3);
        for frame in wanted {
            let seen: Value = session.next_record().await.expect("seen").json().unwrap();
            assert_eq!(seen["frame"], frame);
        }
        assert_played(&session.close().await);
    });
}

/// Each request, what stands on the wire beside its subtype, and how it ended.
async fn each_request(session: &Session) -> [(Value, Result<agentpipe::Record, Error>); 11] {
    let keys = |subtype: &str, keys: Value| {
        let mut request = json!({"subtype": subtype});
        for (key, value) in keys.as_object().expect("keys") {
            request[key] = value.clone();
        }
        request
    };
    [
        (keys("interrupt", json!({})), session.interrupt().await.map(|answer| answer.record)),
        (
            keys("set_permission_mode", json!({"mode": "plan"})),
            session.set_permission_mode("plan").await,
        ),
        (keys("set_model", json!({"model": "m"})), session.set_model(Some("m")).await),
        (keys("set_model", json!({"model": null})), session.set_model(None).await),
        (
            keys("rewind_files", json!({"user_message_id": "u"})),
            session.rewind_files("u").await.map(|it| it.record),
        ),
        (keys("mcp_status", json!({})), session.mcp_status().await),
        (keys("mcp_reconnect", json!({"serverName": "s"})), session.mcp_reconnect("s").await),
        (
            keys("mcp_toggle", json!({"serverName": "s", "enabled": true})),
            session.mcp_toggle("s", true).await,
        ),
        (
            keys("mcp_toggle", json!({"serverName": "s", "enabled": false})),
            session.mcp_toggle("s", false).await,
        ),
        (keys("stop_task", json!({"task_id": "t"})), session.stop_task("t").await),
        (keys("get_context_usage", json!({})), session.get_context_usage().await),
    ]
}

// The agent ignores a request with a key in the wrong case.
#[test]
fn requests_have_the_cli_keys() {
    let echo = concat!(
        r#"{"on":{"type":"control_request","request_id":"${id}","request":"${request}"},"#,
        r#""send":{"type":"control_response","response":{"subtype":"success","#,
        r#""request_id":"${id}","response":{"got":"${request}"}}}}"#
    );
    wait(async {
        let session = start(&engine(), &[HANDSHAKE, echo]).await;
        for (request, answer) in each_request(&session).await {
            let answer: Value = answer.expect("answered").json().unwrap();
            assert_eq!(answer, json!({"got": request}), "exactly these keys");
        }
        let news = session.request("to_come", json!({"a": [1]})).await.expect("answered");
        let wanted = json!({"got": {"subtype": "to_come", "a": [1]}});
        assert_eq!(news.json::<Value>().unwrap(), wanted);
        assert_played(&session.close().await);
    });
}

// Each method checks that the session is open.
#[test]
fn closed_session_fails_every_call_at_once() {
    wait(async {
        let session = start(&engine(), &[HANDSHAKE]).await;
        let report = session.close().await;
        assert_played(&report);
        let mut errors = vec![
            session.initialize().await.expect_err("closed"),
            session.send("x").await.expect_err("closed"),
            session.send_all(async || Some("x")).await.expect_err("closed"),
            session.request("x", ()).await.expect_err("closed"),
            session.request_with_timeout("x", (), None).await.expect_err("closed"),
        ];
        for (request, outcome) in each_request(&session).await {
            errors.push(outcome.expect_err(&request.to_string()));
        }
        for error in errors {
            assert_eq!(error.kind(), ErrorKind::Closed, "{error}");
            assert!(error.agent().is_some_and(|agent| agent.contains("pid ")), "{error}");
        }
        assert_eq!(session.next().await, Some(Event::Exit(ExitStatus::Code(0))));
        assert_eq!((session.next().await, session.next_record().await), (None, None));
        let error = session.read_turn(|_| ()).await.expect_err("there is no further turn");
        assert_eq!(error.kind(), ErrorKind::Closed, "{error}");
        session.end_input();
        session.end_input_when_done();
        assert_eq!(session.close().await, report, "a second close is the first one's report");
        assert_eq!(session.as_session().metrics().pending, 0);
    });
}

#[test]
fn requests_after_end_input_fail_at_once() {
    let steps = [HANDSHAKE, r#"{"expect_end":true}"#, RESULT, r#"{"delay":60000}"#];
    wait(async {
        let session = start(&engine(), &steps).await;
        session.end_input();
        let error = session.interrupt().await.expect_err("nothing can be said");
        assert_eq!(error.kind(), ErrorKind::InputEnded, "{error}");
        let error = session.send("x").await.expect_err("nothing can be said");
        assert_eq!(error.kind(), ErrorKind::InputEnded, "{error}");
        assert!(session.read_turn(|_| ()).await.is_ok(), "reading goes on");
        assert_ne!(session.abort().await.exit(), ExitStatus::StillRunning);
    });
}

// A turn is read up to its result and no further; later messages stay readable.
#[test]
fn turn_ends_with_its_result() {
    let text = |number: usize| json!({"type": "assistant", "number": number});
    let turn = r#"{"repeat":300,"steps":[{"send":{"type":"assistant","number":"${i}"}}]}"#;
    let after = says(text(7));
    wait(async {
        let session = start(&engine(), &[HANDSHAKE, turn, RESULT, &after, RESULT]).await;
        let mut numbers = Vec::new();
        let number = |record: &agentpipe::Record| record.json::<Value>().unwrap()["number"].clone();
        let result = session.read_turn(|record| numbers.push(number(record))).await;
        assert!(result.expect("a result").as_str().unwrap().contains("\"subtype\":\"success\""));
        assert_eq!(numbers, (0..300).map(Value::from).collect::<Vec<_>>());
        numbers.clear();
        assert!(session.read_turn(|record| numbers.push(number(record))).await.is_ok());
        assert_eq!(numbers, [7]);
        assert_played(&session.close().await);
    });
}

// Both run from their own threads, and neither waits for the other.
#[test]
fn send_and_receive_run_concurrently() {
    const TURNS: usize = 200;
    let echo = concat!(
        r#"{"repeat":200,"steps":[{"expect":{"message":{"content":"${text}"}}},"#,
        r#"{"send":{"type":"assistant","text":"${text}"}},{"send":{"type":"result"}}]}"#
    );
    let session = wait(start(&engine(), &[HANDSHAKE, echo]));
    let sender = session.clone();
    let sending = std::thread::spawn(move || {
        wait(async {
            for number in 0..TURNS {
                sender.send(format!("{number}")).await.expect("sent");
            }
        });
    });
    wait(async {
        for number in 0..TURNS {
            let mut seen = Vec::new();
            let result = session.read_turn(|record| seen.push(record.clone())).await;
            assert!(result.is_ok(), "{number}: {:?}", session.close_reason());
            let text: Value = seen[0].json().unwrap();
            assert_eq!((seen.len(), &text["text"]), (1, &Value::from(number.to_string())));
        }
        sending.join().expect("all sent");
        assert_played(&session.close().await);
    });
}

// A second start is a second agent; one that was never initialized is closed like any other.
#[test]
fn one_builder_starts_separate_agents() {
    let engine = engine();
    let builder = Session::builder();
    wait(async {
        let first = builder.clone().start(&engine, dialogue(&[ANSWER_ALL])).await.expect("starts");
        let second = builder.clone().start(&engine, dialogue(&[ANSWER_ALL])).await.expect("starts");
        assert_ne!(first.as_session().pid(), second.as_session().pid());
        assert_played(&first.close().await);
        second.interrupt().await.expect("it is another agent");
        assert_played(&second.close().await);
        let agent = engine.spawn(dialogue(&[ANSWER_ALL])).await.expect("spawns");
        let never = builder.attach(agent).expect("attached");
        assert_played(&never.close().await);
    });
}

// The source waits for the first answer before it gives the second prompt.
#[test]
fn source_of_two_prompts_is_a_conversation() {
    let turn = concat!(
        r#"{"repeat":2,"steps":[{"expect":{"type":"user","message":{"content":"${text}"}}},"#,
        r#"{"send":{"type":"assistant","text":"${text}"}},{"send":{"type":"result"}}]}"#
    );
    wait(async {
        let session = start(&engine(), &[HANDSHAKE, turn, r#"{"expect_end":true}"#]).await;
        let (mut number, reader, mut results) = (0, session.clone(), Vec::new());
        let sent = session.send_all(async || {
            if number > 0 {
                let mut said = String::new();
                reader.read_turn(|record| said = record.as_str().unwrap().to_owned()).await.ok()?;
                results.push(said);
            }
            number += 1;
            ["one", "two"].get(number - 1).copied()
        });
        assert_eq!(sent.await.expect("sent"), 2);
        let wanted =
            ["one", "two"].map(|text| format!(r#"{{"type":"assistant","text":"{text}"}}"#));
        assert_eq!(results, wanted);
        assert_eq!(session.next().await, Some(Event::Exit(ExitStatus::Code(0))), "by itself");
    });
}
