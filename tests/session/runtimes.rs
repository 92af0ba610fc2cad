//! A session on every kind of runtime, and its tasks where the host wants them: tokio's pool, one
//! thread, a local set, or no runtime.

use std::sync::mpsc::{self, Receiver, Sender};
use std::time::Duration;

use agentpipe::session::claude::{Builder, HookOutput, Permission, Session};
use agentpipe::session::{AgentRequest, RpcError, Settings, Task};
use agentpipe::{ErrorKind, Event, ExitStatus};
use serde_json::{Value, json};

use crate::support::dialogue::{ANSWER_ALL, HANDSHAKE, RESULT, assert_played, dialogue};
use crate::support::engine;
use crate::{SOON, asks, wait};

fn given(threads: usize) -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .thread_name("given")
        .enable_time()
        .build()
        .expect("a runtime")
}

fn on(runtime: &tokio::runtime::Runtime) -> Settings {
    let handle = runtime.handle().clone();
    Settings::new().executor(move |task| drop(handle.spawn(task)))
}

/// A session whose handler of `block` blocks its thread: hears of it, and ends it.
fn blocking(pool: &tokio::runtime::Runtime) -> (Builder, Receiver<()>, Sender<()>) {
    let (sender, blocked) = mpsc::channel();
    let (release, released) = mpsc::channel::<()>();
    let released = std::sync::Mutex::new(released);
    let builder = Session::builder().settings(on(pool)).handle("block", move |_| {
        sender.send(()).expect("the test listens");
        let waited = released.lock().expect("one handler").recv_timeout(SOON).is_ok();
        async move { if waited { Ok(json!({})) } else { Err(RpcError::new("timed out")) } }
    });
    (builder, blocked, release)
}

/// All that a host does, once.
async fn conversation(settings: Settings) -> u64 {
    let tool = json!({"subtype": "can_use_tool", "tool_name": "Bash", "input": {}});
    let hook = json!({"subtype": "hook_callback", "callback_id": "hook_0"});
    let allowed = json!({"behavior": "allow", "updatedInput": {}});
    let builder = Session::builder()
        .settings(settings)
        .can_use_tool(|_| async { Ok(Permission::allow()) })
        .hook("Stop", |_| async { Ok(HookOutput::new()) });
    let steps = [
        ANSWER_ALL,
        r#"{"expect":{"type":"user"}}"#,
        &asks("t", tool, allowed),
        r#"{"flood":100,"size":200,"type":"assistant"}"#,
        &asks("h", hook, json!({})),
        RESULT,
    ];
    let session = builder.start(&engine(), dialogue(&steps)).await.expect("starts");
    session.send("go").await.expect("sent");
    session.set_model(None).await.expect("answered");
    let mut messages = 0;
    assert!(session.read_turn(|_| messages += 1).await.is_ok(), "{:?}", session.close_reason());
    session.interrupt().await.expect("answered");
    session.end_input_when_done();
    while session.next().await.is_some() {}
    assert_played(&session.close().await);
    messages
}

// The future is polled by tokio's pool, by a current-thread runtime, in a local set, and by a plain
// thread; the session's tasks run on the shared thread or on the runtime.
#[test]
fn conversation_works_on_every_runtime() {
    let pool = given(2);
    for settings in [Settings::new(), on(&pool)] {
        let spawned = pool.spawn(conversation(settings.clone()));
        assert_eq!(wait(spawned).expect("no panic"), 100, "tokio, many threads");
        assert_eq!(wait(conversation(settings.clone())), 100, "tokio, one thread");
        let local = tokio::task::LocalSet::new();
        let stays = std::rc::Rc::new(settings.clone());
        let task = local.run_until(async move {
            let task = async move { conversation((*stays).clone()).await };
            tokio::task::spawn_local(task).await
        });
        assert_eq!(wait(task).expect("no panic"), 100, "tasks that are not Send");
        assert_eq!(pollster::block_on(conversation(settings)), 100, "no runtime");
    }
    let one = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("one");
    let settings = on(&one);
    let limited = async { tokio::time::timeout(SOON, conversation(settings)).await };
    assert_eq!(one.block_on(limited).expect("it hangs"), 100, "all on one thread");
}

/// On which thread the pump and a handler run.
fn handled_on(settings: Settings, work: fn() -> Task) -> String {
    let builder =
        Session::builder().settings(settings).handle("where", move |_: AgentRequest| async move {
            work().await;
            let thread = std::thread::current();
            Ok(json!({"thread": thread.name()}))
        });
    let asked = json!({"send": {
        "type": "control_request", "request_id": "w", "request": {"subtype": "where"},
    }});
    let steps = [
        HANDSHAKE.to_owned(),
        asked.to_string(),
        r#"{"expect":{"response":{"response":{"thread":"${thread}"}}}}"#.to_owned(),
        r#"{"send":{"type":"seen","thread":"${thread}"}}"#.to_owned(),
    ];
    wait(async {
        let session = builder.start(&engine(), dialogue(&steps)).await.expect("starts");
        let seen: Value = session.next_record().await.expect("seen").json().expect("JSON");
        assert_played(&session.close().await);
        seen["thread"].as_str().expect("a name").to_owned()
    })
}

// A handler that uses timers, sockets or tasks of a runtime has to run in it.
#[test]
fn handlers_run_on_the_given_runtime() {
    let nothing: fn() -> Task = || Box::pin(std::future::ready(()));
    assert_eq!(handled_on(Settings::new(), nothing), "agentpipe-handlers");
    let pool = given(1);
    let timers: fn() -> Task = || Box::pin(tokio::time::sleep(Duration::from_millis(1)));
    assert_eq!(handled_on(on(&pool), timers), "given");
    let handle = pool.handle().clone();
    let counted = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = std::sync::Arc::clone(&counted);
    let settings = Settings::new().executor(move |task| {
        count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        drop(handle.spawn(task));
    });
    assert_eq!(handled_on(settings, nothing), "given");
    let tasks = counted.load(std::sync::atomic::Ordering::SeqCst);
    assert_eq!(tasks, 2, "one that reads, and one for the handler");
}

// A handler blocks the only thread of the session's runtime. Waiters elsewhere get the answer if it
// came, and otherwise their timeout.
#[test]
fn timeout_holds_on_a_blocked_runtime() {
    let pool = given(1);
    let (builder, blocked, release) = blocking(&pool);
    let never = r#"{"on":{"request":{"subtype":"never"}},"steps":[]}"#;
    let steps = [HANDSHAKE, never, ANSWER_ALL, &asks("b", json!({"subtype": "block"}), json!({}))];
    wait(async {
        let session = builder.start(&engine(), dialogue(&steps)).await.expect("starts");
        blocked.recv_timeout(SOON).expect("it blocks");
        let limit = Duration::from_millis(300);
        let answered = session.request_with_timeout("interrupt", (), limit);
        let unanswered = session.request_with_timeout("never", (), limit);
        let (answered, unanswered) = tokio::join!(answered, unanswered);
        answered.expect("its answer lay in the pipe, and no task of the session could read it");
        let error = unanswered.expect_err("no answer");
        assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
        release.send(()).expect("it waits");
        session.interrupt().await.expect("it goes on");
        assert_eq!(session.as_session().metrics().late, 0);
        let report = session.close().await;
        assert_played(&report);
        assert_eq!(session.next().await, Some(Event::Exit(ExitStatus::Code(0))));
    });
}

// The host gives up a session whose handler blocks. Waiters get their error and the agent ends at
// once, though no task of the session can run.
#[test]
fn blocked_runtime_delays_neither_close_nor_drop() {
    for closes in [true, false] {
        let pool = given(1);
        let (builder, blocked, release) = blocking(&pool);
        let ask = json!({"type": "control_request", "request_id": "b"});
        let mut ask = json!({"send": ask});
        ask["send"]["request"] = json!({"subtype": "block"});
        let steps = [HANDSHAKE, &ask.to_string(), r#"{"delay":60000}"#];
        let engine = engine();
        wait(async {
            let session = builder.start(&engine, dialogue(&steps)).await.expect("starts");
            blocked.recv_timeout(SOON).expect("it blocks");
            if closes {
                let request = session.request_with_timeout("interrupt", (), None);
                let (error, report) = tokio::join!(request, session.abort());
                assert_eq!(error.expect_err("closed").kind(), ErrorKind::Closed);
                assert_ne!(report.exit(), ExitStatus::StillRunning, "{report}");
            }
            drop(session);
            assert_eq!(engine.abandoned(), u64::from(!closes), "aborted before the handler ends");
        });
        release.send(()).expect("it waits still");
    }
}
