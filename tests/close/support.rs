//! What the tests over real agents share: the built-in agent, and proofs that one is gone.

use std::fs;
use std::io::Read;
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use agentpipe::{Agent, AgentCommand, CloseReport, Engine, Event};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// The binary under test, which is also the misbehaving agent.
pub(crate) const AGENT: &str = env!("CARGO_BIN_EXE_agentpipe");

/// A machine that is merely slow never takes this long; a hang always does.
pub(crate) const HANG: Duration = Duration::from_secs(20);

/// `agentpipe fake` with these flags.
pub(crate) fn fake(flags: &[&str]) -> AgentCommand {
    AgentCommand::new(AGENT).arg("fake").args(flags)
}

/// Spawns it, or fails with the reason.
pub(crate) fn spawn(engine: &Engine, flags: &[&str]) -> Agent {
    engine.spawn_blocking(fake(flags)).expect("the built-in agent starts")
}

/// Reads to the end; the records, and whether the exit came last.
pub(crate) fn rest(agent: &mut Agent) -> Vec<Event> {
    let mut events = Vec::new();
    while let Some(event) = agent.next_blocking() {
        events.push(event);
    }
    assert!(matches!(events.last(), Some(Event::Exit(_))), "the exit is always last");
    events
}

/// The bytes of the records among them, line ends included.
pub(crate) fn record_bytes(events: &[Event]) -> usize {
    let len = |event: &Event| match event {
        Event::Record(record) => record.len() + 1,
        _ => 0,
    };
    events.iter().map(len).sum()
}

/// Waits until nobody has this number any more: dead and reaped.
pub(crate) fn assert_gone(pid: u32) {
    let deadline = Instant::now() + HANG;
    if let Some(pid) = Pid::from_raw(pid.try_into().expect("a pid"))
        && let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty())
    {
        let limit = Timespec { tv_sec: 20, tv_nsec: 0 };
        poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&limit)).expect("pollable");
    }
    while fs::exists(format!("/proc/{pid}")).expect("readable") {
        assert!(Instant::now() < deadline, "process {pid} is still there");
        std::thread::yield_now();
    }
}

/// Everything was counted, and every stage came in its order.
pub(crate) fn assert_sound(report: &CloseReport) {
    let stages: Vec<_> = report.stages().iter().map(|(stage, _)| *stage).collect();
    assert!(stages.is_sorted(), "{report:?}");
    for stage in ["cut", "reap", "release"] {
        assert!(stages.iter().any(|s| s.as_str() == stage), "no {stage}: {report:?}");
    }
    assert_gone(report.pid());
}

/// Closes until one was quick enough, ten times at the most, alone: a busy machine may delay any
/// one, and the hazard is seconds every time. What a round asserts of the content holds in each.
///
/// Where all are delayed, the limit is eight times what 13 MiB through a pipe take just then.
pub(crate) fn once_within(limit: Duration, mut close: impl FnMut() -> Duration) {
    let _alone = undisturbed();
    let mut took = Vec::new();
    for _ in 0..10 {
        let last = close();
        if last < limit {
            return;
        }
        took.push((last, plain_flood()));
    }
    let busy = took.iter().any(|(last, plain)| *last < 8 * *plain);
    assert!(busy, "never within {limit:?}, nor eight times a plain read: {took:?}");
}

/// While this is held no other test here measures time or makes the host busy.
pub(crate) fn undisturbed() -> MutexGuard<'static, ()> {
    static UNDISTURBED: Mutex<()> = Mutex::new(());
    UNDISTURBED.lock().unwrap_or_else(PoisonError::into_inner)
}

const ALONE: &str = "AGENTPIPE_TEST_ALONE";

/// True in a process of its own. Else runs the test there, and asserts that it ran and passed.
pub(crate) fn alone(test: &str) -> bool {
    if std::env::var_os(ALONE).is_some() {
        return true;
    }
    let output = Command::new(std::env::current_exe().expect("this binary"))
        .args(["--exact", "--nocapture", "--test-threads=1", test])
        .env(ALONE, "1")
        .output()
        .expect("runs");
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}{errors}");
    assert!(text.contains("1 passed"), "it did not run: {text}");
    false
}

/// A child of the standard library, from its start to its end: it writes 13 MiB, and we read.
fn plain_flood() -> Duration {
    let start = Instant::now();
    let mut child = Command::new(AGENT)
        .args(["fake", "--flood", "13m"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the built-in agent starts");
    let mut bytes = Vec::new();
    child.stdout.take().expect("piped").read_to_end(&mut bytes).expect("readable");
    assert!(child.wait().expect("reapable").success());
    assert_eq!(bytes.len(), 13 << 20);
    start.elapsed()
}
