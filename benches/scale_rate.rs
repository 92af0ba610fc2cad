//! Cost of a record while a thousand agents write: CPU time of this process and system calls, per record.
//! `cargo bench --bench scale_rate`; with `-- local local_window` only those rows and the peer.
//!
//! Each agent is a child that writes records of 200 bytes at a fixed rate. The peer is a current-thread
//! runtime of tokio with a task for each child that reads lines. agentpipe has a task for each agent in
//! the same kind of runtime: with `LocalEngine` on the same thread, with `Engine` beside its thread. The
//! peer looks for newlines only, so agentpipe checks only the shape of a record (`JsonCheck::Shape`),
//! except in the rows with `syntax`.
//!
//! The CPU time is that of the whole process, user and kernel, without that of the agents.
#![expect(clippy::print_stdout, reason = "criterion cannot show figures that are not times")]

mod support;

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use agentpipe::{AgentCommand, Backend, Engine, JsonCheck, Limits, LocalEngine};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::task::{LocalSet, spawn_local};

use crate::support::stopwatch::cpu_time;

const WINDOW: Duration = Duration::from_micros(200);

/// The agents, their rate and the times.
#[derive(Clone, Copy)]
struct Load {
    agents: usize,
    /// Records per second of each agent.
    rate: u32,
    warm_up: Duration,
    measured: Duration,
}

/// Records received.
type Count = Rc<Cell<u64>>;

#[derive(Clone, Copy, Default)]
struct Reading {
    records: u64,
    cpu: Duration,
    enters: u64,
}

/// Reads the counters after the warm-up and at the end.
async fn measured(load: Load, count: &Count, enters: impl Fn() -> u64) -> Reading {
    let read = || Reading { records: count.get(), cpu: cpu_time(), enters: enters() };
    tokio::time::sleep(load.warm_up).await;
    let before = read();
    tokio::time::sleep(load.measured).await;
    let after = read();
    Reading {
        records: after.records - before.records,
        cpu: after.cpu - before.cpu,
        enters: after.enters - before.enters,
    }
}

fn arguments(load: Load) -> Vec<String> {
    let rate = load.rate.to_string();
    ["fake", "--flood", "--record-size", "200", "--rate", &rate].map(str::to_owned).to_vec()
}

fn command(load: Load, check: JsonCheck) -> AgentCommand {
    AgentCommand::new(support::AGENT).args(arguments(load)).limits(Limits::new().json_check(check))
}

fn in_runtime<T>(program: impl Future<Output = T>) -> T {
    LocalSet::new().block_on(&support::runtime(), program)
}

fn tokio_lines(load: Load) -> Reading {
    in_runtime(async {
        let count = Count::default();
        let mut children = Vec::new();
        for _ in 0..load.agents {
            let mut child = support::tokio_child(&arguments(load));
            let mut lines = BufReader::new(child.stdout.take().expect("piped"));
            children.push(child);
            let count = Rc::clone(&count);
            spawn_local(async move {
                let mut line = Vec::new();
                while lines.read_until(b'\n', &mut line).await.is_ok_and(|read| read > 0) {
                    count.set(count.get() + 1);
                    line.clear();
                }
            });
        }
        let reading = measured(load, &count, || 0).await;
        for child in &mut children {
            child.kill().await.expect("killed");
        }
        reading
    })
}

/// Spawns a task for each agent that counts its records. The handles of both engines differ in type only.
macro_rules! count_records {
    ($engine:ident, $load:ident, $check:ident, $count:ident) => {
        for _ in 0..$load.agents {
            let mut agent = $engine.spawn(command($load, $check)).await.expect("spawns");
            let count = Rc::clone(&$count);
            spawn_local(async move {
                while agent.next_record().await.is_some() {
                    count.set(count.get() + 1);
                }
            });
        }
    };
}

/// What agentpipe is measured with.
#[derive(Clone, Copy)]
struct Row {
    backend: Backend,
    window: Duration,
    check: JsonCheck,
}

fn local(load: Load, Row { backend, window, check }: Row) -> Reading {
    in_runtime(async {
        let builder = LocalEngine::builder().backend(backend).batch_window(window);
        let engine = builder.build().expect("the backend");
        let count = Count::default();
        count_records!(engine, load, check, count);
        let reading = measured(load, &count, || engine.metrics().io.enters).await;
        engine.shutdown(Duration::ZERO).await;
        reading
    })
}

fn threaded(load: Load, Row { backend, window, check }: Row) -> Reading {
    in_runtime(async {
        let builder = Engine::builder().backend(backend).batch_window(window);
        let engine = builder.build().expect("the backend");
        let count = Count::default();
        count_records!(engine, load, check, count);
        let reading = measured(load, &count, || engine.metrics().total.io.enters).await;
        engine.shutdown(Duration::ZERO).await;
        reading
    })
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn print(name: &str, load: Load, reading: Reading, peer: Reading) {
    let each = |reading: Reading| reading.cpu.as_secs_f64() * 1e6 / reading.records.max(1) as f64;
    let pace = reading.records as f64 / load.measured.as_secs_f64();
    let enters = reading.enters as f64 / reading.records.max(1) as f64;
    let ratio = each(reading) / each(peer);
    println!(
        "scale/rate/{}x{}/{name}: {pace:.0} records/s, {:.2} us CPU each, {ratio:.2}x of the peer, \
         {enters:.3} enters each",
        load.agents,
        load.rate,
        each(reading),
    );
    assert!(reading.records > 0, "{name}: no record arrived");
}

/// Measures the peer and the rows of these names, or all rows if there are none.
fn run(load: Load, wanted: &[String]) {
    let is_wanted = |name: &String| wanted.is_empty() || wanted.contains(name);
    let peer = tokio_lines(load);
    print("tokio_lines", load, peer, peer);
    let plain = Row { backend: Backend::IoUring, window: Duration::ZERO, check: JsonCheck::Shape };
    for (name, row) in [
        ("", plain),
        ("_epoll", Row { backend: Backend::Epoll, ..plain }),
        ("_window", Row { window: WINDOW, ..plain }),
        ("_epoll_window", Row { backend: Backend::Epoll, window: WINDOW, ..plain }),
        ("_syntax", Row { check: JsonCheck::Syntax, ..plain }),
    ] {
        let (here, beside) = (format!("local{name}"), format!("engine{name}"));
        if is_wanted(&here) {
            print(&here, load, local(load, row), peer);
        }
        if is_wanted(&beside) {
            print(&beside, load, threaded(load, row), peer);
        }
    }
    // Once more, because the load of the machine may have changed.
    print("tokio_lines_again", load, tokio_lines(load), peer);
}

fn main() {
    let seconds = Duration::from_secs;
    if std::env::args().any(|arg| arg == "--test") {
        let measured = Duration::from_millis(100);
        return run(Load { agents: 10, rate: 100, warm_up: measured, measured }, &[]);
    }
    let load = |rate| Load { agents: 1000, rate, warm_up: seconds(1), measured: seconds(4) };
    let (paces, wanted): (Vec<_>, Vec<_>) = std::env::args()
        .skip(1)
        .filter(|arg| !arg.starts_with('-'))
        .partition(|arg| arg.starts_with("rate="));
    // Not the default: 100,000 records per second are more than two cores can write.
    let rate = if paces.iter().any(|pace| pace == "rate=100") { 100 } else { 20 };
    run(load(rate), &wanted);
}
