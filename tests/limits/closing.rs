//! How much output closing agents may leave in this process, all together.

use std::fs;
use std::time::Duration;

use agentpipe::{Agent, AgentCommand, ClosePolicy, CloseReport, Engine, Event, JsonCheck, Limits};

use crate::support::own_process::{alone, test_name};
use crate::support::{HANG, fake, shell, wait_until};

const FLOODERS: usize = 200;

/// A line of `/proc/self/status` in bytes.
fn memory(name: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("proc");
    let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("in every status");
    let number = line.trim_start_matches(':').trim_end_matches("kB").trim();
    number.parse::<u64>().expect("a number") << 10
}

/// Counts the records that the reader gets, and their bytes.
fn delivered(agent: &mut Agent) -> (u64, usize) {
    let (mut records, mut bytes) = (0, 0);
    while let Some(event) = agent.next_blocking() {
        if let Event::Record(record) = event {
            records += 1;
            bytes += record.len();
        }
    }
    (records, bytes)
}

fn check_sum(agent: &mut Agent) -> CloseReport {
    let report = agent.close_blocking();
    let (records, _) = delivered(agent);
    let stats = report.stats();
    assert_eq!(records + stats.records_discarded, stats.records_in, "{report}");
    report
}

// Each closing agent could hold 64 MiB: 200 flooders at a shutdown 12.8 GB.
#[test]
fn flooders_at_shutdown_share_the_memory() {
    if !alone(test_name!()) {
        return;
    }
    // Small limits, so that a slow machine reaches them. What each keeps in any case is 50 MiB in all.
    let engine = Engine::builder().drain_total_max(16 << 20).build().expect("io_uring");
    let time = Duration::from_millis(500);
    let policy = ClosePolicy::graceful().drain(time).drain_total(2 * time).terminate(HANG);
    let limits = Limits::new().inbox_high(16 << 10).json_check(JsonCheck::Shape);
    // Nice, so that the engine has a processor.
    let record = format!("{{\"pad\":\"{}\"}}", "x".repeat(8000));
    let flood = AgentCommand::new("nice").args(["-n", "19", "yes", &record]);
    let flood = flood.close_policy(policy).limits(limits);
    let mut flooders: Vec<Agent> =
        (0..FLOODERS).map(|_| engine.spawn_blocking(flood.clone()).expect("spawns")).collect();
    let answer = "cat >/dev/null; echo '{\"last\":\"'$(head -c 200000 /dev/zero | tr '\\0' x)'\"}'";
    let mut quiet = engine.spawn_blocking(shell(answer)).expect("spawns");
    wait_until("all flooders wait for their readers", || {
        flooders.iter().all(|agent| agent.stats().pauses > 0)
    });
    let before = memory("VmRSS");
    engine.shutdown_blocking(HANG);
    let (after, grown) = (memory("VmHWM"), memory("VmHWM").saturating_sub(before));
    println!("{} MiB before, {} MiB at most: {} MiB more", before >> 20, after >> 20, grown >> 20);

    let report = quiet.close_blocking();
    assert_eq!(report.stats().records_discarded, 0, "a short last answer: {report}");
    assert_eq!(delivered(&mut quiet), (1, 200_011));
    let discarded: u64 =
        flooders.iter_mut().map(|agent| check_sum(agent).stats().records_discarded).sum();
    assert!(discarded > 0, "the flood was too small to show anything");
    assert!(grown < 100 << 20, "{grown} bytes more");
}

// The sum that the user sets holds, and what readers take is free again.
#[test]
fn sum_of_closing_agents_is_a_setting() {
    let flood = || fake(&["--flood", "8m"]).limits(Limits::new().json_check(JsonCheck::Shape));
    let close = |total: usize, command: AgentCommand| {
        let engine = Engine::builder().drain_total_max(total).build().expect("io_uring");
        let mut agent = engine.spawn_blocking(command).expect("spawns");
        let report = agent.close_with_blocking(ClosePolicy::graceful().drain(HANG));
        let (records, bytes) = delivered(&mut agent);
        assert_eq!(records + report.stats().records_discarded, 8192, "{report}");
        bytes
    };
    // It may hold 1 MiB when the close begins, and what one turn reads above that.
    assert!(close(0, flood()) <= 2 << 20);
    assert!((4 << 20..6 << 20).contains(&close(10 << 20, flood())), "half of it");
    assert_eq!(close(usize::MAX, flood()), 8192 * 1023);
}
