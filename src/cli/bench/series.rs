//! F5, bench: runs one scenario, agentpipe and what it is held against in turns, and sums up.

use std::time::Duration;

use hdrhistogram::Histogram;

use crate::cli::report::{self, Aim, Beside, Figures};

use super::markdown::each_record;
use super::progress::Progress;
use super::scenario::{Failed, Rounds, Scenario};
use super::target::Target;

/// No sample is longer; the closes are bounded far below.
const LONGEST: u64 = 3_600_000_000_000;

/// One that takes its turn.
struct Series {
    sample: fn(&mut dyn Rounds) -> Failed<Duration>,
    times: Histogram<u64>,
}

/// How often a scenario is measured where others are measured `samples` times.
pub(super) fn samples_of(scenario: &Scenario, samples: u32) -> u32 {
    (samples / scenario.thin).max(1)
}

pub(super) fn run(
    scenario: &'static Scenario,
    target: &Target,
    samples: u32,
    progress: &Progress,
) -> Failed<report::Scenario> {
    progress.scenario(scenario.name);
    let mut rounds = (scenario.open)(target, scenario)?;
    let mut all = vec![Series::new(|it| it.agentpipe())?, Series::new(|it| it.limit())?];
    if scenario.peer.is_some() {
        all.push(Series::new(|it| it.peer())?);
    }
    // The first of each pays for cold caches and is not counted.
    for series in &all {
        (series.sample)(&mut *rounds)?;
    }
    let turns = all.len();
    for round in 0..samples_of(scenario, samples) as usize {
        // Whoever goes first may find the machine busier, so they take turns at it.
        for turn in 0..turns {
            let series = &mut all[(round + turn) % turns];
            let took = (series.sample)(&mut *rounds)?;
            series.record(took);
        }
        progress.round();
    }
    let counts = rounds.counts()?;
    let mut figures = all.iter().map(Series::figures);
    let mut next = || figures.next().ok_or("a series is missing");
    let ours = next()?;
    let limit = Beside { what: scenario.limit.to_owned(), figures: next()? };
    let peer = match scenario.peer {
        Some(what) => Some(Beside { what: what.to_owned(), figures: next()? }),
        None => None,
    };
    let mut measured = report::Scenario {
        name: scenario.name.to_owned(),
        group: scenario.group.to_owned(),
        records: scenario.records,
        record_bytes: scenario.record_bytes,
        figures: ours,
        ratio: report::ratio(&ours, &limit),
        limit: Some(limit),
        ratio_to_peer: peer.as_ref().and_then(|peer| report::ratio(&ours, peer)),
        peer,
        counts,
        targets: Vec::new(),
    };
    measured.targets = aims(scenario, &measured)?;
    Ok(measured)
}

/// The scenario's targets, and whether they were met.
fn aims(scenario: &Scenario, measured: &report::Scenario) -> Failed<Vec<Aim>> {
    let figure = |metric: &str| match metric {
        "ratio" => measured.ratio,
        "ratio_to_peer" => measured.ratio_to_peer,
        "us_per_record" => each_record(measured),
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

impl Series {
    fn new(sample: fn(&mut dyn Rounds) -> Failed<Duration>) -> Failed<Self> {
        let times = Histogram::new_with_bounds(1, LONGEST, 3).map_err(|error| error.to_string())?;
        Ok(Self { sample, times })
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
