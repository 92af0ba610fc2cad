//! `agentpipe fake`: an agent that misbehaves as its options say. `args` are the options, and each mode has a
//! file: `plain`, `like_claude`, `replay`, `chat` and `script`. `deny` is no agent: it executes another command.

mod args;
mod chat;
mod deny;
mod ends;
mod filter;
mod input;
mod life;
mod like_claude;
mod output;
mod plain;
mod protocol;
mod replay;
pub(super) mod script;
mod signals;
#[cfg(test)]
mod tests;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::env;
use std::ffi::OsString;
use std::process::ExitCode;
use std::rc::Rc;

use serde::Serialize;

pub(crate) use args::FakeArgs;

use args::FakeCommand;
use ends::Stop;
use input::FakeInput;
use output::FakeOutput;
use signals::TermSignal;

/// The state that every mode uses.
struct Fake<'a> {
    args: &'a FakeArgs,
    signals: Rc<TermSignal>,
    input: FakeInput,
    output: FakeOutput,
}

pub(crate) fn main(args: &FakeArgs) -> ExitCode {
    if let Some(FakeCommand::Deny(deny)) = &args.command {
        return deny::main(deny);
    }
    if let Some(duration) = args.ends.hold {
        return ends::hold(args, duration);
    }
    if let Err(message) = args.check() {
        ends::complain(&message);
        return ExitCode::from(2);
    }
    let signals = match TermSignal::install(args) {
        Ok(signals) => Rc::new(signals),
        Err(error) => {
            ends::complain(&format!("signal handler: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let framing = Rc::new(Cell::new(args.talk.framing));
    let mut agent = Fake {
        args,
        input: FakeInput::new(Rc::clone(&framing), Rc::clone(&signals)),
        output: FakeOutput::new(args, framing, Rc::clone(&signals)),
        signals,
    };
    let stop = converse(&mut agent).unwrap_or_else(|stop| stop);
    ends::finish(&mut agent, stop)
}

/// Runs the mode that the options select. Every stop returns to here.
fn converse(agent: &mut Fake<'_>) -> Result<Stop, Stop> {
    ends::prepare(agent.args)?;
    if agent.args.talk.tell_command {
        tell_command(agent)?;
    }
    if agent.args.ends.exit_now {
        return Ok(Stop::Enough);
    }
    let (claude, replay) = (&agent.args.claude, &agent.args.replay);
    let script = &agent.args.script;
    if let Some(build) = claude.like {
        like_claude::run(agent, build)
    } else if let Some(name) = &replay.replay_builtin {
        replay::run_builtin(agent, name)
    } else if let Some(path) = &replay.replay {
        replay::run(agent, path)
    } else if let Some(chat) = script.chat {
        chat::run(agent, chat)
    } else if let Some(path) = &script.script {
        script::run(agent, path)
    } else if !script.step.is_empty() {
        script::run_steps(agent, &script.step)
    } else {
        plain::run(agent)
    }
}

/// The record of `--tell-command`: the command line and the environment that the host passed.
#[derive(Serialize)]
struct Told {
    #[serde(rename = "type")]
    kind: &'static str,
    args: Vec<String>,
    env: BTreeMap<String, String>,
    cwd: String,
    uid: u32,
}

fn tell_command(agent: &mut Fake<'_>) -> Result<(), Stop> {
    let told = Told {
        kind: "command",
        args: agent.args.talk.rest.iter().map(text).collect(),
        env: env::vars_os().map(|(key, value)| (text(key), text(value))).collect(),
        cwd: text(env::current_dir()?),
        uid: rustix::process::getuid().as_raw(),
    };
    let told = serde_json::to_vec(&told).map_err(|error| Stop::Failed(error.to_string()))?;
    agent.output.record(&told)
}

/// Converts to text. Bytes that are not UTF-8 become the replacement character.
fn text(bytes: impl Into<OsString>) -> String {
    bytes.into().to_string_lossy().into_owned()
}
