//! JSON-RPC: MCP over lines, a language server over Content-Length, both ways.

use std::sync::mpsc;
use std::time::Duration;

use agentpipe::session::jsonrpc::{Builder, Cancellation, Session};
use agentpipe::session::{AgentRequest, RpcError, Settings};
use agentpipe::{ClosePolicy, CloseStage, ErrorKind, Framing};
use serde_json::{Value, json};

use crate::support::dialogue::{assert_played, dialogue};
use crate::support::engine;
use crate::{Dropped, SOON, wait};

async fn start(builder: Builder, steps: &[&str]) -> Session {
    builder.start(&engine(), dialogue(steps)).await.expect("starts")
}

const HANDSHAKE: [&str; 4] = [
    concat!(
        r#"{"expect":{"jsonrpc":"2.0","id":"${id}","method":"initialize","#,
        r#""params":{"protocolVersion":"2025-06-18"}}}"#
    ),
    r#"{"send":{"jsonrpc":"2.0","id":"${id}","result":{"capabilities":{}}}}"#,
    concat!(
        r#"{"expect":{"jsonrpc":"2.0","id":"${absent}","#,
        r#""method":"notifications/initialized","params":"${absent}"}}"#
    ),
    concat!(
        r#"{"on":{"id":"${id}","method":"tools/list"},"send":{"jsonrpc":"2.0","#,
        r#""id":"${id}","result":{"tools":[{"name":"add"}]}}}"#
    ),
];

#[test]
fn mcp_handshake_works_with_both_framings() {
    for (framing, name) in [(Framing::Ndjson, "ndjson"), (Framing::ContentLength, "content-length")]
    {
        wait(async {
            let command = dialogue(&HANDSHAKE).args(["--framing", name]).framing(framing);
            let session = Session::builder().start(&engine(), command).await.expect("starts");
            let hello = json!({"protocolVersion": "2025-06-18"});
            let reply = session.request("initialize", hello).await.expect("answered");
            assert_eq!(reply.as_bytes(), br#"{"capabilities":{}}"#);
            session.notify("notifications/initialized", ()).await.expect("sent");
            let tools: Value = session.request("tools/list", ()).await.unwrap().json().unwrap();
            assert_eq!(tools["tools"][0]["name"], "add");
            assert_played(&session.close().await);
        });
    }
}

// One handler fails, one panics, one does not exist. The agent gets an answer to each, with its own
// id, and the session goes on.
#[test]
fn failing_handlers_still_answer() {
    let builder = Session::builder()
        .handle("double", |request: AgentRequest| async move {
            Ok(request.json::<u64>().map(|number| number * 2)?)
        })
        .handle("fail", |_| async { Err::<(), _>(RpcError::new("no").with_code(7)) })
        .handle("panic", |_| async {
            assert!(std::hint::black_box(false), "a bug of the host");
            Ok(())
        })
        .handle("huge", |_| async { Ok("x".repeat(17 << 20)) });
    wait(async {
        let session = start(
            builder,
            &[
                r#"{"send":{"jsonrpc":"2.0","id":"a","method":"double","params":21}}"#,
                r#"{"expect":{"jsonrpc":"2.0","id":"a","result":42}}"#,
                r#"{"send":{"jsonrpc":"2.0","id":"a","method":"double","params":"x"}}"#,
                r#"{"expect":{"id":"a","error":{"code":-32603}}}"#,
                r#"{"send":{"jsonrpc":"2.0","id":1.50,"method":"fail"}}"#,
                r#"{"expect":{"id":1.50,"error":{"code":7,"message":"no"}}}"#,
                r#"{"send":{"jsonrpc":"2.0","id":2,"method":"panic"}}"#,
                concat!(
                    r#"{"expect":{"id":2,"error":{"code":-32603,"#,
                    r#""message":"the handler panicked: a bug of the host"}}}"#
                ),
                r#"{"send":{"jsonrpc":"2.0","id":3,"method":"huge"}}"#,
                r#"{"expect":{"id":3,"error":{"code":-32603}}}"#,
                r#"{"send":{"jsonrpc":"2.0","id":4,"method":"none"}}"#,
                r#"{"expect":{"id":4,"error":{"code":-32601,"message":"no such method: none"}}}"#,
                r#"{"send":{"jsonrpc":"2.0","id":[5],"method":"double"}}"#,
                r#"{"expect":{"id":null,"error":{"code":-32600}}}"#,
                r#"{"send":{"jsonrpc":"2.0","method":"news","params":{"n": 1}}}"#,
            ],
        )
        .await;
        let news = session.next_record().await.expect("a notification");
        assert_eq!(news.as_bytes(), br#"{"jsonrpc":"2.0","method":"news","params":{"n":1}}"#);
        let stats = session.as_session().metrics();
        assert_eq!((stats.serving, stats.answered, stats.refused), (0, 6, 1), "{stats:?}");
        assert_played(&session.close().await);
    });
}

#[test]
fn withdrawn_request_is_dropped_unanswered() {
    let (sender, dropped) = mpsc::channel();
    let builder = Session::builder().cancellation(Cancellation::Mcp).handle("slow", move |_| {
        sender.send("running").expect("the test listens");
        let guard = Dropped(sender.clone());
        async move {
            let _guard = guard;
            std::future::pending::<Result<(), RpcError>>().await
        }
    });
    wait(async {
        let session = start(
            builder,
            &[
                r#"{"send":{"jsonrpc":"2.0","id":9,"method":"slow"}}"#,
                r#"{"expect":{"method":"it runs"}}"#,
                r#"{"send":{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":8}}}"#,
                r#"{"send":{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":9}}}"#,
                r#"{"quiet":30}"#,
                r#"{"send":{"jsonrpc":"2.0","method":"over"}}"#,
            ],
        )
        .await;
        assert_eq!(dropped.recv_timeout(SOON), Ok("running"));
        session.notify("it runs", ()).await.expect("sent");
        assert!(session.next_record().await.is_some());
        assert_eq!(dropped.recv_timeout(SOON), Ok("dropped"));
        assert_eq!(session.as_session().metrics().serving, 0);
        assert_played(&session.close().await);
    });
}

// A host drops the future of a request, or its timeout passes. The agent is notified where the
// protocol allows it, and a late answer is counted.
#[test]
fn abandoned_request_is_withdrawn() {
    let builder = Session::builder().cancellation(Cancellation::Mcp);
    wait(async {
        let session = start(
            builder,
            &[
                r#"{"expect":{"id":"${a}","method":"slow"}}"#,
                r#"{"expect":{"method":"notifications/cancelled","params":{"requestId":"${=a}"}}}"#,
                r#"{"expect":{"id":"${b}","method":"late"}}"#,
                r#"{"expect":{"method":"notifications/cancelled","params":{"requestId":"${=b}"}}}"#,
                r#"{"send":{"jsonrpc":"2.0","id":"${a}","result":1}}"#,
                r#"{"send":{"jsonrpc":"2.0","id":"${b}","result":1}}"#,
                r#"{"send":{"jsonrpc":"2.0","id":77,"result":1}}"#,
                r#"{"send":{"jsonrpc":"2.0","method":"over"}}"#,
            ],
        )
        .await;
        let base = session.as_session();
        let mut given_up = Box::pin(session.request("slow", ()));
        while base.metrics().agent.records_out == 0 {
            let mut context = std::task::Context::from_waker(std::task::Waker::noop());
            assert!(given_up.as_mut().poll(&mut context).is_pending());
        }
        assert_eq!(base.metrics().pending, 1);
        drop(given_up);
        assert_eq!(base.metrics().pending, 0);
        let limit = Duration::from_millis(20);
        let error = session.request_with_timeout("late", (), limit).await.expect_err("no answer");
        assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
        assert!(error.to_string().contains("`late` was not answered in time"), "{error}");
        assert!(session.next_record().await.is_some());
        let stats = base.metrics();
        assert_eq!((stats.late, stats.unknown, stats.timeouts), (2, 1, 1), "{stats:?}");
        assert_played(&session.close().await);
    });
}

// An unbounded number of handlers or waiters would exhaust the host.
#[test]
fn tables_have_limits() {
    let (sender, running) = mpsc::channel();
    let settings = Settings::new().pending_max(2).requests_max(3).concurrency(1);
    let builder = Session::builder().settings(settings).handle("slow", move |_| {
        sender.send(()).expect("counted");
        std::future::pending::<Result<(), RpcError>>()
    });
    wait(async {
        let session = start(
            builder,
            &[
                r#"{"repeat":3,"steps":[{"send":{"jsonrpc":"2.0","id":"${i}","method":"slow"}}]}"#,
                r#"{"send":{"jsonrpc":"2.0","id":"one too many","method":"slow"}}"#,
                r#"{"expect":{"id":"one too many","error":{"code":-32603}}}"#,
                r#"{"send":{"jsonrpc":"2.0","method":"your turn"}}"#,
                r#"{"expect":{"method":"x"}}"#,
                r#"{"expect":{"method":"x"}}"#,
                r#"{"send":{"jsonrpc":"2.0","method":"over"}}"#,
                r#"{"expect_end":true}"#,
            ],
        )
        .await;
        let why = || session.as_session().close_reason();
        assert!(session.next_record().await.is_some(), "{:?}", why());
        let two = async { tokio::join!(session.request("x", ()), session.request("x", ())) };
        let third = async {
            assert!(session.next_record().await.is_some(), "{:?}", why());
            // The thread of all sessions may have much to do before it comes to this handler.
            running.recv_timeout(SOON).expect("the first one runs");
            let error = session.request("x", ()).await.expect_err("too many");
            let stats = session.as_session().metrics();
            (error, stats, session.close().await)
        };
        let (outcomes, (error, stats, report)) = tokio::join!(two, third);
        assert_eq!(error.kind(), ErrorKind::Overloaded, "{error}");
        assert!(error.to_string().contains("2 requests are open"), "{error}");
        assert_eq!((stats.pending, stats.serving, stats.running, stats.refused), (2, 3, 1, 1));
        assert_eq!(running.try_iter().count(), 0, "one at a time");
        for outcome in [outcomes.0, outcomes.1] {
            assert_eq!(outcome.expect_err("closed").kind(), ErrorKind::Closed);
        }
        assert_played(&report);
        let stats = session.as_session().metrics();
        assert_eq!((stats.pending, stats.serving), (0, 0));
    });
}

const SHUTDOWN: &str =
    r#"{"expect":{"jsonrpc":"2.0","id":"${id}","method":"shutdown","params":"${absent}"}}"#;
const EXIT: &str = r#"{"expect":{"jsonrpc":"2.0","id":"${absent}","method":"exit"}}"#;
const END: &str = r#"{"expect_end":true}"#;

fn language_server() -> Builder {
    Session::builder().cancellation(Cancellation::Lsp).farewell("shutdown", &["exit"])
}

// A language server that gets no `shutdown` exits with an error, and loses what it would have saved.
#[test]
fn farewell_is_said_before_the_input_ends() {
    let answers = [
        r#"{"send":{"jsonrpc":"2.0","id":"${id}","result":null}}"#,
        r#"{"send":{"jsonrpc":"2.0","id":"${id}","error":{"code":-32002,"message":"not yet"}}}"#,
    ];
    for answer in answers {
        for shuts_down in [false, true] {
            wait(async {
                let engine = engine();
                let command = dialogue(&[SHUTDOWN, answer, EXIT, END]);
                let session = language_server().start(&engine, command).await.expect("starts");
                let report = if shuts_down {
                    engine.shutdown(SOON).await;
                    session.closed().await
                } else {
                    session.close().await
                };
                assert_played(&report);
                assert_eq!(report.interrupt_answered(), Some(true), "{report}");
                assert_eq!(report.unsent_records(), 0);
                let stages: Vec<_> = report.stages().iter().map(|(stage, _)| *stage).collect();
                assert!(stages.contains(&CloseStage::Interrupt), "{report}");
                let stats = session.metrics();
                assert_eq!((stats.late, stats.unknown, stats.data_records), (0, 0, 0), "{stats:?}");
            });
        }
    }
}

#[test]
fn unanswered_farewell_is_bounded() {
    wait(async {
        let command = dialogue(&[SHUTDOWN, END]);
        let limit = Duration::from_millis(200);
        let command = command.close_policy(ClosePolicy::graceful().interrupt(limit));
        let session = language_server().start(&engine(), command).await.expect("starts");
        let report = session.close().await;
        assert_played(&report);
        assert_eq!(report.interrupt_answered(), Some(false), "{report}");
        assert!(report.to_json().contains(r#""interrupt_answered":false"#));
        assert!(report.to_string().contains("it left the interrupt unanswered"), "{report}");
        let session = language_server().start(&engine(), dialogue(&[END])).await.expect("starts");
        let report = session.abort().await;
        assert_eq!(report.interrupt_answered(), None, "an abort takes no leave");
        assert_eq!(report.stats().records_out, 0);
    });
}

// The last notification was cut off where the input ended.
#[test]
fn farewell_is_written_whole() {
    // Together more than a pipe holds.
    let long = ["x", "y"].map(|letter| letter.repeat(100 << 10));
    let answer = r#"{"send":{"jsonrpc":"2.0","id":"${id}","result":null}}"#;
    let last = long.each_ref().map(|it| json!({"expect": {"method": it}}).to_string());
    wait(async {
        let command = dialogue(&[SHUTDOWN, answer, &last[0], &last[1], END]);
        // The input ends without a look at the agent.
        let policy = ClosePolicy::graceful().quiet_period(Duration::ZERO);
        let builder = Session::builder().farewell("shutdown", &[&long[0], &long[1]]);
        let session = builder.start(&engine(), command.close_policy(policy)).await.expect("starts");
        let report = session.close().await;
        assert_played(&report);
        assert_eq!((report.unsent_records(), report.interrupt_answered()), (0, Some(true)));
    });
}
