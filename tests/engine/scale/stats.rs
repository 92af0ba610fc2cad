//! The counts of engines and threads.

use std::sync::{Arc, Mutex};

use agentpipe::{Agent, ClosePolicy, CloseStage, Engine, EngineStats};
use tracing_subscriber::layer::SubscriberExt;

use super::{close_all, spawn};
use crate::support::{check_echo, engine, fake, wait_until};

// A close is counted before its report is there: a dashboard must not lag behind the log.
#[test]
fn every_report_is_counted() {
    let engine = engine();
    assert_eq!(engine.metrics().total.spawned, 0);
    for number in 1..=20 {
        let mut agent = spawn(&engine, &fake(&[]));
        check_echo(&mut agent, "{\"a\":1}");
        let report = agent.close_blocking();
        let stats = engine.metrics().total;
        assert_eq!((stats.agents, stats.spawned, stats.closed()), (0, number, number));
        assert_eq!((stats.records_in, stats.records_out), (number, number));
        assert_eq!((stats.bytes_in, stats.bytes_out), (8 * number, 8 * number));
        assert!(stats.close_times.max() >= report.total() - std::time::Duration::from_micros(1));
    }
    let stats = engine.metrics().total;
    assert_eq!(stats.close_times.count(), 20);
    assert!(stats.close_times.quantile(0.5) <= stats.close_times.max());
    assert_eq!(stats.closed_in(CloseStage::Drain), 20, "{stats}");
    assert!(stats.to_string().contains("0 agents of 20, 20 records in (160 bytes)"), "{stats}");
}

#[test]
fn stages_pauses_and_discards_are_counted() {
    let engine = engine();
    let deaf = fake(&["--never-read-stdin", "--ignore-eof", "--ignore-sigterm"]);
    let tiny = std::time::Duration::from_millis(1);
    let policy = ClosePolicy::graceful().drain(tiny).terminate(tiny).cut(tiny).min_drain(tiny);
    let report = spawn(&engine, &deaf).close_with_blocking(policy);
    assert_eq!(engine.metrics().total.closed_in(report.stage()), 1, "{report}");
    let agent = spawn(
        &engine,
        &fake(&["--records", "2000"]).limits(agentpipe::Limits::new().inbox_high(64 << 10)),
    );
    wait_until("it is paused", || agent.stats().pauses == 1);
    wait_until("and that is counted", || engine.metrics().total.pauses == 1);
    let (reader, writer) = agent.split();
    drop(reader);
    let report = writer.close_blocking();
    let stats = engine.metrics().total;
    assert_eq!(stats.records_in, 2000, "{stats}");
    assert_eq!(stats.records_discarded, report.stats().records_discarded);
    assert!(stats.records_discarded > 0, "{stats}");
    assert_eq!(stats.closed(), 2);
}

#[test]
fn thread_stats_sum_to_engine_stats() {
    let engine = Engine::builder().threads(3).build().expect("io_uring");
    let mut agents: Vec<Agent> = (0..30).map(|_| spawn(&engine, &fake(&[]))).collect();
    for agent in &mut agents {
        check_echo(agent, "{}");
    }
    let threads = engine.metrics().threads;
    assert_eq!(threads.iter().map(|stats| stats.spawned).collect::<Vec<u64>>(), [10, 10, 10]);
    let place = |before: &[EngineStats], after: &[EngineStats], count: fn(&EngineStats) -> u64| {
        let grown = before.iter().zip(after).map(|(b, a)| count(a) - count(b));
        grown.collect::<Vec<u64>>()
    };
    for _ in 0..4000 {
        check_echo(&mut agents[29], "{}");
    }
    let after = engine.metrics().threads;
    let mut work = place(&threads, &after, |stats| stats.records_in);
    work.sort_unstable();
    assert_eq!(work, [0, 0, 4000], "all on the thread of that agent");
    let more: Vec<Agent> = (0..20).map(|_| spawn(&engine, &fake(&[]))).collect();
    wait_until("all are taken over", || engine.metrics().total.spawned == 50);
    let placed = place(&after, &engine.metrics().threads, |stats| stats.spawned);
    assert_eq!(placed, [7, 7, 6], "by the number of agents");

    let (all, threads) = (engine.metrics().total, engine.metrics().threads);
    assert_eq!(threads.iter().map(|stats| stats.records_in).sum::<u64>(), all.records_in);
    assert_eq!(threads.iter().map(|stats| stats.agents).sum::<u64>(), all.agents);
    close_all(&more, ClosePolicy::graceful());
    assert_eq!(engine.metrics().total.closed(), 20);
}

/// Writes every event to a string.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("not poisoned").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn stats_can_be_traced() {
    let lines = Lines::default();
    let writer = lines.clone();
    let layer =
        tracing_subscriber::fmt::layer().with_ansi(false).with_writer(move || writer.clone());
    let subscriber = tracing_subscriber::registry().with(layer);
    let engine = engine();
    let mut agent = spawn(&engine, &fake(&[]));
    check_echo(&mut agent, "{}");
    agent.close_blocking();
    tracing::subscriber::with_default(subscriber, || engine.metrics().trace());
    let text = String::from_utf8(lines.0.lock().expect("not poisoned").clone()).expect("text");
    let stats: Vec<&str> = text.lines().filter(|l| l.contains("agentpipe::stats")).collect();
    assert_eq!(stats.len(), 2, "{text}");
    for (line, of) in stats.iter().zip(["agentpipe-0", "engine"]) {
        assert!(line.contains(&format!("of=\"{of}\"")), "{line}");
        for field in ["spawned=1", "records_in=1", "closed=1", "killed=0", "close_p99_us="] {
            assert!(line.contains(field), "{field}: {line}");
        }
    }
}
