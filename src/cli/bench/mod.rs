//! F5. `agentpipe bench`: scenarios over the real engine, each beside the least that the kernel
//! needs for the same, in one run.
//!
//! `scenario.rs` lists them; each has a file. `series.rs` runs one, `machine.rs` says where.

mod blocked_abort;
mod flush_1m;
mod idle_close;
mod machine;
mod plain;
mod print;
mod roundtrip;
mod scenario;
mod series;
mod spawn;
mod target;
mod throughput_4k;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use super::{say, say_out, units};

const USAGE: u8 = 2;

/// Measures agentpipe on this machine, and in the same run the least that the kernel needs.
///
/// Exit code: 0, or 1 where something could not be measured, or 2 usage.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// What to measure: close_idle, close_blocked_abort, flush_1m, spawn, roundtrip,
    /// throughput_4k [default: all; with an own agent close_idle and spawn]
    #[arg(value_name = "SCENARIO")]
    scenarios: Vec<String>,

    /// Write the report to FILE as JSON, for `agentpipe gate`
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,

    /// Write the table to FILE as Markdown; without it to stdout
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,

    /// How often each is measured
    #[arg(long, value_name = "N", default_value_t = 50,
        value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    samples: u32,

    /// How long an own agent is given to start before it counts as idle
    #[arg(long, value_name = "TIME", default_value = "200ms",
        value_parser = units::parse_duration)]
    warm_up: Duration,

    /// An own agent, and its arguments
    #[arg(last = true, value_name = "CMD")]
    command: Vec<OsString>,
}

pub(crate) fn main(args: &Args) -> ExitCode {
    let chosen = match scenario::choose(&args.scenarios, !args.command.is_empty()) {
        Ok(chosen) => chosen,
        Err(why) => {
            say(format_args!("{why}"));
            return ExitCode::from(USAGE);
        }
    };
    match run(args, &chosen) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            say(format_args!("{why}"));
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args, chosen: &[&scenario::Scenario]) -> Result<(), String> {
    let target = target::Target::new(&args.command, args.warm_up)?;
    let mut report = machine::describe(&target);
    for scenario in chosen {
        let measured = series::run(scenario, &target, args.samples);
        report.scenarios.push(measured.map_err(|why| format!("{}: {why}", scenario.name))?);
    }
    let write = |path: &PathBuf, text: String| {
        std::fs::write(path, text)
            .map_err(|error| format!("cannot write {}: {error}", path.display()))
    };
    if let Some(path) = &args.json {
        let json = serde_json::to_string_pretty(&report).map_err(|error| error.to_string())?;
        write(path, json + "\n")?;
    }
    let table = print::markdown(&report);
    match &args.markdown {
        Some(path) => write(path, table)?,
        None => say_out(format_args!("{}", table.trim_end())),
    }
    Ok(())
}
