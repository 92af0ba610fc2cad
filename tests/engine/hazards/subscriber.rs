//! A host's tracing subscriber that panics, at every event of every thread.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::support::own_process::{alone, test_name};
use crate::support::process::is_gone;
use crate::support::{CEILING, check_echo, fake, gets_ring, spawn, wait_until};
use agentpipe::session::jsonrpc;
use agentpipe::{AgentCommand, ClosePolicy, CloseStage, Engine, ExitStatus, LocalEngine};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

/// Events sent, and those that agentpipe had not asked about before.
static EVENTS: AtomicU64 = AtomicU64::new(0);
static ASKED: AtomicU64 = AtomicU64::new(0);

struct Bad {
    /// Panics when it is asked, and not only when an event comes.
    at_once: bool,
}

impl Subscriber for Bad {
    fn register_callsite(&self, _: &'static Metadata<'static>) -> tracing::subscriber::Interest {
        tracing::subscriber::Interest::sometimes()
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let ours = metadata.target().starts_with("agentpipe");
        if ours {
            ASKED.fetch_add(1, Ordering::Relaxed);
            assert!(!self.at_once, "the subscriber panics");
        }
        ours
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, _: &Event<'_>) {
        EVENTS.fetch_add(1, Ordering::Relaxed);
        panic!("the subscriber panics");
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

fn check_all(at_once: bool) {
    // It would be printed a thousand times.
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if panic.payload().downcast_ref() != Some(&"the subscriber panics") {
            usual(panic);
        }
    }));
    tracing::subscriber::set_global_default(Bad { at_once }).expect("the first");
    // It did not return: the thread panicked before it answered.
    let engine = Engine::builder().threads(2).build().expect("io_uring");
    let mut agents: Vec<_> = (0..3).map(|_| spawn(&engine, fake(&[]))).collect();
    for agent in &mut agents {
        check_echo(agent, "{\"a\":1}");
    }
    let report = agents[0].close_blocking();
    assert_eq!((report.exit(), report.stage()), (ExitStatus::Code(0), CloseStage::Drain));
    assert_eq!(agents[1].abort_blocking().stats().records_in, 1);
    // An agent that is dropped without a close is logged as a warning.
    let dropped = spawn(&engine, fake(&["--ignore-eof"])).pid();
    wait_until("it is aborted", || is_gone(dropped));
    assert_eq!(engine.abandoned(), 1);
    let stubborn = spawn(&engine, fake(&["--ignore-eof", "--ignore-sigterm", "--flood"]));
    let policy = ClosePolicy::graceful().drain(std::time::Duration::from_millis(50));
    let policy = policy.terminate(std::time::Duration::from_millis(50));
    assert!(stubborn.close_with_blocking(policy).stage() >= CloseStage::Cut);
    check_echo(&mut agents[2], "{\"b\":2}");
    assert!(engine.spawn_blocking(AgentCommand::new("/no/such/program")).is_err());
    session(&engine);
    engine.metrics().trace();
    assert_eq!(engine.shutdown_blocking(CEILING).agents, 1);
    local();
    let (events, asked) = (EVENTS.load(Ordering::Relaxed), ASKED.load(Ordering::Relaxed));
    assert!(asked > 50 && (events > 50) != at_once, "{events} events, {asked} asked for");
}

/// A request that is answered, on the thread of the sessions.
fn session(engine: &Engine) {
    pollster::block_on(async {
        let step = r#"{"on":{"id":"${id}"},"send":{"jsonrpc":"2.0","id":"${id}","result":1}}"#;
        let command = fake(&["--step", step]);
        let session = jsonrpc::Session::builder().start(engine, command).await.expect("starts");
        assert_eq!(session.request("a", ()).await.expect("answered").as_bytes(), b"1");
        session.close().await;
    });
}

fn local() {
    if !gets_ring() {
        return;
    }
    LocalEngine::run(async |engine: LocalEngine| {
        let mut agent = engine.spawn(fake(&[])).await.expect("spawns");
        agent.send("{}").await.expect("sent");
        assert_eq!(agent.next_record().await.expect("an echo").as_bytes(), b"{}");
        assert_eq!(agent.close().await.exit(), ExitStatus::Code(0));
    })
    .expect("io_uring");
}

// The host's log layer has a bug. An event of this crate, on any thread, ran into it: the thread
// died, and `build` waited without end.
#[test]
fn panicking_subscriber_ends_no_thread() {
    if alone(test_name!()) {
        check_all(false);
    }
}

#[test]
fn panicking_filter_ends_no_thread() {
    if alone(test_name!()) {
        check_all(true);
    }
}
