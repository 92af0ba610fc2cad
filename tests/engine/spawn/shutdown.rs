//! A shutdown in the middle of things: beside an agent that will not go, beside another shutdown,
//! and beside a spawn that is under way.

use std::fs;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::Command;
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

use agentpipe::{
    Agent, AgentCommand, ClosePolicy, CloseReason, Engine, ErrorKind, Event, ExitStatus, Result,
};

use crate::support::lease::Lease;
use crate::support::{CEILING, engine, fake};

const HOUR: Duration = Duration::from_secs(3600);

/// Polls until there is a result: a future that never ends is a failure, not a wait.
fn within_ceiling<F: Future + Unpin>(what: &str, mut future: F) -> F::Output {
    let begun = Instant::now();
    loop {
        match Pin::new(&mut future).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(value) => return value,
            Poll::Pending => assert!(begun.elapsed() < CEILING, "{what}: never"),
        }
        thread::sleep(Duration::from_millis(1));
    }
}

/// Polls once: from here on it is under way.
fn begin<F: Future + Unpin>(future: &mut F) {
    let polled = Pin::new(future).poll(&mut Context::from_waker(Waker::noop()));
    assert!(polled.is_pending());
}

/// An agent that only SIGKILL ends, and a close that is in no hurry.
fn stubborn(engine: &Engine) -> Agent {
    let policy = ClosePolicy::graceful().drain(HOUR).terminate(HOUR);
    let command = fake(&["--ignore-eof", "--ignore-sigterm"]).close_policy(policy);
    engine.spawn_blocking(command).expect("spawns")
}

/// A spawn whose exec hangs while the lease is there.
struct Hanging<'a> {
    _folder: tempfile::TempDir,
    program: PathBuf,
    lease: Lease,
    spawn: Pin<Box<dyn Future<Output = Result<Agent>> + 'a>>,
}

impl<'a> Hanging<'a> {
    fn begin(engine: &'a Engine) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let program = folder.path().join("agent");
        // By another process: a child of another test could hold our descriptor for writing, and a
        // program that is open for writing cannot be run.
        assert!(Command::new("cp").arg("/bin/cat").arg(&program).status().expect("cp").success());
        let lease = Lease::take(&program);
        let mut spawn = Box::pin(engine.spawn(AgentCommand::new(&program)));
        begin(&mut spawn);
        let begun = Instant::now();
        while !lease.is_wanted() {
            assert!(begun.elapsed() < CEILING, "the exec never began");
            thread::sleep(Duration::from_millis(1));
        }
        Self { _folder: folder, program, lease, spawn }
    }
}

/// Whether a process runs this program.
fn runs(program: &Path) -> bool {
    let processes = fs::read_dir("/proc").expect("proc").flatten();
    let mut programs = processes.filter_map(|entry| fs::read_link(entry.path().join("exe")).ok());
    programs.any(|path| path == program)
}

// The service stops and gives its agents an hour; the operator presses Ctrl-C again.
#[test]
fn second_shutdown_hurries_the_first() {
    let engine = engine();
    let agent = stubborn(&engine);
    let mut patient = Box::pin(engine.shutdown(HOUR));
    begin(&mut patient);
    let hurried = within_ceiling("the second shutdown", Box::pin(engine.shutdown(Duration::ZERO)));
    assert_eq!((hurried.agents, hurried.aborted), (1, 1));
    let patient = within_ceiling("the first shutdown", patient);
    assert_eq!((patient.agents, patient.aborted), (1, 1));
    let report = within_ceiling("the close", Box::pin(agent.closed()));
    assert_eq!((report.reason(), report.exit()), (CloseReason::Shutdown, ExitStatus::Signal(9)));
}

#[test]
fn second_shutdown_never_delays_the_first() {
    let engine = engine();
    let agent = stubborn(&engine);
    let mut first = Box::pin(engine.shutdown(Duration::from_millis(50)));
    begin(&mut first);
    let mut second = Box::pin(engine.shutdown(HOUR));
    begin(&mut second);
    assert_eq!(within_ceiling("the first shutdown", first).aborted, 1);
    assert_eq!(within_ceiling("the second shutdown", second).aborted, 1);
    within_ceiling("the close", Box::pin(agent.closed()));
}

// An exec hangs on a file server, and the engine is shut down meanwhile. When the server answers,
// no thread takes the child over: it must not live on, and its caller must get an error.
#[test]
fn spawn_ending_after_the_engine_is_refused() {
    let engine = engine();
    let Hanging { _folder, program, lease, spawn } = Hanging::begin(&engine);
    let report = within_ceiling("the shutdown", Box::pin(engine.shutdown(HOUR)));
    assert_eq!((report.agents, report.aborted), (0, 0));
    drop(lease);
    match within_ceiling("the spawn", spawn) {
        Ok(mut agent) => {
            let report = within_ceiling("the close", Box::pin(agent.closed()));
            assert_eq!(report.reason(), CloseReason::Shutdown, "{report}");
            let error =
                within_ceiling("a write", Box::pin(agent.send("{}"))).expect_err("no agent");
            assert!(error.is_closed(), "{error}");
            while let Some(event) = within_ceiling("the end", Box::pin(agent.next())) {
                assert!(matches!(event, Event::Exit(_)), "{event:?}");
            }
        }
        Err(error) => assert_eq!(error.kind(), ErrorKind::EngineStopped, "{error}"),
    }
    assert!(!runs(&program), "the child lives on");
}

// Another agent takes its time to leave during a shutdown. The late one must not wait with it for
// the end of the limit.
#[test]
fn spawn_ending_in_a_shutdown_is_closed() {
    let engine = engine();
    let stubborn = stubborn(&engine);
    let Hanging { _folder, program, lease, spawn } = Hanging::begin(&engine);
    let mut shutdown = Box::pin(engine.shutdown(HOUR));
    begin(&mut shutdown);
    drop(lease);
    match within_ceiling("the spawn", spawn) {
        Ok(agent) => {
            let report = within_ceiling("the close of the late one", Box::pin(agent.closed()));
            assert_eq!(report.reason(), CloseReason::Shutdown, "{report}");
        }
        Err(error) => assert_eq!(error.kind(), ErrorKind::EngineStopped, "{error}"),
    }
    assert!(!runs(&program), "the child lives on");
    assert!(stubborn.close_report().is_none(), "the shutdown goes on");
    within_ceiling("the second shutdown", Box::pin(engine.shutdown(Duration::ZERO)));
    assert_eq!(within_ceiling("the first shutdown", shutdown).aborted, 1);
}
