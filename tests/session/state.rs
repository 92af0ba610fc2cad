//! When a turn is over, and when the input may end: by the state that the CLI tells, over a real child.

use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use agentpipe::session::claude::{Permission, PermissionRequest, Session, UserMessage};
use agentpipe::session::{Settings, Task};
use agentpipe::{CloseReport, CloseStage, ErrorKind, Event, ExitStatus};
use serde_json::{Value, json};

use crate::support::dialogue::{ANSWER_ALL, HANDSHAKE, RESULT, assert_played, dialogue};
use crate::support::{engine, wait_until};
use crate::{asks, says, wait};

const PROMPT: &str = r#"{"expect":{"type":"user"}}"#;
const END: &str = r#"{"expect_end":true}"#;
/// A turn that is not one of a subagent's has begun.
const INIT: &str = r#"{"send":{"type":"system","subtype":"init","session_id":"s"}}"#;
const INTERRUPT: &str = concat!(
    r#"{"expect":{"type":"control_request","request_id":"${interrupt}","#,
    r#""request":{"subtype":"interrupt","cancel_queued":true}}}"#
);

/// The agent tells its state, to the host alone.
fn state(state: &str) -> String {
    says(json!({
        "type": "system", "subtype": "session_state_changed", "state": state,
        "sdk_host_only": true, "session_id": "s",
    }))
}

/// The agent answers the interrupt.
fn interrupted() -> String {
    says(json!({"type": "control_response", "response": {
        "subtype": "success", "request_id": "${interrupt}", "response": {"still_queued": []},
    }}))
}

fn task(subtype: &str, more: Value) -> String {
    let mut record = json!({"type": "system", "subtype": subtype, "task_id": "t"});
    for (key, value) in more.as_object().expect("keys") {
        record[key] = value.clone();
    }
    says(record)
}

/// A permission prompt, and the answer without which the dialogue does not go on.
fn permission(id: &str) -> String {
    asks(
        id,
        json!({"subtype": "can_use_tool", "tool_name": "Bash", "input": {}}),
        json!({"behavior": "allow"}),
    )
}

fn allowing() -> agentpipe::session::claude::Builder {
    Session::builder().can_use_tool(|_: PermissionRequest| async { Ok(Permission::allow()) })
}

/// Sends these prompts by both ways to end the input, and reads to the exit: how many results came?
fn one_shot(prompts: &'static [&'static str], steps: &[String]) -> usize {
    let counts = [true, false].map(|from_source| {
        wait(async {
            let mut results = 0;
            let session = allowing().start(&engine(), dialogue(steps)).await.expect("starts");
            if from_source {
                let mut source = prompts.iter().copied();
                let sent = session.send_all(async || source.next()).await.expect("sent");
                assert_eq!(sent, prompts.len() as u64);
            } else {
                for prompt in prompts {
                    session.send(*prompt).await.expect("sent");
                }
                session.end_input_when_done();
            }
            while let Some(event) = session.next().await {
                if let Event::Record(record) = event {
                    let text = record.as_str().expect("text");
                    assert!(!text.contains("session_state_changed"), "for the host alone: {text}");
                    results += usize::from(text.contains("\"result\""));
                }
            }
            assert_played(&session.as_session().closed().await);
            results
        })
    });
    assert_eq!(counts[0], counts[1]);
    counts[0]
}

fn steps<'a>(list: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    list.into_iter().map(str::to_owned).collect()
}

// The background agent was done before the first result, so nothing was in flight when that came.
// The input ended, and the prompt of the next turn failed with "Stream closed".
#[test]
fn prompt_after_a_background_agent_is_answered() {
    let (running, idle) = (state("running"), state("idle"));
    let begun = task("task_started", json!({"task_type": "local_agent"}));
    let done = task("task_updated", json!({"patch": {"status": "completed"}}));
    let (asks, answered) = (state("requires_action"), permission("a"));
    let script = [
        HANDSHAKE,
        PROMPT,
        &running,
        INIT,
        &begun,
        &done,
        RESULT,
        r#"{"delay":1200}"#,
        INIT,
        &asks,
        &answered,
        &running,
        RESULT,
        &idle,
        END,
    ];
    assert_eq!(one_shot(&["go"], &steps(script)), 2);
}

// The input of two prompts ended with the result of the first.
#[test]
fn every_prompt_has_its_run() {
    let (running, idle) = (state("running"), state("idle"));
    let asked = permission("a");
    // The prompts have a run each; they have one together; the CLI tells no state.
    let apart = [&*running, INIT, RESULT, &idle, PROMPT, &running, INIT, &asked, RESULT];
    let queued = [PROMPT, &running, INIT, RESULT, INIT, &asked, RESULT];
    let silent = [INIT, RESULT, PROMPT, r#"{"delay":100}"#, INIT, &asked, RESULT];
    for (turns, states) in [(&apart[..], true), (&queued, true), (&silent, false)] {
        let mut script = vec![HANDSHAKE, PROMPT];
        script.extend(turns);
        script.extend(states.then_some(&*idle));
        script.push(END);
        assert_eq!(one_shot(&["one", "two"], &steps(script)), 2);
    }
}

#[test]
fn prompts_sharing_a_run_end_the_input() {
    let (running, idle) = (state("running"), state("idle"));
    let script = [HANDSHAKE, PROMPT, PROMPT, &running, INIT, RESULT, &idle, END];
    assert_eq!(one_shot(&["one", "two"], &steps(script)), 1);
    let silent = [HANDSHAKE, PROMPT, PROMPT, INIT, RESULT, END];
    assert_eq!(one_shot(&["one", "two"], &steps(silent)), 1);
}

// The answer to a hook that outlives its turn found the input ended.
#[test]
fn open_request_keeps_the_input_open() {
    wait(async {
        let builder = Session::builder().handle("slow", |_| async {
            tokio::time::sleep(Duration::from_millis(200)).await;
            Ok(json!({"done": true}))
        });
        let runtime = tokio::runtime::Handle::current();
        let settings = Settings::new();
        let builder = builder.settings(settings.executor(move |task| drop(runtime.spawn(task))));
        let ask = says(json!({
            "type": "control_request", "request_id": "a", "request": {"subtype": "slow"},
        }));
        let answer = r#"{"expect":{"response":{"request_id":"a","response":{"done":true}}}}"#;
        let script = [HANDSHAKE, PROMPT, INIT, &ask, RESULT, answer, END];
        let session = builder.start(&engine(), dialogue(&script)).await.expect("starts");
        session.send("go").await.expect("sent");
        session.end_input_when_done();
        assert_played(&session.as_session().closed().await);
    });
}

#[test]
fn running_cli_keeps_its_input_up_to_the_limit() {
    let (running, idle) = (state("running"), state("idle"));
    let (begun, over) = (
        task("task_started", json!({"task_type": "local_agent"})),
        task("task_notification", json!({"status": "completed"})),
    );
    let quiet = r#"{"quiet":600}"#;
    // Neither a turn, nor a request, nor a task that is known counts, however long it takes.
    let asked = format!("{}\n{}", state("requires_action"), permission("a"));
    let cases: [&[&str]; 3] = [
        &[RESULT, INIT, quiet, RESULT],
        &[RESULT, &asked, quiet, RESULT],
        &[&begun, RESULT, quiet, &over, INIT, RESULT],
    ];
    for case in cases {
        let mut script = vec![HANDSHAKE, PROMPT, &running, INIT];
        script.extend(case);
        script.extend([&*idle, END]);
        wait(async {
            let builder = allowing().background_wait(Duration::from_millis(300));
            let session = builder.start(&engine(), dialogue(&script)).await.expect("starts");
            session.send("go").await.expect("sent");
            session.end_input_when_done();
            assert_played(&session.as_session().closed().await);
        });
    }
    // It is never idle, and says nothing more.
    wait(async {
        let script = [HANDSHAKE, PROMPT, &running, INIT, RESULT, END];
        let builder = allowing().background_wait(Duration::from_millis(50));
        let session = builder.start(&engine(), dialogue(&script)).await.expect("starts");
        session.send("go").await.expect("sent");
        session.end_input_when_done();
        assert_played(&session.as_session().closed().await);
    });
}

fn stages(report: &CloseReport) -> Vec<CloseStage> {
    report.stages().iter().map(|(stage, _)| *stage).collect()
}

/// The close of a session whose agent plays these steps after the prompt, once it has said `"mark"`.
async fn close_after(session: &Session) -> CloseReport {
    session.send("go").await.expect("sent");
    loop {
        let record = session.next_record().await.expect("the mark comes");
        if record.as_str().expect("text").contains("\"mark\"") {
            return session.close().await;
        }
    }
}

// The close interrupted the turn, and the real CLI began another one for the queued prompts; beside
// a background agent it missed the interrupt and stayed.
#[test]
fn close_interrupts_queued_and_background_work() {
    let (running, idle, mark) = (state("running"), state("idle"), says(json!({"type": "mark"})));
    let interrupted = interrupted();
    let begun = task("task_started", json!({"task_type": "local_agent"}));
    let stopped = task("task_updated", json!({"patch": {"status": "killed"}}));
    let withdrawn = says(json!({"type": "control_cancel_request", "request_id": "a"}));
    let ask = says(json!({
        "type": "control_request", "request_id": "a",
        "request": {"subtype": "can_use_tool", "tool_name": "Bash", "input": {}},
    }));
    let asking = state("requires_action");
    let cases: [&[&str]; 6] = [
        // In a turn, and before two more that are cancelled.
        &[PROMPT, PROMPT, &running, INIT, &mark, INTERRUPT, &interrupted, RESULT, &idle, END],
        &[&running, INIT, &mark, INTERRUPT, &interrupted, RESULT, &idle, END],
        // Between turns, with another one to come.
        &[&running, INIT, RESULT, &mark, INTERRUPT, &interrupted, &idle, END],
        // Beside a background agent, of a CLI that tells its state and of one that does not.
        &[&running, &begun, RESULT, &mark, INTERRUPT, &stopped, &interrupted, &idle, END],
        &[&begun, RESULT, &mark, INTERRUPT, &interrupted, END],
        // While the agent waits for a permission.
        &[
            &running,
            INIT,
            &asking,
            &ask,
            &mark,
            INTERRUPT,
            &withdrawn,
            &interrupted,
            &running,
            RESULT,
            &idle,
            END,
        ],
    ];
    for case in cases {
        let mut script = vec![HANDSHAKE, PROMPT];
        script.extend(case);
        wait(async {
            let builder = Session::builder().can_use_tool(|_| std::future::pending());
            let session = builder.start(&engine(), dialogue(&script)).await.expect("starts");
            for _ in case.iter().filter(|step| **step == PROMPT) {
                session.send("queued").await.expect("sent");
            }
            let report = close_after(&session).await;
            assert_played(&report);
            let stages = report.stages();
            let (_, spent) = stages
                .iter()
                .find(|(stage, _)| *stage == CloseStage::Interrupt)
                .expect("it was interrupted");
            assert!(*spent < Duration::from_secs(1), "the turn was over: {report}");
            assert_eq!(session.as_session().metrics().late, 0, "no answer to a request");
        });
    }
}

#[test]
fn close_of_an_idle_agent_sends_no_interrupt() {
    let (running, idle, mark) = (state("running"), state("idle"), says(json!({"type": "mark"})));
    let cases: [&[&str]; 3] =
        [&[&running, INIT, RESULT, &idle, &mark], &[INIT, RESULT, &mark], &[INIT, &idle, &mark]];
    for case in cases {
        let mut script = vec![HANDSHAKE, PROMPT];
        script.extend(case);
        script.push(END);
        wait(async {
            let session = allowing().start(&engine(), dialogue(&script)).await.expect("starts");
            let report = close_after(&session).await;
            assert_played(&report);
            assert!(!stages(&report).contains(&CloseStage::Interrupt), "{report}");
        });
    }
}

// After its last allowed turn the CLI was idle and sent no result. The reader of the turn waited
// without end.
#[test]
fn turn_without_a_result_ends() {
    let visible = r#"{"send":{"type":"system","subtype":"session_state_changed","state":"idle"}}"#;
    for idle in [state("idle"), visible.to_owned()] {
        let said = says(json!({"type": "assistant", "message": {"content": []}}));
        let turn = [PROMPT, &said, RESULT];
        let mut script = vec![HANDSHAKE, ANSWER_ALL, PROMPT, &said, &idle];
        script.extend(turn);
        wait(async {
            let session = allowing().start(&engine(), dialogue(&script)).await.expect("starts");
            session.send("go").await.expect("sent");
            let mut seen = 0;
            let error = session.read_turn(|_| seen += 1).await.expect_err("no result");
            assert_eq!(error.kind(), ErrorKind::NoResult, "{error}");
            assert!(error.to_string().contains("idle"), "{error}");
            assert_eq!(seen, if idle == visible { 2 } else { 1 });
            // The next turn is separate.
            session.send("again").await.expect("sent");
            session.read_turn(|_| ()).await.expect("a result");
            let report = session.close().await;
            assert_played(&report);
            assert_eq!(session.next().await, Some(Event::Exit(ExitStatus::Code(0))));
        });
    }
}

// A turn that began before the session was bound to its input was not interrupted by the close. The agent
// of a pool may have one.
#[test]
fn turn_before_the_attach_is_interrupted() {
    let (running, idle, interrupted) = (state("running"), state("idle"), interrupted());
    let script = [&running, INIT, HANDSHAKE, INTERRUPT, &interrupted, RESULT, &idle, END];
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let handle = runtime.handle().clone();
    // The reader has routed the turn before `attach` goes on.
    let settings = Settings::new().executor(move |mut task: Task| {
        let _more = task.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        drop(handle.spawn(task));
    });
    let engine = engine();
    wait(async {
        let agent = engine.spawn(dialogue(&script)).await.expect("spawns");
        wait_until("the turn has begun", || agent.stats().records_in == 2);
        let session = Session::builder().settings(settings).attach(agent).expect("attached");
        session.initialize().await.expect("answered");
        let report = session.close().await;
        assert_played(&report);
        assert!(stages(&report).contains(&CloseStage::Interrupt), "{report}");
    });
}

// The message begins no turn: a close that interrupted one, and an end of the input that waited for one,
// took their whole limit.
#[test]
fn message_without_a_query_opens_no_turn() {
    let silent = r#"{"expect":{"type":"user","shouldQuery":false}}"#;
    let mark = says(json!({"type": "mark"}));
    wait(async {
        for by_end in [false, true] {
            let script = [HANDSHAKE, silent, &mark, END];
            let session = allowing().start(&engine(), dialogue(&script)).await.expect("starts");
            let message = UserMessage::text("for later").should_query(false);
            session.send(message).await.expect("sent");
            session.next_record().await.expect("it has it");
            let report = if by_end {
                session.end_input_when_done();
                session.closed().await
            } else {
                session.close().await
            };
            assert_played(&report);
            assert!(!stages(&report).contains(&CloseStage::Interrupt), "{report}");
        }
    });
}

// The agent left before it was clear that its turn had no result. The error of the turn has to be the exit,
// and the exit the last event.
#[test]
fn exit_is_the_last_event_of_a_turn_without_a_result() {
    let said = says(json!({"type": "assistant", "message": {"content": []}}));
    let script = [HANDSHAKE, PROMPT, &said, &state("idle"), r#"{"exit":0}"#];
    wait(async {
        let session = allowing().start(&engine(), dialogue(&script)).await.expect("starts");
        session.send("go").await.expect("sent");
        session.closed().await;
        // Longer than the wait for a result after `idle`: nothing more may come of it.
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_millis(400) {
            std::thread::yield_now();
        }
        let error = session.read_turn(|_| ()).await.expect_err("it left");
        assert_eq!(error.kind(), ErrorKind::Closed, "{error}");
    });
}
