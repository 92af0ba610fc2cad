//! What the benches share: the built-in agent and the ways to spawn it without agentpipe, waits for its
//! state, and a table of percentiles beside criterion's means.
#![expect(dead_code, reason = "each bench uses a part")]

#[path = "../../src/cli/bench/read_buffer.rs"]
pub(crate) mod read_buffer;

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput};
use hdrhistogram::Histogram;
use tokio::runtime::{Builder, Runtime};

/// The binary under test, which is also the agent.
pub(crate) const AGENT: &str = env!("CARGO_BIN_EXE_agentpipe");

/// How long a wait for an agent may take. A thousand processes have to start on a busy machine.
pub(crate) const WAIT_MAX: Duration = Duration::from_secs(60);

/// The fewest samples that criterion accepts. Each has many rounds.
const SAMPLES: usize = 10;

/// Longer than any round, in nanoseconds: an hour.
const LONGEST: u64 = 3_600_000_000_000;

/// Spawns the agent as a plain child with pipes.
pub(crate) fn plain(args: &[String]) -> Child {
    let mut command = Command::new(AGENT);
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    command.spawn().expect("the built-in agent starts")
}

/// Spawns the agent as a child of tokio. Must be called inside a runtime.
pub(crate) fn tokio_child(args: &[String]) -> tokio::process::Child {
    let mut command = tokio::process::Command::new(AGENT);
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    command.kill_on_drop(true).spawn().expect("the built-in agent starts")
}

/// Returns tokio's current-thread runtime.
pub(crate) fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// Waits until `holds` returns true.
pub(crate) fn await_that(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + WAIT_MAX;
    while !holds() {
        assert!(Instant::now() < deadline, "in vain: {what}");
        std::thread::yield_now();
    }
}

/// Whether the agent has slept during 20 checks. The agents of the benches sleep in write(2), or in
/// read(2) once they have written everything; no event reports this. Every contestant waits in the same
/// way, because an agent that ran a moment ago exits sooner, by a hundred microseconds.
pub(crate) fn is_asleep(pid: u32) -> bool {
    let stat = format!("/proc/{pid}/stat");
    (0..20).all(|_| {
        std::thread::yield_now();
        std::fs::read_to_string(&stat).is_ok_and(|text| text.contains(") S "))
    })
}

/// Whether this is `cargo bench -- --test`, which runs each contestant once.
pub(crate) fn is_test() -> bool {
    std::env::args().any(|arg| arg == "--test")
}

/// A contestant: its name, and a function that takes the time of a number of rounds.
pub(crate) type Contestant<'a> = (&'static str, Box<dyn FnMut(u64) -> Rounds + 'a>);

/// The times of one call of a contestant.
pub(crate) struct Rounds {
    pub(crate) total: Duration,
    /// Times for the percentiles: one for each round, or the mean of all rounds.
    pub(crate) samples: Vec<Duration>,
}

impl Rounds {
    /// One sample, the mean of `count` rounds. Without one if the call `is_short`, as in the warm-up.
    pub(crate) fn mean(total: Duration, count: u64, is_short: bool) -> Self {
        let mean = (!is_short).then(|| total.div_f64(count as f64));
        Self { total, samples: mean.into_iter().collect() }
    }
}

/// Returns a contestant that takes the time of each round by itself.
pub(crate) fn rounds<'a>(
    name: &'static str,
    mut round: impl FnMut() -> Duration + 'a,
) -> Contestant<'a> {
    let rounds = move |count: u64| {
        let samples: Vec<Duration> = (0..count).map(|_| round()).collect();
        Rounds { total: samples.iter().sum(), samples }
    };
    (name, Box::new(rounds))
}

/// How contestants are compared.
pub(crate) struct Contest {
    /// With the scenario: `shutdown/blocked`.
    pub(crate) group: &'static str,
    pub(crate) parameter: String,
    pub(crate) warm_up: Duration,
    pub(crate) time: Duration,
    pub(crate) throughput: Option<Throughput>,
}

impl Contest {
    /// Runs the contestants one after the other and prints their table. The first is the limit.
    pub(crate) fn run(self, criterion: &mut Criterion, contestants: Vec<Contestant<'_>>) {
        let mut group = criterion.benchmark_group(self.group);
        group.warm_up_time(self.warm_up).measurement_time(self.time).sample_size(SAMPLES);
        group.sampling_mode(SamplingMode::Flat);
        if let Some(throughput) = self.throughput {
            group.throughput(throughput);
        }
        let mut rows = Vec::new();
        for (name, mut rounds) in contestants {
            let mut times = Histogram::new_with_bounds(1, LONGEST, 3).expect("good bounds");
            let id = BenchmarkId::new(name, &self.parameter);
            group.bench_function(id, |bencher| {
                bencher.iter_custom(|count| {
                    let Rounds { total, samples } = rounds(count);
                    for sample in samples {
                        let nanoseconds = u64::try_from(sample.as_nanos()).unwrap_or(LONGEST);
                        times.saturating_record(nanoseconds);
                    }
                    total
                });
            });
            rows.push((name, times));
        }
        group.finish();
        if !is_test() {
            print(&format!("{}/{}", self.group, self.parameter), &rows);
        }
    }
}

/// Prints the percentiles, because a mean hides the tail. Contestants that a filter excluded have no row.
#[expect(clippy::print_stdout, reason = "the table is the result")]
fn print(title: &str, rows: &[(&str, Histogram<u64>)]) {
    let rows: Vec<_> = rows.iter().filter(|(_, times)| !times.is_empty()).collect();
    let Some((_, first)) = rows.first() else { return };
    println!("\n| {title} | n | p50 us | p90 us | p99 us | max us | p50 to the first |");
    println!("| --- | ---: | ---: | ---: | ---: | ---: | ---: |");
    let us = |nanoseconds: u64| Duration::from_nanos(nanoseconds).as_secs_f64() * 1e6;
    for (name, times) in &rows {
        let at = [0.5, 0.9, 0.99, 1.0].map(|quantile| us(times.value_at_quantile(quantile)));
        let digits = if at[0] < 10.0 { 3 } else { 1 };
        let cells = at.map(|time| format!("{time:.digits$}")).join(" | ");
        let ratio = at[0] / us(first.value_at_quantile(0.5));
        println!("| {name} | {} | {cells} | {ratio:.2} |", times.len());
    }
    println!();
}
