//! When the input of a Claude Code session ends: after the result, as long as a handler may be needed.

use std::time::Duration;

use agentpipe::session::claude::{Builder, HookOutput, Permission, Session, UserMessage};
use agentpipe::session::{AgentRequest, Settings};
use agentpipe::{ErrorKind, Event, ExitStatus};
use serde_json::{Value, json};

use crate::support::dialogue::{HANDSHAKE, RESULT, assert_played, dialogue};
use crate::support::engine;
use crate::{asks, says, wait};

const PROMPT: &str = r#"{"expect":{"type":"user"}}"#;
const END: &str = r#"{"expect_end":true}"#;

/// Every kind of handler, alone: each has to keep the input open while a turn may ask it.
fn handlers() -> [(Builder, Value, Value); 4] {
    let rpc = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list"});
    let tools = json!({"jsonrpc": "2.0", "id": 1, "result": {"tools": []}});
    [
        (
            Session::builder().mcp_server("calc", |_| async { Ok(json!({"tools": []})) }),
            json!({"subtype": "mcp_message", "server_name": "calc", "message": rpc}),
            json!({"mcp_response": tools}),
        ),
        (
            Session::builder().hook("Stop", |_| async { Ok(HookOutput::new()) }),
            json!({"subtype": "hook_callback", "callback_id": "hook_0", "input": {}}),
            json!({}),
        ),
        (
            Session::builder().can_use_tool(|_| async { Ok(Permission::allow()) }),
            json!({"subtype": "can_use_tool", "tool_name": "Bash", "input": {"a": 1}}),
            json!({"behavior": "allow", "updatedInput": {"a": 1}}),
        ),
        (
            Session::builder().handle("news", |_: AgentRequest| async { Ok(json!({"ok": true})) }),
            json!({"subtype": "news"}),
            json!({"ok": true}),
        ),
    ]
}

/// Sends the prompt, as text or from a source, lets the input end and reads to the exit.
async fn one_shot(builder: Builder, steps: &[String], from_source: bool) -> Vec<String> {
    let session = builder.start(&engine(), dialogue(steps)).await.expect("starts");
    if from_source {
        let mut source = Some("go").into_iter();
        assert_eq!(session.send_all(async || source.next()).await.expect("sent"), 1);
    } else {
        session.send("go").await.expect("sent");
        session.end_input_when_done();
    }
    let mut messages = Vec::new();
    loop {
        match session.next().await.expect("an exit comes first") {
            Event::Record(record) => messages.push(record.as_str().expect("text").to_owned()),
            Event::Exit(status) => {
                assert_eq!(status, ExitStatus::Code(0), "{:?}", session.close_reason());
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    assert_played(&session.as_session().closed().await);
    messages
}

fn steps(list: &[&str]) -> Vec<String> {
    list.iter().map(|step| (*step).to_owned()).collect()
}

// An option that is not set is not sent, and hooks are null if there are none.
#[test]
fn options_reach_the_handshake_both_ways() {
    let told =
        HANDSHAKE.replace(r#""request":{"subtype":"initialize"}"#, r#""request":"${asked}""#);
    let echo = says(json!({"type": "seen", "asked": "${asked}"}));
    let plain = Session::builder();
    let full = plain
        .clone()
        .option("excludeDynamicSections", true)
        .option("skills", ["pdf", "docx"])
        .option("forwardSubagentText", true)
        .option("agents", json!({"critic": {"description": "d", "prompt": "p"}}));
    for (builder, wanted) in [
        (plain, json!({"subtype": "initialize", "hooks": null})),
        (
            full,
            json!({
                "subtype": "initialize", "hooks": null, "excludeDynamicSections": true,
                "skills": ["pdf", "docx"], "forwardSubagentText": true,
                "agents": {"critic": {"description": "d", "prompt": "p"}},
            }),
        ),
    ] {
        for by_hand in [false, true] {
            let (builder, wanted) = (builder.clone(), wanted.clone());
            let command = dialogue(&[&told, &echo]);
            wait(async {
                let session = if by_hand {
                    let agent = engine().spawn(command).await.expect("spawns");
                    let session = builder.attach(agent).expect("attached");
                    session.initialize().await.expect("answered");
                    session
                } else {
                    builder.start(&engine(), command).await.expect("starts")
                };
                let seen: Value = session.next_record().await.expect("seen").json().unwrap();
                assert_eq!(seen["asked"], wanted);
                assert_played(&session.close().await);
            });
        }
    }
}

// With stdin closed right after the prompt, the first hook, tool or permission prompt of the turn
// met a closed stream.
#[test]
fn handlers_keep_the_input_open() {
    for from_source in [false, true] {
        for (builder, request, answer) in handlers() {
            let mut script = steps(&[HANDSHAKE, PROMPT]);
            script.extend([asks("1", request.clone(), answer.clone()), asks("2", request, answer)]);
            script.extend(steps(&[RESULT, END]));
            let messages = wait(one_shot(builder, &script, from_source));
            assert_eq!(messages.len(), 1, "the result, and nothing of the requests");
        }
    }
}

// The agent of this dialogue answers only after the end of its input.
#[test]
fn input_ends_at_once_without_handlers() {
    for from_source in [false, true] {
        let script = steps(&[HANDSHAKE, PROMPT, END, RESULT]);
        assert_eq!(wait(one_shot(Session::builder(), &script, from_source)).len(), 1);
    }
}

// 60 s were not enough for a long session with hooks, and ended its input in the middle. Every
// timeout of this session passes many times before the agent sends its request.
#[test]
fn wait_for_the_result_has_no_deadline() {
    let settings = Settings::new().request_timeout(Duration::from_millis(10));
    for (builder, request, answer) in handlers() {
        let builder = builder.settings(settings.clone());
        let builder = builder.initialize_timeout(Duration::from_secs(10));
        let mut script = steps(&[HANDSHAKE, PROMPT, r#"{"delay":200}"#]);
        script.extend([asks("1", request, answer), RESULT.into(), END.into()]);
        assert_eq!(wait(one_shot(builder, &script, false)).len(), 1);
    }
}

// A background agent works on after the result; with stdin closed its hooks were bypassed. Both
// records that report the end of a task count.
#[test]
fn running_task_keeps_the_input_open() {
    let done = json!({"status": "completed", "output_file": "f", "summary": "s"});
    let [notified, updated] =
        [("task_notification", done), ("task_updated", json!({"patch": {"status": "failed"}}))]
            .map(|(subtype, mut record)| {
                record["type"] = "system".into();
                record["subtype"] = subtype.into();
                record["task_id"] = "t".into();
                says(record)
            });
    let started = says(json!({
        "type": "system", "subtype": "task_started", "task_id": "t", "task_type": "local_agent",
    }));
    for over in [notified, updated] {
        let [_, (builder, request, answer), ..] = handlers();
        let ask = |id: &str| asks(id, request.clone(), answer.clone());
        let script = [
            HANDSHAKE.into(),
            PROMPT.into(),
            started.clone(),
            RESULT.into(),
            ask("after the result"),
            over,
            ask("in the turn that the task begins"),
            RESULT.into(),
            END.into(),
        ];
        assert_eq!(wait(one_shot(builder, &script, false)).len(), 4);
    }
}

// A shell, a monitor or a teammate may run without end, and so may a snapshot of them; the first
// result ends the input all the same.
#[test]
fn endless_tasks_do_not_keep_the_input_open() {
    let started = |kind: Value| {
        says(json!({
            "type": "system", "subtype": "task_started", "task_id": "t", "task_type": kind,
        }))
    };
    let snapshot = json!({
        "type": "system", "subtype": "background_tasks_changed",
        "tasks": [{"task_id": "z", "task_type": "local_agent", "status": "running"}],
    });
    let mut script = steps(&[HANDSHAKE, PROMPT]);
    for kind in ["local_bash", "monitor_mcp", "in_process_teammate", "remote_agent"] {
        script.push(started(kind.into()));
    }
    script.extend([started(Value::Null), started(json!(7)), says(snapshot)]);
    script.extend(steps(&[RESULT, END]));
    let [_, (builder, ..), ..] = handlers();
    assert_eq!(wait(one_shot(builder, &script, false)).len(), 8);
}

// An error in the host's source left the turn without its input, or the agent waiting for a prompt.
#[test]
fn failed_prompt_source_completes_the_turn() {
    let [_, (builder, request, answer), ..] = handlers();
    let broken = || UserMessage::blocks(std::collections::BTreeMap::from([([1, 2], 3)]));
    let mut script = steps(&[HANDSHAKE, PROMPT]);
    script.extend([asks("1", request, answer), RESULT.into(), END.into()]);
    wait(async {
        let start = async |steps: &[String]| {
            builder.clone().start(&engine(), dialogue(steps)).await.expect("starts")
        };
        // The source fails after one message.
        let session = start(&script).await;
        let mut source = [Ok("go"), Err("the queue is gone")].into_iter();
        let mut why = None;
        let sent =
            session.send_all(async || source.next()?.map_err(|error| why = Some(error)).ok());
        assert_eq!(sent.await.expect("sent"), 1);
        assert_eq!(why, Some("the queue is gone"), "it is the host's to tell");
        assert!(session.read_turn(|_| ()).await.is_ok());
        assert_played(&session.as_session().closed().await);
        // A message that cannot be sent, after one that was.
        let session = start(&script).await;
        let mut source = [UserMessage::text("go"), broken()].into_iter();
        let error = session.send_all(async || source.next()).await.expect_err("no JSON");
        assert_eq!(error.kind(), ErrorKind::InvalidRecord, "{error}");
        assert!(session.read_turn(|_| ()).await.is_ok());
        assert_played(&session.as_session().closed().await);
        // Nothing at all was sent: there is nothing to wait for.
        for first in [None, Some(broken())] {
            let session = start(&steps(&[HANDSHAKE, END])).await;
            let mut source = first.into_iter();
            drop(session.send_all(async || source.next()).await);
            assert_played(&session.as_session().closed().await);
        }
    });
}
