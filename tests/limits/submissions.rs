//! What a close submits to the kernel, seen from outside: the trace `agentpipe::ring` has an event for
//! each submission entry. The subscriber is global, so the test runs in its own process.

use std::fmt;
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::own_process::{alone, test_name};
use crate::support::{CEILING, PROGRAM, has_ring};
use agentpipe::{AgentCommand, ClosePolicy, CloseReport, CloseStage, Engine, ExitStatus};
use tracing::field::{Field, Visit};
use tracing_subscriber::Registry;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

/// One submission entry as traced.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Sqe {
    op: String,
    fd: i64,
    /// What the fd was when the entry was traced: `pipe:[123]`.
    file: String,
    token: u64,
    /// Of a cancel: the token of what it cancels.
    target: u64,
    link: String,
    submission: u64,
}

impl Visit for Sqe {
    fn record_i64(&mut self, field: &Field, value: i64) {
        if field.name() == "fd" {
            self.fd = value;
        }
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        match field.name() {
            "token" => self.token = value,
            "of" => self.target = value,
            "submission" => self.submission = value,
            _ => (),
        }
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "op" => self.op = value.to_owned(),
            "link" => self.link = value.to_owned(),
            _ => (),
        }
    }
    fn record_debug(&mut self, _: &Field, _: &dyn fmt::Debug) {}
}

/// Everything submitted by this process since the start.
#[derive(Clone, Default)]
struct Submitted(Arc<Mutex<Vec<Sqe>>>);

impl Submitted {
    fn all(&self) -> MutexGuard<'_, Vec<Sqe>> {
        self.0.lock().expect("not poisoned")
    }
}

impl<S: tracing::Subscriber> Layer<S> for Submitted {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        if event.metadata().target() != "agentpipe::ring" {
            return;
        }
        let mut sqe = Sqe::default();
        event.record(&mut sqe);
        if !sqe.op.is_empty() {
            let file = fs::read_link(format!("/proc/self/fd/{}", sqe.fd)).unwrap_or_default();
            sqe.file = file.display().to_string();
            self.all().push(sqe);
        }
    }
}

/// The pipe on the agent's descriptor, by its name in /proc: both ends of a pipe have the same.
fn pipe_of(pid: u32, fd: u32) -> String {
    let link = fs::read_link(format!("/proc/{pid}/fd/{fd}")).expect("the agent lives");
    link.display().to_string()
}

/// The entries about one pipe, in the order they were pushed.
fn about(sqes: &[Sqe], pipe: &str) -> Vec<Sqe> {
    sqes.iter().filter(|sqe| sqe.file == pipe).cloned().collect()
}

/// Asserts that the pipe's end is one pair: a cancel of the read that is pending, hard-linked to
/// the close of the same descriptor, next to each other in one submission. Returns its number.
fn check_pair(sqes: &[Sqe], pipe: &str) -> u64 {
    let own = about(sqes, pipe);
    let cancels: Vec<&Sqe> = own.iter().filter(|sqe| sqe.op == "ASYNC_CANCEL").collect();
    let closes: Vec<&Sqe> = own.iter().filter(|sqe| sqe.op == "CLOSE").collect();
    let ([cancel], [close]) = (&cancels[..], &closes[..]) else {
        panic!("exactly one of each on {pipe}: {own:#?}")
    };
    assert_eq!((cancel.link.as_str(), close.link.as_str()), ("hard", "none"));
    assert_eq!((cancel.fd, cancel.submission), (close.fd, close.submission));
    // The link joins an entry to the next one in the queue, so nothing may stand between.
    let at = sqes.iter().position(|sqe| sqe == *cancel).expect("it is there");
    assert_eq!(&sqes[at + 1], *close, "the close is the next entry");
    cancel.submission
}

/// The token of the last read armed on the pipe.
fn last_read(sqes: &[Sqe], pipe: &str) -> u64 {
    let own = about(sqes, pipe);
    own.iter().rfind(|sqe| sqe.op.starts_with("READ")).expect("a read").token
}

fn target_of_cancel(sqes: &[Sqe], pipe: &str) -> u64 {
    let own = about(sqes, pipe);
    own.iter().find(|sqe| sqe.op == "ASYNC_CANCEL").expect("a cancel").target
}

fn stage_names(report: &CloseReport) -> Vec<&'static str> {
    report.stages().iter().map(|(stage, _)| stage.as_str()).collect()
}

fn await_file(path: &Path) {
    let begun = Instant::now();
    while !path.exists() {
        assert!(begun.elapsed() < CEILING, "{} does not appear", path.display());
        thread::sleep(Duration::from_millis(1));
    }
}

// close(2) on a pipe with a read pending leaves the read end open inside the kernel. The agent
// stays blocked in write(2) and never gets EPIPE. Cancel first, then close, in one submission, is
// what this crate is for.
#[test]
fn every_close_links_cancel_and_close() {
    if !has_ring(test_name!()) || !alone(test_name!()) {
        return;
    }
    let submitted = Submitted::default();
    tracing::subscriber::set_global_default(Registry::default().with(submitted.clone()))
        .expect("the only test here");
    let engine = Engine::new().expect("io_uring");
    an_abort_cancels_the_pending_read_and_closes(&engine, &submitted);
    a_graceful_close_ends_in_the_same_submission(&engine, &submitted);
    an_agent_that_died_is_closed_by_the_same_submission(&engine, &submitted);
}

fn an_abort_cancels_the_pending_read_and_closes(engine: &Engine, submitted: &Submitted) {
    let folder = tempfile::tempdir().expect("a folder");
    let marker = folder.path().join("epipe");
    // It dies of nothing but the pipe: a kill would leave no marker. Slowly, so that its reader, which
    // takes one record, holds nothing back: a read is pending.
    let flood = ["fake", "--flood", "--rate", "200", "--epipe-marker"];
    let command = AgentCommand::new(PROGRAM).args(flood);
    let mut agent = engine.spawn_blocking(command.arg(&marker)).expect("spawns");
    let pipes: Vec<String> = (0..3).map(|fd| pipe_of(agent.pid(), fd)).collect();
    assert!(agent.next_record_blocking().is_some());
    submitted.all().retain(|sqe| sqe.op.starts_with("READ"));
    // All the time it may want on a busy machine.
    let report = agent.close_with_blocking(ClosePolicy::abort().abort_grace(CEILING));
    assert_eq!(report.exit(), ExitStatus::Code(1), "by its own EPIPE, not by a kill: {report}");
    assert_eq!(report.stage(), CloseStage::Cut, "{report}");
    await_file(&marker);

    let sqes = submitted.all().clone();
    let submissions: Vec<u64> = pipes.iter().map(|pipe| check_pair(&sqes, pipe)).collect();
    assert!(submissions.iter().all(|n| *n == submissions[0]), "all in one: {submissions:?}");
    assert_eq!(target_of_cancel(&sqes, &pipes[1]), last_read(&sqes, &pipes[1]), "stdout");
    assert_eq!(target_of_cancel(&sqes, &pipes[2]), last_read(&sqes, &pipes[2]), "stderr");
}

fn a_graceful_close_ends_in_the_same_submission(engine: &Engine, submitted: &Submitted) {
    let mut agent = engine.spawn_blocking(AgentCommand::new(PROGRAM).arg("fake")).expect("spawns");
    let pipes: Vec<String> = (0..3).map(|fd| pipe_of(agent.pid(), fd)).collect();
    agent.send_blocking("{}").expect("sent");
    assert!(agent.next_record_blocking().is_some());
    submitted.all().retain(|sqe| sqe.op.starts_with("READ"));
    let report = agent.close_blocking();
    assert_eq!(report.exit(), ExitStatus::Code(0), "{report}");
    assert!(stage_names(&report).ends_with(&["drain", "cut", "reap", "release"]), "{report:?}");

    let sqes = submitted.all().clone();
    // First its input ends, then the outputs, which were read to their end.
    let submissions: Vec<u64> = pipes.iter().map(|pipe| check_pair(&sqes, pipe)).collect();
    assert!(submissions[0] < submissions[1], "{submissions:?}");
    assert_eq!(submissions[1], submissions[2], "both outputs in one");
    // Nothing is pending any more: the cancel names no operation, and the close closes.
    for pipe in &pipes[1..] {
        assert_eq!(target_of_cancel(&sqes, pipe), u64::MAX);
    }
}

fn an_agent_that_died_is_closed_by_the_same_submission(engine: &Engine, submitted: &Submitted) {
    let command = AgentCommand::new(PROGRAM).args(["fake", "--exit-after", "1"]);
    let mut agent = engine.spawn_blocking(command).expect("spawns");
    let pipes: Vec<String> = (0..3).map(|fd| pipe_of(agent.pid(), fd)).collect();
    submitted.all().retain(|sqe| sqe.op.starts_with("READ"));
    agent.send_blocking("{}").expect("sent");
    while agent.next_blocking().is_some() {}
    let sqes = submitted.all().clone();
    let submissions: Vec<u64> = pipes.iter().map(|pipe| check_pair(&sqes, pipe)).collect();
    assert!(submissions.iter().all(|n| *n == submissions[0]), "all in one: {submissions:?}");
}
