//! One query from its handshake to its end.

use std::sync::mpsc;
use std::time::Duration;

use agentpipe::session::claude::Session;
use agentpipe::session::{RpcError, Settings};
use agentpipe::{ErrorKind, Event, ExitStatus};
use serde_json::{Value, json};

use crate::support::dialogue::{ANSWER_ALL, HANDSHAKE, RESULT, assert_played, dialogue};
use crate::support::engine;
use crate::{Dropped, SOON, asks, says, start, wait};

// A close from another task than the one that started the session must end a pending read.
#[test]
fn close_from_another_task_wakes_the_reader() {
    let session = wait(start(&engine(), &[HANDSHAKE]));
    let reader = session.clone();
    let (sender, reading) = mpsc::channel();
    let reads = std::thread::spawn(move || {
        let next = async {
            let mut next = std::pin::pin!(reader.next());
            let told = std::future::poll_fn(|context| {
                let first = next.as_mut().poll(context);
                assert!(first.is_pending(), "{first:?}");
                std::task::Poll::Ready(sender.send(()).is_ok())
            });
            assert!(told.await);
            next.await
        };
        (wait(next), wait(reader.next()))
    });
    reading.recv_timeout(SOON).expect("it waits");
    let closes = std::thread::spawn(move || session.as_session().close_blocking());
    assert_played(&closes.join().expect("closed"));
    let exit = Event::Exit(ExitStatus::Code(0));
    assert_eq!(reads.join().expect("woken"), (Some(exit), None), "and the end stays the end");
}

// The buffer of the session outlives the close, and then reports its end.
#[test]
fn records_before_a_close_are_readable_after_it() {
    let turn = r#"{"repeat":50,"steps":[{"send":{"type":"news","number":"${i}"}}]}"#;
    wait(async {
        let session = start(&engine(), &[HANDSHAKE, turn]).await;
        while session.as_session().metrics().data_records < 50 {
            tokio::task::yield_now().await;
        }
        let report = session.close().await;
        assert_played(&report);
        for number in 0..50 {
            let record: Value = session.next_record().await.expect("kept").json().unwrap();
            assert_eq!(record["number"], number);
        }
        assert_eq!(session.next().await, Some(Event::Exit(ExitStatus::Code(0))));
        assert_eq!(session.next().await, None);
        assert_eq!(session.as_session().metrics().unread, 0);
    });
}

// The handler is dropped, and a dead request gets no answer. A cancel without a request does
// nothing, and a handled request leaves the table.
#[test]
fn cancelled_control_request_is_not_answered() {
    let (sender, told) = mpsc::channel();
    let builder = Session::builder()
        .can_use_tool(move |_| {
            sender.send("running").expect("the test listens");
            let guard = Dropped(sender.clone());
            async move {
                let _guard = guard;
                std::future::pending().await
            }
        })
        .hook("Stop", |_| async { Ok(json!({})) });
    let cancel = |id: Value| says(json!({"type": "control_cancel_request", "request_id": id}));
    let tool = json!({"subtype": "can_use_tool", "tool_name": "Bash", "input": {}});
    let hook = json!({"subtype": "hook_callback", "callback_id": "hook_0"});
    let steps = [
        HANDSHAKE.to_owned(),
        cancel("unknown".into()),
        cancel(json!(7)),
        says(json!({"type": "control_cancel_request"})),
        says(json!({"type": "control_request", "request_id": "slow", "request": tool})),
        r#"{"expect":{"type":"user"}}"#.to_owned(),
        cancel("slow".into()),
        cancel("slow".into()),
        asks("again", hook.clone(), json!({})),
        asks("again", hook, json!({})),
        r#"{"quiet":30}"#.to_owned(),
        RESULT.to_owned(),
    ];
    wait(async {
        let session = builder.start(&engine(), dialogue(&steps)).await.expect("starts");
        assert_eq!(told.recv_timeout(SOON), Ok("running"));
        session.send("it runs").await.expect("sent");
        let mut passed = Vec::new();
        assert!(session.read_turn(|record| passed.push(record.clone())).await.is_ok());
        assert_eq!(passed.len(), 1, "only the one without an id is for the reader");
        assert_eq!(told.recv_timeout(SOON), Ok("dropped"));
        let stats = session.as_session().metrics();
        assert_eq!((stats.serving, stats.answered, stats.duplicate), (0, 2, 0), "{stats:?}");
        assert_played(&session.close().await);
    });
}

// The default is 60 s. No environment variable changes it; settings do, for the handshake alone or
// for all requests.
#[test]
fn handshake_has_its_own_timeout() {
    assert_eq!(Settings::new().get_request_timeout(), Some(Duration::from_secs(60)));
    let short = Duration::from_millis(50);
    let slow = HANDSHAKE.replace('\n', "\n{\"delay\":300}\n");
    wait(async {
        let deaf = dialogue(&[r#"{"expect":{"request":{"subtype":"initialize"}}}"#]);
        let hasty = Session::builder().initialize_timeout(short);
        let error = hasty.start(&engine(), deaf).await.expect_err("never answered");
        assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
        assert!(error.to_string().contains("`initialize`"), "{error}");
        let patient = Session::builder()
            .settings(Settings::new().request_timeout(short))
            .initialize_timeout(SOON);
        let steps = [&slow, r#"{"expect":{"request":{"subtype":"interrupt"}}}"#];
        let session = patient.start(&engine(), dialogue(&steps)).await.expect("it had the time");
        let error = session.interrupt().await.expect_err("never answered");
        assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
        assert_played(&session.close().await);
    });
}

// With a hundred messages unread, the task that waits for the result behind them would wait for a
// reader that waits for it.
#[test]
fn unread_messages_do_not_block_a_turn() {
    let builder = Session::builder().can_use_tool(|_| async { Err(RpcError::new("unused")) });
    let steps = [
        HANDSHAKE,
        r#"{"expect":{"type":"user"}}"#,
        r#"{"flood":1000,"size":512,"type":"assistant"}"#,
        RESULT,
        r#"{"expect_end":true}"#,
    ];
    wait(async {
        let session = builder.start(&engine(), dialogue(&steps)).await.expect("starts");
        session.send("go").await.expect("sent");
        session.end_input_when_done();
        assert_played(&session.as_session().closed().await);
        let mut messages = 0;
        assert!(session.read_turn(|_| messages += 1).await.is_ok());
        assert_eq!(messages, 1000);
    });
}

// A permission callback sends a request on its session. The two wait for each other if callbacks
// run on the task that reads.
#[test]
fn handler_can_await_an_answer() {
    let session: std::sync::Arc<std::sync::OnceLock<Session>> = std::sync::Arc::default();
    let own = std::sync::Arc::clone(&session);
    let builder = Session::builder().handle("which", move |_| {
        let session = own.get().expect("it is started").clone();
        async move { Ok(session.mcp_status().await?) }
    });
    let ask = asks("w", json!({"subtype": "which"}), json!({}));
    let steps = [ANSWER_ALL, r#"{"expect":{"type":"user"}}"#, &ask, RESULT];
    wait(async {
        let started = builder.start(&engine(), dialogue(&steps)).await.expect("starts");
        session.set(started.clone()).expect("once");
        started.send("go").await.expect("sent");
        assert!(started.read_turn(|_| ()).await.is_ok(), "{:?}", started.close_reason());
        assert_played(&started.close().await);
    });
}
