//! Ten thousand requests each way on one session, interleaved, late, out of order, withdrawn from
//! both ends. The agent is `agentpipe fake --chat`, which leaves with 65 if an answer is missing,
//! comes twice or to the wrong request, and says at the end what it counted.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::support::{CEILING, PROGRAM, engine};
use agentpipe::session::jsonrpc::Cancellation;
use agentpipe::session::{
    AgentRequest, RpcError, Session, SessionStats, Settings, claude, jsonrpc,
};
use agentpipe::{AgentCommand, Error, ErrorKind, Event, ExitStatus, Framing, Record};
use serde_json::{Value, json};
use tokio::runtime::Handle;

const SEED: u64 = 20_261_125;
/// Requests in each direction.
const REQUESTS: u64 = 10_000;
/// Requests of ours that are open at once.
const WORKERS: u64 = 64;

/// Chance that is the same in every run.
fn chance(seed: u64) -> u64 {
    let mut mixed = seed.wrapping_add(SEED).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed ^ (mixed >> 31)
}

/// A pause that ends on tokio's clock, wherever it is awaited.
async fn pause(runtime: &Handle, micros: u64) {
    if micros > 0 {
        let time = async move { tokio::time::sleep(Duration::from_micros(micros)).await };
        runtime.spawn(time).await.expect("the runtime lives");
    }
}

/// The handler of the agent's requests: late, and with its number or an error.
async fn answer(request: AgentRequest, runtime: Handle) -> Result<Value, RpcError> {
    let body: Value = request.json()?;
    let number = body["n"].as_u64().ok_or("a request without a number")?;
    let luck = chance(number);
    pause(&runtime, if luck.is_multiple_of(3) { 0 } else { luck % 2000 }).await;
    if body["do"] == "fail" { Err("as it was asked".into()) } else { Ok(json!({"n": number})) }
}

type Reply = Pin<Box<dyn Future<Output = Result<Record, Error>> + Send>>;
/// Asks with a deadline, in either protocol.
type Ask = Arc<dyn Fn(Value, Duration) -> Reply + Send + Sync>;

/// The outcomes of the requests that the host made.
#[derive(Debug, Default)]
struct Outcomes {
    answered: AtomicU64,
    refused: AtomicU64,
    timed_out: AtomicU64,
    given_up: AtomicU64,
}

impl Outcomes {
    fn counts(&self) -> [u64; 4] {
        [&self.answered, &self.refused, &self.timed_out, &self.given_up]
            .map(|count| count.load(Ordering::Relaxed))
    }
}

/// One request, and that it had the outcome that it asked for.
async fn ask_once(ask: &Ask, number: u64, outcomes: &Outcomes) {
    let luck = chance(number << 20);
    let what = match luck % 16 {
        0 => "ignore",
        1 | 2 => "fail",
        3 => "twice",
        _ => "answer",
    };
    let limit =
        if what == "ignore" { Duration::from_micros(luck % 5000) } else { Duration::from_secs(60) };
    let request = ask(json!({"n": number, "do": what}), limit);
    // Some are dropped: at once, on their way, or when the answer is there already.
    let patience =
        if luck.is_multiple_of(5) { Duration::from_micros(luck % 3000) } else { CEILING };
    let Ok(reply) = tokio::time::timeout(patience, request).await else {
        outcomes.given_up.fetch_add(1, Ordering::Relaxed);
        return;
    };
    let count = match reply {
        Ok(reply) => {
            assert_eq!(reply.json::<Value>().expect("JSON"), json!({"n": number}), "{what}");
            assert!(["answer", "twice"].contains(&what), "{number}: {what} was answered");
            &outcomes.answered
        }
        Err(error) if error.kind() == ErrorKind::AgentError => {
            assert_eq!(what, "fail", "{number}: {error}");
            &outcomes.refused
        }
        Err(error) => {
            assert_eq!((error.kind(), what), (ErrorKind::Timeout, "ignore"), "{number}: {error}");
            &outcomes.timed_out
        }
    };
    count.fetch_add(1, Ordering::Relaxed);
}

/// Reads the agent's other records, which are numbered, until it has asked all it wants to.
async fn read_until_done(session: &Session, kind: &str) -> u64 {
    for expected in 1.. {
        let record = session.next_record().await.expect("the agent goes on");
        let value: Value = record.json().expect("JSON");
        let body = if value["params"].is_object() { &value["params"] } else { &value };
        assert_eq!(body["seq"], expected, "{value}");
        if value[kind] == "chat_done" {
            return expected;
        }
    }
    unreachable!("it counts on")
}

/// Plays it all, and compares what both sides counted. `kind` is the key that names a record.
/// Gives the tally of the agent.
async fn play(session: &Session, ask: Ask, kind: &str) -> Value {
    let (next, outcomes) = (Arc::new(AtomicU64::new(0)), Arc::new(Outcomes::default()));
    let workers: Vec<_> = (0..WORKERS)
        .map(|_| {
            let (ask, next, outcomes) = (ask.clone(), Arc::clone(&next), Arc::clone(&outcomes));
            tokio::spawn(async move {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= REQUESTS {
                        return;
                    }
                    ask_once(&ask, number, &outcomes).await;
                }
            })
        })
        .collect();
    let notes = read_until_done(session, kind).await;
    for worker in workers {
        worker.await.expect("every request had the outcome it asked for");
    }
    let counts = outcomes.counts();
    assert_eq!(counts.iter().sum::<u64>(), REQUESTS, "{counts:?}");
    assert!(counts.iter().all(|count| *count > 100), "each kind of outcome occurs: {counts:?}");

    // Nothing is open: not at the end of the session, now.
    let stats = session.metrics();
    assert_eq!((stats.pending, stats.serving), (0, 0), "{stats:?}");
    while session.metrics().running > 0 {
        tokio::task::yield_now().await;
    }
    let report = session.close().await;
    let (mut tally, mut last) = (Value::Null, None);
    while let Some(event) = session.next().await {
        if let Event::Record(record) = &event {
            assert!(tally.is_null(), "the tally is the last record: {record:?}");
            tally = record.json().expect("JSON");
        }
        last = Some(event);
    }
    assert_eq!(last, Some(Event::Exit(ExitStatus::Code(0))), "{report}: {}", report.stderr_tail());
    assert_eq!(tally[kind], "chat_tally", "{tally}");
    let tally = if tally["params"].is_object() { tally["params"].take() } else { tally };
    assert_eq!(tally["notes"], notes);

    let stats = session.metrics();
    let [answered, refused, timed_out, given_up] = counts;
    assert_eq!(stats.asked, REQUESTS);
    // A future may be dropped just when its outcome is there: that outcome is counted and not seen.
    let seen = [(answered + refused, stats.settled), (timed_out, stats.timeouts)];
    assert!(seen.iter().all(|(seen, counted)| seen <= counted), "{counts:?} {stats:?}");
    let unseen = stats.settled + stats.timeouts - (answered + refused + timed_out);
    assert_eq!(unseen + stats.withdrawn, given_up, "{counts:?} {stats:?}");
    must_agree(&tally, &stats, session);
    tally
}

/// Asserts that both sides counted the same.
fn must_agree(tally: &Value, stats: &SessionStats, session: &Session) {
    let count = |name: &str| tally[name].as_u64().unwrap_or_else(|| panic!("{name} in {tally}"));
    let context = format!("{stats:?}\n{tally}");
    // Ours: one outcome each.
    let outcomes = stats.settled + stats.timeouts + stats.withdrawn + stats.failed;
    assert_eq!((stats.asked, stats.failed, stats.pending), (outcomes, 0, 0), "{context}");
    // Every answer of the agent met its request, or came too late; none without a request.
    assert_eq!(count("answers"), stats.settled + stats.late, "{context}");
    assert_eq!((stats.unknown, stats.duplicate, stats.refused), (0, 0, 0), "{context}");
    let once = count("answers") - count("repeated");
    assert_eq!(count("heard"), once + count("ignored") + count("dropped"), "{context}");
    // Theirs: one outcome each, and the same for both.
    assert_eq!(count("asked"), REQUESTS, "{context}");
    assert_eq!(count("answered"), stats.answered, "{context}");
    assert_eq!(count("asked"), stats.answered + stats.cancelled, "{context}");
    assert_eq!(count("withdrawn"), stats.cancelled + count("crossed"), "{context}");
    assert!(stats.cancelled > 100, "{context}");
    // And no record was lost on the way, in either direction.
    let pipes = session.metrics().agent;
    assert_eq!(count("records"), pipes.records_out, "{context}");
    assert_eq!((pipes.noise, pipes.malformed, pipes.records_discarded), (0, 0, 0));
    assert_eq!(stats.data_records, count("notes") + 1, "{context}");
}

fn run<T>(future: impl Future<Output = T>) -> T {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build();
    let limited = async { tokio::time::timeout(CEILING, future).await };
    runtime.expect("a runtime").block_on(limited).expect("it hangs")
}

fn command(protocol: &str) -> AgentCommand {
    let chat = format!("{SEED},{REQUESTS}");
    AgentCommand::new(PROGRAM).args(["fake", "--chat", &chat, "--chat-as", protocol])
}

// The agent can withdraw a request, the host cannot: answers to requests that it gave up arrive and
// are counted.
#[test]
fn ten_thousand_control_requests_each_way() {
    run(async {
        let runtime = Handle::current();
        let builder = claude::Session::builder()
            .handle("chat", move |request| answer(request, runtime.clone()));
        let agent = engine().spawn(command("claude")).await.expect("spawns");
        let session = builder.attach(agent).expect("attaches");
        let asking = session.clone();
        let ask: Ask = Arc::new(move |body, limit| {
            let session = asking.clone();
            Box::pin(async move { session.request_with_timeout("chat", body, limit).await })
        });
        let tally = play(session.as_session(), ask, "type").await;
        assert_eq!((&tally["cancelled"], &tally["dropped"]), (&json!(0), &json!(0)), "{tally}");
    });
}

/// The same in JSON-RPC.
fn run_in_json_rpc(command: AgentCommand, cancellation: Cancellation, settings: Settings) {
    run(async {
        let runtime = Handle::current();
        let builder = jsonrpc::Session::builder()
            .settings(if cancellation == Cancellation::Mcp {
                // On a runtime of the host's own, in several threads.
                let own = runtime.clone();
                settings.executor(move |task| drop(own.spawn(task)))
            } else {
                settings
            })
            .cancellation(cancellation)
            .handle("chat", move |request| answer(request, runtime.clone()));
        let session = builder.start(&engine(), command).await.expect("starts");
        let asking = session.clone();
        let ask: Ask = Arc::new(move |body, limit| {
            let session = asking.clone();
            Box::pin(async move { session.request_with_timeout("chat", body, limit).await })
        });
        let tally = play(session.as_session(), ask, "method").await;
        // A withdrawn request may be answered or not.
        let (cancelled, dropped) = (tally["cancelled"].as_u64(), tally["dropped"].as_u64());
        match cancellation {
            Cancellation::Lsp => assert!(cancelled > Some(100) && dropped == Some(0), "{tally}"),
            _ => assert!(cancelled == Some(0) && dropped > Some(100), "{tally}"),
        }
    });
}

#[test]
fn ten_thousand_json_rpc_requests_each_way() {
    run_in_json_rpc(command("mcp"), Cancellation::Mcp, Settings::new());
}

// With headers in place of lines, and with few handlers at once: the others wait.
#[test]
fn ten_thousand_lsp_requests_each_way() {
    let command = command("lsp").args(["--framing", "content-length"]);
    let settings = Settings::new().concurrency(8);
    run_in_json_rpc(command.framing(Framing::ContentLength), Cancellation::Lsp, settings);
}
