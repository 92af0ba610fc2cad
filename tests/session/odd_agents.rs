//! Agents that keep to no protocol in full, and hosts that read late.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};

use agentpipe::Event;
use agentpipe::session::jsonrpc::Session;
use serde_json::json;

use crate::support::dialogue::{assert_played, dialogue};
use crate::support::{engine, wait_until};
use crate::wait;

// Some app servers leave `jsonrpc` out of every record. Their answers were data for hosts that insist.
#[test]
fn answer_without_a_version_settles_its_request() {
    wait(async {
        let steps = [r#"{"expect":{"id":1,"method":"a"}}"#, r#"{"send":{"id":1,"result":2}}"#];
        let session = Session::builder().start(&engine(), dialogue(&steps)).await.expect("starts");
        assert_eq!(session.request("a", ()).await.expect("answered").as_bytes(), b"2");
        assert_played(&session.close().await);
    });
}

// A host shows the last updates of a turn once the turn has its response, and had none of them. Nor may
// updates that are not read hold up the response.
#[test]
fn unread_updates_come_before_their_response() {
    const UPDATES: usize = 2000;
    let update = r#"{\"method\":\"update\"}\n"#.repeat(UPDATES);
    let steps = [
        r#"{"expect":{"id":1,"method":"a"}}"#,
        &format!(r#"{{"raw":"{update}"}}"#),
        r#"{"send":{"jsonrpc":"2.0","id":1,"result":0}}"#,
    ];
    wait(async {
        let session = Session::builder().start(&engine(), dialogue(&steps)).await.expect("starts");
        session.request("a", ()).await.expect("answered");
        for number in 0..UPDATES {
            let next = session.poll_next(&mut Context::from_waker(Waker::noop()));
            assert!(matches!(next, Poll::Ready(Some(Event::Record(_)))), "{number}: {next:?}");
        }
        assert_played(&session.close().await);
    });
}

// The answer to a second request under an open id would be taken for that to the first.
#[test]
fn repeated_id_is_answered_once() {
    let go = Arc::new(AtomicBool::new(false));
    let gate = Arc::clone(&go);
    let builder = Session::builder().handle("slow", move |_| {
        let gate = Arc::clone(&gate);
        async move {
            poll_fn(|context| {
                if gate.load(Ordering::SeqCst) {
                    return Poll::Ready(());
                }
                context.waker().wake_by_ref();
                Poll::Pending
            })
            .await;
            Ok(json!(1))
        }
    });
    let steps = [
        r#"{"send":{"jsonrpc":"2.0","id":"x","method":"slow"}}"#,
        r#"{"send":{"jsonrpc":"2.0","id":"x","method":"slow"}}"#,
        r#"{"expect":{"id":"x","result":1}}"#,
        r#"{"send":{"jsonrpc":"2.0","method":"over"}}"#,
    ];
    wait(async {
        let session = builder.start(&engine(), dialogue(&steps)).await.expect("starts");
        wait_until("the second request is there", || session.metrics().duplicate == 1);
        go.store(true, Ordering::SeqCst);
        session.next_record().await.expect("over");
        assert_eq!(session.metrics().answered, 1);
        assert_played(&session.close().await);
    });
}
