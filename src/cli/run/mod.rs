//! F5. `agentpipe run`: records from own stdin to an agent, its records to own stdout.
//!
//! Three threads: `input.rs` feeds the agent, `output.rs` (the main one) passes its records on,
//! `signals.rs` closes it when this process is told to end. `report.rs` waits for the close and
//! writes the report as soon as it is done, even while own stdout is blocked.

mod args;
mod input;
mod output;
mod report;
mod signals;

use std::process::ExitCode;

use agentpipe::{Agent, AgentCommand, Engine, Error, ErrorKind, ExitStatus, Limits};

pub(crate) use args::Args;

use super::say;

/// agentpipe itself failed.
const FAILED: u8 = 125;
/// The program is there and cannot be run, as in a shell.
const NOT_EXECUTABLE: u8 = 126;
/// There is no such program, as in a shell.
const NOT_FOUND: u8 = 127;
/// Own stdout was closed: what a shell reports of a program killed by SIGPIPE.
const OUTPUT_GONE: u8 = 141;

pub(crate) fn main(args: &Args) -> ExitCode {
    match start(args) {
        Ok((engine, agent)) => ExitCode::from(pass(args, &engine, agent)),
        Err(error) => {
            say(format_args!("{error}"));
            ExitCode::from(failure_code(&error))
        }
    }
}

fn start(args: &Args) -> Result<(Engine, Agent), Error> {
    let engine = Engine::new()?;
    let mut words = args.command.iter();
    let program = words.next().map(std::ffi::OsString::as_os_str).unwrap_or_default();
    let mut limits = Limits::new();
    if let Some(bytes) = args.record_max {
        limits = limits.record_max(usize::try_from(bytes).unwrap_or(usize::MAX));
    }
    let mut command = AgentCommand::new(program)
        .args(words)
        .framing(args.framing.into())
        .limits(limits)
        .close_policy(args.policy())
        .stderr_events(true);
    if let Some(dir) = &args.cwd {
        command = command.cwd(dir);
    }
    let agent = engine.spawn_blocking(command)?;
    Ok((engine, agent))
}

fn pass(args: &Args, engine: &Engine, agent: Agent) -> u8 {
    let (mut reader, writer) = agent.split();
    let reporter = report::start(args, writer.clone());
    if let Err(error) = signals::start(args, writer.clone()) {
        say(format_args!("cannot watch for signals: {error}"));
    }
    input::start(args, writer);
    let output = output::pass(&mut reader, args.framing.into());
    if let Err(error) = &output {
        if error.kind() != std::io::ErrorKind::BrokenPipe {
            say(format_args!("writing to stdout failed: {error}; the agent is aborted"));
        }
        reader.abort_blocking();
    }
    let (exit, reported) = reporter.join().unwrap_or((ExitStatus::Unknown, false));
    tracing::debug!(agents = engine.agents(), "done");
    match output {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => OUTPUT_GONE,
        Err(_) => FAILED,
        Ok(()) if !reported => FAILED,
        Ok(()) => exit.shell_code().and_then(|code| u8::try_from(code).ok()).unwrap_or(FAILED),
    }
}

fn failure_code(error: &Error) -> u8 {
    match error.kind() {
        ErrorKind::ProgramNotFound => NOT_FOUND,
        ErrorKind::ProgramNotExecutable => NOT_EXECUTABLE,
        _ => FAILED,
    }
}
