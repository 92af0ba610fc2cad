//! F5. `agentpipe gate`: judges a bench report. `limits.rs` and the report are read, `judge.rs`
//! decides, `print.rs` shows.

mod judge;
mod limits;
mod print;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::ValueEnum;

use judge::Outcome;
use limits::Limits;

use super::report::Report;
use super::{say, say_out};

/// A report or a limits file cannot be used.
const TOOL_ERROR: u8 = 1;
const REGRESSION: u8 = 3;
const NOT_COMPARABLE: u8 = 4;

/// Judges a report of `agentpipe bench` by a file of ceilings.
///
/// Exit code: 0 pass, 1 tool error (one line on stderr), 2 usage, 3 regression (one line for each
/// breach on stderr), 4 not comparable.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The ceilings, as TOML
    #[arg(long, value_name = "FILE", required_unless_present = "print_limits")]
    limits: Option<PathBuf>,

    /// A report to compare with, too, if it is of the same kernel, backend and class of machine
    #[arg(long, value_name = "REPORT")]
    baseline: Option<PathBuf>,

    /// The report to judge, as written by `agentpipe bench --json` [default: stdin]
    #[arg(long, value_name = "REPORT")]
    report: Option<PathBuf>,

    /// What to print on stdout
    #[arg(long, value_enum, default_value_t)]
    format: Format,

    /// Print a limits file to begin with, and judge nothing
    #[arg(long, conflicts_with_all = ["limits", "baseline", "report"])]
    print_limits: bool,
}

/// Wide enough for a busy machine, and for a debug build; docs/latency-ci.md tells how to
/// tighten it.
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

pub(crate) fn main(args: &Args) -> ExitCode {
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

fn run(args: &Args) -> Result<Outcome, String> {
    let Some(limits) = &args.limits else {
        say_out(format_args!("{}", STARTING_LIMITS.trim_end()));
        return Ok(Outcome::Pass);
    };
    let limits = Limits::read(limits)?;
    let report = match &args.report {
        Some(path) if path.as_os_str() != "-" => Report::read(path)?,
        _ => Report::read_stdin()?,
    };
    let baseline = args.baseline.as_deref().map(Report::read).transpose()?;
    let verdict = judge::judge(&limits, &report, baseline.as_ref())?;
    let page = match args.format {
        Format::Markdown => print::markdown(&verdict, &report),
        Format::GithubActionBenchmark => print::github_action_benchmark(&report),
        Format::Bencher => print::bencher(&report),
    };
    say_out(format_args!("{}", page.trim_end()));
    for line in verdict.breaches() {
        say(format_args!("regression: {}", print::breach(line)));
    }
    for why in &verdict.not_comparable {
        say(format_args!("not comparable: {}", super::input_file::one_line(why)));
    }
    Ok(verdict.outcome())
}
