//! Sessions of a host that does not run for a while: stopped by a debugger, `docker pause` or a
//! terminal. Each test stops its whole process, so it has its own.

use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::PROGRAM;
use crate::support::own_process::{alone, test_name};
use agentpipe::session::{claude, jsonrpc};
use agentpipe::{AgentCommand, Engine, ErrorKind};
use serde_json::{Value, json};

/// How long the host stands still, and the deadline of its requests.
const STOP: Duration = Duration::from_millis(1500);
const DEADLINE: Duration = Duration::from_millis(1000);

/// Stops this process. Returns when it goes on.
fn stand_still() {
    let begun = Instant::now();
    let script = format!("kill -STOP {0}; sleep {1}; kill -CONT {0}", std::process::id(), 1.5);
    let mut helper = Command::new("sh").args(["-c", &script]).spawn().expect("a shell");
    helper.wait().expect("it ends");
    assert!(begun.elapsed() >= STOP, "the host stood still");
}

/// An agent that answers requests of JSON-RPC after a delay in milliseconds.
fn answers_after(millis: u64) -> AgentCommand {
    let rule = json!({
        "on": {"id": "${id}", "method": "ask"}, "after": millis,
        "send": {"jsonrpc": "2.0", "id": "${id}", "result": {}},
    });
    let silence = json!({"on": {"method": "silence"}, "steps": []});
    AgentCommand::new(PROGRAM)
        .args(["fake", "--step", &rule.to_string()])
        .args(["--step", &silence.to_string()])
}

/// Waits until the request of another thread is on its way.
fn wait_for_request(session: &jsonrpc::Session) {
    let begun = Instant::now();
    while session.as_session().metrics().asked == 0 {
        assert!(begun.elapsed() < Duration::from_secs(10), "no request");
        std::thread::yield_now();
    }
}

#[test]
fn stopped_time_is_not_charged_to_the_agent() {
    if !alone(test_name!()) {
        return;
    }
    let engine = Engine::new().expect("io_uring");
    for round in 0..3 {
        // The answer comes while the host stands, and its deadline passes meanwhile.
        let start = jsonrpc::Session::builder().start(&engine, answers_after(300));
        let session = pollster::block_on(start).expect("starts");
        let asked = session.clone();
        let request = std::thread::spawn(move || {
            pollster::block_on(asked.as_session().request_with_timeout("ask", (), DEADLINE))
        });
        wait_for_request(&session);
        stand_still();
        let answer = request.join().expect("no panic");
        assert!(answer.is_ok(), "round {round}: {answer:?}");
        let stats = session.as_session().metrics();
        assert_eq!((stats.settled, stats.timeouts, stats.late), (1, 0, 0), "round {round}");

        pollster::block_on(session.close());
    }
    // One that does not answer has its time before and after: at least three quarters of it, for that is
    // how well a stop is measured.
    let start = jsonrpc::Session::builder().start(&engine, answers_after(0));
    let session = pollster::block_on(start).expect("starts");
    let asked = session.clone();
    let deadline = 2 * STOP;
    let request = std::thread::spawn(move || {
        let begun = Instant::now();
        let request = asked.as_session().request_with_timeout("silence", (), deadline);
        (pollster::block_on(request), begun.elapsed())
    });
    wait_for_request(&session);
    stand_still();
    let (outcome, took) = request.join().expect("no panic");
    let error = outcome.expect_err("no answer");
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
    assert!(took >= STOP + deadline * 7 / 10, "it is charged for the stop: {took:?}");
    assert!(took < Duration::from_secs(30), "{took:?}");
    pollster::block_on(session.close());
}

#[test]
fn record_during_a_stop_is_read_before_timeouts() {
    if !alone(test_name!()) {
        return;
    }
    // The input is to end a moment after the first of two prompts, unless a second run begins. It begins
    // while the host stands still.
    let send = |record: Value| json!({"send": record});
    let state = |state: &str| {
        send(json!({
            "type": "system", "subtype": "session_state_changed", "state": state,
            "sdk_host_only": true,
        }))
    };
    let ready = json!({"subtype": "success", "request_id": "${id}", "response": {}});
    let ask = json!({"subtype": "news"});
    let told = json!({"request_id": "a", "response": {"ok": true}});
    let prompt = json!({"expect": {"type": "user"}});
    let result = send(json!({"type": "result", "is_error": false}));
    let steps = [
        json!({"expect": {"request_id": "${id}"}}),
        send(json!({"type": "control_response", "response": ready})),
        prompt.clone(),
        state("running"),
        result.clone(),
        state("idle"),
        json!({"delay": 400}),
        prompt,
        state("running"),
        send(json!({"type": "control_request", "request_id": "a", "request": ask})),
        json!({"expect": {"response": told}}),
        result,
        state("idle"),
        json!({"expect_end": true}),
    ];
    let command = AgentCommand::new(PROGRAM)
        .arg("fake")
        .args(steps.iter().flat_map(|step| ["--step".to_owned(), step.to_string()]));
    let engine = Engine::new().expect("io_uring");
    let builder = claude::Session::builder().handle("news", |_| async { Ok(json!({"ok": true})) });
    let session = pollster::block_on(builder.start(&engine, command)).expect("starts");
    pollster::block_on(session.send("one")).expect("sent");
    pollster::block_on(session.send("two")).expect("sent");
    session.end_input_when_done();
    pollster::block_on(session.read_turn(|_| ())).expect("the first result");
    stand_still();
    let report = pollster::block_on(session.as_session().closed());
    assert!(report.exit().success(), "{report}: {}", report.stderr_tail());
}
