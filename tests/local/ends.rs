//! The places in which a local engine may not be built, and the ways in which it ends.

use std::time::Duration;

use agentpipe::{Backend, ErrorKind, LocalAgent, LocalAgentReader, LocalAgentWriter, LocalEngine};

use super::{check_echo, in_each, spawn, until};
use crate::support::process::assert_gone;
use crate::support::{backend, gets_ring};

/// Ambiguous, and so no program, for a type that is `Send`.
trait Ambiguous<A> {
    fn is_not_send() -> bool {
        true
    }
}
impl<T: ?Sized> Ambiguous<()> for T {}
struct Invalid;
impl<T: ?Sized + Send> Ambiguous<Invalid> for T {}

// A ring refuses every thread but its own. This compiles because no handle is `Send`.
#[test]
fn handles_are_not_send() {
    assert!(<LocalEngine as Ambiguous<_>>::is_not_send());
    assert!(<LocalAgent as Ambiguous<_>>::is_not_send());
    assert!(<LocalAgentReader as Ambiguous<_>>::is_not_send());
    assert!(<LocalAgentWriter as Ambiguous<_>>::is_not_send());
}

#[test]
fn missing_runtime_is_an_error() {
    let error = LocalEngine::new().expect_err("no runtime");
    assert_eq!(error.kind(), ErrorKind::EngineStopped);
    assert!(error.to_string().contains("tokio_uring::start"), "{error}");
}

// A host that sets a limit by mistake must not run with another one.
#[test]
fn values_out_of_range_are_errors() {
    in_each(async |_: LocalEngine| {
        let builder = LocalEngine::builder;
        let wrong = [
            builder().buffers(7),
            builder().buffers(4097),
            builder().max_agents(0),
            builder().batch_window(Duration::from_millis(101)),
        ];
        for settings in wrong {
            let error = settings.clone().build().expect_err("out of range");
            assert_eq!(error.kind(), ErrorKind::InvalidSettings, "{settings:?}: {error}");
        }
    });
}

// The counters of the ring are read from the ring, not from the statistics of the last turn.
#[test]
fn metrics_show_a_queued_submission() {
    in_each(async |engine: LocalEngine| {
        let mut agent = spawn(&engine, &[]).await;
        check_echo(&mut agent, "{}").await;
        let before = engine.metrics().io.queued;
        // The send is accepted at once, and the task of the engine has not run since.
        agent.send("{}").await.expect("sent");
        assert_eq!(engine.metrics().io.queued, before + 1);
        agent.abort().await;
    });
}

#[test]
fn agent_keeps_the_driver_alive() {
    in_each(async |engine: LocalEngine| {
        let mut agent = spawn(&engine, &[]).await;
        drop(engine);
        for number in 0..10 {
            check_echo(&mut agent, &format!("{{\"n\":{number}}}")).await;
        }
        assert!(agent.close().await.exit().success());
    });
}

// A server makes and drops engines, and the runtime goes on.
#[test]
fn dropped_engine_ends_its_agents() {
    in_each(async |engine: LocalEngine| {
        let agent = spawn(&engine, &["--ignore-eof", "--ignore-sigterm"]).await;
        let pid = agent.pid();
        let rings = rings();
        drop((agent, engine));
        until("it is gone", || !std::fs::exists(format!("/proc/{pid}")).expect("readable")).await;
        // Other tests have rings, too: of this thread's, one less.
        if backend() == Backend::IoUring {
            until("its ring is gone", || self::rings() < rings || rings == 0).await;
        }
    });
}

fn rings() -> usize {
    let Ok(entries) = std::fs::read_dir("/proc/self/fd") else { return 0 };
    let is_ring = |path: std::path::PathBuf| path.to_string_lossy().contains("io_uring");
    entries
        .flatten()
        .filter_map(|entry| std::fs::read_link(entry.path()).ok())
        .filter(|path| is_ring(path.clone()))
        .count()
}

#[test]
fn run_returns_the_result_and_leaves_no_agent() {
    if !gets_ring() {
        return;
    }
    let (pid, answer) = LocalEngine::run(async |engine: LocalEngine| {
        let mut agent = spawn(&engine, &["--ignore-sigterm"]).await;
        check_echo(&mut agent, "{}").await;
        let pid = agent.pid();
        // Still open when the program ends: a task holds it that never does.
        tokio::task::spawn_local(async move {
            let _agent = agent;
            std::future::pending::<()>().await;
        });
        (pid, 42)
    })
    .expect("io_uring");
    assert_eq!(answer, 42);
    assert_gone(pid);
}
