//! The command line: one file or folder per subcommand, and the parser that selects one.

#[cfg(feature = "bench")]
mod bench;
mod doctor;
mod fake;
#[cfg(test)]
#[path = "../../tests/fuzz/stable.rs"]
mod fuzz_driver;
#[cfg(feature = "bench")]
mod gate;
#[cfg_attr(not(feature = "bench"), expect(dead_code, reason = "the gate uses the rest"))]
mod input_file;
#[cfg(feature = "bench")]
mod report;
mod run;
mod trace;
mod units;
mod usage;

/// The bodies of two fuzz targets, for tests/fuzz.
#[cfg(fuzzing)]
pub(crate) mod fuzz_targets {
    pub(crate) use super::fake::script::fuzz::target as script;
    pub(crate) use super::gate::fuzz::target as gate;
}

use std::fmt;
use std::io::Write;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "agentpipe", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    // The help of `run` and `doctor` is at their options.
    Run(Box<run::RunArgs>),
    /// Measures agentpipe on this machine, and the least work that the kernel allows.
    #[cfg(feature = "bench")]
    Bench(bench::BenchArgs),
    Doctor(doctor::DoctorArgs),
    /// A misbehaving agent for tests: floods, hangs, sends bad output and exits as its options say.
    Fake(Box<fake::FakeArgs>),
    /// Compares a bench report with a file of ceilings.
    #[cfg(feature = "bench")]
    Gate(gate::GateArgs),
}

pub(crate) fn main() -> ExitCode {
    let cli = match usage::parse() {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    // `run` installs its own writer, because none of its threads may wait for a reader of stderr.
    if !matches!(cli.command, Command::Run(_)) {
        trace::start(std::io::stderr);
    }
    match cli.command {
        Command::Run(args) => run::main(&args),
        #[cfg(feature = "bench")]
        Command::Bench(args) => bench::main(&args),
        Command::Doctor(args) => doctor::main(&args),
        Command::Fake(args) => fake::main(&args),
        #[cfg(feature = "bench")]
        Command::Gate(args) => gate::main(&args),
    }
}

/// Writes one line to stderr, after the name of the command. A closed stderr is ignored.
fn say(what: fmt::Arguments<'_>) {
    let _written = writeln!(std::io::stderr().lock(), "agentpipe: {what}");
}

/// Writes one line to stdout. A closed stdout is ignored.
fn say_out(what: fmt::Arguments<'_>) {
    let _written = writeln!(std::io::stdout().lock(), "{what}");
}
