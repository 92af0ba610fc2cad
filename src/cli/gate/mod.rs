//! `agentpipe gate`: compares a bench report with a file of ceilings. `judge` decides; this file reads
//! the files and prints the verdict as Markdown, or the report in the formats of two dashboards.

#[cfg(any(test, fuzzing))]
pub(super) mod fuzz;
mod judge;
mod limits_from;
#[cfg(test)]
mod tests;

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::ValueEnum;
use serde_json::{Map, Value, json};

use judge::{Check, LimitsFile, Outcome, Source, Verdict};

use super::report::BenchReport;
use super::{say, say_out};

/// A report or a limits file cannot be used.
const TOOL_ERROR: u8 = 1;
const REGRESSION: u8 = 3;
const NOT_COMPARABLE: u8 = 4;

/// Compares a report of `agentpipe bench` with a file of ceilings.
///
/// Exit code: 0 pass, 1 tool error (one line on stderr), 2 usage, 3 regression (one line for each
/// breach on stderr), 4 not comparable.
#[derive(Debug, clap::Args)]
pub(crate) struct GateArgs {
    /// The ceilings, as TOML
    #[arg(long, value_name = "FILE",
        required_unless_present_any = ["print_limits", "limits_from", "baseline"])]
    limits: Option<PathBuf>,

    /// An earlier report to compare with, with or without limits; it must be of the same kernel, backend
    /// and class of machine
    #[arg(long, value_name = "REPORT")]
    baseline: Option<PathBuf>,

    /// The report to judge, as written by `agentpipe bench --json` [default: stdin]
    #[arg(long, value_name = "REPORT")]
    report: Option<PathBuf>,

    /// What to print on stdout
    #[arg(long, value_enum, default_value_t)]
    format: Format,

    /// Print a limits file to start from, and compare nothing
    #[arg(long, conflicts_with_all = ["limits", "baseline", "report"])]
    print_limits: bool,

    /// Print a limits file made from the reports of several runs, and compare nothing
    #[arg(long, value_name = "REPORT", num_args = 1..,
        conflicts_with_all = ["limits", "baseline", "report", "print_limits"])]
    limits_from: Vec<PathBuf>,
}

/// Wide enough for a busy machine and for a debug build.
const STARTING_LIMITS: &str = include_str!("starting_limits.toml");

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Format {
    /// A summary that names each breach with both figures
    #[default]
    Markdown,
    /// github-action-benchmark's customSmallerIsBetter
    GithubActionBenchmark,
    /// bencher's JSON
    Bencher,
}

pub(crate) fn main(args: &GateArgs) -> ExitCode {
    match run(args) {
        Ok(Outcome::Pass) => ExitCode::SUCCESS,
        Ok(Outcome::Regression) => ExitCode::from(REGRESSION),
        Ok(Outcome::NotComparable) => ExitCode::from(NOT_COMPARABLE),
        Err(why) => {
            say(format_args!("{why}"));
            ExitCode::from(TOOL_ERROR)
        }
    }
}

fn run(args: &GateArgs) -> Result<Outcome, String> {
    if args.print_limits {
        say_out(format_args!("{}", STARTING_LIMITS.trim_end()));
        return Ok(Outcome::Pass);
    }
    if !args.limits_from.is_empty() {
        say_out(format_args!("{}", limits_from::limits_from(&args.limits_from)?.trim_end()));
        return Ok(Outcome::Pass);
    }
    let limits = args.limits.as_deref().map(LimitsFile::read).transpose()?;
    let report = match &args.report {
        Some(path) if path.as_os_str() != "-" => BenchReport::read(path)?,
        _ => BenchReport::read_stdin()?,
    };
    let baseline = args.baseline.as_deref().map(BenchReport::read).transpose()?;
    let limits = limits.unwrap_or_else(|| LimitsFile::without_ceilings(&report.backend));
    let verdict = judge::judge(&limits, &report, baseline.as_ref())?;
    let page = match args.format {
        Format::Markdown => markdown(&verdict, &report),
        Format::GithubActionBenchmark => github_action_benchmark(&report),
        Format::Bencher => bencher(&report),
    };
    say_out(format_args!("{}", page.trim_end()));
    // A job of GitHub Actions shows such a line on the page of the run.
    let in_job = std::env::var_os("GITHUB_ACTIONS").is_some_and(|value| value == "true");
    let say_line = |kind: &str, why: &str| {
        if in_job {
            // The part before the second `::` has no foreign text, so nothing in it needs an escape.
            let line = why.replace('%', "%25");
            let _written = writeln!(std::io::stderr(), "::error title=agentpipe {kind}::{line}");
        } else {
            say(format_args!("{kind}: {why}"));
        }
    };
    for check in verdict.breaches() {
        say_line("regression", &breach(check));
    }
    for why in &verdict.not_comparable {
        say_line("not comparable", &super::input_file::one_line(why));
    }
    Ok(verdict.outcome())
}

/// Returns the summary that a CI job shows.
fn markdown(verdict: &Verdict, report: &BenchReport) -> String {
    let mut page = String::new();
    let breaches = verdict.breaches().count();
    let heading = match verdict.outcome() {
        Outcome::Pass => "pass".to_owned(),
        Outcome::Regression => format!("REGRESSION, {breaches} of {}", verdict.checks.len()),
        Outcome::NotComparable => "not comparable".to_owned(),
    };
    put(&mut page, format_args!("### agentpipe gate: {heading}\n"));
    put(
        &mut page,
        format_args!(
            "{}agentpipe {} ({}), {}, Linux {}, {}, {} cores\n",
            cell(&report.date_and_commit()),
            cell(&report.version),
            cell(&report.profile),
            cell(&report.backend),
            cell(&report.kernel),
            cell(&report.cpu),
            report.cores
        ),
    );
    for check in verdict.breaches() {
        put(&mut page, format_args!("- **{}**", breach(check)));
    }
    for why in &verdict.not_comparable {
        put(&mut page, format_args!("- not comparable: {}", cell(why)));
    }
    if !verdict.not_run.is_empty() {
        put(&mut page, format_args!("- not run: {}", verdict.not_run.join(", ")));
    }
    if breaches + verdict.not_comparable.len() + verdict.not_run.len() > 0 {
        page.push('\n');
    }
    if !verdict.checks.is_empty() {
        page.push_str("| figure | found | at most | |\n| --- | ---: | ---: | --- |\n");
    }
    for check in &verdict.checks {
        let mark = if check.is_breach() { "**breach**" } else { "ok" };
        let from = match check.from {
            Source::Limits => String::new(),
            Source::Baseline(before) => format!(" (was {})", number(before)),
        };
        let (found, ceiling) = (number(check.found), number(check.ceiling));
        let (scenario, metric) = (&check.scenario, &check.metric);
        put(
            &mut page,
            format_args!("| {scenario} {metric} | {found} | {ceiling}{from} | {mark} |"),
        );
    }
    page
}

/// Formats one breach as one line with both figures.
fn breach(check: &Check) -> String {
    let (found, ceiling) = (number(check.found), number(check.ceiling));
    let (scenario, metric) = (&check.scenario, &check.metric);
    match check.from {
        Source::Limits => format!("{scenario} {metric}: {found} is above the limit of {ceiling}"),
        Source::Baseline(before) => format!(
            "{scenario} {metric}: {found} is above {ceiling}, the most that the baseline's {} allows",
            number(before)
        ),
    }
}

/// Returns the report in the `customSmallerIsBetter` format of github-action-benchmark.
fn github_action_benchmark(report: &BenchReport) -> String {
    let mut entries = Vec::new();
    for scenario in &report.scenarios {
        let name = &scenario.name;
        let mut add = |metric: &str, unit: &str, value: f64| {
            entries.push(json!({
                "name": format!("{name}/{metric}"),
                "unit": unit,
                "value": value,
                "extra": format!("n={} {} {}", scenario.figures.n, report.backend, report.kernel),
            }));
        };
        for (metric, value) in scenario.figures.named() {
            add(metric.trim_end_matches("_us"), "us", value);
        }
        let ratios = [("ratio", scenario.ratio), ("ratio_to_peer", scenario.ratio_to_peer)];
        for (metric, ratio) in ratios {
            if let Some(ratio) = ratio {
                add(metric, "x", ratio);
            }
        }
        for (count, value) in &scenario.counts {
            add(count, "count", *value);
        }
    }
    Value::Array(entries).to_string()
}

/// Returns the report in bencher's JSON. Its measure `latency` is in nanoseconds.
fn bencher(report: &BenchReport) -> String {
    let mut page = Map::new();
    for scenario in &report.scenarios {
        let figures = &scenario.figures;
        let nanoseconds = |us: f64| us * 1000.0;
        let mut measures = Map::new();
        let latency = json!({
            "value": nanoseconds(figures.p50_us),
            "upper_value": nanoseconds(figures.max_us),
        });
        measures.insert("latency".to_owned(), latency);
        let p99 = json!({ "value": nanoseconds(figures.p99_us) });
        measures.insert("latency-p99".to_owned(), p99);
        let ratios = [("ratio", scenario.ratio), ("ratio-to-peer", scenario.ratio_to_peer)];
        for (measure, ratio) in ratios {
            if let Some(ratio) = ratio {
                measures.insert(measure.to_owned(), json!({ "value": ratio }));
            }
        }
        for (count, value) in &scenario.counts {
            measures.insert(count.replace('_', "-"), json!({ "value": value }));
        }
        page.insert(scenario.name.clone(), Value::Object(measures));
    }
    Value::Object(page).to_string()
}

/// Replaces the characters of a foreign text that could break a table.
fn cell(text: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || " .,:;()@/_+-=".contains(c);
    text.chars().map(|c| if plain(c) { c } else { ' ' }).collect()
}

/// Formats large numbers without a fraction.
fn number(value: f64) -> String {
    if value >= 100.0 { format!("{value:.0}") } else { format!("{value:.2}") }
}

fn put(page: &mut String, line: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _written = writeln!(page, "{line}");
}
