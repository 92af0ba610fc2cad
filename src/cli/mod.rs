//! F5, the command line: one file or folder per subcommand, and the parser that picks one.

#[cfg(feature = "bench")]
mod bench;
mod doctor;
mod fake;
#[cfg(feature = "bench")]
mod gate;
#[cfg(feature = "bench")]
mod input_file;
#[cfg(feature = "bench")]
mod report;
mod run;
mod trace;
mod units;
mod usage;

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
    // Its help stands with its flags.
    Run(Box<run::Args>),
    /// Measures agentpipe on this machine, beside the least that the kernel needs.
    #[cfg(feature = "bench")]
    Bench(bench::Args),
    /// Tells whether agentpipe can work on this host, and what limits it.
    Doctor(doctor::Args),
    /// A misbehaving agent for tests: floods, hangs, lies and leaves as told.
    Fake(Box<fake::Args>),
    /// Judges a bench report by a file of ceilings.
    #[cfg(feature = "bench")]
    Gate(gate::Args),
}

pub(crate) fn main() -> ExitCode {
    let cli = match usage::parse() {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    // `run` has its own: there no thread may wait until stderr is read.
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

/// One line on stderr, with the command's name before it. A closed stderr is no reason to stop.
fn say(what: fmt::Arguments<'_>) {
    let _nobody_reads = writeln!(std::io::stderr().lock(), "agentpipe: {what}");
}

/// One line on stdout.
fn say_out(what: fmt::Arguments<'_>) {
    let _nobody_reads = writeln!(std::io::stdout().lock(), "{what}");
}
