//! One agent among many that wants everything, and one reader that takes nothing.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use agentpipe::{Agent, Limits};

use super::{check_echo, engine, fake, spawn, wait_until};

const AGENTS: usize = 100;

/// The failure is an answer that waits for the end of the flood, which has none.
const ANSWER_MAX: Duration = Duration::from_millis(250);

/// Round trips through the agents in turn; the time that half of them stay below.
fn median_of_rounds(agents: &mut [Agent]) -> Duration {
    let mut times: Vec<Duration> = (0..500)
        .map(|round| {
            let begun = Instant::now();
            check_echo(&mut agents[round % AGENTS], "{\"type\":\"ping\"}");
            begun.elapsed()
        })
        .collect();
    times.sort();
    times[times.len() / 2]
}

#[test]
fn an_agent_that_floods_does_not_silence_the_others() {
    // The story: one agent prints a log file without end, and ninety-nine customers on the same
    // engine thread see their prompts hang.
    let engine = engine();
    let mut agents: Vec<Agent> = (0..AGENTS).map(|_| spawn(&engine, &fake(&[]))).collect();
    for size in ["256", "65536"] {
        let mut flooder = spawn(&engine, &fake(&["--flood", "--record-size", size]));
        let (over, records) = (AtomicBool::new(false), AtomicU64::new(0));
        thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) && flooder.next_record_blocking().is_some() {
                    records.fetch_add(1, Ordering::Relaxed);
                }
            });
            wait_until("it floods", || records.load(Ordering::Relaxed) > 1000);
            let before = records.load(Ordering::Relaxed);
            let median = median_of_rounds(&mut agents);
            assert!(median < ANSWER_MAX, "{median:?} beside records of {size} bytes");
            wait_until("it flooded all the time", || records.load(Ordering::Relaxed) > before);
            over.store(true, Ordering::Relaxed);
        });
        flooder.abort_blocking();
    }
}

#[test]
fn a_reader_that_takes_nothing_costs_only_its_own_agent() {
    // The story: a customer's task hangs, its agent goes on printing. The pool of buffers belongs
    // to all agents of the thread; what is not taken must not stay in it.
    let engine = engine();
    let mut agents: Vec<Agent> = (0..AGENTS).map(|_| spawn(&engine, &fake(&[]))).collect();
    let unread = fake(&["--flood"]).limits(Limits::new().inbox_high(64 << 10));
    let unread = spawn(&engine, &unread);
    wait_until("its reading is paused", || engine.stats().pauses == 1);
    // What it had written before is taken by now; nothing follows.
    let ring = engine.counters_blocking()[0];
    assert_eq!(ring.buffers_free, ring.buffers, "no buffer is held for it");
    assert!(median_of_rounds(&mut agents) < ANSWER_MAX);
    assert_eq!((engine.stats().pauses, unread.stats().pauses), (1, 1), "and it stays paused");
}
