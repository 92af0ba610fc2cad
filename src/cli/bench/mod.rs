//! F5. `agentpipe bench`: scenarios over the real engine, each beside the least that the kernel
//! needs for the same and beside what others do, in one run.
//!
//! `list.rs` has them; each has a file. `series.rs` runs one, `machine.rs` says where, `counts.rs`
//! counts; `markdown.rs`, `html.rs` and `plot.rs` show.

mod alloc;
mod asleep;
mod blocked_abort;
mod blocked_graceful;
mod counts;
mod envelope;
mod first_record;
mod flush_1m;
mod html;
mod hundred;
mod idle_close;
mod list;
mod machine;
mod markdown;
mod patience;
mod pipeline;
mod plain;
mod plot;
mod progress;
mod read_buffer;
mod roundtrip;
mod scenario;
mod series;
mod spawn;
mod target;
mod throughput;
mod tokio_lines;

use std::ffi::OsString;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use super::{say, units};

const USAGE: u8 = 2;

/// Measures agentpipe on this machine, and in the same run the least that the kernel needs.
///
/// Exit code: 0, or 1 where something could not be measured or written, or 2 usage.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// What to measure, by name or by group: frame, throughput, shutdown, spawn, roundtrip
    /// [default: all; with an own agent spawn and close_idle, with --ping also first_record and
    /// roundtrip]. A wrong name lists them
    #[arg(value_name = "SCENARIO")]
    scenarios: Vec<String>,

    /// Write the report to FILE as JSON, for `agentpipe gate`; `-` is stdout
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,

    /// Write the tables to FILE as Markdown; without it to stdout, if that is free
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,

    /// Write a page with plots to FILE; it needs no network
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,

    /// How often each is measured; the slow ones 2 to 10 times less often
    #[arg(long, value_name = "N", default_value_t = 20,
        value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    samples: u32,

    /// How long an own agent is given to start before it counts as idle
    #[arg(long, value_name = "TIME", default_value = "200ms",
        value_parser = units::parse_duration)]
    warm_up: Duration,

    /// A record that the own agent answers with one record: for first_record and roundtrip
    #[arg(long, value_name = "RECORD", value_parser = parse_ping, requires = "command")]
    ping: Option<String>,

    /// An own agent, and its arguments
    #[arg(last = true, value_name = "CMD")]
    command: Vec<OsString>,
}

pub(crate) fn main(args: &Args) -> ExitCode {
    let own = !args.command.is_empty();
    let chosen = match scenario::choose(&args.scenarios, own, args.ping.is_some()) {
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

fn run(args: &Args, chosen: &[&'static scenario::Scenario]) -> Result<(), String> {
    // Opened first: what cannot be written is known at once, and no older report survives.
    let json = args.json.as_deref().map(Out::open).transpose()?;
    let html = args.html.as_deref().map(Out::open).transpose()?;
    let taken = [&json, &html].iter().any(|out| matches!(out, Some(Out::Stdout)));
    let markdown = match args.markdown.as_deref() {
        Some(path) => Some(Out::open(path)?),
        None => (!taken).then_some(Out::Stdout),
    };

    let target = target::Target::new(&args.command, args.ping.clone(), args.warm_up)?;
    let mut report = machine::describe(&target);
    let rounds = chosen.iter().map(|it| u64::from(series::samples_of(it, args.samples)));
    let progress = progress::Progress::new(rounds.sum());
    for scenario in chosen {
        let measured = series::run(scenario, &target, args.samples, &progress);
        report.scenarios.push(measured.map_err(|why| format!("{}: {why}", scenario.name))?);
    }
    drop(progress);

    if let Some(out) = json {
        let text = serde_json::to_string_pretty(&report).map_err(|error| error.to_string())?;
        out.write(&(text + "\n"))?;
    }
    if let Some(out) = html {
        out.write(&html::page(&report))?;
    }
    markdown.map_or(Ok(()), |out| out.write(&markdown::tables(&report)))
}

/// Where a page goes.
#[derive(Debug)]
enum Out {
    Stdout,
    File(File, PathBuf),
}

impl Out {
    fn open(path: &Path) -> Result<Self, String> {
        if path.as_os_str() == "-" {
            return Ok(Self::Stdout);
        }
        let file = File::create(path);
        file.map(|file| Self::File(file, path.to_owned()))
            .map_err(|error| format!("cannot write {}: {error}", path.display()))
    }

    fn write(self, text: &str) -> Result<(), String> {
        let (name, written) = match self {
            Self::Stdout => ("stdout".to_owned(), std::io::stdout().write_all(text.as_bytes())),
            Self::File(mut file, path) => {
                (path.display().to_string(), file.write_all(text.as_bytes()))
            }
        };
        written.map_err(|error| format!("cannot write {name}: {error}"))
    }
}

/// One line of JSON: the framing is added.
fn parse_ping(text: &str) -> Result<String, String> {
    let is_json = serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok();
    match is_json && !text.contains(['\n', '\r']) {
        true => Ok(text.to_owned()),
        false => Err("not one line of JSON".to_owned()),
    }
}
