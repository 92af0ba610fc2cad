//! `agentpipe bench`: measures scenarios on the real engine. In the same run each scenario is compared
//! with a limit, the least work that the kernel allows for the same result, and with a peer, what other
//! hosts do.
//!
//! From the bottom up: `alloc`, `wait` and `counts` measure; `child` is the agent as a plain process and
//! `setup` the engine with its agent; `scenario` says what a scenario is; `frame`, `throughput`,
//! `shutdown`, `spawn` and `roundtrip` are the groups, `list` names them; `series` takes samples,
//! `machine` describes the host and `markdown` prints.

mod alloc;
mod child;
mod counts;
mod frame;
mod list;
mod machine;
mod markdown;
mod read_buffer;
mod roundtrip;
mod scenario;
mod series;
mod setup;
mod shutdown;
mod spawn;
mod stopwatch;
mod throughput;
mod wait;

use std::ffi::OsString;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use super::{say, units};
pub(super) use list::is_scenario;
use scenario::Scenario;
use wait::BenchResult;

const USAGE: u8 = 2;

/// Measures agentpipe on this machine, and in the same run the least work that the kernel allows.
///
/// Exit code: 0 success, 1 something could not be measured or written, 2 usage.
#[derive(Debug, clap::Args)]
pub(crate) struct BenchArgs {
    /// What to measure, by name or by group: frame, throughput, shutdown, spawn, roundtrip
    /// [default: all; with your own agent spawn and close_idle, with --ping also first_record and
    /// roundtrip]. An unknown name lists them all
    #[arg(value_name = "SCENARIO")]
    scenarios: Vec<String>,

    /// Write the report to FILE as JSON, for `agentpipe gate`; `-` is stdout
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,

    /// Write the tables to FILE as Markdown [default: stdout, unless the JSON goes there]
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,

    /// Samples of each scenario; slow scenarios take 3 to 10 times fewer
    #[arg(long, value_name = "N", default_value_t = 20,
        value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    samples: u32,

    /// Compare with the goals of this project, too
    #[arg(long)]
    targets: bool,

    /// How long your own agent may take to start before it counts as idle
    #[arg(long, value_name = "TIME", default_value = "200ms",
        value_parser = units::parse_duration)]
    warm_up: Duration,

    /// A record that your own agent answers with one record: for first_record and roundtrip
    #[arg(long, value_name = "RECORD", value_parser = parse_ping, requires = "command")]
    ping: Option<String>,

    /// Your own agent and its arguments
    #[arg(last = true, value_name = "CMD")]
    command: Vec<OsString>,
}

pub(crate) fn main(args: &BenchArgs) -> ExitCode {
    let own = !args.command.is_empty();
    let chosen = match list::choose(&args.scenarios, own, args.ping.is_some()) {
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

fn run(args: &BenchArgs, chosen: &[&'static Scenario]) -> BenchResult<()> {
    // Opened first: a file that cannot be written costs no time, and no older report survives.
    let json = args.json.as_deref().map(Out::open).transpose()?;
    let stdout_is_taken = matches!(json, Some(Out::Stdout));
    let markdown = match args.markdown.as_deref() {
        Some(path) => Some(Out::open(path)?),
        None => (!stdout_is_taken).then_some(Out::Stdout),
    };

    let setup = setup::Setup::new(&args.command, args.ping.clone(), args.warm_up)?;
    let mut report = machine::describe(&setup);
    let (count, expected) = (chosen.len(), list::expected(chosen, &setup, args.samples));
    say(format_args!(
        "bench: {count} scenarios, about {:.0} s on an idle machine",
        expected.ceil()
    ));
    for (index, scenario) in chosen.iter().enumerate() {
        let start = Instant::now();
        let measured = series::measure(scenario, &setup, args.samples)
            .map_err(|why| format!("{}: {why}", scenario.name))?;
        report.scenarios.push(measured);
        let (nth, name, took) = (index + 1, scenario.name, start.elapsed().as_secs_f64());
        say(format_args!("bench: {nth} of {count}, {name}, {took:.1} s"));
    }
    if args.targets {
        for (scenario, measured) in chosen.iter().zip(&mut report.scenarios) {
            measured.targets = series::aims(scenario, measured)?;
        }
    }

    if let Some(out) = json {
        out.write(&(serde_json::to_string_pretty(&report)? + "\n"))?;
    }
    markdown.map_or(Ok(()), |out| out.write(&markdown::tables(&report)))
}

/// Where a report goes.
#[derive(Debug)]
enum Out {
    Stdout,
    File(File, PathBuf),
}

impl Out {
    fn open(path: &Path) -> BenchResult<Self> {
        if path.as_os_str() == "-" {
            return Ok(Self::Stdout);
        }
        let file = File::create(path)
            .map_err(|error| format!("cannot write {}: {error}", path.display()))?;
        Ok(Self::File(file, path.to_owned()))
    }

    fn write(self, text: &str) -> BenchResult<()> {
        let (name, written) = match self {
            Self::Stdout => ("stdout".to_owned(), std::io::stdout().write_all(text.as_bytes())),
            Self::File(mut file, path) => {
                (path.display().to_string(), file.write_all(text.as_bytes()))
            }
        };
        Ok(written.map_err(|error| format!("cannot write {name}: {error}"))?)
    }
}

/// Accepts one line of JSON. The framing is added later.
fn parse_ping(text: &str) -> Result<String, String> {
    let is_json = serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok();
    match is_json && !text.contains(['\n', '\r']) {
        true => Ok(text.to_owned()),
        false => Err("not one line of JSON".to_owned()),
    }
}
