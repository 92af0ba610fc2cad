//! F5, fake: the misbehaving agent. Flags are in `args`, one file per family of misbehaviour.

mod args;
mod chat;
mod echo;
mod ends;
mod flood;
mod input;
mod life;
mod like_claude;
mod output;
mod protocol;
mod replay;
mod script;
mod signals;
mod tell;
#[cfg(test)]
mod tests;

use std::process::ExitCode;
use std::rc::Rc;

pub(crate) use args::Args;

use ends::Stop;
use input::Input;
use output::Output;
use signals::Signals;

/// What every mode works with.
struct Agent<'a> {
    args: &'a Args,
    signals: Rc<Signals>,
    input: Input,
    output: Output,
}

pub(crate) fn main(args: &Args) -> ExitCode {
    if let Some(duration) = args.ends.hold {
        return ends::hold(args, duration);
    }
    if let Err(message) = args.check() {
        ends::complain(&message);
        return ExitCode::from(2);
    }
    let signals = match Signals::install(args) {
        Ok(signals) => Rc::new(signals),
        Err(error) => {
            ends::complain(&format!("signal handler: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let mut agent = Agent {
        args,
        input: Input::new(args.talk.framing, Rc::clone(&signals)),
        output: Output::new(args, Rc::clone(&signals)),
        signals,
    };
    let stop = converse(&mut agent).unwrap_or_else(|stop| stop);
    ends::finish(&mut agent, stop)
}

/// The life of the agent. Any stop, wanted or not, unwinds to here.
fn converse(agent: &mut Agent<'_>) -> Result<Stop, Stop> {
    ends::prepare(agent.args)?;
    if agent.args.talk.tell_command {
        tell::command(agent)?;
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
        echo::run(agent)
    }
}
