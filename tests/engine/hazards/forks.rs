//! A host that forks without an exec, and goes on with its handles in the child.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use agentpipe::session::jsonrpc;
use agentpipe::{
    Agent, ClosePolicy, CloseReason, CloseStage, Engine, EngineStats, Error, ErrorKind, ExitStatus,
    IoCounters, LocalEngine, WarmPool, WarmPoolSettings,
};

use super::raw;
use crate::support::own_process::{alone, test_name};
use crate::support::{CEILING, check_echo, engine, fake, spawn, wait_until};

/// The rest of a child, whose exit is not that of the test: of the test's own threads it has this
/// one, and libtest must not go on in it.
fn as_child(work: impl FnOnce()) -> ! {
    let outcome = catch_unwind(AssertUnwindSafe(work));
    raw::exit(if outcome.is_ok() { 0 } else { 1 })
}

fn check_child(pid: i32) {
    let tries = u32::try_from(CEILING.as_millis()).expect("a minute");
    assert_eq!(raw::wait_for(pid, tries), Ok(0));
}

fn check_foreign<T: std::fmt::Debug>(outcome: Result<T, Error>) {
    let error = outcome.expect_err("an engine of another process");
    assert_eq!(error.kind(), ErrorKind::EngineStopped, "{error}");
    assert!(error.to_string().contains("another process"), "{error}");
}

/// Ready at the first poll; what waits for a thread that is not there never is.
fn now<F: Future + ?Sized>(mut future: Pin<&mut F>) -> F::Output {
    match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("it never resolves"),
    }
}

fn check_agent(mut agent: Agent) {
    let is_left_alone = |report: &agentpipe::CloseReport| {
        assert_eq!(report.reason(), CloseReason::Forked, "{report}");
        assert!(report.to_string().contains("not closed"), "{report}");
    };
    check_foreign(agent.send_blocking("{}"));
    check_foreign(agent.flush_blocking());
    assert_eq!(agent.next_blocking(), None);
    assert_eq!(agent.next_record_blocking(), None);
    agent.end_input();
    is_left_alone(&agent.close_blocking());
    is_left_alone(&agent.abort_blocking());
    is_left_alone(&agent.close_with_blocking(ClosePolicy::graceful()));
    is_left_alone(&agent.closed_blocking());
    is_left_alone(&agent.close_report().expect("there at once"));
    assert_eq!(agent.stats().records_in, 0);
    let (reader, writer) = agent.split();
    check_foreign(writer.set_interrupt(Some(b"{}")));
    drop(writer);
    drop(reader);
}

/// Everything that works in a process that never forked.
fn check_new_engine() {
    let engine = engine();
    let mut agent = spawn(&engine, fake(&[]));
    check_echo(&mut agent, "{\"in\":\"the child\"}");
    let report = agent.close_blocking();
    assert_eq!(report.exit(), ExitStatus::Code(0), "{report}");
    let session = pollster::block_on(start_session(&engine));
    check_answer(&session);
    assert_eq!(pollster::block_on(session.close()).exit(), ExitStatus::Code(0));
    // Dropped with an agent: an exit waits for it.
    let left = spawn(&engine, fake(&["--ignore-eof", "--ignore-sigterm"]));
    assert_eq!(engine.agents(), 1, "closed agents do not count, although their handles are held");
    drop((agent, session, left, engine));
}

async fn start_session(engine: &Engine) -> jsonrpc::Session {
    let step = r#"{"on":{"id":"${id}"},"send":{"jsonrpc":"2.0","id":"${id}","result":1}}"#;
    let command = fake(&["--step", step]);
    jsonrpc::Session::builder().start(engine, command).await.expect("starts")
}

fn check_answer(session: &jsonrpc::Session) {
    let answer = pollster::block_on(session.request("a", ())).expect("answered");
    assert_eq!(answer.as_bytes(), b"1");
}

// A host makes its engine and then daemonizes or pre-forks. In the child a close hung, a drop
// aborted the process, and a spawn gave an agent that nothing served.
#[test]
fn forked_child_gets_errors_from_every_handle() {
    if !alone(test_name!()) {
        return;
    }
    let engine = Engine::builder().threads(2).build().expect("io_uring");
    let mut talker = spawn(&engine, fake(&[]));
    check_echo(&mut talker, "{\"n\":1}");
    let other = spawn(&engine, fake(&[]));
    let warm = WarmPool::new(&engine, fake(&[]), WarmPoolSettings::new()).expect("a pool");
    wait_until("a spare stands ready", || warm.stats().ready == 1);
    let session = pollster::block_on(start_session(&engine));
    check_answer(&session);
    // Under way when the fork comes.
    let (reader, writer) = spawn(&engine, fake(&[])).split();
    let waiting = writer.clone();
    let mut closed = Box::pin(async move { waiting.closed().await });
    let mut context = Context::from_waker(Waker::noop());
    assert!(closed.as_mut().poll(&mut context).is_pending());
    let mut asked = loop {
        let asking = engine.clone();
        let mut asked = Box::pin(async move { asking.spawn(fake(&[])).await });
        match asked.as_mut().poll(&mut context) {
            Poll::Pending => break asked,
            // The spawning thread was quicker.
            Poll::Ready(agent) => drop(agent.expect("spawns").close_blocking()),
        }
    };

    match raw::fork() {
        None => as_child(move || {
            assert_eq!(now(closed.as_mut()).reason(), CloseReason::Forked);
            check_foreign(now(asked.as_mut()));
            check_foreign(engine.spawn_blocking(fake(&[])));
            check_foreign(pollster::block_on(engine.spawn(fake(&[]))));
            assert_eq!(engine.counters_blocking(), [IoCounters::default(); 2]);
            assert_eq!(engine.metrics().total, EngineStats::default());
            check_foreign(warm.acquire_blocking());
            warm.refill();
            assert_eq!(warm.stats().ready, 0);
            check_foreign(pollster::block_on(session.request("a", ())));
            assert!(pollster::block_on(session.next()).is_none());
            assert_eq!(pollster::block_on(session.close()).reason(), CloseReason::Forked);
            let report = engine.shutdown_blocking(Duration::from_secs(1));
            assert_eq!((report.agents, report.aborted), (0, 0));
            // The last handles there are.
            drop((closed, asked, reader, writer, warm, session));
            check_agent(talker);
            check_agent(other);
            drop(engine);
            check_new_engine();
        }),
        Some(pid) => check_child(pid),
    }
    // Nothing of it was heard here: all agents live, and see the ends of their input.
    check_echo(&mut talker, "{\"n\":2}");
    check_answer(&session);
    let mut asked = pollster::block_on(asked).expect("spawns");
    check_echo(&mut asked, "{\"n\":3}");
    let agents = [&talker, &other, &asked].map(Agent::close_blocking);
    for report in agents.into_iter().chain([reader.close_blocking()]) {
        assert_eq!((report.exit(), report.stage()), (ExitStatus::Code(0), CloseStage::Drain));
    }
    assert_eq!(pollster::block_on(closed).exit(), ExitStatus::Code(0));
    assert_eq!(pollster::block_on(session.close()).exit(), ExitStatus::Code(0));
    assert_eq!(warm.stats().ready, 1);
    assert_eq!(engine.shutdown_blocking(CEILING).agents, 1);
}

// The ring's memory is not mapped in the child, where the runtime continues and finally drops the
// task that drives it. The child also shares the parent's poller.
#[test]
fn forked_child_never_touches_a_local_ring() {
    if !alone(test_name!()) {
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
    let runtime = runtime.expect("a runtime");
    let local = tokio::task::LocalSet::new();
    let child = local.block_on(&runtime, async {
        let engine = LocalEngine::new().expect("io_uring");
        let mut agent = engine.spawn(fake(&[])).await.expect("spawns");
        check_local_echo(&mut agent, "{\"n\":1}").await;
        let second = engine.spawn(fake(&[])).await.expect("spawns");
        let Some(pid) = raw::fork() else {
            check_foreign(agent.send("{}").await);
            check_foreign(agent.flush().await);
            assert_eq!(agent.next().await, None);
            for report in [agent.close().await, agent.abort().await, second.closed().await] {
                assert_eq!(report.reason(), CloseReason::Forked, "{report}");
            }
            check_foreign(engine.spawn(fake(&[])).await);
            assert_eq!(engine.metrics(), EngineStats::default());
            assert_eq!(engine.shutdown(Duration::MAX).await.agents, 0);
            // Lets its driver run, before and after the last handle is gone.
            tokio::task::yield_now().await;
            drop((agent, second, engine));
            tokio::task::yield_now().await;
            return None;
        };
        check_child(pid);
        // The parent's is still woken.
        check_local_echo(&mut agent, "{\"n\":2}").await;
        for report in [agent.close().await, second.close().await] {
            assert_eq!((report.exit(), report.stage()), (ExitStatus::Code(0), CloseStage::Drain));
        }
        Some(pid)
    });
    drop((local, runtime));
    if child.is_none() {
        as_child(check_new_engine);
    }
}

async fn check_local_echo(agent: &mut agentpipe::LocalAgent, text: &str) {
    agent.send(text).await.expect("sent");
    assert_eq!(agent.next_record().await.expect("an echo").as_bytes(), text.as_bytes());
}
