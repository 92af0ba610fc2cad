//! What a record costs where a thousand agents write all the time: CPU of this process and calls
//! of the kernel, by record. `cargo bench --bench scale_rate`, and with `-- local local_window`
//! those rows alone, beside the peer.
//!
//! Each agent is a child that writes records of 200 bytes at its own pace. The peer is what one
//! writes with tokio: a current-thread runtime with a task for each child that reads lines. Ours has
//! a task for each agent in the same kind of runtime: with `LocalEngine` on the same thread, with
//! `Engine` beside its thread. The peer looks at no byte but the newline, so ours are told to look
//! at the outside only (`JsonCheck::Shape`), but for the row that says `syntax`.
//!
//! CPU is that of the whole process, user and kernel; the agents' own is not in it.
#![expect(clippy::print_stdout, reason = "its figures are no times, so criterion cannot show them")]

use std::cell::Cell;
use std::process::Stdio;
use std::rc::Rc;
use std::time::Duration;

use agentpipe::{AgentCommand, Engine, JsonCheck, Limits, LocalEngine};
use rustix::time::{ClockId, clock_gettime};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::task::{LocalSet, spawn_local};

/// The binary under test, which is also the agent.
const AGENT: &str = env!("CARGO_BIN_EXE_agentpipe");

const WINDOW: Duration = Duration::from_micros(200);

/// How much is measured.
#[derive(Clone, Copy)]
struct Load {
    agents: usize,
    /// Records a second of each.
    rate: u32,
    warm_up: Duration,
    measured: Duration,
}

/// Records that came.
type Count = Rc<Cell<u64>>;

#[derive(Clone, Copy, Default)]
struct Reading {
    records: u64,
    cpu: Duration,
    enters: u64,
}

fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::try_from(time).expect("not before the start")
}

/// After the warm-up, for the time of the measurement.
async fn measured(load: Load, count: &Count, enters: impl Fn() -> u64) -> Reading {
    let read = || Reading { records: count.get(), cpu: cpu(), enters: enters() };
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
    AgentCommand::new(AGENT).args(arguments(load)).limits(Limits::new().json_check(check))
}

fn in_runtime<T>(program: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    LocalSet::new().block_on(&runtime.expect("a runtime"), program)
}

fn tokio_lines(load: Load) -> Reading {
    in_runtime(async {
        let count = Count::default();
        let mut children = Vec::new();
        for _ in 0..load.agents {
            let mut command = tokio::process::Command::new(AGENT);
            command.args(arguments(load)).kill_on_drop(true);
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
            let mut child = command.spawn().expect("the built-in agent starts");
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

/// A task for each agent that counts what it says; both engines' handles do it alike.
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

fn local(load: Load, window: Duration, check: JsonCheck) -> Reading {
    in_runtime(async {
        let engine = LocalEngine::builder().batch_window(window).build().expect("io_uring");
        let count = Count::default();
        count_records!(engine, load, check, count);
        let reading = measured(load, &count, || engine.counters().enters).await;
        engine.shutdown(Duration::ZERO).await;
        reading
    })
}

fn threaded(load: Load, window: Duration, check: JsonCheck) -> Reading {
    in_runtime(async {
        let engine = Engine::builder().batch_window(window).build().expect("io_uring");
        let count = Count::default();
        count_records!(engine, load, check, count);
        let reading = measured(load, &count, || engine.stats().io.enters).await;
        engine.shutdown(Duration::ZERO).await;
        reading
    })
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn tell(name: &str, load: Load, reading: Reading, peer: Reading) {
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
    assert!(reading.records > 0, "{name}: nothing came");
}

/// The rows of these names, all of them where none is given, beside the peer.
fn run(load: Load, wanted: &[String]) {
    let is_wanted = |name: &String| wanted.is_empty() || wanted.contains(name);
    let peer = tokio_lines(load);
    tell("tokio_lines", load, peer, peer);
    for (name, window, check) in [
        ("", Duration::ZERO, JsonCheck::Shape),
        ("_window", WINDOW, JsonCheck::Shape),
        ("_syntax", Duration::ZERO, JsonCheck::Syntax),
    ] {
        let (here, beside) = (format!("local{name}"), format!("engine{name}"));
        if is_wanted(&here) {
            tell(&here, load, local(load, window, check), peer);
        }
        if is_wanted(&beside) {
            tell(&beside, load, threaded(load, window, check), peer);
        }
    }
    // Twice, because the machine may have changed meanwhile.
    tell("tokio_lines_again", load, tokio_lines(load), peer);
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
    // A hundred thousand records a second are more than two cores write: to be asked for.
    let rate = if paces.iter().any(|pace| pace == "rate=100") { 100 } else { 20 };
    run(load(rate), &wanted);
}
