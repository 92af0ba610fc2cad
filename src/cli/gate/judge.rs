//! The limits file and the verdict. Pure: limits, a report and a baseline go in, a verdict comes out.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use agentpipe::Backend;
use serde::Deserialize;

use crate::cli::bench::is_scenario;
use crate::cli::input_file;
use crate::cli::report::{BenchReport, Measurement, is_figure, is_name};

/// The version of the limits file. Every other one is refused.
const SCHEMA: u32 = 1;

/// A limits file. Every number in it is a ceiling.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LimitsFile {
    schema: u32,
    /// The backend that the limits are for. A report of another backend is not judged.
    #[serde(default = "wanted_backend")]
    pub(super) backend: String,
    #[serde(default)]
    pub(super) scenario: BTreeMap<String, Ceilings>,
    /// How far a run may be above the baseline.
    #[serde(default)]
    pub(super) baseline: Tolerance,
}

/// The ceilings of one scenario. A figure without a ceiling is not judged.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Ceilings {
    pub(super) p50_us: Option<f64>,
    pub(super) p90_us: Option<f64>,
    pub(super) p99_us: Option<f64>,
    pub(super) max_us: Option<f64>,
    /// The median, divided by the median of the in-run limit.
    pub(super) ratio: Option<f64>,
    /// The median, divided by the median of the peer.
    pub(super) ratio_to_peer: Option<f64>,
    pub(super) counts: BTreeMap<String, f64>,
}

/// The factors by which a run may exceed the figures of the baseline.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Tolerance {
    pub(super) p50: Option<f64>,
    pub(super) p90: Option<f64>,
    pub(super) p99: Option<f64>,
    pub(super) max: Option<f64>,
    pub(super) counts: Option<f64>,
    /// A smaller difference in time counts as noise.
    pub(super) floor_us: f64,
}

/// As wide for times as two busy processors make them, in a median: a defect that makes a close wait for a
/// timer adds 50 ms or more. Narrow for counts. A tail of 20 samples is one bad moment.
impl Default for Tolerance {
    fn default() -> Self {
        Self {
            p50: Some(10.0),
            p90: None,
            p99: None,
            max: None,
            counts: Some(1.25),
            floor_us: 25_000.0,
        }
    }
}

fn wanted_backend() -> String {
    Backend::IoUring.as_str().to_owned()
}

impl Ceilings {
    /// Returns name and ceiling of each time.
    pub(super) fn times(&self) -> [(&'static str, Option<f64>); 4] {
        [
            ("p50_us", self.p50_us),
            ("p90_us", self.p90_us),
            ("p99_us", self.p99_us),
            ("max_us", self.max_us),
        ]
    }

    pub(super) fn numbers(&self) -> impl Iterator<Item = f64> {
        let times = self.times().into_iter().filter_map(|(_, ceiling)| ceiling);
        times.chain(self.ratio).chain(self.ratio_to_peer).chain(self.counts.values().copied())
    }
}

impl Tolerance {
    /// Returns the name of each figure and the factor that is allowed for it.
    pub(super) fn times(&self) -> [(&'static str, Option<f64>); 4] {
        [("p50_us", self.p50), ("p90_us", self.p90), ("p99_us", self.p99), ("max_us", self.max)]
    }

    fn factors(&self) -> impl Iterator<Item = f64> {
        self.times().into_iter().filter_map(|(_, factor)| factor).chain(self.counts)
    }
}

impl LimitsFile {
    /// Returns limits without a ceiling, for a comparison of two reports of this backend.
    pub(super) fn without_ceilings(backend: &str) -> Self {
        let (scenario, baseline) = (BTreeMap::new(), Tolerance::default());
        Self { schema: SCHEMA, backend: backend.to_owned(), scenario, baseline }
    }

    /// Reads and checks a limits file. The error is one line.
    pub(super) fn read(path: &Path) -> Result<Self, String> {
        let text = input_file::read(path)?;
        Self::parse(&text).map_err(|why| input_file::blame(path, &why))
    }

    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let limits: Self = toml::from_str(text).map_err(|error| {
            let before = error.span().and_then(|span| text.get(..span.start));
            let line = before.map_or(1, |before| 1 + before.matches('\n').count());
            format!("not a limits file, line {line}: {}", error.message())
        })?;
        limits.check()?;
        Ok(limits)
    }

    /// Checks what the types do not.
    fn check(&self) -> Result<(), String> {
        if self.schema != SCHEMA {
            return Err(format!(
                "it has schema {}; this agentpipe reads schema {SCHEMA}",
                self.schema
            ));
        }
        if self.backend != Backend::IoUring.as_str() {
            return Err(format!("its backend is not {}", Backend::IoUring.as_str()));
        }
        for (name, ceilings) in &self.scenario {
            if !is_name(name) || !ceilings.counts.keys().all(|name| is_name(name)) {
                return Err("a name is not 1 to 64 of a-z, 0-9 and _".to_owned());
            }
            if ceilings.numbers().next().is_none() {
                return Err(format!("{name} has no ceiling"));
            }
            if !ceilings.numbers().all(is_figure) {
                return Err(format!("{name}: a ceiling is no number from 0 to 10^15"));
            }
        }
        let fits = |factor: f64| is_figure(factor) && factor >= 1.0;
        if !self.baseline.factors().all(fits) || !is_figure(self.baseline.floor_us) {
            return Err(
                "baseline: a factor is not from 1 to 10^15, or floor_us not from 0".to_owned()
            );
        }
        Ok(())
    }
}

/// The result of a comparison.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Verdict {
    /// Every figure that has a ceiling, in the order of the limits file.
    pub(super) checks: Vec<Check>,
    /// Scenarios that the limits or the baseline name and the report does not have.
    pub(super) not_run: Vec<String>,
    /// Why a part could not be compared. Empty if everything could be.
    pub(super) not_comparable: Vec<String>,
}

/// The kind of verdict, which decides the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Pass,
    Regression,
    NotComparable,
}

/// One figure and its ceiling.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Check {
    pub(super) scenario: String,
    /// `p99_us`, `ratio`, `enters_per_record`, ...
    pub(super) metric: String,
    pub(super) found: f64,
    pub(super) ceiling: f64,
    pub(super) from: Source,
}

/// The origin of a ceiling.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Source {
    Limits,
    /// The figure of the baseline, from which the ceiling is computed.
    Baseline(f64),
}

impl Check {
    pub(super) fn is_breach(&self) -> bool {
        self.found > self.ceiling
    }
}

impl Verdict {
    pub(super) fn breaches(&self) -> impl Iterator<Item = &Check> {
        self.checks.iter().filter(|check| check.is_breach())
    }

    /// A breach takes precedence over a part that could not be compared.
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

/// Compares a report with the limits and the baseline. A report of some scenarios is judged by those.
///
/// # Errors
///
/// The limits name what no `bench` measures, or no figure at all could be compared: a gate that checks
/// nothing must not pass.
pub(super) fn judge(
    limits: &LimitsFile,
    report: &BenchReport,
    baseline: Option<&BenchReport>,
) -> Result<Verdict, String> {
    let mut verdict = Verdict::default();
    if report.backend != limits.backend {
        // Its figures measure something else, so none of them is judged.
        let why = format!("backend {}; the limits are for {}", report.backend, limits.backend);
        verdict.not_comparable.push(why);
        return Ok(verdict);
    }
    let mut not_run = BTreeSet::new();
    for (name, ceilings) in &limits.scenario {
        match report.scenario(name) {
            Some(scenario) => check_limits(ceilings, scenario, &mut verdict.checks)?,
            None if is_scenario(name) => _ = not_run.insert(name.clone()),
            None => return Err(format!("the limits name {name}; there is no such scenario")),
        }
    }
    if let Some(baseline) = baseline {
        verdict.not_comparable = differences(report, baseline);
        if verdict.not_comparable.is_empty() {
            for before in &baseline.scenarios {
                match report.scenario(&before.name) {
                    Some(now) => check_baseline(&limits.baseline, before, now, &mut verdict.checks),
                    None => _ = not_run.insert(before.name.clone()),
                }
            }
        }
    }
    verdict.not_run = not_run.into_iter().collect();
    if verdict.checks.is_empty() && verdict.not_comparable.is_empty() {
        return Err("the report has no figure that the limits or the baseline name".to_owned());
    }
    Ok(verdict)
}

/// Adds a check for each ceiling of a scenario.
fn check_limits(
    ceilings: &Ceilings,
    scenario: &Measurement,
    checks: &mut Vec<Check>,
) -> Result<(), String> {
    let name = &scenario.name;
    let mut add = |metric: &str, found: f64, ceiling: f64| {
        let (scenario, metric) = (name.clone(), metric.to_owned());
        checks.push(Check { scenario, metric, found, ceiling, from: Source::Limits });
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

/// Whether a count of an unchanged program is the same on a busy machine, so that it can be compared with
/// a baseline. How many records a read brings is decided by the scheduler, and with it what a record costs
/// in system calls, ring entries and bytes of buffers.
pub(super) fn is_stable(count: &str) -> bool {
    !matches!(
        count,
        "enters_per_record" | "sqes_per_record" | "cqes_per_record" | "allocated_bytes_per_byte"
    )
}

/// Returns the difference that is noise in a count, because a factor allows none in a count near 0. A defect
/// adds one for each record, close or agent: half of that is noise.
pub(super) fn noise(count: &str) -> f64 {
    if count == "allocations_per_1000_records" { 500.0 } else { 0.5 }
}

/// Returns why two runs cannot be compared. Empty if they can.
pub(super) fn differences(report: &BenchReport, baseline: &BenchReport) -> Vec<String> {
    let command = |report: &BenchReport| match &report.command {
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

/// Returns `6.18` for `6.18.5-generic`.
fn series(kernel: &str) -> String {
    let numbers = kernel.split(|c: char| !c.is_ascii_digit()).take(2).collect::<Vec<_>>();
    numbers.join(".")
}

/// Adds a check for each figure of the baseline that has a factor.
fn check_baseline(
    allowed: &Tolerance,
    before: &Measurement,
    now: &Measurement,
    checks: &mut Vec<Check>,
) {
    let mut add = |metric: &str, before: f64, found: f64, ceiling: f64| {
        let from = Source::Baseline(before);
        let (scenario, metric) = (now.name.clone(), metric.to_owned());
        checks.push(Check { scenario, metric, found, ceiling, from });
    };
    // A busy machine slows the in-run limit as well, and the ceilings move with it.
    let of_limit = |run: &Measurement| run.limit.as_ref().map(|limit| limit.figures.p50_us);
    let slower = match (of_limit(before), of_limit(now)) {
        (Some(before), Some(now)) if before > 0.0 => (now / before).max(1.0),
        _ => 1.0,
    };
    let figures = before.figures.named().into_iter().zip(now.figures.named());
    for ((metric, factor), ((_, before), (_, found))) in allowed.times().into_iter().zip(figures) {
        if let Some(factor) = factor {
            let ceiling = (before * factor * slower).max(before + allowed.floor_us);
            add(metric, before, found, ceiling);
        }
    }
    if let Some(factor) = allowed.counts {
        for (count, before) in &before.counts {
            let found = now.counts.get(count).filter(|_| is_stable(count));
            if let Some(found) = found {
                add(count, *before, *found, (before * factor).max(before + noise(count)));
            }
        }
    }
}
