//! Contests: each contestant has a slice of each round, so that a drift of the machine meets all of them.
//!
//! The means of criterion hide the tail and include no CPU time, so a table of both follows them. Criterion
//! analyses the same slices.

use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput};
use hdrhistogram::Histogram;

use super::is_test;
use super::stopwatch::Took;

/// How often each contestant has its turn: the fewest samples that criterion accepts.
const ROUNDS: usize = 10;

/// Longer than any round, in nanoseconds: an hour.
const LONGEST: u64 = 3_600_000_000_000;

impl Took {
    /// Returns the time of one of `count`.
    fn each(self, count: u64) -> Self {
        self.mul_f64(1.0 / count as f64)
    }
}

impl std::iter::Sum for Took {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), |sum, one| Self {
            wall: sum.wall + one.wall,
            cpu: sum.cpu + one.cpu,
        })
    }
}

/// A contestant: its name, and a function that repeats its work a number of times.
pub(crate) type Contestant<'a> = (&'static str, Box<dyn FnMut(u64) -> Slice + 'a>);

/// The times of one call of a contestant.
pub(crate) struct Slice {
    count: u64,
    total: Took,
    /// Times for the percentiles: each by itself, or the mean of the slice.
    samples: Vec<Duration>,
}

impl Slice {
    /// A slice with one sample, the mean.
    pub(crate) fn mean(total: Took, count: u64) -> Self {
        Self { count, total, samples: vec![total.each(count).wall] }
    }
}

/// Returns a contestant that takes the time of each round by itself.
pub(crate) fn rounds<'a>(
    name: &'static str,
    mut round: impl FnMut() -> Took + 'a,
) -> Contestant<'a> {
    let rounds = move |count: u64| {
        let times: Vec<Took> = (0..count).map(|_| round()).collect();
        let samples = times.iter().map(|took| took.wall).collect();
        Slice { count, total: times.into_iter().sum(), samples }
    };
    (name, Box::new(rounds))
}

/// The median times of one repetition of a contestant.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) took: Took,
}

/// How contestants are compared.
pub(crate) struct Contest {
    /// With the scenario: `shutdown/blocked`.
    pub(crate) group: &'static str,
    pub(crate) parameter: String,
    /// The length of the turn of a contestant, including its preparations.
    pub(crate) slice: Duration,
    pub(crate) throughput: Option<Throughput>,
}

impl Contest {
    /// Runs the contestants in turn and prints their table. The first is the limit. If the filter of
    /// criterion selects one of them, all of them run, so that it can be compared. If the filter selects
    /// none, and in a test run, the rows are empty.
    pub(crate) fn run(
        self,
        criterion: &mut Criterion,
        mut contestants: Vec<Contestant<'_>>,
    ) -> Vec<Row> {
        let mut group = criterion.benchmark_group(self.group);
        // Criterion runs nothing by itself: the slices are there at once.
        group.warm_up_time(Duration::from_nanos(1)).measurement_time(Duration::from_millis(10));
        group.sample_size(ROUNDS).sampling_mode(SamplingMode::Flat);
        if let Some(throughput) = &self.throughput {
            group.throughput(throughput.clone());
        }
        let mut measured: Vec<Vec<Slice>> = Vec::new();
        for at in 0..contestants.len() {
            let id = BenchmarkId::new(contestants[at].0, &self.parameter);
            let mut turn = 0;
            group.bench_function(id, |bencher| {
                if is_test() {
                    return bencher.iter_custom(|count| (contestants[at].1)(count).total.wall);
                }
                if measured.is_empty() {
                    measured = in_turn(self.slice, &mut contestants);
                }
                bencher.iter_custom(|count| {
                    let slice = &measured[at][turn % ROUNDS];
                    turn += 1;
                    slice.total.each(slice.count).wall.mul_f64(count as f64)
                });
            });
        }
        group.finish();
        let names = contestants.iter().map(|(name, _)| *name);
        let title = format!("{}/{}", self.group, self.parameter);
        print(&title, &names.zip(measured).collect::<Vec<_>>())
    }
}

/// Lets each contestant have its turn in each round.
fn in_turn(slice: Duration, contestants: &mut [Contestant<'_>]) -> Vec<Vec<Slice>> {
    let counts: Vec<u64> = contestants.iter_mut().map(|(_, run)| fitting(slice, run)).collect();
    let mut measured: Vec<Vec<Slice>> = contestants.iter().map(|_| Vec::new()).collect();
    for round in 0..ROUNDS {
        // Each round begins with another contestant, because the first of a round finds cold caches.
        for turn in 0..contestants.len() {
            let at = (turn + round) % contestants.len();
            measured[at].push((contestants[at].1)(counts[at]));
        }
    }
    measured
}

/// Returns how often a contestant repeats its work in about this time, and warms it up.
fn fitting(slice: Duration, run: &mut dyn FnMut(u64) -> Slice) -> u64 {
    let mut count: u64 = 1;
    loop {
        let begun = Instant::now();
        run(count);
        let took = begun.elapsed();
        let fits = slice.as_nanos() * u128::from(count) / took.as_nanos().max(1);
        let fits = u64::try_from(fits).unwrap_or(u64::MAX).max(1);
        if fits < 2 * count {
            return fits;
        }
        // Not all at once, because the first call may have to prepare something.
        count = fits.min(16 * count);
    }
}

/// Prints quartiles and the tail, and the mean CPU time.
#[expect(clippy::print_stdout, reason = "the table is the result")]
fn print(title: &str, contestants: &[(&'static str, Vec<Slice>)]) -> Vec<Row> {
    let rows: Vec<(Row, Histogram<u64>)> =
        contestants.iter().map(|(name, slices)| row(name, slices)).collect();
    let Some((limit, _)) = rows.first() else { return Vec::new() };
    println!(
        "\n| {title} | n | wall p25 us | p50 us | p75 us | p99 us | p50 to the first | CPU us | CPU \
         to the first |"
    );
    println!("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |");
    for (row, times) in &rows {
        let at = [0.25, 0.5, 0.75, 0.99].map(|quantile| times.value_at_quantile(quantile));
        let cells = at.map(|nanoseconds| us(Duration::from_nanos(nanoseconds))).join(" | ");
        let ratio = row.took.wall.as_secs_f64() / limit.took.wall.as_secs_f64();
        let cpu = row.took.cpu.as_secs_f64() / limit.took.cpu.as_secs_f64();
        println!(
            "| {} | {} | {cells} | {ratio:.2} | {} | {cpu:.2} |",
            row.name,
            times.len(),
            us(row.took.cpu)
        );
    }
    println!();
    rows.into_iter().map(|(row, _)| row).collect()
}

fn row(name: &'static str, slices: &[Slice]) -> (Row, Histogram<u64>) {
    let mut times = Histogram::new_with_bounds(1, LONGEST, 3).expect("good bounds");
    for sample in slices.iter().flat_map(|slice| &slice.samples) {
        times.saturating_record(u64::try_from(sample.as_nanos()).unwrap_or(LONGEST));
    }
    let mut cpu: Vec<_> = slices.iter().map(|slice| slice.total.each(slice.count).cpu).collect();
    cpu.sort_unstable();
    let cpu = cpu.get(cpu.len() / 2).copied().unwrap_or_default();
    let wall = Duration::from_nanos(times.value_at_quantile(0.5));
    (Row { name, took: Took { wall, cpu } }, times)
}

fn us(time: Duration) -> String {
    let us = time.as_secs_f64() * 1e6;
    let digits = if us < 10.0 { 3 } else { 1 };
    format!("{us:.digits$}")
}
