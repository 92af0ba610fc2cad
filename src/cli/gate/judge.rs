//! F5, gate: the verdict. Pure: limits, a report and a baseline in; what is wrong out.

use crate::cli::report::{Report, Scenario};

use super::limits::{Baseline, Ceilings, Limits};

/// What came out.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Verdict {
    /// Every figure that was held against a ceiling, in the order of the limits file.
    pub(super) lines: Vec<Line>,
    /// Why a part of it could not be compared; empty is what one wants.
    pub(super) not_comparable: Vec<String>,
}

/// How a verdict ends; the exit code follows from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Pass,
    Regression,
    NotComparable,
}

/// One figure and its ceiling.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Line {
    pub(super) scenario: String,
    /// `p99_us`, `ratio`, `enters_per_record`, ...
    pub(super) metric: String,
    pub(super) found: f64,
    pub(super) ceiling: f64,
    pub(super) from: From,
}

/// Where a ceiling comes from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum From {
    Limits,
    /// The baseline's figure; the ceiling is a multiple of it.
    Baseline(f64),
}

impl Line {
    pub(super) fn is_breach(&self) -> bool {
        self.found > self.ceiling
    }
}

impl Verdict {
    pub(super) fn breaches(&self) -> impl Iterator<Item = &Line> {
        self.lines.iter().filter(|line| line.is_breach())
    }

    /// A breach of what could be compared counts more than what could not be.
    pub(super) fn outcome(&self) -> Outcome {
        if self.breaches().next().is_some() {
            Outcome::Regression
        } else if self.not_comparable.is_empty() {
            Outcome::Pass
        } else {
            Outcome::NotComparable
        }
    }
}

/// Judges. The error is for limits that the report has no figures for: a name may be misspelt,
/// and a gate that looks at nothing must not pass.
pub(super) fn judge(
    limits: &Limits,
    report: &Report,
    baseline: Option<&Report>,
) -> Result<Verdict, String> {
    if report.backend != limits.backend {
        // Its figures are of something else; not one of them is judged.
        let why = format!("backend {}; the limits are for {}", report.backend, limits.backend);
        return Ok(Verdict { lines: Vec::new(), not_comparable: vec![why] });
    }
    let mut lines = Vec::new();
    for (name, ceilings) in &limits.scenario {
        let scenario = report
            .scenario(name)
            .ok_or_else(|| format!("the limits name {name}; the report has no such scenario"))?;
        hold(ceilings, scenario, &mut lines)?;
    }
    let mut not_comparable = Vec::new();
    if let Some(baseline) = baseline {
        not_comparable = differences(report, baseline);
        if not_comparable.is_empty() {
            let pairs = limits.scenario.keys().map(|name| (name, baseline.scenario(name)));
            for (name, before) in pairs {
                match (before, report.scenario(name)) {
                    (Some(before), Some(now)) => {
                        compare(&limits.baseline, before, now, &mut lines);
                    }
                    _ => not_comparable.push(format!("the baseline has no {name}")),
                }
            }
        }
    }
    Ok(Verdict { lines, not_comparable })
}

/// Adds a line for each ceiling of a scenario.
fn hold(ceilings: &Ceilings, scenario: &Scenario, lines: &mut Vec<Line>) -> Result<(), String> {
    let name = &scenario.name;
    let mut add = |metric: &str, found: f64, ceiling: f64| {
        let (scenario, metric) = (name.clone(), metric.to_owned());
        lines.push(Line { scenario, metric, found, ceiling, from: From::Limits });
    };
    for ((metric, ceiling), (_, found)) in
        ceilings.times().into_iter().zip(scenario.figures.named())
    {
        if let Some(ceiling) = ceiling {
            add(metric, found, ceiling);
        }
    }
    let ratios = [
        ("ratio", ceilings.ratio, scenario.ratio, "in-run limit"),
        ("ratio_to_peer", ceilings.ratio_to_peer, scenario.ratio_to_peer, "peer"),
    ];
    for (metric, ceiling, found, of) in ratios {
        if let Some(ceiling) = ceiling {
            let missing =
                || format!("the limits name a {metric} for {name}; the report has no {of} for it");
            add(metric, found.ok_or_else(missing)?, ceiling);
        }
    }
    for (count, ceiling) in &ceilings.counts {
        let found = scenario.counts.get(count).ok_or_else(|| {
            format!("the limits name the count {count} of {name}; the report has none")
        })?;
        add(count, *found, *ceiling);
    }
    Ok(())
}

/// A factor on a count near 0 allows nothing; so much is noise whatever the baseline has. One
/// allocation more for each record is 1000 in the count that has them, one more kill 1.
const COUNT_NOISE: f64 = 0.25;

/// Why two runs cannot be compared; empty if they can.
fn differences(report: &Report, baseline: &Report) -> Vec<String> {
    let command = |report: &Report| match &report.command {
        Some(words) => words.join(" "),
        None => "the built-in agent".to_owned(),
    };
    [
        ("kernel", series(&report.kernel), series(&baseline.kernel)),
        ("backend", report.backend.clone(), baseline.backend.clone()),
        ("tier", report.tier.clone(), baseline.tier.clone()),
        ("architecture", report.arch.clone(), baseline.arch.clone()),
        ("CPU", report.cpu.clone(), baseline.cpu.clone()),
        ("cores", report.cores.to_string(), baseline.cores.to_string()),
        ("build", report.profile.clone(), baseline.profile.clone()),
        ("agent", command(report), command(baseline)),
    ]
    .into_iter()
    .filter(|(_, now, before)| now != before)
    .map(|(what, now, before)| format!("{what} {now}; the baseline has {before}"))
    .collect()
}

/// `6.18` of `6.18.5-generic`.
fn series(kernel: &str) -> String {
    let numbers = kernel.split(|c: char| !c.is_ascii_digit()).take(2).collect::<Vec<_>>();
    numbers.join(".")
}

fn compare(allowed: &Baseline, before: &Scenario, now: &Scenario, lines: &mut Vec<Line>) {
    let mut add = |metric: &str, before: f64, found: f64, ceiling: f64| {
        let from = From::Baseline(before);
        let (scenario, metric) = (now.name.clone(), metric.to_owned());
        lines.push(Line { scenario, metric, found, ceiling, from });
    };
    let figures = before.figures.named().into_iter().zip(now.figures.named());
    for ((metric, factor), ((_, before), (_, found))) in allowed.times().into_iter().zip(figures) {
        if let Some(factor) = factor {
            add(metric, before, found, (before * factor).max(before + allowed.floor_us));
        }
    }
    if let Some(factor) = allowed.counts {
        for (count, before) in &before.counts {
            if let Some(found) = now.counts.get(count) {
                add(count, *before, *found, (before * factor).max(before + COUNT_NOISE));
            }
        }
    }
}

#[cfg(test)]
mod tests;
