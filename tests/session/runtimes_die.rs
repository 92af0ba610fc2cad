//! The runtime that a session was given ends under it, or takes no task at all.

use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use agentpipe::session::claude::Session;
use agentpipe::session::{RpcError, Settings, jsonrpc};
use agentpipe::{AgentCommand, Engine, Error, ErrorKind, ExitStatus, Limits};
use serde_json::Value;

use crate::support::dialogue::{HANDSHAKE, RESULT, dialogue};
use crate::support::engine;
use crate::{Dropped, SOON, wait};

fn runtime(threads: usize) -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(threads).enable_time().build().expect("a runtime")
}

fn on(runtime: &tokio::runtime::Runtime) -> Settings {
    let handle = runtime.handle().clone();
    Settings::new().executor(move |task| drop(handle.spawn(task)))
}

fn await_no_agent(engine: &Engine) {
    let begun = Instant::now();
    while engine.agents() > 0 {
        assert!(begun.elapsed() < SOON, "{} are left", engine.agents());
        std::thread::yield_now();
    }
}

fn assert_told(error: &Error) {
    assert_eq!(error.kind(), ErrorKind::Closed, "{error}");
    let text = error.to_string();
    assert!(text.contains("the runtime that ran the session dropped its tasks"), "{text}");
    assert!(text.contains("close its sessions before a runtime ends"), "{text}");
}

/// An agent that sends this number of requests, and reports that.
fn asking(times: usize) -> [String; 3] {
    let ask = r#"{"send":{"jsonrpc":"2.0","id":"${i}","method":"slow"}}"#;
    [
        format!(r#"{{"repeat":{times},"steps":[{ask}]}}"#),
        r#"{"send":{"jsonrpc":"2.0","method":"asked"}}"#.to_owned(),
        r#"{"delay":60000}"#.to_owned(),
    ]
}

// A service shuts its runtime down while handlers run and requests wait. Every waiter gets an error
// at once, on any runtime, and no child is left.
#[test]
fn dead_runtime_ends_its_sessions() {
    let (sender, told) = mpsc::channel();
    for threads in [1, 3] {
        let runtime = runtime(threads);
        let sender = sender.clone();
        let builder =
            jsonrpc::Session::builder().settings(on(&runtime)).handle("slow", move |_| {
                sender.send("running").expect("the test listens");
                let guard = Dropped(sender.clone());
                async move {
                    let _guard = guard;
                    std::future::pending::<Result<(), RpcError>>().await
                }
            });
        let engine = engine();
        let session = wait(builder.start(&engine, dialogue(&asking(2)))).expect("starts");
        assert!(wait(session.next_record()).is_some());
        for _ in 0..2 {
            assert_eq!(told.recv_timeout(SOON), Ok("running"));
        }
        let (waits, reads) = (session.clone(), session.clone());
        let waits = std::thread::spawn(move || wait(waits.request("never", ())));
        let reads = std::thread::spawn(move || wait(reads.next()));
        let begun = Instant::now();
        while session.as_session().metrics().pending == 0 {
            assert!(begun.elapsed() < SOON);
            std::thread::yield_now();
        }
        drop(runtime);
        assert_told(&waits.join().expect("no panic").expect_err("no answer"));
        assert_eq!(reads.join().expect("no panic"), None, "the end");
        for _ in 0..2 {
            assert_eq!(told.recv_timeout(SOON), Ok("dropped"));
        }
        assert_told(&wait(session.request("again", ())).expect_err("no answer comes"));
        assert_told(&session.as_session().close_reason().expect("over"));
        let stats = session.as_session().metrics();
        assert_eq!((stats.pending, stats.serving, stats.running), (0, 0, 0), "{stats:?}");
        let report = wait(session.close());
        assert_ne!(report.exit(), ExitStatus::StillRunning, "{report}");
        drop(session);
        await_no_agent(&engine);
    }
}

// Each waiting request begins when the one before it is over. A runtime that ends drops them one
// within the other, thousands deep. The task that reads is on another runtime and lives on.
#[test]
fn dead_runtime_with_a_long_queue_is_not_recursive() {
    const WAITING: usize = 30_000;
    let (reads, handles) = (runtime(1), runtime(1));
    let (first, others) = (reads.handle().clone(), handles.handle().clone());
    let tasks = std::sync::atomic::AtomicUsize::new(0);
    let settings = Settings::new().concurrency(1).requests_max(2 * WAITING).executor(move |task| {
        let number = tasks.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        drop(if number == 0 { first.spawn(task) } else { others.spawn(task) });
    });
    let (sender, running) = mpsc::channel();
    let builder = jsonrpc::Session::builder().settings(settings).handle("slow", move |_| {
        sender.send(()).expect("the test listens");
        std::future::pending::<Result<(), RpcError>>()
    });
    let engine = engine();
    let session = wait(builder.start(&engine, dialogue(&asking(WAITING)))).expect("starts");
    assert!(wait(session.next_record()).is_some());
    running.recv_timeout(SOON).expect("the first one runs");
    assert_eq!(session.as_session().metrics().serving, WAITING);
    drop(handles);
    let stats = session.as_session().metrics();
    assert_eq!((stats.serving, stats.running), (0, 0), "{stats:?}");
    assert_eq!(stats.answered, WAITING as u64, "each is answered with an error");
    assert_eq!(running.try_iter().count(), 0, "no handler began on the way");
    assert!(session.as_session().close_reason().is_none(), "the session lives");
    drop(session);
    await_no_agent(&engine);
}

// The tasks go to a runtime that is gone, or to `tokio::spawn` on a thread without a runtime, which
// panics. The start fails with the reason; the host goes on.
#[test]
fn refusing_executor_fails_the_start() {
    let dead = runtime(1);
    let on_a_dead_one = on(&dead);
    drop(dead);
    let engine = engine();
    for settings in [
        Settings::new().executor(drop),
        Settings::new().executor(|task| drop(tokio::spawn(task))),
        on_a_dead_one,
    ] {
        let builder = Session::builder().settings(settings);
        let command = dialogue(&[r#"{"delay":60000}"#]);
        let starting = std::thread::spawn({
            let engine = engine.clone();
            move || pollster::block_on(builder.start(&engine, command))
        });
        assert_told(&starting.join().expect("no panic").expect_err("it is not read"));
    }
    await_no_agent(&engine);
    assert_eq!(engine.abandoned(), 3, "each was aborted");
}

// A pool of the host takes the task that reads and refuses those of handlers. The agent gets an
// error each time, and the session lives.
#[test]
fn refused_handler_is_answered() {
    let refused = std::sync::atomic::AtomicUsize::new(0);
    let runtime = runtime(1);
    let handle = runtime.handle().clone();
    let settings = Settings::new().concurrency(1).executor(move |task| {
        if refused.fetch_add(1, std::sync::atomic::Ordering::SeqCst) == 0 {
            drop(handle.spawn(task));
        }
    });
    let builder = Session::builder().settings(settings).handle("x", |_| async { Ok(Value::Null) });
    let ask = concat!(
        r#"{"repeat":20,"steps":[{"send":{"type":"control_request","request_id":"${i}","#,
        r#""request":{"subtype":"x"}}},"#,
        r#"{"expect":{"response":{"subtype":"error","#,
        r#""error":"the handler was dropped before it answered"}}}]}"#
    );
    wait(async {
        let steps = [HANDSHAKE, ask, RESULT];
        let session = builder.start(&engine(), dialogue(&steps)).await.expect("starts");
        assert!(session.read_turn(|_| ()).await.is_ok(), "{:?}", session.close_reason());
        let stats = session.as_session().metrics();
        assert_eq!((stats.answered, stats.serving, stats.running), (20, 0, 0), "{stats:?}");
        crate::assert_played(&session.close().await);
    });
}

/// An agent that sends a request and reads nothing until it may; then it keeps what it reads.
struct DeafAgent {
    folder: tempfile::TempDir,
    begun: Instant,
}

impl DeafAgent {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().expect("a folder"), begun: Instant::now() }
    }

    fn command(&self, request: &str) -> AgentCommand {
        let script = r#"echo "$0"; until [ -e "$1" ]; do sleep 0.01; done; exec cat > "$2""#;
        AgentCommand::new("sh")
            .args(["-c", script, request])
            .arg(self.folder.path().join("go"))
            .arg(self.folder.path().join("heard"))
            .limits(Limits::new().outbox_high(1024))
    }

    fn awaits(&self, what: &str, holds: impl Fn() -> bool) {
        while !holds() {
            assert!(self.begun.elapsed() < SOON, "{what}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn hears(&self, response: &str) {
        std::fs::write(self.folder.path().join("go"), "").expect("written");
        let heard = self.folder.path().join("heard");
        let line = format!("{response}\n");
        self.awaits("the response comes", || {
            std::fs::read_to_string(&heard).is_ok_and(|text| text.ends_with(&line))
        });
    }
}

/// Settings of a session whose tasks can be dropped one by one.
fn droppable(runtime: &tokio::runtime::Runtime) -> (Settings, impl Fn(usize)) {
    let tasks = Arc::new(Mutex::new(Vec::new()));
    let (handle, spawned) = (runtime.handle().clone(), Arc::clone(&tasks));
    let settings = Settings::new().executor(move |task| {
        spawned.lock().expect("tasks").push(handle.spawn(task).abort_handle());
    });
    (settings, move |number| tasks.lock().expect("tasks")[number].abort())
}

/// More than the pipe and the outbox hold.
fn filler() -> String {
    format!("[\"{}\"]", "x".repeat(256 << 10))
}

// A runtime dropped the task of a handler whose response waited for room. The request counted as
// answered, and the agent waited for its response without end.
#[test]
fn response_outlives_its_dropped_task() {
    let agent = DeafAgent::new();
    let runtime = runtime(1);
    let (settings, drop_task) = droppable(&runtime);
    let (answer, answers) = tokio::sync::oneshot::channel();
    let answers = Mutex::new(Some(answers));
    let builder = jsonrpc::Session::builder().settings(settings).handle("late", move |_| {
        let answer = answers.lock().expect("one").take().expect("one request");
        async move { Ok(answer.await.expect("the test answers")) }
    });
    let command = agent.command(r#"{"jsonrpc":"2.0","id":"h","method":"late"}"#);
    let session = wait(builder.start(&engine(), command)).expect("starts");
    agent.awaits("the handler runs", || session.metrics().running == 1);
    wait(session.send(filler())).expect("accepted");
    answer.send("done").expect("the handler waits");
    agent.awaits("the response waits", || session.metrics().serving == 0);
    assert_eq!(session.metrics().running, 1);
    drop_task(1);
    agent.awaits("the task is dropped", || session.metrics().running == 0);
    agent.hears(r#"{"jsonrpc":"2.0","id":"h","result":"done"}"#);
    assert_eq!(session.metrics().answered, 1);
    wait(session.close());
}

// The input ended while the refusal of the last request waited for room, so the refusal was lost.
#[test]
fn refusal_comes_before_the_input_ends() {
    let agent = DeafAgent::new();
    let runtime = runtime(1);
    let (settings, drop_task) = droppable(&runtime);
    let never = |_| std::future::pending::<Result<(), RpcError>>();
    let builder = Session::builder().settings(settings).handle("late", never);
    let request = r#"{"type":"control_request","request_id":"h","request":{"subtype":"late"}}"#;
    let spawned = wait(engine().spawn(agent.command(request))).expect("spawns");
    let session = builder.attach(spawned).expect("attached");
    agent.awaits("the handler runs", || session.as_session().metrics().running == 1);
    wait(session.as_session().send(filler())).expect("accepted");
    session.end_input_when_done();
    drop_task(1);
    agent.awaits("the task is dropped", || session.as_session().metrics().running == 0);
    agent.hears(concat!(
        r#"{"type":"control_response","response":{"subtype":"error","request_id":"h","#,
        r#""error":"the handler was dropped before it answered"}}"#
    ));
    assert_eq!(wait(session.as_session().closed()).exit(), ExitStatus::Code(0));
}
