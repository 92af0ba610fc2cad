//! The built-in agent by its flags, what it wrote, and closes measured on a busy machine.

use std::io::Read;
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::support::{PROGRAM, fake};
use agentpipe::{Agent, Engine, Event};

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

/// A child of the standard library, from its start to its end: it writes 13 MiB, and we read.
fn plain_flood() -> Duration {
    let start = Instant::now();
    let mut child = Command::new(PROGRAM)
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
