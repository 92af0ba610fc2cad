//! An engine thread that polls for more before it sleeps.

use std::fs;
use std::thread;
use std::time::Duration;

use agentpipe::{Backend, Engine};

use super::spawn;
use crate::support::own_process::{alone, test_name};
use crate::support::process::{engine_thread, sleeps_of};
use crate::support::{check_echo, fake, wait_until};

/// Looked at for so long; not a wait for anything.
const WINDOW: Duration = Duration::from_secs(1);

const ROUNDS: u64 = 300;

/// State, and hundredths of a second of a processor, as in proc(5).
fn state_and_ticks() -> (String, u64) {
    let stat = fs::read_to_string(engine_thread().join("stat")).expect("proc");
    let (_, fields) = stat.rsplit_once(") ").expect("a name in brackets");
    let fields: Vec<&str> = fields.split(' ').collect();
    let ticks = |at: usize| fields[at].parse::<u64>().expect("a number");
    (fields[0].to_owned(), ticks(11) + ticks(12))
}

/// A thread that looks for more makes no call for it, and is asleep once all is quiet.
fn looks_and_sleeps(engine: &Engine) {
    let mut agent = spawn(engine, &fake(&[]));
    let enters = || engine.metrics().total.io.enters;
    check_echo(&mut agent, r#"{"round":0}"#);
    let before = enters();
    for round in 1..=ROUNDS {
        check_echo(&mut agent, &format!(r#"{{"round":{round}}}"#));
    }
    // A write, its end and an answer, and as many for a bell that rang all the same.
    let calls = enters() - before;
    // With epoll each look is a call.
    let is_ring = engine.backend() == Backend::IoUring;
    assert!(!is_ring || calls <= 6 * ROUNDS, "{calls} calls for {ROUNDS} round trips");

    wait_until("it sleeps", || state_and_ticks().0 == "S");
    let quiet = || (enters(), sleeps_of(&engine_thread()), state_and_ticks());
    let found = quiet();
    thread::sleep(WINDOW);
    assert_eq!(quiet(), found, "calls, wake-ups and processor time while all is quiet");

    check_echo(&mut agent, r#"{"round":"last"}"#);
    assert!(agent.close_blocking().exit().success());
}

// Busy polling entered the kernel a million times a second, and kept a processor busy for idle
// agents.
#[test]
fn busy_poll_makes_no_calls_and_ends() {
    if alone(test_name!()) {
        // A millisecond is the most there is.
        let spin = Duration::from_millis(1);
        looks_and_sleeps(&Engine::builder().busy_poll(spin).build().expect("io_uring"));
    }
}

#[test]
fn default_makes_few_calls_and_sleeps() {
    if alone(test_name!()) {
        looks_and_sleeps(&Engine::new().expect("io_uring"));
    }
}
