//! F5, bench: runs one scenario, agentpipe and its limit in turns, and sums up.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use hdrhistogram::Histogram;

use crate::cli::report::{self, Figures, Limit};

use super::scenario::{Failed, Scenario};
use super::target::Target;

/// No sample is longer; the closes are bounded far below.
const LONGEST: u64 = 3_600_000_000_000;

pub(super) fn run(scenario: &Scenario, target: &Target, samples: u32) -> Failed<report::Scenario> {
    let mut rounds = (scenario.open)(target)?;
    let (mut ours, mut least) = (histogram()?, histogram()?);
    // The first of each pays for cold caches and is not counted.
    rounds.agentpipe()?;
    rounds.limit()?;
    for sample in 0..samples {
        progress(scenario.name, sample, samples);
        // Whoever goes first may find the machine busier, so they take turns.
        if sample % 2 == 0 {
            record(&mut ours, rounds.agentpipe()?);
            record(&mut least, rounds.limit()?);
        } else {
            record(&mut least, rounds.limit()?);
            record(&mut ours, rounds.agentpipe()?);
        }
    }
    progress(scenario.name, samples, samples);
    let figures = figures(&ours);
    let limit = Limit { what: scenario.limit.to_owned(), figures: self::figures(&least) };
    Ok(report::Scenario {
        name: scenario.name.to_owned(),
        records: scenario.records,
        figures,
        ratio: report::ratio(&figures, &limit),
        limit: Some(limit),
        counts: rounds.counts(),
    })
}

fn histogram() -> Failed<Histogram<u64>> {
    Histogram::new_with_bounds(1, LONGEST, 3).map_err(|error| error.to_string())
}

fn record(series: &mut Histogram<u64>, took: Duration) {
    series.saturating_record(u64::try_from(took.as_nanos()).unwrap_or(LONGEST));
}

fn figures(series: &Histogram<u64>) -> Figures {
    let us = |nanoseconds: u64| Duration::from_nanos(nanoseconds).as_secs_f64() * 1e6;
    let at = |quantile: f64| us(series.value_at_quantile(quantile));
    Figures {
        n: series.len(),
        p50_us: at(0.50),
        p90_us: at(0.90),
        p99_us: at(0.99),
        max_us: us(series.max()),
    }
}

/// A line that is written over, where somebody looks at it.
fn progress(name: &str, done: u32, of: u32) {
    let mut stderr = std::io::stderr().lock();
    if stderr.is_terminal() {
        let end = if done == of { "\r\x1b[K" } else { "" };
        // A terminal that is gone is no reason to stop.
        let _shown = write!(stderr, "\r{name} {done}/{of}{end}");
        let _flushed = stderr.flush();
    }
}
