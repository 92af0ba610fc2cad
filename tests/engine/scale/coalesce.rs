//! The batch window of an engine: fewer wake-ups, and no request waits for it.

use std::io::{BufRead, BufReader};
use std::process::Command;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use agentpipe::{Agent, AgentCommand, ClosePolicy, Engine};

use super::spawn;
use crate::support::{CEILING, engine, fake};

/// The longest there is.
const WINDOW: Duration = Duration::from_millis(100);
/// An event seen within this time did not wait for a window: it would wait for half of one on average.
const AT_ONCE: Duration = Duration::from_millis(40);

fn coalescing() -> Engine {
    Engine::builder().batch_window(WINDOW).build().expect("io_uring")
}

/// Agents that write all the time, so that a window is always open.
fn busy(engine: &Engine, count: usize) -> Vec<Agent> {
    let command = fake(&["--flood", "--rate", "200", "--record-size", "128"]);
    let mut agents: Vec<Agent> = (0..count).map(|_| spawn(engine, &command)).collect();
    for agent in &mut agents {
        assert!(agent.next_record_blocking().is_some());
    }
    agents
}

/// The messages of the agents on a second channel, which does not pass through the engine.
struct Ear {
    _folder: tempfile::TempDir,
    path: std::path::PathBuf,
    heard: Receiver<String>,
}

impl Ear {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("fifo");
        assert!(Command::new("mkfifo").arg(&path).status().expect("mkfifo").success());
        // For writing, too: it has no end until the test is over.
        let fifo = std::fs::OpenOptions::new().read(true).write(true).open(&path).expect("ours");
        let (sender, heard) = channel();
        thread::spawn(move || {
            let lines = BufReader::new(fifo).lines().map_while(Result::ok);
            lines.map_while(|line| sender.send(line).ok()).for_each(drop);
        });
        Self { _folder: folder, path, heard }
    }

    /// Sends every line that it receives, and the end.
    fn speaker(&self) -> AgentCommand {
        let script = "while read -r line; do echo \"$line\" > \"$0\"; done; echo end > \"$0\"";
        AgentCommand::new("/bin/sh").args(["-c", script]).arg(&self.path)
    }

    fn expect(&self, line: &str) {
        assert_eq!(self.heard.recv_timeout(CEILING).expect("a line"), line);
    }
}

/// The time that half of the rounds stay below.
fn median(rounds: usize, mut round: impl FnMut(usize) -> Duration) -> Duration {
    let mut times: Vec<Duration> = (0..rounds).map(&mut round).collect();
    times.sort();
    times[rounds / 2]
}

// A window of 100 ms saves CPU time. It must not delay every prompt and every interrupt by 100 ms.
#[test]
fn batch_window_does_not_delay_requests() {
    let engine = coalescing();
    let busy = busy(&engine, 8);
    let ear = Ear::new();
    let agent = spawn(&engine, &ear.speaker());
    let write = median(21, |round| {
        let begun = Instant::now();
        agent.send_blocking(format!("{{\"n\":{round}}}")).expect("sent");
        ear.expect(&format!("{{\"n\":{round}}}"));
        begun.elapsed()
    });
    assert!(write < AT_ONCE, "a write took {write:?}");
    let flush = median(21, |round| {
        let begun = Instant::now();
        agent.send_blocking("{}").expect("sent");
        agent.flush_blocking().expect("flushed");
        let took = begun.elapsed();
        ear.expect("{}");
        // Scattered over the window.
        thread::sleep(Duration::from_millis(round as u64));
        took
    });
    assert!(flush < AT_ONCE, "a flush took {flush:?}");

    let mut closes = Vec::new();
    let spawned = median(11, |_| {
        let begun = Instant::now();
        let agent = spawn(&engine, &ear.speaker());
        agent.send_blocking("{}").expect("sent");
        ear.expect("{}");
        let took = begun.elapsed();
        let begun = Instant::now();
        let policy = ClosePolicy::graceful().quiet_period(Duration::ZERO);
        thread::scope(|scope| {
            let closing = scope.spawn(|| agent.close_with_blocking(policy));
            ear.expect("end");
            closes.push(begun.elapsed());
            let report = closing.join().expect("no panic");
            assert!(report.exit().success(), "{report}");
            // Its exit, its ends of output and the cut may each be seen a window late.
            assert!(report.total() < 10 * WINDOW + Duration::from_secs(2), "{report}");
        });
        took
    });
    assert!(spawned < AT_ONCE, "a spawn and its first word took {spawned:?}");
    closes.sort();
    assert!(closes[5] < AT_ONCE, "the input of a close ended after {:?}", closes[5]);
    drop(busy);
}

/// Enters for this number of records of each agent, all in order.
fn enters_for(engine: &Engine, records: u64) -> u64 {
    let mut agents = busy(engine, 10);
    let before = engine.metrics().total.io.enters;
    for wanted in 1..=records {
        for agent in &mut agents {
            let record = agent.next_record_blocking().expect("without end");
            let seq = record.json::<serde_json::Value>().expect("JSON")["seq"].as_u64();
            assert_eq!(seq, Some(wanted), "none is lost, none comes twice");
        }
    }
    engine.metrics().total.io.enters - before
}

#[test]
fn batch_window_saves_wakeups_without_loss() {
    let plain = enters_for(&engine(), 200);
    let coalesced = enters_for(&coalescing(), 200);
    println!("enters for 2000 records of ten agents: {plain}, with a window {coalesced}");
    assert!(coalesced * 3 < plain, "{coalesced} against {plain}");
}
