//! However an agent ends, pending calls fail at once and their errors say how it ended.

use std::sync::mpsc;
use std::time::Duration;

use agentpipe::session::{RpcError, Settings, claude, jsonrpc};
use agentpipe::{ClosePolicy, CloseStage, Error, ErrorKind, Event, ExitStatus, Limits};
use serde_json::json;

use crate::support::dialogue::{ANSWER_ALL, HANDSHAKE, RESULT, assert_played, dialogue};
use crate::support::engine;
use crate::{Dropped, SOON, start, wait};

/// How a pending request fails when the agent does this.
fn failure_of(steps: &[&str]) -> (Error, claude::Session) {
    let mut all = vec![HANDSHAKE, r#"{"expect":{"request":{"subtype":"interrupt"}}}"#];
    all.extend(steps);
    wait(async {
        let session = start(&engine(), &all).await;
        let (first, second) = tokio::join!(session.interrupt(), session.mcp_status());
        let error = first.expect_err("no answer");
        assert_eq!(
            second.expect_err("no answer").to_string(),
            error.to_string(),
            "the same for all"
        );
        let again = session.interrupt().await.expect_err("it is gone");
        assert_eq!(again.to_string(), error.to_string(), "and for those who come later");
        assert_eq!(session.as_session().metrics().pending, 0);
        (error, session)
    })
}

// A CLI that exits with 0 before it answers left `initialize`, and every other open request,
// waiting for 60 s.
#[test]
fn every_end_fails_pending_requests_at_once() {
    let stderr = r#"{"stderr":"out of credit"}"#;
    for (end, exit) in [
        (r#"{"exit":0}"#, ExitStatus::Code(0)),
        (r#"{"exit":3}"#, ExitStatus::Code(3)),
        (r#"{"exit":"SIGKILL"}"#, ExitStatus::Signal(9)),
    ] {
        let (error, session) = failure_of(&[stderr, end]);
        assert_eq!(error.kind(), ErrorKind::Closed, "{error}");
        assert_eq!(error.exit_status(), Some(exit), "{error}");
        assert!(error.stderr_tail().is_some_and(|tail| tail.contains("out of credit")), "{error}");
        assert!(error.to_string().contains("the agent ended"), "{error}");
        assert_eq!(session.close_reason().map(|why| why.to_string()), Some(error.to_string()));
        assert_eq!(wait(session.next()), Some(Event::Exit(exit)));
        assert_eq!(wait(session.next()), None);
    }
}

#[test]
fn closed_stdout_fails_pending_requests() {
    wait(async {
        let steps = [
            HANDSHAKE,
            r#"{"expect":{"request":{"subtype":"interrupt"}}}"#,
            r#"{"close":"stdout"}"#,
            r#"{"expect_end":true}"#,
            r#"{"delay":300}"#,
        ];
        let session = start(&engine(), &steps).await;
        let error = session.interrupt().await.expect_err("the agent is gone");
        assert_eq!(error.kind(), ErrorKind::Closed, "{error}");
        assert!(error.to_string().contains("closed its stdout"), "{error}");
        assert_eq!(session.as_session().close_report(), None, "it is still being waited for");
        assert_played(&session.as_session().closed().await);
    });
}

// The agent answers and exits at once. The end must not overtake the answer.
#[test]
fn answer_just_before_the_end_is_delivered() {
    for _ in 0..20 {
        wait(async {
            let steps = [
                HANDSHAKE,
                r#"{"expect":{"request_id":"${id}","request":{"subtype":"interrupt"}}}"#,
                concat!(
                    r#"{"send":{"type":"control_response","response":{"subtype":"success","#,
                    r#""request_id":"${id}","response":{"n":1}}}}"#
                ),
                r#"{"exit":0}"#,
            ];
            let session = start(&engine(), &steps).await;
            assert_eq!(
                session.interrupt().await.expect("answered").record.as_bytes(),
                b"{\"n\":1}"
            );
        });
    }
}

// A failure between spawn and session left a live child; an exit with 0 took the whole 60 s.
#[test]
fn end_before_the_handshake_fails_the_start() {
    let engine = engine();
    let refuses = r#"{"expect":{"request_id":"${id}"}}"#;
    let refusal = concat!(
        r#"{"send":{"type":"control_response","response":{"subtype":"error","#,
        r#""request_id":"${id}","error":"bad hooks"}}}"#
    );
    let lives_on = r#"{"delay":60000}"#;
    for (steps, kind, words) in [
        (&[r#"{"stderr":"no login"}"#, r#"{"exit":0}"#][..], ErrorKind::Closed, "no login"),
        (&[refuses, refusal, lives_on], ErrorKind::AgentError, "bad hooks"),
        (&[lives_on], ErrorKind::Timeout, "initialize"),
    ] {
        let settings = Settings::new().request_timeout(Duration::from_secs(2));
        let builder = claude::Session::builder().settings(settings);
        let error = wait(builder.start(&engine, dialogue(steps))).expect_err("no handshake");
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(words), "{error}");
    }
    let bad = claude::Session::builder()
        .option("agents", std::collections::BTreeMap::from([([1, 2], 3)]));
    let error = wait(bad.start(&engine, dialogue(&[lives_on]))).expect_err("no JSON");
    assert_eq!(error.kind(), ErrorKind::InvalidRecord, "{error}");
    let report = wait(engine.shutdown(SOON));
    assert_eq!(report.aborted, 0, "what failed was aborted before: {report:?}");
}

#[test]
fn dropped_start_leaves_no_child() {
    let engine = engine();
    for polls in 1..40 {
        let builder = claude::Session::builder();
        let mut starting = Box::pin(builder.start(&engine, dialogue(&[r#"{"delay":60000}"#])));
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        for _ in 0..polls * polls {
            assert!(starting.as_mut().poll(&mut context).is_pending());
            std::thread::yield_now();
        }
    }
    let begun = std::time::Instant::now();
    while engine.agents() > 0 {
        assert!(begun.elapsed() < SOON, "{} are left", engine.agents());
        std::thread::yield_now();
    }
}

// A close left each pending request to its timeout of 60 s.
#[test]
fn close_and_shutdown_fail_pending_requests() {
    wait(async {
        let session =
            start(&engine(), &[HANDSHAKE, r#"{"expect":{"request":{"subtype":"interrupt"}}}"#])
                .await;
        let (pending, report) = tokio::join!(session.interrupt(), session.close());
        let error = pending.expect_err("closed");
        assert_eq!(error.kind(), ErrorKind::Closed, "{error}");
        assert_played(&report);
        let why = session.close_reason().expect("over");
        assert!(why.is_closed(), "{why}");
    });
    wait(async {
        let engine = engine();
        let session =
            start(&engine, &[HANDSHAKE, r#"{"expect":{"request":{"subtype":"interrupt"}}}"#]).await;
        let (pending, _report) = tokio::join!(session.interrupt(), engine.shutdown(SOON));
        let error = pending.expect_err("shut down");
        assert_eq!(error.kind(), ErrorKind::EngineStopped, "{error}");
    });
}

#[test]
fn last_drop_ends_agent_and_handlers() {
    let (sender, dropped) = mpsc::channel();
    let builder = jsonrpc::Session::builder().handle("slow", move |_| {
        sender.send("running").expect("the test listens");
        let guard = Dropped(sender.clone());
        async move {
            let _guard = guard;
            std::future::pending::<Result<(), RpcError>>().await
        }
    });
    let engine = engine();
    let steps = [
        r#"{"send":{"jsonrpc":"2.0","id":1,"method":"slow"}}"#,
        r#"{"send":{"jsonrpc":"2.0","method":"ready"}}"#,
        r#"{"expect_end":true}"#,
    ];
    let session = wait(builder.start(&engine, dialogue(&steps))).expect("starts");
    assert!(wait(session.next_record()).is_some());
    assert_eq!(dropped.recv_timeout(SOON), Ok("running"));
    drop(session);
    assert_eq!(dropped.recv_timeout(SOON), Ok("dropped"));
    let begun = std::time::Instant::now();
    while engine.agents() > 0 {
        assert!(begun.elapsed() < SOON);
        std::thread::yield_now();
    }
    assert_eq!(engine.abandoned(), 1);
}

// Handlers that are ended one after another, 5 s each, delay the end of the agent's input.
#[test]
fn close_does_not_wait_for_handlers() {
    let builder = claude::Session::builder()
        .mcp_server("a", |_| std::future::pending::<Result<(), RpcError>>())
        .can_use_tool(|_| std::future::pending());
    let ask = concat!(
        r#"{"repeat":8,"steps":[{"send":{"type":"control_request","request_id":"${i}","#,
        r#""request":{"subtype":"mcp_message","server_name":"a","#,
        r#""message":{"jsonrpc":"2.0","id":1,"method":"tools/call"}}}}]}"#
    );
    let steps = [HANDSHAKE, ask, r#"{"send":{"type":"system"}}"#, r#"{"expect_end":true}"#];
    wait(async {
        let session = builder.start(&engine(), dialogue(&steps)).await.expect("starts");
        assert!(session.next_record().await.is_some());
        assert_eq!(session.as_session().metrics().serving, 8);
        let report = session.close().await;
        assert_played(&report);
        assert!(report.stage() <= CloseStage::Drain, "no force was needed: {report}");
        assert_eq!(session.as_session().metrics().serving, 0);
    });
}

// A deadline that begins after the write never begins if the pipe is full.
#[test]
fn timeout_holds_while_the_agent_is_deaf() {
    wait(async {
        // A delay without a rule reads nothing.
        let deaf = dialogue(&[r#"{"delay":60000}"#]).limits(Limits::new().outbox_high(64 << 10));
        let session =
            claude::Session::builder().attach(engine().spawn(deaf).await.expect("spawns"));
        let session = session.expect("attached");
        let big = "x".repeat(1 << 20);
        session.send(big.as_str()).await.expect("queued");
        let limit = Duration::from_millis(50);
        let error =
            session.request_with_timeout("interrupt", (), limit).await.expect_err("no room");
        assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
        assert!(error.to_string().contains("has not taken it"), "{error}");
        assert_eq!(session.as_session().metrics().pending, 0);
        let report = session.abort().await;
        assert!(report.unsent_bytes() > 0, "{report}");
    });
}

// The real CLI does not leave at the end of input while it answers; after an interrupt it does in
// 0.15 s, and its result is delivered.
#[test]
fn close_in_a_turn_interrupts_it_first() {
    let steps = [
        HANDSHAKE,
        r#"{"expect":{"type":"user"}}"#,
        r#"{"send":{"type":"assistant","message":{"content":[]}}}"#,
        r#"{"expect":{"type":"control_request","request_id":"${id}","request":{"subtype":"interrupt"}}}"#,
        concat!(
            r#"{"send":{"type":"control_response","response":{"subtype":"success","#,
            r#""request_id":"${id}","response":{}}}}"#
        ),
        r#"{"send":{"type":"result","subtype":"error_during_execution","is_error":true,"session_id":"s"}}"#,
        r#"{"expect_end":true}"#,
        r#"{"exit":1}"#,
    ];
    wait(async {
        let session = start(&engine(), &steps).await;
        session.send("go").await.expect("sent");
        assert!(session.next_record().await.is_some(), "the turn is under way");
        let report = session.close().await;
        assert_eq!(report.exit(), ExitStatus::Code(1), "{}", report.stderr_tail());
        let stages: Vec<CloseStage> = report.stages().iter().map(|(stage, _)| *stage).collect();
        assert!(stages.contains(&CloseStage::Interrupt), "{report}");
        let result = session.next_record().await.expect("delivered after the close");
        assert!(result.as_str().unwrap().contains("error_during_execution"));
        assert_eq!(session.next().await, Some(Event::Exit(ExitStatus::Code(1))));
    });
}

#[test]
fn close_between_turns_does_not_interrupt() {
    wait(async {
        let session = start(&engine(), &[HANDSHAKE, r#"{"expect":{"type":"user"}}"#, RESULT]).await;
        session.send("go").await.expect("sent");
        assert!(session.read_turn(|_| ()).await.is_ok());
        let report = session.close().await;
        assert_played(&report);
        assert!(
            report.stages().iter().all(|(stage, _)| *stage != CloseStage::Interrupt),
            "{report}"
        );
    });
}

#[test]
fn no_timeout_waits_and_two_closes_agree() {
    wait(async {
        let settings = Settings::new().request_timeout(None);
        let builder = claude::Session::builder().settings(settings);
        let session = builder.start(&engine(), dialogue(&[ANSWER_ALL])).await.expect("starts");
        session.request("news", json!({"a": 1})).await.expect("answered");
        let error = session.request("news", [1]).await.expect_err("no object");
        assert_eq!(error.kind(), ErrorKind::InvalidRecord);
        let (first, second) =
            tokio::join!(session.close(), session.close_with(ClosePolicy::graceful()));
        assert_eq!(first, second);
        assert_played(&first);
    });
}
