//! A table of percentiles beside criterion's means, because a mean hides what a close is judged by.

use std::time::Duration;

use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput};
use hdrhistogram::Histogram;

/// The fewest that criterion takes; each has many rounds.
const SAMPLES: usize = 10;

/// An hour, in nanoseconds.
const LONGEST: u64 = 3_600_000_000_000;

/// `cargo bench -- --test`: each contestant once, to see whether it works.
pub(crate) fn testing() -> bool {
    std::env::args().any(|arg| arg == "--test")
}

/// One contestant: its name, and what takes the time of so many rounds.
pub(crate) type Contestant<'a> = (&'static str, Box<dyn FnMut(u64) -> Rounds + 'a>);

/// What a call of a contestant took.
pub(crate) struct Rounds {
    pub(crate) total: Duration,
    /// For the percentiles: a time per round, of each round or of all in one.
    pub(crate) samples: Vec<Duration>,
}

/// How a contest is run.
pub(crate) struct Contest {
    /// With the scenario: `shutdown/blocked`.
    pub(crate) group: &'static str,
    pub(crate) parameter: String,
    pub(crate) warm_up: Duration,
    pub(crate) time: Duration,
    pub(crate) throughput: Option<Throughput>,
}

impl Contest {
    /// All contestants one after the other, then their table. The first is the limit.
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
                        times.saturating_record(nanoseconds(sample));
                    }
                    total
                });
            });
            rows.push((name, times));
        }
        group.finish();
        if !testing() {
            print(&format!("{}/{}", self.group, self.parameter), &rows);
        }
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(LONGEST)
}

/// Contestants that a filter left out have no row.
#[expect(clippy::print_stdout, reason = "the table is the answer")]
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
