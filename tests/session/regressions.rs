//! Defects of other clients that a session must not have: children without an owner, readers that
//! stop, deadlines that never begin, tables that grow.

use std::sync::{Arc, mpsc};
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use agentpipe::session::claude::{HookOutput, Permission, Session};
use agentpipe::session::{RpcError, Settings, jsonrpc};
use agentpipe::{ErrorKind, Event, ExitStatus, Limits};
use serde_json::{Value, json};

use crate::support::dialogue::{ANSWER_ALL, HANDSHAKE, RESULT, assert_played, dialogue};
use crate::support::engine;
use crate::{SOON, asks, says, wait};

// An invalid option was found after the child was spawned and before anything owned it, and the
// child lived on.
#[test]
fn failed_start_leaves_no_agent() {
    let engine = engine();
    let bad = || Session::builder().option("agents", std::collections::BTreeMap::from([([1], 2)]));
    let command = || dialogue(&[r#"{"delay":60000}"#]);
    let error = wait(bad().start(&engine, command())).expect_err("no JSON");
    assert_eq!(error.kind(), ErrorKind::InvalidRecord, "{error}");
    assert_eq!((engine.agents(), engine.abandoned()), (0, 0), "nothing was spawned for it");
    let agent = wait(engine.spawn(command())).expect("spawns");
    let error = bad().attach(agent).expect_err("no JSON");
    assert_eq!(error.kind(), ErrorKind::InvalidRecord, "{error}");
    let begun = std::time::Instant::now();
    while engine.agents() > 0 {
        assert!(begun.elapsed() < SOON, "{} are left", engine.agents());
        std::thread::yield_now();
    }
    assert_eq!(engine.abandoned(), 1, "it was aborted");
    assert_eq!(wait(engine.shutdown(SOON)).aborted, 0, "no other agent is left");
}

/// Floods the session, and sends requests and answers on top of the unread data.
fn must_pass_by(settings: Settings, records: usize, size: usize) {
    let flood = format!(r#"{{"flood":{records},"size":{size},"type":"assistant"}}"#);
    let tool = json!({"subtype": "can_use_tool", "tool_name": "Bash", "input": {"a": 1}});
    let allowed = json!({"behavior": "allow", "updatedInput": {"a": 1}});
    let hook = json!({"subtype": "hook_callback", "callback_id": "hook_0"});
    let rpc = json!({"jsonrpc": "2.0", "id": 5, "method": "tools/call"});
    let mcp = json!({"subtype": "mcp_message", "server_name": "calc", "message": rpc});
    let result = json!({"mcp_response": {"jsonrpc": "2.0", "id": 5, "result": 42}});
    let builder = Session::builder()
        .settings(settings)
        .can_use_tool(|_| async { Ok(Permission::allow()) })
        .hook("PreToolUse", |_| async { Ok(HookOutput::new()) })
        .mcp_server("calc", |_| async { Ok(42) });
    let steps = [
        ANSWER_ALL,
        r#"{"expect":{"type":"user"}}"#,
        &flood,
        &asks("p", tool, allowed),
        &asks("h", hook, json!({})),
        &asks("m", mcp, result),
        r#"{"expect":{"type":"user"}}"#,
        RESULT,
    ];
    wait(async {
        let session = builder.start(&engine(), dialogue(&steps)).await.expect("starts");
        session.send("go").await.expect("sent");
        let answered = || {
            let stats = session.as_session().metrics();
            // The last handler is gone: its answer is sent.
            stats.answered == 3 && stats.running == 0
        };
        while !answered() {
            assert_eq!(session.close_reason().map(|why| why.to_string()), None);
            tokio::task::yield_now().await;
        }
        session.interrupt().await.expect("answered");
        session.set_permission_mode("plan").await.expect("answered");
        let stats = session.as_session().metrics();
        assert!(stats.unread > records * size, "{stats:?}");
        assert_eq!((stats.stalls, stats.timeouts), (0, 0), "{stats:?}");
        session.send("enough").await.expect("sent");
        let mut bytes = 0;
        assert!(session.read_turn(|record| bytes += record.len()).await.is_ok());
        // The framing is not counted.
        assert_eq!(bytes, records * (size - 1), "and nothing of it is lost");
        assert_played(&session.close().await);
    });
}

// At 100 unread messages a reader stopped, and an interrupt, a hook or a permission prompt behind
// them failed after 60 s. Here: ten thousand small ones, the default budget almost full, and many
// MiB in a larger one.
#[test]
fn interrupts_and_prompts_overtake_unread_data() {
    must_pass_by(Settings::new(), 10_000, 128);
    must_pass_by(Settings::new(), 120, 60 << 10);
    must_pass_by(Settings::new().unread_max(64 << 20), 900, 64 << 10);
}

// A timeout that begins after the write never ends if the pipe is full. Stdin and the outbox are
// full, eight senders wait in front, and the timeout holds; the unwritten request is not written
// later.
#[test]
fn timeout_counts_from_the_call() {
    let deaf = [r#"{"expect":{"type":"user"}}"#, r#"{"delay":60000}"#];
    wait(async {
        let command = dialogue(&deaf).limits(Limits::new().outbox_high(64 << 10));
        let agent = engine().spawn(command).await.expect("spawns");
        let session = Session::builder().attach(agent).expect("attached");
        let big = "x".repeat(512 << 10);
        session.send("go").await.expect("sent");
        session.send(big.as_str()).await.expect("queued: an empty queue takes any record");
        let blocked: Vec<_> = (0..8)
            .map(|_| {
                let (session, big) = (session.clone(), big.clone());
                std::thread::spawn(move || wait(session.send(big)))
            })
            .collect();
        let limits = [5, 50, 100].map(Duration::from_millis);
        let ask = |limit| session.request_with_timeout("interrupt", (), limit);
        let begun = std::time::Instant::now();
        let (a, b, c) = tokio::join!(ask(limits[0]), ask(limits[1]), ask(limits[2]));
        assert!(begun.elapsed() >= limits[2] && begun.elapsed() < SOON);
        for error in [a, b, c].map(|outcome| outcome.expect_err("no room")) {
            assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
            assert!(error.to_string().contains("has not taken it"), "{error}");
        }
        let stats = session.as_session().metrics();
        assert_eq!((stats.pending, stats.timeouts), (0, 3), "{stats:?}");
        session.abort().await;
        for sender in blocked {
            let error = sender.join().expect("no panic").expect_err("closed");
            assert!(error.is_closed(), "{error}");
        }
    });
}

// The entry of a cancelled waiter stayed in the map of pending requests.
#[test]
fn cancelled_waiter_leaves_no_entry() {
    const REQUESTS: usize = 5000;
    let steps = [HANDSHAKE, ANSWER_ALL, r#"{"expect":{"type":"user"}}"#, RESULT];
    wait(async {
        let session = Session::builder().start(&engine(), dialogue(&steps)).await.expect("starts");
        let mut context = Context::from_waker(Waker::noop());
        for _ in 0..REQUESTS {
            let mut request = std::pin::pin!(session.interrupt());
            drop(request.as_mut().poll(&mut context));
            let pending = session.as_session().metrics().pending;
            assert!(pending <= 1, "{pending}");
        }
        assert_eq!(session.as_session().metrics().pending, 0);
        session.mcp_status().await.expect("it goes on");
        session.send("over").await.expect("sent");
        assert!(session.read_turn(|_| ()).await.is_ok());
        // Each was answered all the same: in time for the few that waited, else late.
        let stats = session.as_session().metrics();
        assert_eq!((stats.pending, stats.unknown), (0, 0), "{stats:?}");
        assert!(stats.late <= REQUESTS as u64, "{stats:?}");
        assert_played(&session.close().await);
    });
}

// Each tick reads a message with a timeout, in a new task. If the agent is quiet all night, a
// hundred thousand finished tasks stay in memory.
#[test]
fn cancelled_reader_is_freed_at_once() {
    struct Task;
    impl Wake for Task {
        fn wake(self: Arc<Self>) {}
    }
    let steps = [HANDSHAKE, r#"{"expect":{"type":"user"}}"#, RESULT];
    wait(async {
        let session = Session::builder().start(&engine(), dialogue(&steps)).await.expect("starts");
        let task = Arc::new(Task);
        for _ in 0..100 {
            let waker = Waker::from(Arc::clone(&task));
            let mut next = std::pin::pin!(session.next());
            assert!(next.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        }
        assert_eq!(Arc::strong_count(&task), 1, "wakers of readers that are gone");
        session.send("over").await.expect("sent");
        assert!(session.read_turn(|_| ()).await.is_ok());
        assert_played(&session.close().await);
    });
}

// The error reply after the close failed in a task whose result was never read.
#[test]
fn handler_failing_during_a_close_is_quiet() {
    for _ in 0..30 {
        let (sender, calls) = mpsc::channel();
        let builder = jsonrpc::Session::builder().handle("fail", move |_| {
            sender.send(()).expect("counted");
            async {
                std::thread::yield_now();
                Err::<(), _>(RpcError::new("too late to matter"))
            }
        });
        let steps = [
            r#"{"repeat":40,"steps":[{"send":{"jsonrpc":"2.0","id":"${i}","method":"fail"}}]}"#,
            r#"{"on":{"id":"${_}"},"steps":[]}"#,
        ];
        wait(async {
            let session = builder.start(&engine(), dialogue(&steps)).await.expect("starts");
            calls.recv_timeout(SOON).expect("the first one is called");
            let report = session.close().await;
            assert_played(&report);
            while session.next().await.is_some() {}
            let stats = session.as_session().metrics();
            assert_eq!((stats.serving, stats.pending), (0, 0), "{stats:?}");
            assert!(stats.answered <= 40);
        });
    }
}

// With more unread than the budget the session stops reading, and calls fail with that reason. The
// prompt behind it is answered once the reader continues.
#[test]
fn prompt_beyond_the_budget_waits() {
    let settings = Settings::new().unread_max(1 << 20);
    let builder = Session::builder()
        .settings(settings)
        .can_use_tool(|_| async { Ok(Permission::deny("no")) });
    let tool = json!({"subtype": "can_use_tool", "tool_name": "Bash", "input": {}});
    let steps = [
        HANDSHAKE,
        r#"{"expect":{"type":"user"}}"#,
        r#"{"flood":200,"size":16384,"type":"assistant"}"#,
        &asks("p", tool, json!({"behavior": "deny", "message": "no"})),
        &says(json!({"type": "result", "subtype": "success"})),
        r#"{"expect_end":true}"#,
    ];
    wait(async {
        let session = builder.start(&engine(), dialogue(&steps)).await.expect("starts");
        session.send("go").await.expect("sent");
        while session.as_session().metrics().stalls == 0 {
            tokio::task::yield_now().await;
        }
        let error = session.interrupt().await.expect_err("overloaded");
        assert_eq!(error.kind(), ErrorKind::Overloaded, "{error}");
        let unread = session.as_session().metrics().unread;
        assert!(
            error.to_string().contains(&format!("{unread} bytes of data are unread")),
            "{error}"
        );
        assert_eq!(session.as_session().metrics().answered, 0, "it is behind the flood");
        let mut messages = 0;
        assert!(session.read_turn(|_| messages += 1).await.is_ok());
        assert_eq!(messages, 200);
        assert_eq!(session.as_session().metrics().answered, 1);
        assert_played(&session.close().await);
        assert_eq!(session.next().await, Some(Event::Exit(ExitStatus::Code(0))));
    });
}

// An agent sends a request as its last record, after the end of its input. The request can get no
// answer, so it neither runs a handler nor stays in the table.
#[test]
fn closed_session_answers_nothing() {
    let (sender, calls) = mpsc::channel();
    // The task that reads has a runtime; those of handlers run to their end there and then.
    let pool = tokio::runtime::Runtime::new().expect("a runtime");
    let (handle, reads) = (pool.handle().clone(), std::sync::atomic::AtomicBool::new(true));
    let settings = Settings::new().executor(move |task| {
        if reads.swap(false, std::sync::atomic::Ordering::SeqCst) {
            drop(handle.spawn(task));
        } else {
            pollster::block_on(task);
        }
    });
    let builder = Session::builder().settings(settings).handle("late", move |_| {
        sender.send(()).expect("counted");
        async { Ok(Value::Null) }
    });
    let late = says(json!({
        "type": "control_request", "request_id": "l", "request": {"subtype": "late"},
    }));
    let steps = [HANDSHAKE, r#"{"expect_end":true}"#, &late, RESULT];
    wait(async {
        let session = builder.start(&engine(), dialogue(&steps)).await.expect("starts");
        let report = session.close().await;
        assert_played(&report);
        assert!(session.read_turn(|_| ()).await.is_ok(), "its last words are delivered");
        while session.next().await.is_some() {}
        let stats = session.as_session().metrics();
        assert_eq!((stats.serving, stats.running), (0, 0), "{stats:?}");
        assert_eq!(
            calls.try_iter().count(),
            0,
            "no handler runs for an answer that cannot be sent"
        );
    });
}
