//! Answers and requests of the agent overtake unread data.

use std::time::Duration;

use agentpipe::session::{Settings, claude};
use agentpipe::{Error, ErrorKind, Event, ExitStatus};
use serde_json::json;

use crate::support::dialogue::{ANSWER_ALL, HANDSHAKE, assert_played, dialogue};
use crate::support::engine;
use crate::{SOON, wait};

const BUDGET: usize = 4 << 20;

async fn flooded(steps: &[&str]) -> claude::Session {
    let settings = Settings::new().unread_max(BUDGET);
    let builder = claude::Session::builder()
        .settings(settings)
        .handle("ask", |_| async { Ok(json!({"ok": true})) });
    builder.start(&engine(), dialogue(steps)).await.expect("starts")
}

// With more than 100 messages unread an interrupt took 60 s: its answer stood in the same queue. So
// did hooks and permission prompts.
#[test]
fn interrupt_overtakes_unread_data() {
    let steps = [
        HANDSHAKE,
        ANSWER_ALL,
        r#"{"flood":3000,"size":1024,"type":"assistant"}"#,
        r#"{"send":{"type":"control_request","request_id":"q","request":{"subtype":"ask"}}}"#,
        r#"{"expect":{"response":{"request_id":"q","response":{"ok":true}}}}"#,
        r#"{"send":{"type":"result"}}"#,
    ];
    wait(async {
        let session = flooded(&steps).await;
        session.interrupt().await.expect("answered");
        assert!(session.as_session().metrics().unread > 3000 << 10);
        let mut messages = 0;
        assert!(session.read_turn(|_| messages += 1).await.is_ok());
        assert_eq!(messages, 3000, "and nothing of it is lost");
        assert_played(&session.close().await);
    });
}

async fn overloaded(session: &claude::Session) -> Error {
    // The flood is under way: the requests that come before it is too much fail when it is.
    loop {
        let limit = Duration::from_secs(60);
        match session.request_with_timeout("mcp_status", (), limit).await {
            Err(error) => break error,
            Ok(_) => std::thread::yield_now(),
        }
    }
}

fn endless() -> [&'static str; 2] {
    [HANDSHAKE, r#"{"flood":"forever","size":1024,"type":"assistant"}"#]
}

#[test]
fn overloaded_session_fails_requests_at_once() {
    wait(async {
        let session = flooded(&endless()).await;
        let error = overloaded(&session).await;
        assert_eq!(error.kind(), ErrorKind::Overloaded, "{error}");
        let unread = session.as_session().metrics().unread;
        assert!((BUDGET..BUDGET + (64 << 10)).contains(&unread), "{unread}");
        assert!(
            error.to_string().contains(&format!("{unread} bytes of data are unread")),
            "{error}"
        );
        let again = session.interrupt().await.expect_err("still overloaded");
        assert_eq!(again.kind(), ErrorKind::Overloaded);
        let report = session.abort().await;
        assert!(report.exit() != ExitStatus::StillRunning, "{report}");
    });
}

#[test]
fn reading_recovers_an_overloaded_session() {
    let steps = [
        ANSWER_ALL,
        r#"{"expect":{"type":"user"}}"#,
        r#"{"flood":6000,"size":1024,"type":"assistant"}"#,
        r#"{"send":{"type":"result"}}"#,
    ];
    wait(async {
        let session = flooded(&steps).await;
        session.send("go").await.expect("sent");
        while session.as_session().metrics().stalls == 0 {
            std::thread::yield_now();
        }
        assert_eq!(session.interrupt().await.expect_err("unread").kind(), ErrorKind::Overloaded);
        let mut messages = 0;
        assert!(session.read_turn(|_| messages += 1).await.is_ok());
        assert_eq!(messages, 6000);
        session.interrupt().await.expect("it recovered");
        assert_played(&session.close().await);
    });
}

// Without a reader the agent is blocked in a write, and a close that stops reading never ends. This
// close reads on, up to the drain budget.
#[test]
fn overloaded_session_closes_without_loss() {
    let steps = [
        HANDSHAKE,
        ANSWER_ALL,
        r#"{"flood":12000,"size":1024,"type":"assistant"}"#,
        r#"{"send":{"type":"last"}}"#,
    ];
    wait(async {
        let session = flooded(&steps).await;
        assert_eq!(overloaded(&session).await.kind(), ErrorKind::Overloaded);
        let report = session.close().await;
        assert_played(&report);
        let (mut records, mut last) = (0, None);
        while let Some(event) = session.next().await {
            records += usize::from(matches!(event, Event::Record(_)));
            last = Some(event);
        }
        assert_eq!((records, last), (12_001, Some(Event::Exit(ExitStatus::Code(0)))));
    });
}

#[test]
fn exit_of_an_overloaded_agent_is_seen() {
    let steps = [HANDSHAKE, r#"{"flood":6000,"size":1024}"#, r#"{"exit":3}"#];
    wait(async {
        let session = flooded(&steps).await;
        let error = overloaded(&session).await;
        // The rest of the flood, more than the pipe holds, keeps the agent alive until it is read.
        assert_eq!(error.kind(), ErrorKind::Overloaded, "{error}");
        while session.next().await.is_some() {}
        let why = session.close_reason().expect("over");
        assert_eq!(why.exit_status(), Some(ExitStatus::Code(3)), "{why}");
        assert!(session.as_session().closed().await.total() < SOON);
    });
}

#[test]
fn session_can_discard_unread_data() {
    wait(async {
        let settings = Settings::new().unread_max(1 << 10).discard_data(true);
        let steps = [ANSWER_ALL, r#"{"flood":6000,"size":1024}"#];
        let builder = claude::Session::builder().settings(settings);
        let session = builder.start(&engine(), dialogue(&steps)).await.expect("starts");
        session.interrupt().await.expect("answered");
        let report = session.close().await;
        assert_played(&report);
        assert_eq!(session.next().await, Some(Event::Exit(ExitStatus::Code(0))));
        let stats = session.as_session().metrics();
        assert_eq!((stats.data_records, stats.unread, stats.stalls), (6000, 0, 0));
    });
}
