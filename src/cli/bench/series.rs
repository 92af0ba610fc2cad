//! Measures one scenario: samples of agentpipe, limit and peer in turn, and their percentiles.

use std::time::Duration;

use hdrhistogram::Histogram;

use crate::cli::report::{Aim, Comparison, Figures, Measurement, ratio};

use super::scenario::{Run, Scenario};
use super::setup::Setup;
use super::wait::BenchResult;

/// Longer than any sample, in nanoseconds: an hour.
const LONGEST: u64 = 3_600_000_000_000;

/// Measures a scenario `samples` times, or less often if it is slow.
pub(super) fn measure(
    scenario: &'static Scenario,
    setup: &Setup,
    samples: u32,
) -> BenchResult<Measurement> {
    let mut run = (scenario.open)(setup, scenario)?;
    let mut all = vec![Series::new(|it| it.agentpipe())?, Series::new(|it| it.limit())?];
    if scenario.peer.is_some() {
        all.push(Series::new(|it| it.peer())?);
    }
    // The first sample of each fills caches and is not counted.
    for series in &all {
        (series.sample)(&mut *run)?;
    }
    let turns = all.len();
    for round in 0..(samples / scenario.thin).max(1) as usize {
        // The first of a round may find the machine busier, so each of them is first in turn.
        for turn in 0..turns {
            let series = &mut all[(round + turn) % turns];
            let took = (series.sample)(&mut *run)?;
            series.record(took);
        }
    }
    let counts = run.counts()?;
    let mut figures = all.iter().map(Series::figures);
    let mut next = || figures.next().ok_or("a series is missing");
    let ours = next()?;
    let limit = Comparison { what: scenario.limit.to_owned(), figures: next()? };
    let peer = match scenario.peer {
        Some(what) => Some(Comparison { what: what.to_owned(), figures: next()? }),
        None => None,
    };
    let mut measured = Measurement {
        name: scenario.name.to_owned(),
        group: scenario.group.to_owned(),
        records: scenario.records,
        record_bytes: scenario.record_bytes,
        figures: ours,
        ratio: ratio(&ours, &limit),
        limit: Some(limit),
        ratio_to_peer: peer.as_ref().and_then(|peer| ratio(&ours, peer)),
        peer,
        counts,
        targets: Vec::new(),
    };
    measured.targets = aims(scenario, &measured)?;
    Ok(measured)
}

/// Compares the scenario's targets with what was found.
fn aims(scenario: &Scenario, measured: &Measurement) -> BenchResult<Vec<Aim>> {
    let figure = |metric: &str| match metric {
        "ratio" => measured.ratio,
        "ratio_to_peer" => measured.ratio_to_peer,
        "us_per_record" => measured.us_per_record(),
        _ => {
            let times = measured.figures.named();
            let time = times.iter().find(|(name, _)| *name == metric).map(|(_, time)| *time);
            time.or_else(|| measured.counts.get(metric).copied())
        }
    };
    let aim = |(metric, target): &(&str, f64)| {
        let found = figure(metric).ok_or_else(|| format!("there is no figure {metric}"))?;
        Ok(Aim { metric: (*metric).to_owned(), target: *target, found, met: found <= *target })
    };
    scenario.targets.iter().map(aim).collect()
}

/// The samples of agentpipe, the limit or the peer.
struct Series {
    sample: fn(&mut dyn Run) -> BenchResult<Duration>,
    times: Histogram<u64>,
}

impl Series {
    fn new(sample: fn(&mut dyn Run) -> BenchResult<Duration>) -> BenchResult<Self> {
        Ok(Self { sample, times: Histogram::new_with_bounds(1, LONGEST, 3)? })
    }

    fn record(&mut self, took: Duration) {
        self.times.saturating_record(u64::try_from(took.as_nanos()).unwrap_or(LONGEST));
    }

    fn figures(&self) -> Figures {
        let us = |nanoseconds: u64| Duration::from_nanos(nanoseconds).as_secs_f64() * 1e6;
        let at = |quantile: f64| us(self.times.value_at_quantile(quantile));
        Figures {
            n: self.times.len(),
            p50_us: at(0.50),
            p90_us: at(0.90),
            p99_us: at(0.99),
            max_us: us(self.times.max()),
        }
    }
}
