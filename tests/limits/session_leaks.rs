//! Nothing leaks above the agents either: 1000 sessions come and go in every way there is, with
//! requests in both directions, and afterwards descriptors, threads and children are exactly what
//! they were, the shared session thread included.

use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use crate::support::CEILING;
use crate::support::dialogue::{ANSWER_ALL, HANDSHAKE, RESULT, dialogue};
use crate::support::own_process::{alone, test_name};
use crate::support::process::Held;
use agentpipe::session::claude::{HookOutput, Permission, Session};
use agentpipe::session::{RpcError, Settings, jsonrpc};
use agentpipe::{Engine, ErrorKind, ExitStatus};

const CYCLES: usize = 1000;
/// Sessions at a time.
const LANES: usize = 12;

/// Two requests of the agent: both have to be answered.
const ASKS: &str = concat!(
    r#"{"send":{"type":"control_request","request_id":"p","request":"#,
    r#"{"subtype":"can_use_tool","tool_name":"Bash","input":{}}}}"#,
    "\n",
    r#"{"expect":{"response":{"request_id":"p","response":{"behavior":"allow"}}}}"#,
    "\n",
    r#"{"send":{"type":"control_request","request_id":"h","request":"#,
    r#"{"subtype":"hook_callback","callback_id":"hook_0"}}}"#,
    "\n",
    r#"{"expect":{"response":{"request_id":"h","subtype":"success"}}}"#
);
/// Two requests that the host will not have answered.
const ASKS_IN_VAIN: &str = concat!(
    r#"{"repeat":2,"steps":[{"send":{"type":"control_request","request_id":"${i}","#,
    r#""request":{"subtype":"slow"}}}]}"#,
    "\n",
    r#"{"send":{"type":"system"}}"#
);

fn has_session_thread(held: &Held) -> bool {
    // The kernel keeps 15 characters of a name.
    held.threads.iter().any(|name| name.starts_with("agentpipe-sessi"))
}

/// A session over these steps, with every kind of handler.
async fn start(engine: &Engine, settings: Settings, steps: &[&str]) -> Session {
    let builder = Session::builder()
        .settings(settings)
        .can_use_tool(|_| async { Ok(Permission::allow()) })
        .hook("Stop", |_| async { Ok(HookOutput::new()) })
        .handle("slow", |_| std::future::pending::<Result<(), RpcError>>());
    builder.start(engine, dialogue(steps)).await.expect("starts")
}

/// The ways a session comes and goes.
const WAYS: usize = 8;

async fn cycle(engine: &Engine, runtime: &tokio::runtime::Handle, number: usize) {
    let on_runtime = {
        let runtime = runtime.clone();
        Settings::new().executor(move |task| drop(runtime.spawn(task)))
    };
    let settings = if number.is_multiple_of(2) { Settings::new() } else { on_runtime };
    match number % WAYS {
        0 | 1 => {
            let steps = [ANSWER_ALL, r#"{"expect":{"type":"user"}}"#, ASKS, RESULT];
            let session = start(engine, settings, &steps).await;
            let (first, second) = tokio::join!(session.interrupt(), session.mcp_status());
            assert!(first.is_ok() && second.is_ok(), "{first:?} {second:?}");
            session.send("over").await.expect("sent");
            assert!(session.read_turn(|_| ()).await.is_ok(), "{:?}", session.close_reason());
            let report = session.close().await;
            assert_eq!(report.exit(), ExitStatus::Code(0), "{report}: {}", report.stderr_tail());
        }
        2 | 3 => {
            // Requests of both sides are open.
            let session = start(engine, settings, &[HANDSHAKE, ASKS_IN_VAIN, r#"{"delay":60000}"#]);
            let session = session.await;
            assert!(session.next_record().await.is_some());
            let (request, report) = tokio::join!(session.interrupt(), session.abort());
            assert_eq!(request.expect_err("closed").kind(), ErrorKind::Closed);
            assert_ne!(report.exit(), ExitStatus::StillRunning, "{report}");
        }
        4 | 5 => {
            // The last handle goes, with requests of both sides open and records unread.
            let session = start(engine, settings, &[HANDSHAKE, ASKS_IN_VAIN, r#"{"delay":60000}"#]);
            let session = session.await;
            assert!(session.next_record().await.is_some());
            let mut request = Box::pin(session.interrupt());
            assert!(request.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        }
        6 => {
            let steps = [HANDSHAKE, r#"{"expect":{"type":"control_request"}}"#, r#"{"exit":3}"#];
            let session = start(engine, settings, &steps).await;
            let error =
                session.request_with_timeout("interrupt", (), None).await.expect_err("it died");
            assert_eq!(error.exit_status(), Some(ExitStatus::Code(3)), "{error}");
        }
        _ => {
            let builder = jsonrpc::Session::builder().settings(settings);
            let session = builder.start(engine, dialogue(&[r#"{"delay":60000}"#])).await;
            let limit = Duration::from_millis(5);
            let request = session.expect("starts").request_with_timeout("never", (), limit).await;
            assert_eq!(request.expect_err("deaf").kind(), ErrorKind::Timeout);
        }
    }
}

/// Runs the cycles, some at a time.
fn run_cycles(engine: &Engine, runtime: &tokio::runtime::Runtime, cycles: std::ops::Range<usize>) {
    let sessions = Arc::new(tokio::sync::Semaphore::new(LANES));
    runtime.block_on(async {
        let mut running = tokio::task::JoinSet::new();
        for number in cycles {
            let lane = Arc::clone(&sessions).acquire_owned().await.expect("open");
            let (engine, handle) = (engine.clone(), runtime.handle().clone());
            running.spawn(async move {
                cycle(&engine, &handle, number).await;
                drop(lane);
            });
        }
        while let Some(done) = running.join_next().await {
            done.expect("a cycle holds what it says");
        }
    });
}

/// What was dropped is aborted in the background: until nothing of it is left in the kernel, and
/// the session thread has ended.
fn await_idle(engine: &Engine) {
    let begun = Instant::now();
    loop {
        let held = Held::now();
        // The wake-up eventfd is watched.
        let in_kernel = engine.counters_blocking().iter().map(|ring| ring.in_kernel).max();
        let idle = engine.agents() == 0 && held.children.is_empty() && in_kernel == Some(1);
        if idle && !has_session_thread(&held) {
            return;
        }
        assert!(begun.elapsed() < CEILING, "{held:?}, {in_kernel:?} operations");
        std::thread::yield_now();
    }
}

fn await_equal(wanted: &Held, what: &str) {
    let begun = Instant::now();
    while Held::now() != *wanted {
        if begun.elapsed() > CEILING {
            assert_eq!(Held::now(), *wanted, "{what}");
        }
        std::thread::yield_now();
    }
    assert_eq!(Held::now(), *wanted, "{what}: nothing was still on its way");
}

// A gateway opens and drops sessions for weeks. Handler tasks, waiters, timers and the thread that
// all sessions share must not accumulate.
#[test]
fn thousand_sessions_leave_nothing_behind() {
    if !alone(test_name!()) {
        return;
    }
    let before = Held::now();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_time()
        .build()
        .expect("a runtime");
    let engine = Engine::new().expect("io_uring");
    // The first of each way pays for what is set up once.
    run_cycles(&engine, &runtime, 0..WAYS);
    await_idle(&engine);
    let with_engine = Held::now();

    run_cycles(&engine, &runtime, WAYS..WAYS + CYCLES);
    await_idle(&engine);
    await_equal(&with_engine, "after all sessions, with the engine alive");
    let dropped = 4 * (WAYS + CYCLES) / WAYS;
    assert!(engine.abandoned() >= dropped as u64 / 2, "{}", engine.abandoned());

    // One that is there keeps the thread; it goes with the last one.
    let last = runtime.block_on(start(&engine, Settings::new(), &[HANDSHAKE]));
    assert!(has_session_thread(&Held::now()));
    let report = last.as_session().close_blocking();
    assert_eq!(report.exit(), ExitStatus::Code(0), "{report}");
    assert!(has_session_thread(&Held::now()), "its handle is there");
    drop(last);
    await_equal(&with_engine, "after the last handle");

    drop(engine);
    drop(runtime);
    await_equal(&before, "after the engine and the runtime");
}
