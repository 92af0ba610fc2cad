//! Handlers that block their thread, without a runtime of the host: whom they hold up.

use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use agentpipe::ErrorKind;
use agentpipe::session::RpcError;
use agentpipe::session::jsonrpc::{Builder, Session};
use serde_json::{Value, json};

use crate::support::dialogue::{assert_played, dialogue};
use crate::support::engine;
use crate::support::own_process::{alone, test_name};
use crate::{SOON, wait};

const ASK: &str = r#"{"send":{"jsonrpc":"2.0","id":"b","method":"block"}}"#;
const ANSWERED: &str = r#"{"expect":{"id":"b","result":"${got}"}}"#;
const OVER: &str = r#"{"send":{"jsonrpc":"2.0","method":"over","got":"${got}"}}"#;

/// A builder whose handler of `block` blocks its thread until it is released, and tells of it.
fn blocking() -> (Builder, Receiver<()>, Sender<()>) {
    let (sender, blocked) = mpsc::channel();
    let (release, released) = mpsc::channel::<()>();
    let released = Mutex::new(released);
    let builder = Session::builder().handle("block", move |_| {
        sender.send(()).expect("the test listens");
        let waited = released.lock().expect("one handler").recv_timeout(SOON).is_ok();
        async move { if waited { Ok(json!({})) } else { Err(RpcError::new("timed out")) } }
    });
    (builder, blocked, release)
}

// The handler of one session slept. The deadlines of all sessions stood still meanwhile, and the agents
// of others waited for their answers.
#[test]
fn blocking_handler_holds_up_no_other_session() {
    let (builder, blocked, release) = blocking();
    let other = Session::builder().handle("quick", |_| async { Ok("answered") });
    wait(async {
        let engine = engine();
        let steps = [ASK, ANSWERED, OVER];
        let session = builder.start(&engine, dialogue(&steps)).await.expect("starts");
        blocked.recv_timeout(SOON).expect("it blocks");
        let steps = [
            r#"{"expect":{"method":"silence"}}"#,
            r#"{"expect":{"method":"ask"}}"#,
            r#"{"send":{"jsonrpc":"2.0","id":"q","method":"quick"}}"#,
            r#"{"send":{"jsonrpc":"2.0","id":2,"result":{}}}"#,
            r#"{"expect":{"id":"q","result":"answered"}}"#,
            r#"{"send":{"jsonrpc":"2.0","method":"over"}}"#,
        ];
        let other = other.start(&engine, dialogue(&steps)).await.expect("starts");
        let limit = Duration::from_millis(200);
        let error = other.request_with_timeout("silence", (), limit).await.expect_err("silence");
        assert_eq!(error.kind(), ErrorKind::Timeout, "its deadline holds");
        other.request("ask", ()).await.expect("its reader goes on");
        assert!(other.next_record().await.is_some(), "its handler runs on another thread");
        assert_eq!(session.metrics().running, 1, "all of this happened meanwhile");
        assert_played(&other.close().await);
        release.send(()).expect("it waits still");
        assert!(session.next_record().await.is_some(), "it answers in the end");
        assert_played(&session.close().await);
    });
}

// A handler blocked on a request of its own session. The thread that had to read the answer, and to keep
// the deadline, was the one that waited.
#[test]
fn handler_may_block_on_its_own_session() {
    let own: Arc<OnceLock<Session>> = Arc::default();
    let session = Arc::clone(&own);
    let builder = Session::builder().handle("block", move |_| {
        let session = session.get().expect("it is set").clone();
        async move {
            let answer = pollster::block_on(session.request("answered", ()))?;
            let limit = Duration::from_millis(200);
            let silence = session.request_with_timeout("silence", (), limit);
            let error = pollster::block_on(silence).expect_err("silence");
            Ok(json!([answer, error.kind() == ErrorKind::Timeout]))
        }
    });
    let steps = [
        r#"{"expect":{"method":"begin"}}"#,
        r#"{"on":{"id":"${id}","method":"answered"},"send":{"jsonrpc":"2.0","id":"${id}","result":7}}"#,
        r#"{"on":{"method":"silence"},"steps":[]}"#,
        ASK,
        ANSWERED,
        OVER,
    ];
    wait(async {
        let session = builder.start(&engine(), dialogue(&steps)).await.expect("starts");
        assert!(own.set(session.clone()).is_ok());
        session.notify("begin", ()).await.expect("sent");
        let over: Value = session.next_record().await.expect("answered").json().expect("JSON");
        assert_eq!(over["got"], json!([7, true]));
        assert_played(&session.close().await);
    });
}

/// A sink of log lines.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("lines").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

// Nothing said which of many handlers held the others up.
#[test]
fn blocking_handler_is_named_in_a_warning() {
    if !alone(test_name!()) {
        return;
    }
    let lines = Lines::default();
    let sink = lines.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || sink.clone());
    tracing::subscriber::set_global_default(subscriber.finish()).expect("the first");
    let text = || String::from_utf8(lines.0.lock().expect("lines").clone()).expect("text");
    let (builder, blocked, release) = blocking();
    let builder = builder.handle("quick", |_| async { Ok("answered") });
    let quick = r#"{"send":{"jsonrpc":"2.0","id":"q","method":"quick"}}"#;
    let answered = r#"{"expect":{"id":"q","result":"answered"}}"#;
    wait(async {
        let next = r#"{"send":{"jsonrpc":"2.0","method":"next"}}"#;
        let steps = [ASK, quick, answered, quick, answered, next, ANSWERED, OVER];
        let session = builder.start(&engine(), dialogue(&steps)).await.expect("starts");
        blocked.recv_timeout(SOON).expect("it blocks");
        assert!(session.next_record().await.is_some(), "another thread takes over");
        assert!(text().contains("a handler blocks its thread"), "{}", text());
        assert!(text().contains("method=\"block\"") && text().contains("pid "), "{}", text());
        assert!(!text().contains("quick"), "{}", text());
        release.send(()).expect("it waits still");
        assert!(session.next_record().await.is_some(), "it answers in the end");
        assert_played(&session.close().await);
        assert_eq!(text().matches("a handler blocks").count(), 1, "{}", text());
    });
}
