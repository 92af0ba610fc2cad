//! JSON-RPC as agents really write it: ids of another type, absent keys, batches, odd errors, progress.

use std::time::{Duration, Instant};

use agentpipe::session::jsonrpc::{Builder, Cancellation, Session};
use agentpipe::session::{RequestOptions, RpcError, Settings};
use agentpipe::{AgentCommand, ErrorKind, Framing};
use serde_json::{Value, json};

use crate::support::dialogue::{assert_played, dialogue};
use crate::support::engine;
use crate::wait;

/// No request here may reach this.
const LONG: Duration = Duration::from_secs(60);

const OVER: &str = r#"{"send":{"jsonrpc":"2.0","method":"over"}}"#;

async fn start(builder: Builder, steps: &[&str]) -> Session {
    builder.start(&engine(), dialogue(steps)).await.expect("starts")
}

fn mcp() -> Builder {
    Session::builder().cancellation(Cancellation::Mcp)
}

// A server kept the id as a text, another as a float, a third left a null result out. Each answer was
// dropped, and its request timed out.
#[test]
fn answer_in_another_form_settles_its_request() {
    wait(async {
        let session = start(
            Session::builder(),
            &[
                r#"{"expect":{"id":1,"method":"a"}}"#,
                r#"{"send":{"jsonrpc":"2.0","id":"1","result":"text"}}"#,
                r#"{"expect":{"id":2,"method":"b"}}"#,
                r#"{"raw":"{\"jsonrpc\":\"2.0\",\"id\":2.0,\"result\":\"float\"}\n"}"#,
                r#"{"expect":{"id":3,"method":"c"}}"#,
                r#"{"send":{"level":"info","id":3}}"#,
                r#"{"send":{"jsonrpc":"2.0","id":3}}"#,
                r#"{"expect":{"id":4,"method":"d"}}"#,
                r#"{"send":{"jsonrpc":"2.0","id":4,"error":"just text"}}"#,
            ],
        )
        .await;
        assert_eq!(session.request("a", ()).await.expect("answered").as_bytes(), br#""text""#);
        assert_eq!(session.request("b", ()).await.expect("answered").as_bytes(), br#""float""#);
        assert_eq!(session.request("c", ()).await.expect("answered").as_bytes(), b"null");
        let log = session.next_record().await.expect("a log line is data");
        assert_eq!(log.as_bytes(), br#"{"level":"info","id":3}"#);
        let error = session.request("d", ()).await.expect_err("it was refused");
        assert_eq!(error.kind(), ErrorKind::AgentError);
        assert!(error.to_string().contains("`d` was refused: just text"), "{error}");
        assert_eq!(error.response(), Some(r#""just text""#), "as it came");
        let stats = session.metrics();
        assert_eq!((stats.settled, stats.unknown, stats.late), (4, 0, 0), "{stats:?}");
        assert_played(&session.close().await);
    });
}

// The array was one data record: its answers were lost, and its requests were refused.
#[test]
fn batch_is_served_record_by_record() {
    let builder = mcp().handle("double", |request| async move {
        Ok(request.json::<u64>().map(|number| number * 2)?)
    });
    wait(async {
        let session = start(
            builder,
            &[
                r#"{"expect":{"id":1,"method":"a"}}"#,
                concat!(
                    r#"{"send":[{"jsonrpc":"2.0","method":"news"},"#,
                    r#"{"jsonrpc":"2.0","id":"y","method":"none"},"#,
                    r#"{"jsonrpc":"2.0","id":"x","method":"double","params":21},"#,
                    r#"{"jsonrpc":"2.0","id":1,"result":7}]}"#
                ),
                r#"{"expect":{"jsonrpc":"2.0","id":"y","error":{"code":-32601}}}"#,
                r#"{"expect":{"jsonrpc":"2.0","id":"x","result":42}}"#,
                OVER,
            ],
        )
        .await;
        assert_eq!(session.request("a", ()).await.expect("answered").as_bytes(), b"7");
        let news = session.next_record().await.expect("a notification");
        assert_eq!(news.as_bytes(), br#"{"jsonrpc":"2.0","method":"news"}"#);
        assert!(session.next_record().await.is_some(), "both requests were answered");
        assert_played(&session.close().await);
    });
}

// A server ended the connection because nothing answered its `ping`: there was no handler, or all
// places for its requests were taken.
#[test]
fn ping_of_mcp_needs_no_handler() {
    let settings = || Settings::new().requests_max(1);
    let pinged = [
        r#"{"send":{"jsonrpc":"2.0","id":"slow","method":"slow"}}"#,
        r#"{"send":{"jsonrpc":"2.0","id":"p","method":"ping"}}"#,
        r#"{"expect":{"jsonrpc":"2.0","id":"p","result":"${got}"}}"#,
        r#"{"send":{"jsonrpc":"2.0","method":"over","result":"${got}"}}"#,
    ];
    let builder = || {
        let never = |_| std::future::pending::<Result<(), RpcError>>();
        mcp().settings(settings()).handle("slow", never)
    };
    let others = |_| async { Err::<(), _>(RpcError::new("not supported")) };
    for builder in [builder(), builder().handle_others(others)] {
        wait(async {
            let session = start(builder, &pinged).await;
            let over: Value = session.next_record().await.expect("answered").json().expect("JSON");
            assert_eq!(over["result"], json!({}));
            assert_eq!(session.metrics().answered, 1);
            assert_played(&session.close().await);
        });
    }
    wait(async {
        let session = start(
            mcp().handle("ping", |_| async { Ok("mine") }),
            &[pinged[1], r#"{"expect":{"id":"p","result":"mine"}}"#, OVER],
        )
        .await;
        assert!(session.next_record().await.is_some(), "the handler comes first");
        assert_played(&session.close().await);
    });
}

// A tool that reports its progress reached the timeout of its request all the same.
#[test]
fn progress_renews_the_deadline() {
    let report = |token: &str| {
        format!(
            concat!(
                r#"{{"send":{{"jsonrpc":"2.0","method":"notifications/progress","#,
                r#""params":{{"progressToken":{},"progress":"${{i}}"}}}}}}"#
            ),
            token
        )
    };
    let reports = |token| format!(r#"{{"repeat":8,"steps":[{},{{"delay":250}}]}}"#, report(token));
    wait(async {
        let session = start(
            mcp(),
            &[
                r#"{"expect":{"id":1,"params":{"a":1,"_meta":{"progressToken":1}}}}"#,
                &reports("1"),
                r#"{"send":{"jsonrpc":"2.0","id":1,"result":"done"}}"#,
                r#"{"expect":{"id":2,"params":{"_meta":{"progressToken":"t"}}}}"#,
                &reports(r#""t""#),
                r#"{"send":{"jsonrpc":"2.0","id":2,"result":"done"}}"#,
                r#"{"expect":{"id":3}}"#,
                &report("2"),
            ],
        )
        .await;
        let options =
            RequestOptions::new().timeout(Duration::from_millis(1200)).renewed_by_progress(LONG);
        let begun = Instant::now();
        let done = session.request_with("tool", json!({"a": 1}), options).await;
        assert_eq!(done.expect("answered").as_bytes(), br#""done""#);
        assert!(begun.elapsed() >= Duration::from_secs(2), "longer than the timeout");
        let given = json!({"_meta": {"progressToken": "t"}});
        session.request_with("tool", given, options).await.expect("answered");
        for _ in 0..16 {
            let seen: Value = session.next_record().await.expect("data").json().expect("JSON");
            assert_eq!(seen["method"], "notifications/progress");
        }
        // The progress of another request moves nothing.
        let options = options.timeout(Duration::from_millis(100));
        let error = session.request_with("tool", (), options).await.expect_err("silence");
        assert_eq!(error.kind(), ErrorKind::Timeout);
        assert!(error.to_string().contains("0 reports of progress came"), "{error}");
        assert_eq!(session.metrics().timeouts, 1);
        session.abort().await;
    });
}

// A server that reports progress without end held its request without end.
#[test]
fn progress_has_a_maximum() {
    let endless = concat!(
        r#"{"repeat":1000,"steps":[{"send":{"jsonrpc":"2.0","method":"$/progress","#,
        r#""params":{"token":1}}},{"delay":5}]}"#
    );
    wait(async {
        let builder = Session::builder().cancellation(Cancellation::Lsp);
        let session =
            start(builder, &[r#"{"expect":{"params":{"workDoneToken":1}}}"#, endless]).await;
        let options = RequestOptions::new().renewed_by_progress(Duration::from_millis(400));
        let error = session.request_with("index", (), options).await.expect_err("endless");
        assert_eq!(error.kind(), ErrorKind::Timeout);
        assert!(error.to_string().contains("its maximum was reached"), "{error}");
        session.abort().await;
        let plain = start(Session::builder(), &[r#"{"expect_end":true}"#]).await;
        let error = plain.request_with("index", (), options).await.expect_err("no progress here");
        assert_eq!(error.kind(), ErrorKind::InvalidRecord, "{error}");
        assert_eq!((plain.metrics().pending, plain.metrics().agent.records_out), (0, 0));
        assert_played(&plain.close().await);
    });
}

// The timeout said nothing of the reason, and advised to raise it.
#[test]
fn timeout_says_what_came_instead() {
    let zero = r#"{"send":{"jsonrpc":"2.0","id":0,"error":{"code":-32600,"message":"Bad"}}}"#;
    let noise = r#"{"raw":"please log in\n"}"#;
    let header = r#"{"raw":"Content-Length: 2\r\n\r\n{}"}"#;
    let complaint =
        r#"{"send":{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"Parse error"}}}"#;
    let line = r#"{"raw":"{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":1}\n"}"#;
    let endless = r#"{"raw":"{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":1}"}"#;
    let asked = r#"{"expect":{"id":1}}"#;
    for (framing, said, wanted) in [
        (Framing::Ndjson, endless, "35 bytes of a record came without its end"),
        (Framing::Ndjson, complaint, "could not read a record: Parse error (code -32700)"),
        (Framing::Ndjson, zero, "whose id is that of no request: Bad (code -32600)"),
        (Framing::Ndjson, noise, "a line came that is not a record (13 bytes: please log in)"),
        (Framing::Ndjson, header, "looks like content-length framing"),
        (Framing::ContentLength, line, "looks like ndjson framing"),
    ] {
        wait(async {
            let name = if framing == Framing::Ndjson { "ndjson" } else { "content-length" };
            let end = r#"{"expect_end":true}"#;
            let command = dialogue(&[asked, said, end]).args(["--framing", name]);
            let session = Session::builder().start(&engine(), command.framing(framing)).await;
            let session = session.expect("starts");
            let limit = Duration::from_millis(500);
            let error = session.request_with_timeout("a", (), limit).await.expect_err("no answer");
            assert_eq!(error.kind(), ErrorKind::Timeout);
            assert!(error.to_string().contains(wanted), "{error}");
            session.abort().await;
        });
    }
}

// The agent had said on stderr why it does not answer. The caller learned it from no error.
#[test]
fn timeout_has_the_last_stderr_line() {
    let agent =
        r#"printf 'starting\nnot logged in: run login' >&2; while read -r line; do :; done"#;
    wait(async {
        let command = AgentCommand::new("sh").args(["-c", agent]);
        let session = Session::builder().start(&engine(), command).await.expect("starts");
        let limit = Duration::from_millis(500);
        let error = session.request_with_timeout("a", (), limit).await.expect_err("no answer");
        assert_eq!(error.kind(), ErrorKind::Timeout);
        assert_eq!(error.stderr_tail(), Some("starting\nnot logged in: run login"));
        let last = "(last stderr line: not logged in: run login)";
        assert!(error.to_string().contains(last), "{error}");
        session.abort().await;
    });
}

// An agent that cancels its own request waits for the answer that its protocol promises, and the work
// of the handler goes on for nothing.
#[test]
fn cancelled_handler_is_dropped_in_each_protocol() {
    const CANCELLED: &str = r#"{"expect":{"jsonrpc":"2.0","id":"q","error":{"code":-32800}}}"#;
    for (how, method, key, answer) in [
        (Cancellation::Lsp, "$/cancelRequest", "id", CANCELLED),
        (Cancellation::Acp, "$/cancel_request", "requestId", CANCELLED),
        (Cancellation::Mcp, "notifications/cancelled", "requestId", r#"{"quiet":30}"#),
    ] {
        let (sender, told) = std::sync::mpsc::channel();
        let builder = Session::builder().cancellation(how).handle("work", move |_| {
            sender.send("running").expect("the test listens");
            let guard = crate::Dropped(sender.clone());
            async move {
                let _guard = guard;
                std::future::pending::<Result<(), RpcError>>().await
            }
        });
        let cancel = json!({"send": {"jsonrpc": "2.0", "method": method, "params": {key: "q"}}});
        let steps = [
            r#"{"send":{"jsonrpc":"2.0","id":"q","method":"work"}}"#,
            r#"{"expect":{"method":"it runs"}}"#,
            &cancel.to_string(),
            answer,
            OVER,
        ];
        wait(async {
            let session = start(builder, &steps).await;
            assert_eq!(told.recv_timeout(crate::SOON), Ok("running"));
            session.notify("it runs", ()).await.expect("sent");
            assert!(session.next_record().await.is_some(), "{how:?}");
            assert_eq!(told.recv_timeout(crate::SOON), Ok("dropped"));
            let stats = session.metrics();
            assert_eq!((stats.cancelled, stats.serving, stats.answered), (1, 0, 0), "{stats:?}");
            assert_played(&session.close().await);
        });
    }
}
