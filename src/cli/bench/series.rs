//! Measures one scenario: samples of agentpipe, limit, peer and the other backend in turn, and their
//! percentiles.

use std::time::Duration;

use hdrhistogram::Histogram;

use crate::cli::report::{Aim, Comparison, Figures, Measurement, ratio};

use super::scenario::{Run, Scenario};
use super::setup::Setup;
use super::stopwatch::Took;
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
    let epoll = setup.epoll.as_deref().filter(|_| scenario.epoll);
    let mut beside = epoll.map(|setup| (scenario.open)(setup, scenario)).transpose()?;
    let mut all = vec![Series::new(|it| it.agentpipe())?, Series::new(|it| it.limit())?];
    if scenario.peer.is_some() {
        all.push(Series::new(|it| it.peer())?);
    }
    if beside.is_some() {
        all.push(Series { is_beside: true, ..Series::new(|it| it.agentpipe())? });
    }
    // The first sample of each fills caches and is not counted.
    for series in &all {
        series.take(&mut run, &mut beside)?;
    }
    let turns = all.len();
    for round in 0..(samples / scenario.thin).max(1) as usize {
        // The first of a round may find the machine busier, so each of them is first in turn.
        for turn in 0..turns {
            let series = &mut all[(round + turn) % turns];
            let took = series.take(&mut run, &mut beside)?;
            series.record(took);
        }
    }
    let counts = run.counts()?;
    let mut figures = all.iter().map(Series::figures);
    let mut next = || figures.next().ok_or("a series is missing");
    let mut compare = |what: Option<&str>| -> BenchResult<Option<Comparison>> {
        let Some(what) = what else { return Ok(None) };
        Ok(Some(Comparison { what: what.to_owned(), figures: next()? }))
    };
    let ours = compare(Some(scenario.name))?.ok_or("a series is missing")?.figures;
    let limit = compare(Some(scenario.limit))?;
    let peer = compare(scenario.peer)?;
    let epoll = compare(beside.as_ref().map(|_| "agentpipe with epoll"))?;
    let to = |other: &Option<Comparison>| other.as_ref().and_then(|other| ratio(&ours, other));
    Ok(Measurement {
        name: scenario.name.to_owned(),
        group: scenario.group.to_owned(),
        records: scenario.records,
        record_bytes: scenario.record_bytes,
        figures: ours,
        ratio: to(&limit),
        limit,
        ratio_to_peer: to(&peer),
        peer,
        ratio_to_epoll: to(&epoll),
        epoll,
        counts,
        targets: Vec::new(),
    })
}

/// Compares the scenario's targets with what was found.
pub(super) fn aims(scenario: &Scenario, measured: &Measurement) -> BenchResult<Vec<Aim>> {
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

/// A scenario that is being run.
type Running<'a> = Box<dyn Run + 'a>;

/// The samples of one contestant.
struct Series {
    sample: fn(&mut dyn Run) -> BenchResult<Took>,
    /// Whether it runs on the other backend.
    is_beside: bool,
    times: Histogram<u64>,
    cpu: Duration,
}

impl Series {
    fn new(sample: fn(&mut dyn Run) -> BenchResult<Took>) -> BenchResult<Self> {
        let times = Histogram::new_with_bounds(1, LONGEST, 3)?;
        Ok(Self { sample, is_beside: false, times, cpu: Duration::ZERO })
    }

    fn take(&self, run: &mut Running<'_>, beside: &mut Option<Running<'_>>) -> BenchResult<Took> {
        match beside {
            Some(beside) if self.is_beside => (self.sample)(&mut **beside),
            _ => (self.sample)(&mut **run),
        }
    }

    fn record(&mut self, took: Took) {
        self.times.saturating_record(u64::try_from(took.wall.as_nanos()).unwrap_or(LONGEST));
        self.cpu += took.cpu;
    }

    #[expect(clippy::cast_precision_loss, reason = "a series has few samples")]
    fn figures(&self) -> Figures {
        let us = |nanoseconds: u64| Duration::from_nanos(nanoseconds).as_secs_f64() * 1e6;
        let at = |quantile: f64| us(self.times.value_at_quantile(quantile));
        Figures {
            n: self.times.len(),
            p50_us: at(0.50),
            p90_us: at(0.90),
            p99_us: at(0.99),
            max_us: us(self.times.max()),
            cpu_us: self.cpu.as_secs_f64() * 1e6 / self.times.len().max(1) as f64,
        }
    }
}
