//! A session gives back the memory that it holds for an agent: however often an agent asks and changes its
//! mind, reads late, or is left by the runtime that served it.

use agentpipe::session::jsonrpc::{Builder, Cancellation, Session};
use agentpipe::session::{AgentRequest, RpcError, Settings};
use agentpipe::{CloseReason, ExitStatus, Limits};
use serde_json::{Value, json};

use crate::support::dialogue::{assert_played, dialogue};
use crate::support::engine;
use crate::{says, wait};

async fn start(builder: Builder, limits: Limits, steps: &[String]) -> Session {
    builder.start(&engine(), dialogue(steps).limits(limits)).await.expect("starts")
}

fn repeat(times: usize, steps: &[Value]) -> String {
    json!({"repeat": times, "steps": steps}).to_string()
}

// An agent sends requests and withdraws them all day. If they kept their part of the budget, each
// later request would be refused.
#[test]
fn withdrawn_requests_free_their_budget() {
    const SIZE: usize = 16 << 10;
    let text = "x".repeat(SIZE);
    let asks = |id: &str, method: &str| -> Value {
        json!({"jsonrpc": "2.0", "id": id, "method": method, "params": [&text]})
    };
    let withdraws = json!({
        "jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": "${i}"},
    });
    // The open request that keeps the table from being empty, which takes a request of any size.
    let stays = json!({"jsonrpc": "2.0", "id": "stays", "method": "slow"});
    let turn = [json!({"send": asks("${i}", "slow")}), json!({"send": withdraws})];
    let steps = [
        says(stays),
        repeat(40, &turn),
        says(asks("last", "size")),
        json!({"expect": {"id": "last", "result": SIZE}}).to_string(),
        says(json!({"jsonrpc": "2.0", "method": "over"})),
    ];
    let settings = Settings::new().requests_bytes_max(8 * SIZE);
    let builder = Session::builder()
        .settings(settings)
        .cancellation(Cancellation::Mcp)
        .handle("slow", |_| std::future::pending::<Result<(), RpcError>>())
        .handle("size", |request: AgentRequest| async move {
            Ok(request.json::<[String; 1]>()?[0].len())
        });
    wait(async {
        let session = start(builder, Limits::new(), &steps).await;
        assert!(session.next_record().await.is_some(), "{:?}", session.as_session().close_reason());
        let stats = session.as_session().metrics();
        assert_eq!((stats.refused, stats.cancelled, stats.serving), (0, 40, 1), "{stats:?}");
        assert_played(&session.close().await);
    });
}

// An agent sends many requests before it reads the answers, again and again. If answers that wait
// for room were counted for good, the session would stop after some hours.
#[test]
fn late_reads_do_not_stop_the_session() {
    const BATCHES: usize = 8;
    const BATCH: usize = 200;
    // The answer repeats the id, so a batch of answers is more than the pipe and the outbox hold.
    let id = format!("${{i}}{}", "x".repeat(4 << 10));
    let asks = json!({"jsonrpc": "2.0", "id": id, "method": "no such method"});
    let batch = [
        json!({"repeat": BATCH, "steps": [{"send": asks}]}),
        json!({"repeat": BATCH, "steps": [{"expect": {"error": {"code": -32601}}}]}),
    ];
    let steps = [repeat(BATCHES, &batch), says(json!({"jsonrpc": "2.0", "method": "over"}))];
    wait(async {
        let session = start(Session::builder(), Limits::new().outbox_high(1), &steps).await;
        assert!(session.next_record().await.is_some(), "{:?}", session.as_session().close_reason());
        let stats = session.as_session().metrics();
        assert_eq!((stats.stalls, stats.answered), (0, (BATCHES * BATCH) as u64), "{stats:?}");
        assert_played(&session.close().await);
    });
}

// The runtime that read the agent is gone, and a handle of the session is kept in a map. The agent
// must not live as long as the map.
#[test]
fn dead_runtime_aborts_a_held_session() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build();
    let runtime = runtime.expect("a runtime");
    let handle = runtime.handle().clone();
    let settings = Settings::new().executor(move |task| drop(handle.spawn(task)));
    let builder = Session::builder().settings(settings);
    let steps =
        [says(json!({"jsonrpc": "2.0", "method": "up"})), json!({"delay": 60_000}).to_string()];
    let session = wait(start(builder, Limits::new(), &steps));
    assert!(wait(session.next_record()).is_some());
    drop(runtime);
    let report = wait(session.as_session().closed());
    assert_eq!(report.reason(), CloseReason::Dropped, "{report}");
    assert_ne!(report.exit(), ExitStatus::StillRunning, "{report}");
}
